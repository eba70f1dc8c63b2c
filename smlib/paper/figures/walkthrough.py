"""README's picture: a recorded completion in which a model deletes what is wrong and goes on, action by action."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from smlib.files import ResultError
from smlib.paper.figures.style import PALETTE, figure, readable
from smlib.paper.figures.words import OWN

BKSPC, EOS = "<bkspc>", "<eos>"


def recorded(item: Mapping[str, Any], method: str = "sm") -> Mapping[str, Any]:
    """The first completion of Table 1's item that deletes at least twice and ends with the right answer.

    Raises:
        ResultError: there is none.
    """
    found: Sequence[Mapping[str, Any]] = item["details"]["completions"][method]
    shown = next((c for c in found if c["correct"] and c["actions"].count(BKSPC) >= 2), None)
    if shown is None:
        raise ResultError(f"none of the {len(found)} completions in Table 1's item deletes twice and ends right")
    return shown


def states(actions: Sequence[str]) -> list[str]:
    """What stands after each action.

    >>> states(["5", "<bkspc>", "6", "<eos>"])
    ['5', '', '6', '6']
    """
    made: list[list[str]] = [[]]
    for action in actions:
        before = made[-1]
        made.append(before[:-1] if action == BKSPC else before if action == EOS else [*before, action])
    return ["".join(state) for state in made[1:]]


def deleted(actions: Sequence[str]) -> set[int]:
    """Places of the insertions that a later action deletes."""
    standing: list[int] = []
    gone: set[int] = set()
    for i, action in enumerate(actions):
        if action == BKSPC:
            gone |= {standing.pop()} if standing else set()
        elif action != EOS:
            standing.append(i)
    return gone


def walkthrough(item: Mapping[str, Any]) -> Figure:
    """A column an action: the action in a box, deleted insertions struck out, and below it the answer as it stands."""
    completion = recorded(item)
    given = len(completion["mistake"])
    actions = [*completion["mistake"], *completion["actions"]]
    made, ax = figure(height=2.0)
    gone = deleted(actions)
    for i, (action, state) in enumerate(zip(actions, states(actions), strict=True)):
        edge = PALETTE["vermilion"] if action == BKSPC else PALETTE["grey"] if i in gone else PALETTE["blue"]
        ax.add_patch(
            FancyBboxPatch(
                (i - 0.36, 0.64), 0.72, 0.62, boxstyle="round,pad=0.02", fc="white", ec=edge, lw=2 if i >= given else 1
            )
        )
        label = {BKSPC: "delete", EOS: "end"}.get(action, action)
        ax.text(i, 0.95, label, ha="center", va="center", fontsize=9 if len(label) > 1 else 15, color=readable(edge))
        if i in gone:
            ax.plot([i - 0.18, i + 0.18], [0.95, 0.95], color=edge, lw=1.5)
        ax.text(i, 0.2, state or "(empty)", ha="center", va="center", fontsize=10 if state else 8, family="monospace")
    for y, label in ((0.95, "action"), (0.2, "answer\nso far")):
        ax.text(-0.62, y, label, ha="right", va="center", fontsize=10, color=PALETTE["grey"])
    ax.text((given - 1) / 2, 1.42, "given", ha="center", va="center", fontsize=10, color=PALETTE["grey"])
    ax.set(xlim=(-1.6, len(actions) - 0.5), ylim=(-0.1, 1.6))
    ax.axis("off")
    ax.set_title(completion["question"].removesuffix(" Solution: "), fontsize=12)
    setattr(made, OWN, alt_text(item))
    return made


def alt_text(item: Mapping[str, Any]) -> str:
    """The picture in words."""
    completion = recorded(item)
    words = {BKSPC: "deletes it", EOS: "ends"}
    told = ", ".join(words.get(action, f"writes {action}") for action in completion["actions"])
    return (
        f"A recorded completion of “{completion['question'].removesuffix(' Solution: ')}”. The wrong digit "
        f"{' '.join(completion['mistake'])} was given; the model {told}. The answer {completion['answer']} is right."
    )

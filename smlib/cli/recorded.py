"""The recorded demonstration: what `smlib generate --demo` shows while torch is still being imported.

The record is a run of a policy that ships, with its question and its seed. It needs nothing but the standard library
and rich, so that a newcomer sees a deletion at once; `smlib.cli.showcase` then lets the policy itself write it again.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from smlib.files import ResultError, read_json
from smlib.screen import visible

RECORD = Path(__file__).parents[1] / "policies" / "shipped" / "demo.json"
MARK = "<bkspc>"
PAUSE = 0.25
"""Seconds between two actions in a terminal."""


@dataclass(frozen=True)
class Recording:
    """A run that was recorded.

    Attributes:
        policy: its name. seed: of the sampler. question: the prompt that the policy was given.
        given: how many of the actions were given to it; they come first.
        actions: what was done, the tokens as text, a deletion as `MARK`, the end left out. answer: what was left.
        max_new_tokens: of the sampler.
    """

    policy: str
    seed: int
    question: str
    given: int
    actions: tuple[str, ...]
    answer: str
    max_new_tokens: int


def recording(path: Path = RECORD) -> Recording:
    """The committed record.

    >>> "<bkspc>" in recording().actions
    True

    Raises:
        ResultError: a missing or damaged file.
    """
    stored = read_json(path)
    known = {field.name for field in fields(Recording)}
    if set(stored) != known:
        raise ResultError(
            f"{path} is no recorded run: {', '.join(sorted(known ^ set(stored)))}; restore it with "
            f"`git checkout -- {path}`, or write it again with `python -m smlib.cli.showcase`"
        )
    return Recording(**{**stored, "actions": tuple(stored["actions"])})  # type: ignore[arg-type]


def play(run: Recording) -> None:
    """Shows a recorded run: struck out as it goes in a terminal, with deletions spelt out in a file or a pipe."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    out = Console(highlight=False)
    if not out.is_terminal:
        out.print(visible(run.question + "".join(run.actions)), markup=False, soft_wrap=True)
        return
    with Live(console=out, auto_refresh=False, vertical_overflow="visible") as live:
        for pieces in _as_it_stands(run.actions):
            text = Text(visible(run.question), style="dim")
            for piece, deleted in pieces:
                text.append(visible(piece), style="strike" if deleted else "not dim")
            live.update(text, refresh=True)
            time.sleep(PAUSE)


def _as_it_stands(actions: tuple[str, ...]) -> Iterator[list[tuple[str, bool]]]:
    """After each action: the tokens in the order of their insertion, and whether each has been deleted."""
    written: list[tuple[str, bool]] = []
    for action in actions:
        if action == MARK:
            last = max(i for i, (_, deleted) in enumerate(written) if not deleted)
            written[last] = (written[last][0], True)
        else:
            written.append((action, False))
        yield list(written)


def introduction(what: str, seed: int, given: str) -> str:
    """What is seen in a run, and how it was chosen: nobody shall take it for a usual one."""
    return (
        f"{what}: it deletes the wrong digit {given}, which was given, then a wrong one of its own, and ends right.\n"
        f"Question and seed were chosen to show this: seed {seed} is the first that does."
    )


def introduce(run: Recording) -> None:
    """What was given and how the run was chosen, the record, and a line that says what comes next."""
    print(introduction(f"A recorded run of {run.policy}", run.seed, "".join(run.actions[: run.given])))
    play(run)
    sys.stdout.write(f"Its answer is {run.answer}. Loading the model, so that it writes this again ...\n")
    sys.stdout.flush()

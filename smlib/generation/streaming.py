"""A trajectory for the eye: what was written, what was deleted, as text, ANSI, rich or HTML, whole or as it is sampled.

Table 8 of the paper prints `<bkspc>` between the tokens; a terminal and a notebook can strike the deleted tokens out.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.noise_dynamics import TokenLaw
from smlib.generation.decoding import SamplingConfig
from smlib.generation.edit_batch import SamplesActions
from smlib.generation.steps import Stepper
from smlib.screen import visible

Decode = Callable[[list[int]], str]
"""Token ids to text, a tokenizer's `decode`."""

KINDS = ("prompt", "kept", "deleted", "noise", "backspace")


@dataclass(frozen=True)
class Span:
    """A run of actions of one kind.

    Attributes:
        kind: `prompt`; `kept` or `deleted` insertions; `noise`, insertions that were not the chosen action, all of
            them deleted; `backspace`, deletions.
        ids: the tokens; for `backspace` one `<bkspc>` each.
    """

    kind: str
    ids: tuple[int, ...]


def spans(trajectory: Trajectory, space: ActionSpace, *, prompt: bool = True) -> list[Span]:
    """The trajectory in the order of its actions, cut into runs. `<eos>` is left out.

    Args:
        prompt: whether the prompt comes first.
    """
    actions = trajectory.realised.tolist()
    deleted: set[int] = set()
    standing: list[int] = []
    for i, action in enumerate(actions):
        if action == space.bkspc:
            if standing:
                deleted.add(standing.pop())
        elif action != space.eos:
            standing.append(i)
    found = [Span("prompt", tuple(trajectory.prompt.tolist()))] if prompt else []
    for i, (chosen, action) in enumerate(zip(trajectory.labels.tolist(), actions, strict=True)):
        if action == space.eos:
            break
        kind = "backspace" if action == space.bkspc else "kept"
        if i in deleted:
            kind = "deleted" if chosen == action else "noise"
        if found and found[-1].kind == kind:
            found[-1] = replace(found[-1], ids=(*found[-1].ids, action))
        else:
            found.append(Span(kind, (action,)))
    return found


def as_text(parts: Sequence[Span], decode: Decode, mark: str = "<bkspc>") -> str:
    r"""Table 8's form: all insertions in their order, and a mark for each deletion.

    A text that holds the mark itself, or a backslash before one, is told apart by backslashes, as in a string literal:
    `\<bkspc>` is text, `\\<bkspc>` a backslash and its deletion.
    """
    runs, piece = [], ""
    for s in parts:
        if s.kind != "backspace":
            piece += decode(list(s.ids))
            continue
        # All that stands before the deletions at once: the text's own mark may be written by several spans.
        runs.append(re.sub(r"\\+\Z", lambda m: m[0] * 2, _spelled(piece, mark)) + mark * len(s.ids))
        piece = ""
    return "".join([*runs, _spelled(piece, mark)])


def _spelled(text: str, mark: str) -> str:
    return re.sub(rf"(\\*){re.escape(mark)}", lambda m: rf"{m[1] * 2}\{mark}", text)


def as_ansi(parts: Sequence[Span], decode: Decode) -> str:
    """Escape codes: the prompt dim, deleted tokens struck out, noise red besides; the text's own are shown as `␛`."""
    codes = {"prompt": "2", "deleted": "9", "noise": "9;31"}
    text = ((s.kind, visible(decode(list(s.ids)), newlines=True)) for s in parts if s.kind != "backspace")
    return "".join(f"\x1b[{codes[kind]}m{piece}\x1b[0m" if kind in codes else piece for kind, piece in text)


def as_rich(parts: Sequence[Span], decode: Decode) -> Any:
    """A `rich.text.Text` in the same styles."""
    from rich.text import Text

    styles = {"prompt": "dim", "deleted": "strike", "noise": "strike red"}
    text = Text()
    for s in parts:
        if s.kind != "backspace":
            text.append(visible(decode(list(s.ids)), newlines=True), style=styles.get(s.kind, ""))
    return text


def as_html(parts: Sequence[Span], decode: Decode) -> str:
    """For a notebook (`IPython.display.HTML`): deleted tokens in `<del>`, all escaped, the whitespace kept."""
    forms = {
        "prompt": '<span style="opacity:.6">{}</span>',
        "kept": "{}",
        "deleted": '<del style="opacity:.7">{}</del>',
        "noise": '<del style="color:#c22">{}</del>',
    }
    body = "".join(forms[s.kind].format(html.escape(decode(list(s.ids)))) for s in parts if s.kind != "backspace")
    return f'<div style="white-space:pre-wrap;font-family:monospace">{body}</div>'


def stream(
    policy: SamplesActions,
    prompt: NDArray[np.integer] | Sequence[int],
    config: SamplingConfig,
    seed: int,
    *,
    noise_law: TokenLaw | None = None,
    prefix: NDArray[np.integer] | Sequence[int] = (),
    forced: Mapping[int, int] | Sequence[int] = (),
) -> Iterator[Trajectory]:
    """The trajectory that `sampling.sample` draws with this seed, after each action as far as it has come.

    All but the last have a final `<eos>` added, so that each of them is a trajectory. It is taken by
    `smlib.generation.steps.Stepper`, which also tells probabilities and values, and takes actions from the caller.

    Args:
        prompt: token ids of the root state. seed, noise_law, prefix: one each of what `sample` takes.
        forced: actions that the caller chooses, as in `smlib.generation.steps.steps`.

    Raises:
        ValueError: where `sample` does; when the first of them is asked for.

    >>> policy, tokenizer = smlib.load_shipped("sm-arithmetic")
    >>> question = [tokenizer.bos, *tokenizer.encode("In base 7, what is 2 + 3? Solution: ")]
    >>> *unfinished, whole = stream(policy, question, SamplingConfig(max_new_tokens=8), seed=0)
    >>> all(len(part) <= len(whole) for part in unfinished)
    True
    """
    given = dict(forced if isinstance(forced, Mapping) else enumerate(forced))
    stepper = Stepper(policy, prompt, config, seed, noise_law=noise_law, prefix=prefix)
    index = 0
    while not stepper.ended:
        stepper.take(given.get(index))
        index += 1
        yield stepper.trajectory()


def show(
    trajectories: Iterator[Trajectory], space: ActionSpace, decode: Decode, console: Any = None, *, prompt: bool = True
) -> Trajectory:
    """Writes a stream to the terminal with deletions struck out as they happen; returns the finished trajectory.

    Where the output is no terminal (a file, a pipe) only the finished text is written, in the form of Table 8.

    Args:
        console: a `rich.console.Console`; standard output when omitted.

    Raises:
        ValueError: an empty stream.

    >>> policy, tokenizer = smlib.load_shipped("sm-arithmetic")
    >>> question = [tokenizer.bos, *tokenizer.encode("In base 7, what is 2 + 3? Solution: ")]
    >>> steps = stream(policy, question, SamplingConfig(max_new_tokens=8), seed=0)
    >>> whole = show(steps, policy.space, tokenizer.decode)  # doctest: +ELLIPSIS
    In base 7, what is 2 + 3? Solution: ...
    """
    from rich.console import Console
    from rich.live import Live

    def shown(ids: list[int]) -> str:
        return visible(decode(ids), newlines=True)  # a model can write what a terminal would obey

    out = console or Console(highlight=False)
    last: Trajectory | None = None
    if out.is_terminal:
        with Live(console=out, auto_refresh=False, vertical_overflow="visible") as live:
            for last in trajectories:
                live.update(as_rich(spans(last, space, prompt=prompt), shown), refresh=True)
    else:
        for step in trajectories:
            last = step
        if last is not None:
            out.print(as_text(spans(last, space, prompt=prompt), shown), markup=False, soft_wrap=True)
    if last is None:
        raise ValueError("there is nothing to show: the stream of trajectories is empty")
    return last

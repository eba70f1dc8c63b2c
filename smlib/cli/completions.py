"""Completions as `smlib generate` shows them: written action by action in a terminal, and as a page to step through."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from smlib.data.tokenizers import TextTokenizer
from smlib.edits.actions import Trajectory
from smlib.files import ResultError
from smlib.generation.edit_batch import SamplesActions
from smlib.generation.sampling import SamplingConfig
from smlib.generation.streaming import show, stream

PAUSE = 0.12
"""Seconds that an action takes in a terminal at least: a small model would be too fast to watch."""


def complete(
    policy: SamplesActions,
    tokenizer: TextTokenizer,
    prompt: Sequence[int],
    config: SamplingConfig,
    seeds: Sequence[int],
    *,
    decode: Callable[[list[int]], str] | None = None,
    html: Path | None = None,
    title: str = "",
    pause: float = PAUSE,
    forced: Sequence[int] = (),
) -> list[Trajectory]:
    """Shows a completion for each seed as it is written, and writes their pages where `html` names a file.

    Args:
        decode: prints the tokens; the tokeniser's own when omitted.
        html: the page of one completion; of several, each has its seed in its name.
        title: of whom the completion is; it stands on the page.
        pause: seconds that an action takes in a terminal at least.
        forced: the first actions, which are given to the policy.

    Raises:
        ResultError: a page that cannot be written.
    """
    shown = []
    for seed in seeds:
        steps = stream(policy, prompt, config, seed, forced=forced)
        shown.append(show(_paced(steps, pause), policy.space, decode or tokenizer.decode))
        if html is not None:
            path = html if len(seeds) == 1 else html.with_name(f"{html.stem}-{seed}{html.suffix}")
            _write_page(policy, tokenizer, prompt, config, seed, path, title, forced)
    return shown


def _write_page(
    policy: SamplesActions,
    tokenizer: TextTokenizer,
    prompt: Sequence[int],
    config: SamplingConfig,
    seed: int,
    path: Path,
    title: str,
    forced: Sequence[int],
) -> None:
    from smlib.widgets.record import record
    from smlib.widgets.twin import write

    made = record(policy, tokenizer, prompt, config, seed, forced=forced, note=f"{title}, seed {seed}.")
    try:
        write(made, path)
    except OSError as error:
        raise ResultError(f"the page cannot be written to {path}: {error.strerror or error}") from error
    print(f"{path}: the same completion, to be stepped through in a browser", file=sys.stderr)


def _paced(steps: Iterator[Trajectory], pause: float) -> Iterator[Trajectory]:
    due = time.monotonic()
    for step in steps:
        if sys.stdout.isatty():
            time.sleep(max(0.0, due - time.monotonic()))
            due = time.monotonic() + pause
        yield step

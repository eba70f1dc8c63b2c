"""How far a run is, for whoever waits: a bar where somebody looks on, a line now and then in a log."""

import functools
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import ParamSpec, TypeVar

from tqdm.auto import tqdm

from smlib.training.metrics import show_bar

P = ParamSpec("P")
R = TypeVar("R")
EVERY = 30.0
"""Seconds between two lines."""
PLACE = "SMLIB_PROGRESS"
"""The variable that names a file for the latest line, instead of standard error: `smlib reproduce` reads it."""


class Progress:
    """The steps of one run.

    A log is where standard error is no terminal. It has no lines with `progress=False` or SMLIB_QUIET, nor of runs
    shorter than `EVERY`.
    """

    def __init__(
        self, name: str, begin: int, total: int, checkpoint_every: int, folder: Path, progress: bool | None
    ) -> None:
        """`progress` True and False ask for a bar and for nothing, None for what suits the place."""
        self.name, self.begin, self.done, self.total = name, begin, begin, total
        self.checkpoint_every, self.folder = checkpoint_every, folder
        live = progress or not os.environ.get(PLACE)  # a notebook that is executed for its file has nobody before it
        shown = bool(live and show_bar(progress))
        self.lines = not shown and progress is None and not os.environ.get("SMLIB_QUIET")
        self.loss: float | None = None
        self._started = self._said = time.monotonic()
        self._bar = tqdm(total=total, initial=begin, disable=not shown, desc=name, mininterval=1.0)
        _CURRENT.set(self)

    def update(self) -> None:
        """One more step is done."""
        self.done += 1
        self._bar.update()
        now = time.monotonic()
        if self.lines and now - self._said >= EVERY:
            self._said = now
            tell(self.line(now))

    def log(self, loss: float) -> None:
        """The loss of the last step."""
        self.loss = loss
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)

    def line(self, now: float) -> str:
        """`sm: step 120 of 2000, loss 1.234, 3 minutes left`."""
        left = (now - self._started) / max(self.done - self.begin, 1) * (self.total - self.done)
        loss = "" if self.loss is None else f", loss {self.loss:.3f}"
        return f"{self.name}: step {self.done} of {self.total}{loss}, {duration(left)} left"

    def close(self) -> None:
        """The run has ended."""
        self._bar.close()
        _CURRENT.set(None)

    @property
    def stopped(self) -> str:
        """Where a run is that ends now, and from where the next call goes on."""
        every = self.checkpoint_every
        kept = max(self.begin, self.done // every * every if every else 0)
        place = f"step {kept}, its last checkpoint" if kept else "the start, as there is no checkpoint yet"
        return f"stopped at step {self.done} of {self.total}; the run in {self.folder} goes on from {place}"


_CURRENT: ContextVar[Progress | None] = ContextVar("smlib_progress", default=None)


def telling_where_it_stopped(train: Callable[P, R]) -> Callable[P, R]:
    """A function that trains, whose KeyboardInterrupt says which step was reached and from where the run goes on."""

    @functools.wraps(train)
    def told(*args: P.args, **kwargs: P.kwargs) -> R:
        _CURRENT.set(None)
        try:
            return train(*args, **kwargs)
        except KeyboardInterrupt as error:
            run = _CURRENT.get()
            if run is None:
                raise
            run.close()
            raise KeyboardInterrupt(run.stopped) from error

    return told


def tell(line: str) -> None:
    """A line to the file that `PLACE` names, or to standard error."""
    place = os.environ.get(PLACE)
    if place:
        with suppress(OSError):  # a run does not end because nobody can be told of it
            Path(place).write_text(line, encoding="utf-8")
    else:
        print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`40 seconds`, `3 minutes`, `2.5 hours`."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"

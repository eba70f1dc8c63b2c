"""`smlib reproduce --fresh`: which finished runs are to be repeated, and which have been since it began.

A round has a name of its own, and a run belongs to it when its line says so. No clock and no file's date is asked:
files that come out of a checkout, a copy or a machine with a wrong clock can have any.
"""

import math
import os
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smlib.files import ResultError, append_line, canonical_json, read_json, resolve, write_atomically
from smlib.paper.items import ITEMS, check_preset

FRESH = ".fresh-since"
"""A file of the preset's folder while a `smlib reproduce --fresh` is unfinished; see `FreshRound`."""
DONE = ".fresh-runs.jsonl"
"""Beside it: a line for each run that was begun or finished in the round."""
ROUND = "SMLIB_FRESH_ROUND"
"""The environment variable by which a notebook and its workers know the round."""


@dataclass(frozen=True)
class FreshRound:
    """A `smlib reproduce --fresh` that was begun and is not finished.

    It is kept in a file, so that one that was killed can go on: runs that were finished since it began are not
    repeated again. It belongs to the notebooks that were asked for, and is over when a call has done all of them.
    `since` is shown and decides nothing.
    """

    path: Path
    name: str
    since: float
    notebooks: tuple[str, ...]

    def __str__(self) -> str:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"the `{self.options}` begun {begun} in {self.path.parent}"

    @property
    def options(self) -> str:
        """What to give `smlib reproduce` to go on."""
        if {item.notebook for item in ITEMS.values()} <= set(self.notebooks):
            return "--fresh"
        return "--fresh --only " + ",".join(item.id for item in ITEMS.values() if item.notebook in self.notebooks)

    def covers(self, notebooks: Sequence[str]) -> bool:
        """Whether all of these are among the notebooks that are being repeated."""
        return set(notebooks) <= set(self.notebooks)

    def end(self) -> None:
        """Everything is done: the next `--fresh` repeats it again."""
        self.path.unlink(missing_ok=True)
        self.path.with_name(DONE).unlink(missing_ok=True)


def fresh_round(preset: str, results_dir: str | os.PathLike[str] = "results") -> FreshRound | None:
    """The unfinished `--fresh` of a preset, if there is one; raises `ResultError` if its file is damaged."""
    path = resolve(results_dir) / check_preset(preset) / FRESH
    if not path.exists():
        return None
    record = read_json(path)
    name, since, notebooks = record.get("round"), record.get("since"), record.get("notebooks")
    try:
        time.localtime(since)  # type: ignore[arg-type]
        known = isinstance(since, float) and math.isfinite(since)
    except (TypeError, ValueError, OverflowError, OSError):
        known = False
    if not known or not isinstance(name, str) or not name or not isinstance(notebooks, list):
        raise ResultError(f"{path} does not say which `--fresh` was begun, when, and of which notebooks; delete it")
    return FreshRound(path, name, since, tuple(map(str, notebooks)))  # type: ignore[arg-type]


def begin_fresh(notebooks: Sequence[str], preset: str, results_dir: str | os.PathLike[str] = "results") -> FreshRound:
    """Begin to repeat the runs of these notebooks, or go on with what was begun for them and others.

    Raises `ResultError` if one was begun that leaves out some of them, and if nothing can be written there.
    """
    found = fresh_round(preset, results_dir)
    if found is None:
        path = resolve(results_dir) / preset / FRESH
        found = FreshRound(path, uuid.uuid4().hex, time.time(), tuple(sorted(notebooks)))
        record = {"round": found.name, "since": found.since, "notebooks": found.notebooks}
        try:
            path.with_name(DONE).unlink(missing_ok=True)  # of a round whose file was deleted
            write_atomically(path, canonical_json(record))
        except OSError as error:
            raise ResultError(
                f"`--fresh` repeats runs and writes them to {path.parent}, which cannot be written: "
                f"{error.strerror or error}; name another folder with --results-dir"
            ) from error
    elif not found.covers(notebooks):
        raise ResultError(f"{found} is not finished: give `{found.options}` first, or delete {found.path} to drop it")
    return found


class Standing:
    """How a run stands to the round that this process belongs to, if it belongs to one."""

    def __init__(self, preset_dir: Path, run: str) -> None:
        """`run` is the run's place in the preset's folder, such as `fig3/sm-1b79.json`."""
        self.log, self.run, self.name = preset_dir / DONE, run, os.environ.get(ROUND, "")

    def _noted(self, event: str) -> bool:
        wanted = {"round": self.name, "run": self.run, "event": event}
        try:
            lines = self.log.read_text(encoding="utf-8").splitlines()
        except OSError:
            return False
        return canonical_json(wanted, indent=None) in lines

    def note(self, event: str) -> None:
        """`begun` or `finished`, in this round."""
        if self.name:
            append_line(self.log, {"round": self.name, "run": self.run, "event": event})

    @property
    def to_repeat(self) -> bool:
        """A finished run counts as absent: it was finished before the round began."""
        return bool(self.name) and not self._noted("finished")

    @property
    def stale_scratch(self) -> bool:
        """An unfinished run's checkpoints are of before the round."""
        return bool(self.name) and not self._noted("begun")

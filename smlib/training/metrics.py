"""What training logs, `metrics.jsonl`, one row per logged or evaluated step; and whether somebody is looking on."""

import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smlib.files import write_atomically

METRICS = "metrics.jsonl"
FLUSH = 5.0
"""Seconds after which a row is written at once, for whoever watches the run; a resumed run cuts the log back anyway."""


class MetricsError(ValueError):
    """A log that is damaged; the message names the line."""


class MetricsLog:
    """`metrics.jsonl`: what was logged, cut back to the checkpoint when a run resumes."""

    def __init__(self, path: Path, before: int, writes: bool = True) -> None:
        """`before` is the step that the run goes on from; MetricsError if a line before the last is damaged.

        `writes=False` keeps the rows and no file: of several processes one writes.
        """
        self.path, self.writes = path, writes
        kept = read_rows(path) if path.exists() and before else []
        self.rows: list[dict[str, Any]] = [row for row in kept if row["step"] <= before]
        self._norms: list[float] = []
        self._flushed = time.monotonic()

    def norm(self, value: float) -> None:
        """Collects the gradient norm of a step (before clipping); a row lists those since the last one."""
        self._norms.append(value)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Adds a row."""
        row: dict[str, Any] = {"step": step} | {name: _plain(name, value) for name, value in values.items()}
        if self._norms and "loss" in values:
            row["grad_norms"] = self._norms
            self._norms = []
        self.rows.append(row)
        if time.monotonic() - self._flushed > FLUSH:
            self.flush()

    def flush(self) -> None:
        """Writes the file, whole, unless another process does."""
        if not self.writes:
            return
        write_atomically(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))
        self._flushed = time.monotonic()


def read_rows(path: Path, growing: bool = False) -> list[dict[str, Any]]:
    """The rows of a log; MetricsError for a damaged one.

    A torn last line is left out, with a warning: a copy or a disk that was full cut it off.

    Args:
        growing: the log is being written, so that a torn last line is nothing to warn of.
    """
    rows: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["step"], int):
                raise TypeError
        except (ValueError, TypeError, KeyError, RecursionError):
            if number < len(lines):
                raise MetricsError(
                    f"line {number} of {path} is damaged: mend it, or delete the folder to start again"
                ) from None
            if not growing:
                warnings.warn(f"the last line of {path} is torn and is left out", stacklevel=2)
            continue
        rows.append(row)
    return rows


def _plain(name: str, value: Any) -> Any:
    """A value as JSON knows it: numbers of NumPy and torch, which an evaluation may give, become Python's."""
    if isinstance(value, int | float):
        return value
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"the metric {name} is a {type(value).__name__}: expected a number") from error


def show_bar(progress: bool | None) -> bool:
    """Whether to draw a progress bar: asked for, or in a terminal or a notebook that somebody is looking at."""
    if progress is not None:
        return progress
    if os.environ.get("SMLIB_QUIET"):
        return False
    try:
        from IPython import get_ipython
    except ImportError:
        return os.isatty(2)
    shell = get_ipython()
    return os.isatty(2) or (shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell")

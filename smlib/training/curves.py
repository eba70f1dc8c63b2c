"""The curves of a run that trains, as a terminal draws them: `metrics.jsonl`, read while it grows."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from smlib.training.metrics import METRICS, MetricsError, read_rows

Curve = list[tuple[int, float]]
"""(step, value), in the order of the steps."""

OF_MODELS = ("config.json", "adapter_config.json", "lm", "policy.safetensors")
"""Files of a model or a policy. `smlib train` leaves its policy in a folder beside its log."""

BLOCKS = "▁▂▃▄▅▆▇█"
FIRST = ("loss", "beta", "lr")
"""Curves that are listed before the others."""


def log_of(run: Path) -> Path | None:
    """The log of a run's folder: its own or, of several below it, the one that changed last; None if there is none."""
    if run.is_file():
        return run
    found = [path for path in (run / METRICS, *run.glob(f"*/{METRICS}")) if path.is_file()]
    return max(found, key=lambda path: path.stat().st_mtime, default=None)


def finished(run: Path) -> bool:
    """Whether a run's curves have ended: its policy is there. A log by itself grows no more."""
    return run.is_file() or (run / "policy").exists()


def curves_of(run: Path) -> dict[str, Curve]:
    """The curves of a run that may be under way; none where nothing is logged yet.

    Raises:
        MetricsError: no such run; one that keeps no log here; a damaged line.
    """
    if not run.exists():
        raise MetricsError(f"{run}: there is no such run; expected a folder that training writes to")
    path = log_of(run)
    curves = {} if path is None else read_curves(path, growing=True)
    if not curves and any(run.glob("checkpoint-*/trainer_state.json")):
        raise MetricsError(
            f"{run} is a run of SequenceMatchTrainer or `smlib finetune`, which logs to trackers and keeps no log that "
            "is drawn here: start it with --report_to tensorboard, or watch a run of `smlib train`"
        )
    if path is None and run.is_dir() and any((run / name).exists() for name in OF_MODELS):
        raise MetricsError(
            f"{run} holds a model and no log of a run ({METRICS}): expected the folder that `smlib train` writes to"
        )
    return curves


def read_curves(path: Path, growing: bool = False) -> dict[str, Curve]:
    """Every number of a log by name; `grad_norms`, one a step, becomes `grad_norm`.

    Args:
        growing: as in `smlib.training.metrics.read_rows`.

    Raises:
        MetricsError: a line before the last that is damaged.
    """
    curves: dict[str, Curve] = {}
    for row in read_rows(path, growing):
        for name, value in row.items():
            if name == "grad_norms":
                begin = row["step"] - len(value) + 1
                curves.setdefault("grad_norm", []).extend((begin + i, float(v)) for i, v in enumerate(value))
            elif name != "step" and isinstance(value, int | float) and not isinstance(value, bool):
                curves.setdefault(name, []).append((row["step"], float(value)))
    order = {name: place for place, name in enumerate(FIRST)}
    return dict(sorted(curves.items(), key=lambda item: (order.get(item[0], len(FIRST)), item[0])))


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in one line of block characters, `width` of them at most; each is the mean of its part.

    A value that is no number is shown as `×`.

    >>> sparkline([0, 1, 2, 3], 4), sparkline([1, 1], 8), sparkline([float("nan"), 2.0, 4.0], 3)
    ('▁▃▆█', '▁▁', '×▁█')
    """
    if width < 1:
        raise ValueError(f"width={width}: expected at least 1")
    n, parts = len(values), min(width, len(values))
    means = []
    for k in range(parts):
        part = values[k * n // parts : (k + 1) * n // parts]
        means.append(math.fsum(part) / len(part) if all(map(math.isfinite, part)) else math.nan)
    finite = [m for m in means if math.isfinite(m)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join("×" if math.isnan(m) else BLOCKS[int((m - low) * scale + 0.5)] for m in means)


def summary(curves: Mapping[str, Curve], width: int) -> list[tuple[str, str, str, str, str]]:
    """A row a curve: name, picture, last value, least and largest."""
    rows = []
    for name, curve in curves.items():
        values = [value for _, value in curve]
        finite = [value for value in values if math.isfinite(value)] or [math.nan]
        rows.append((name, sparkline(values, width), f"{values[-1]:.4g}", f"{min(finite):.4g}", f"{max(finite):.4g}"))
    return rows

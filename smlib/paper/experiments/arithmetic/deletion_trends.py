"""What the cost of deletion depends on: passes over the questions, noise level, and size of the model.

Cost and gain are those of `deletion_cost`, for deletions learned in the weights that write. Nothing is trained here.

*Size.* A straight line against the power of ten of the number of parameters, by least squares weighted by each base's
own interval; the line's error is widened where the bases scatter more than their intervals say, and its interval is
Student's with as many degrees of freedom as there are bases beyond two. Bases of one size and other depths stand on it
side by side, so what depth does widens it. Below `MIN_SIZES` bases there is no line. What the line says of models that
are a hundred and ten thousand times as large is an extrapolation, written down before those are measured.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from scipy import stats

from smlib.evaluation import mean_interval, paired_difference
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.judging import scores

MIN_SIZES = 4
"""Bases from which a line is drawn."""
FAR: Mapping[str, float] = MappingProxyType({"135 million": 135e6, "7 billion": 7e9})
WHAT = ("cost", "gain")
_LEAST_ERROR = 1e-3
"""Standard error below which no base counts as more certain: a tenth of a point."""


def by_size(rows: Sequence[Mapping[str, Any]], way: str = "shared") -> dict[str, Any]:
    """The line of cost and of gain against size, and what it says of `FAR` (JSON types).

    Args:
        rows: of `deletion_cost.study`; those of `way` are used.

    Returns `way`, `bases`: shape, parameters, seeds, cost and gain of each, smallest first; `status`, `fitted` or `too
    few sizes`; and where it is fitted, for cost and for gain, `slope` for ten times the parameters, with its interval,
    `widened` (by which factor the bases scatter more than their intervals say) and `far`, the line's value and interval
    at each size of `FAR`.
    """
    bases = sorted((row for row in rows if row["way"] == way and "cost" in row), key=lambda row: row["parameters"])
    kept = [{key: row[key] for key in ("shape", "parameters", "n_seeds", *WHAT)} for row in bases]
    made: dict[str, Any] = {"way": way, "bases": kept, "needed": MIN_SIZES}
    sizes = np.log10([row["parameters"] for row in bases])
    if len(bases) < MIN_SIZES or np.ptp(sizes) == 0.0:
        return made | {"status": "too few sizes"}
    return made | {"status": "fitted"} | {what: _line(sizes, [row[what] for row in bases]) for what in WHAT}


def _line(x: Any, found: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Weighted least squares of differences with intervals against x."""
    y = np.array([test["difference"] for test in found])
    error = np.array([max((test["high"] - test["low"]) / (2 * 1.96), _LEAST_ERROR) for test in found])
    weight, free = error**-2, len(y) - 2
    center = float((weight * x).sum() / weight.sum())
    level = float((weight * y).sum() / weight.sum())
    spread = float((weight * (x - center) ** 2).sum())
    slope = float((weight * (x - center) * y).sum()) / spread
    scatter = float((weight * (y - level - slope * (x - center)) ** 2).sum()) / free
    widened = math.sqrt(max(1.0, scatter))
    quantile = float(stats.t.ppf(0.975, free)) * widened

    def record(value: float, variance: float) -> dict[str, float]:
        half = quantile * math.sqrt(variance)
        ends = {"difference": value, "low": value - half, "high": value + half}
        return {name: scores.number(end, 6) for name, end in ends.items()}

    return {
        "slope": record(slope, 1.0 / spread),
        "widened": scores.number(widened),
        "far": {
            name: {"parameters": size}
            | record(
                level + slope * (math.log10(size) - center),
                1.0 / float(weight.sum()) + (math.log10(size) - center) ** 2 / spread,
            )
            for name, size in FAR.items()
        },
    }


def by_noise(preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """Cost and gain of BC at each level of digit noise of the plan, `not run` where no seed is there."""
    chosen, runs = learning.preset(preset), learning.finished(preset, results_dir)
    rows: list[dict[str, Any]] = []
    for level in chosen.levels:
        there = [s for s in chosen.seeds if f"mle-s{s}" in runs and f"bc-{learning.KIND}-{level}-s{s}" in runs]
        row: dict[str, Any] = {"level": level, "status": "run" if there else "not run"}
        if there:
            ours = [runs[f"bc-{learning.KIND}-{level}-s{s}"] for s in there]
            bare = scores.correctness(ours, "val", "no_backspace")
            alone = scores.correctness([runs[f"mle-s{s}"] for s in there], "val")
            row |= {
                "n_seeds": len(there),
                "cost": scores.paired_record(paired_difference(alone, bare)),
                "gain": scores.paired_record(paired_difference(scores.correctness(ours, "val"), bare)),
            }
        rows.append(row)
    return rows


def by_pass(preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """Cost and gain of BC at the headline's noise while it is trained, from the curves of the runs.

    One record an evaluation (JSON types): `passes` over the questions, `n_seeds`, and `cost` and `gain` with Student's
    interval over the seeds, whose ends are None with one seed. The rate falls to 0 at the end of a run, so an early
    point is not what a run that ends there would reach.
    """
    chosen, runs = learning.preset(preset), learning.finished(preset, results_dir)
    cell = f"bc-{learning.KIND}-{learning.headline_level(chosen)}"
    pairs: list[tuple[Any, Any]] = [
        (runs[f"mle-s{s}"]["history"], runs[f"{cell}-s{s}"]["history"])
        for s in chosen.seeds
        if f"mle-s{s}" in runs and f"{cell}-s{s}" in runs
    ]
    rows: list[dict[str, Any]] = []
    for i, step in enumerate(pairs[0][0]["val_step"] if pairs else ()):
        cost = [mle["val_t1"][i] - bc["val_no_backspace"][i] for mle, bc in pairs]
        gain = [bc["val_t1"][i] - bc["val_no_backspace"][i] for _, bc in pairs]
        passes = step * chosen.batch_size / chosen.n_train
        found = {what: _over_seeds(values) for what, values in (("cost", cost), ("gain", gain))}
        rows.append({"passes": scores.number(passes), "n_seeds": len(pairs), **found})
    return rows


def trends(preset: str, rows: Sequence[Mapping[str, Any]], results_dir: str | Path = "results") -> dict[str, Any]:
    """All three, of a preset or, where it has no run of the plan, of `full`: what the committed files hold.

    Args:
        rows: of `deletion_cost.latest`.
    """
    name = preset if by_pass(preset, results_dir) else "full"
    return {"size": by_size(rows), "noise": by_noise(name, results_dir), "passes": by_pass(name, results_dir)}


def _over_seeds(values: Sequence[float]) -> dict[str, float | None]:
    found = mean_interval(values)
    ends = {"difference": found.value, "low": found.low, "high": found.high}
    return {name: scores.number(end, 6) if math.isfinite(end) else None for name, end in ends.items()}

"""From the result files of runs to numbers with error bars, and to paired tests between methods.

A run keeps one bit per question. Seeds of one method make a table [seeds, questions]; two methods whose seeds started
from the same base and saw the same questions are compared pair by pair.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smlib.evaluation import Estimate, PairedTest, clustered_interval, paired_difference

Result = Mapping[str, Any]


def correctness(runs: Sequence[Result], split: str = "test", decoding: str = "t1") -> NDArray[np.float64]:
    """Right (1) or wrong (0), `[seeds, questions]`; raises ValueError for a split or decoding that was not run."""
    if not runs:
        raise ValueError("no run to read")
    for run in runs:
        if split not in run or decoding not in run[split]:
            known = ", ".join(run.get(split, {})) or "no such split"
            raise ValueError(f"these runs hold no {split} answers by {decoding!r}: {known}")
    return np.array([[float(bit) for bit in run[split][decoding]["correct"]] for run in runs])


def accuracy(runs: Sequence[Result], split: str = "test", decoding: str = "t1") -> Estimate:
    """Accuracy with a 95 % interval over seeds and questions together."""
    return clustered_interval(correctness(runs, split, decoding))


def difference(
    better: Sequence[Result], worse: Sequence[Result], split: str = "test", decoding: str = "t1"
) -> PairedTest:
    """Accuracy of `better` minus that of `worse`, paired by seed and question."""
    return paired_difference(correctness(better, split, decoding), correctness(worse, split, decoding))


def backspace_rate(runs: Sequence[Result], split: str = "test", decoding: str = "t1") -> float:
    """Share of actions that are `<bkspc>`, averaged over seeds."""
    return float(np.mean([run[split][decoding]["backspace_rate"] for run in runs]))


def by_prefix(runs: Mapping[str, Result], prefix: str) -> list[Result]:
    """The runs called `<prefix>-s<seed>`, in the order of their seeds; raises ValueError if there is none."""
    chosen = {int(name.rsplit("-s", 1)[1]): run for name, run in runs.items() if name.rsplit("-s", 1)[0] == prefix}
    if not chosen:
        raise ValueError(f"no run is called {prefix}-s0, -s1, ...; there are {', '.join(runs)}")
    return [chosen[seed] for seed in sorted(chosen)]


def number(value: float, digits: int = 4) -> float:
    """Rounded for a result file."""
    return round(float(value), digits)


def within(estimates: Iterable[Estimate]) -> str:
    """The error of a line with several values: a bound on each half-width, rounded up."""
    return f"each ± {np.ceil(1000 * max(e.error for e in estimates)) / 1000:.3f} or less"


def row(label: str, estimate: Estimate, paper: float | str | None = None) -> dict[str, object]:
    """A row of an item: label, the paper's value, ours, the half-width of its 95 % interval."""
    error = number(estimate.error) if np.isfinite(estimate.error) else None
    return {"label": label, "paper": paper, "ours": number(estimate.value), "error": error}


def paired_record(test: PairedTest) -> dict[str, float]:
    """A paired test as JSON types: difference, ends of its interval, p-value."""
    return {name: number(getattr(test, name), 6) for name in ("difference", "low", "high", "p_value")}


def estimate_record(estimate: Estimate) -> dict[str, object]:
    """An estimate as JSON types; an infinite end is None."""
    ends = {name: getattr(estimate, name) for name in ("value", "low", "high")}
    return {
        **{name: number(value) if np.isfinite(value) else None for name, value in ends.items()},
        "n_seeds": estimate.n_seeds,
        "n_items": estimate.n_items,
        "interval": estimate.method,
    }


def mean(values: Iterable[float]) -> float:
    """Plain mean; 0 of nothing."""
    kept = list(values)
    return float(np.mean(kept)) if kept else 0.0

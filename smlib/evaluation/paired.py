"""Paired tests between two methods that answered the same questions."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from smlib.evaluation.intervals import by_cluster, crossed_variance


@dataclass(frozen=True)
class PairedTest:
    """Difference first minus second, its interval and the two-sided p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float
    n_seeds: int
    n_items: int
    method: str


def mcnemar(first: ArrayLike, second: ArrayLike) -> PairedTest:
    """McNemar's exact test for one seed each: are the questions only one method got right split evenly?

    The interval is Student's for the mean of the paired differences.

    Args:
        first, second: right or wrong per question, bool [Q].

    Raises:
        ValueError: shapes that differ, or values other than 0 and 1.
    """
    a, b = _pair(first, second)
    if a.shape[0] != 1 or not np.isin(np.concatenate([a, b]), [0, 1]).all():
        raise ValueError(f"McNemar's test takes one vector of right/wrong per method, got shape {a.shape}")
    only_a, only_b = int(((a == 1) & (b == 0)).sum()), int(((a == 0) & (b == 1)).sum())
    p = float(stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0
    low, high, _ = _interval(a - b, 0.95)
    name = f"McNemar exact ({only_a} against {only_b} of {a.size} questions)"
    return PairedTest(float((a - b).mean()), low, high, p, 1, a.size, name)


def paired_difference(
    first: ArrayLike, second: ArrayLike, *, clusters: ArrayLike | None = None, confidence: float = 0.95
) -> PairedTest:
    """Mean difference over seeds and questions together.

    Seed s of one method is paired with seed s of the other (same data, same initialisation), question with
    question. The differences form a crossed table whose mean has the variance of `crossed_variance`; interval
    and p-value are Student's.

    Args:
        first, second: [S, Q] (or [Q]).
        clusters: of each question, where these were not drawn one by one: see `by_cluster`.

    Raises:
        ValueError: shapes that differ.
    """
    a, b = _pair(first, second)
    table = by_cluster(a - b, clusters)
    low, high, p = _interval(table, confidence)
    where = "" if clusters is None else f" in {table.shape[1]} clusters"
    name = f"paired t over {a.shape[0]} seeds × {a.shape[1]} questions{where}, crossed, {confidence:.0%}"
    return PairedTest(float((a - b).mean()), low, high, p, a.shape[0], a.shape[1], name)


def _pair(first: ArrayLike, second: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    a, b = (np.atleast_2d(np.asarray(x, np.float64)) for x in (first, second))
    if a.shape != b.shape:
        raise ValueError(f"paired methods answer the same questions with as many seeds, got {a.shape} and {b.shape}")
    return a, b


def _interval(differences: NDArray[np.float64], confidence: float) -> tuple[float, float, float]:
    mean = float(differences.mean())
    variance, df = crossed_variance(differences)
    if variance == 0:
        return mean, mean, 1.0 if mean == 0 else 0.0
    se = math.sqrt(variance)
    half = float(stats.t.ppf(0.5 + confidence / 2, df)) * se
    return mean - half, mean + half, float(2 * stats.t.sf(abs(mean) / se, df))

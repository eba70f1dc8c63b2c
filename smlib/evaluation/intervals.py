"""Confidence intervals: over questions, over seeds, and over both together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A number with its interval and where that comes from.

    Attributes:
        value: the point estimate.
        low, high: ends of the confidence interval.
        se: standard error of `value`.
        n_seeds, n_items: what was averaged over.
        method: how the interval was made, in words, for the table.
    """

    value: float
    low: float
    high: float
    se: float
    n_seeds: int
    n_items: int
    method: str

    @property
    def error(self) -> float:
        """The larger half of the interval: what goes after ±."""
        return max(self.high - self.value, self.value - self.low)


def wilson(successes: float, n: float, *, z: float | None = None, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a proportion; stays inside [0, 1] and is never empty at 0 or 1.

    Args:
        successes: 0 <= successes <= n; need not be an integer where n is an effective sample size.
        n: trials, > 0.
        z: quantile to use instead of the normal one at `confidence`.

    Raises:
        ValueError: counts or confidence outside their range.
    """
    _check_confidence(confidence)
    if not (n > 0 and -1e-9 <= successes <= n + 1e-9):
        raise ValueError(f"expected 0 <= successes <= n and n > 0, got {successes} of {n}")
    z = float(stats.norm.ppf(0.5 + confidence / 2)) if z is None else z
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(p * (1 - p), 0) / n + z * z / (4 * n * n))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def crossed_variance(values: ArrayLike) -> tuple[float, float]:
    """Variance of the grand mean of a seeds × questions table, and its degrees of freedom.

    Model: x_sq = μ + seed_s + question_q + residual_sq, all random, all seeds asked the same questions. The
    variance of the mean, σ²_seed/S + σ²_question/Q + σ²_residual/(SQ), is estimated without bias by
    (MS_seed + MS_question - MS_residual)/(SQ), with Satterthwaite's degrees of freedom. It is not allowed to
    fall below the larger of the two one-way variances, MS_seed/(SQ) and MS_question/(SQ), which removing
    noise from noise can bring about.

    Args:
        values: [S, Q] with S >= 1 and Q >= 2. With one seed only the questions' share is estimable.

    Returns:
        (variance, degrees of freedom)
    """
    x = _table(values)
    n_seeds, n_items = x.shape
    item_means, seed_means, grand = x.mean(0), x.mean(1), x.mean()
    ms_item = n_seeds * float(((item_means - grand) ** 2).sum()) / (n_items - 1)
    if n_seeds == 1:
        return ms_item / n_items, n_items - 1
    ms_seed = n_items * float(((seed_means - grand) ** 2).sum()) / (n_seeds - 1)
    residual = x - item_means - seed_means[:, None] + grand
    ms_residual = float((residual**2).sum()) / ((n_seeds - 1) * (n_items - 1))
    total = n_seeds * n_items
    combined = ms_seed + ms_item - ms_residual
    parts = [(ms_seed, n_seeds - 1), (ms_item, n_items - 1), (ms_residual, (n_seeds - 1) * (n_items - 1))]
    floor, floor_df = max(parts[:2])
    if combined <= floor:
        return floor / total, floor_df
    df = combined**2 / sum(ms**2 / d for ms, d in parts)
    return combined / total, df


def by_cluster(values: ArrayLike, clusters: ArrayLike | None) -> NDArray[np.float64]:
    """[S, G]: the table whose `crossed_variance` is the cluster-robust variance of the mean of `values`.

    Questions about one article share more than chance, so G articles and not Q questions are what was drawn. With m_s
    the mean of seed s, entry (s, g) is m_s + G/Q Σ_{q in g} (x_sq - m_s). Its mean over g is m_s; and the variance of
    the mean is, for one seed, the sandwich G/(G-1) Σ_g (Σ_{q in g} (x_q - m))² / Q² with G - 1 degrees of freedom
    (Cameron and Miller 2015, without regressors). Clusters of one question each return `values`.

    Args:
        values: [S, Q] or [Q]. clusters: a label for each question, [Q]; None for clusters of one.

    Raises:
        ValueError: as many labels as questions are needed, of two clusters at least.
    """
    x = _table(values)
    if clusters is None:
        return x
    names, code = np.unique(np.asarray(clusters), return_inverse=True)
    if code.shape != (x.shape[1],) or names.size < 2:
        raise ValueError(
            f"expected the cluster of each of {x.shape[1]} questions, two clusters at least: got {code.size} labels of "
            f"{names.size} clusters"
        )
    mean = x.mean(1, keepdims=True)
    sums = np.stack([np.bincount(code, row, minlength=names.size) for row in x - mean])
    return np.asarray(mean + sums * (names.size / x.shape[1]))


def combined(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Standard error of a sum of independent errors from (variance, degrees of freedom) of each, and Satterthwaite's
    degrees of freedom."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0, min(df for _, df in parts)
    return math.sqrt(total), total**2 / sum(variance**2 / df for variance, df in parts)


def clustered_interval(values: ArrayLike, *, clusters: ArrayLike | None = None, confidence: float = 0.95) -> Estimate:
    """A proportion over seeds and questions together.

    Answers to one question are alike across seeds and answers of one seed are alike across questions, so S·Q
    answers are worth fewer independent ones: n_eff = p(1-p)/v with v from `crossed_variance`, capped at S·Q.
    The interval is Wilson's at n_eff with the t quantile at Satterthwaite's degrees of freedom in place of
    the normal one (the construction of Korn and Graubard 1998 for survey proportions, on Wilson's interval).
    Where every answer is the same, v = 0 says nothing, and n_eff = Q.

    Args:
        values: [S, Q] or [Q], each in [0, 1]: right or wrong, or the mean of several draws.
        clusters: see `by_cluster`.

    Raises:
        ValueError: an empty table, values outside [0, 1], or not finite.
    """
    _check_confidence(confidence)
    x = _table(values)
    if x.min() < 0 or x.max() > 1:
        raise ValueError(f"a proportion is made of values in [0, 1], got {x.min()} to {x.max()}: see mean_interval")
    n_seeds, n_items = x.shape
    p = float(x.mean())
    table = by_cluster(x, clusters)
    variance, df = crossed_variance(table)
    spread = p * (1 - p)
    n_eff = n_items if variance == 0 or spread == 0 else min(spread / variance, n_seeds * n_items)
    z = float(stats.t.ppf(0.5 + confidence / 2, df)) if variance > 0 else None
    low, high = wilson(p * n_eff, n_eff, z=z, confidence=confidence)
    scope = "questions of one seed (between-seed variance unknown)" if n_seeds == 1 else "seeds and questions, crossed"
    method = f"Wilson at n_eff={n_eff:.0f} over {scope}{_in_clusters(table, clusters)}, {confidence:.0%}"
    return Estimate(p, low, high, math.sqrt(variance), n_seeds, n_items, method)


def mean_interval(values: ArrayLike, *, confidence: float = 0.95) -> Estimate:
    """Mean of one number per seed (or per evaluation draw), with Student's t interval.

    Raises:
        ValueError: fewer than one value, or values that are not finite. One value gives an infinite interval.
    """
    _check_confidence(confidence)
    x = np.asarray(values, np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError(f"expected a vector of finite values, got shape {x.shape}: {x}")
    mean = float(x.mean())
    if x.size == 1:
        return Estimate(mean, -math.inf, math.inf, math.inf, 1, 1, "one value: no interval")
    se = float(x.std(ddof=1)) / math.sqrt(x.size)
    half = float(stats.t.ppf(0.5 + confidence / 2, x.size - 1)) * se
    return Estimate(mean, mean - half, mean + half, se, x.size, 1, f"Student t over {x.size} seeds, {confidence:.0%}")


def crossed_interval(values: ArrayLike, *, clusters: ArrayLike | None = None, confidence: float = 0.95) -> Estimate:
    """Mean of a quantity that is no proportion over seeds and questions together: t with `crossed_variance`.

    Args:
        values: [S, Q] or [Q]. clusters: see `by_cluster`.

    Raises:
        ValueError: an empty table, or values that are not finite.
    """
    _check_confidence(confidence)
    x = _table(values)
    table = by_cluster(x, clusters)
    variance, df = crossed_variance(table)
    se, mean = math.sqrt(variance), float(x.mean())
    half = float(stats.t.ppf(0.5 + confidence / 2, df)) * se
    n_seeds, n_items = x.shape
    method = f"t over {n_seeds} seeds × {n_items} questions{_in_clusters(table, clusters)}, {confidence:.0%}"
    return Estimate(mean, mean - half, mean + half, se, n_seeds, n_items, method)


def ratio_values(totals: ArrayLike, counts: ArrayLike) -> NDArray[np.float64]:
    """[S, Q]: one value a document whose mean over documents is Σ totals / Σ counts, for each seed.

    With R_s the ratio of seed s, entry (s, q) is R_s + (total_sq - R_s count_q) / mean count: the delta method's, so
    that the variance of the mean of these is that of the ratio.

    Args:
        totals: [S, Q] or [Q]. counts: [Q], shared by all seeds.

    Raises:
        ValueError: different lengths, a count below 1, or a total that is not finite.
    """
    x, count = np.atleast_2d(np.asarray(totals, np.float64)), np.asarray(counts, np.float64)
    if x.ndim != 2 or x.shape[1:] != count.shape or count.size == 0:
        raise ValueError(f"expected one total and one count per document, got shapes {x.shape} and {count.shape}")
    if (count < 1).any() or not np.isfinite(x).all():
        raise ValueError("every document needs at least one predicted token and a finite negative log-likelihood")
    rate = x.sum(1, keepdims=True) / count.sum()
    return np.asarray(rate + (x - rate * count) / count.mean())


def perplexity(
    nats: ArrayLike, tokens: ArrayLike, *, clusters: ArrayLike | None = None, confidence: float = 0.95
) -> Estimate:
    """Perplexity per token, exp(Σ nats / Σ tokens), with an interval over seeds and documents.

    The mean is weighted by tokens, as a ratio of totals over documents; the interval is that of `ratio_values` on the
    log scale, where it is symmetric. Several seeds are averaged there.

    Args:
        nats: negative log-likelihood of each document, summed over its tokens, [S, Q] or [Q].
        tokens: how many tokens were predicted in each, [Q].
        clusters: see `by_cluster`.

    Raises:
        ValueError: different lengths, a document without tokens, or a likelihood that is not finite.
    """
    _check_confidence(confidence)
    rates = ratio_values(nats, tokens)
    if rates.size == 1:
        return Estimate(math.exp(float(rates[0, 0])), 0.0, math.inf, math.inf, 1, 1, "one document: no interval")
    log = crossed_interval(rates, clusters=clusters, confidence=confidence)
    value, low, high = (math.exp(x) for x in (log.value, log.low, log.high))
    method = f"ratio of totals, log scale, {log.method}"
    return Estimate(value, low, high, value * log.se, log.n_seeds, log.n_items, method)


def _in_clusters(table: NDArray[np.float64], clusters: ArrayLike | None) -> str:
    return "" if clusters is None else f" in {table.shape[1]} clusters"


def _table(values: ArrayLike) -> NDArray[np.float64]:
    x = np.atleast_2d(np.asarray(values, np.float64))
    if x.ndim != 2 or x.shape[1] < 2:
        raise ValueError(f"expected seeds × questions with at least two questions, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are not finite")
    return x


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")

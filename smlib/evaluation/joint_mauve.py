"""MAUVE of several methods within common quantisations: values, errors and paired tests from the same histograms.

The package quantises each method's texts together with the human ones by a k-means of their own, so that two methods
meet different buckets: their difference carries the noise of both clusterings (a standard deviation of 0.02 to 0.04 at
300 texts), and a permutation would have to repeat them. Here human text and the texts of *all* methods are clustered
together, once for each k-means seed; MAUVE is the package's formula on the histograms, draw by draw, and a resample is
a recount. Whatever is printed and whatever is tested is a mean over the same seeds and draws, so a difference that is
judged is the difference of what is printed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from smlib.evaluation.intervals import Estimate, combined
from smlib.evaluation.mauve_score import MauveSettings
from smlib.evaluation.paired import PairedTest

MIN_CLUSTERS = 10
"""Fewer clusters have too few swaps for a test: 2^9 = 512."""


def multinomial_mauve(
    p: NDArray[np.float64], q: NDArray[np.float64], scaling: float = 5.0, points: int = 25
) -> NDArray[np.float64]:
    """MAUVE between histograms, the package's formula for many pairs at once.

    The area under the curve (exp(-c KL(q|r)), exp(-c KL(p|r))), r = w p + (1 - w) q, w from 0 to 1 with the extreme
    points (1, 0) and (0, 1); the mean of the areas over either axis.

    Args:
        p, q: counts, [..., k]; normalised here.
    """
    p, q = (x / x.sum(-1, keepdims=True) for x in (np.asarray(p, np.float64), np.asarray(q, np.float64)))
    w = np.linspace(1e-6, 1 - 1e-6, points)[:, None]
    r = w * p[..., None, :] + (1 - w) * q[..., None, :]  # [..., points, k]

    def kl(a: NDArray[np.float64]) -> NDArray[np.float64]:
        a = np.broadcast_to(a[..., None, :], r.shape)
        terms = np.zeros_like(r)
        np.divide(a, r, out=terms, where=a > 0)
        np.log(terms, out=terms, where=a > 0)
        return (a * terms).sum(-1)

    x, y = np.exp(-scaling * kl(q)), np.exp(-scaling * kl(p))  # w up: x falls, y rises
    ends = np.ones((*x.shape[:-1], 1))
    x, y = (np.concatenate([a, v, b], -1) for a, v, b in ((ends, x, 0 * ends), (0 * ends, y, ends)))
    return np.asarray(0.5 * (np.trapezoid(y, -x, axis=-1) + np.trapezoid(x, y, axis=-1)))


def quantise(rows: NDArray[np.float32], settings: MauveSettings) -> NDArray[np.int64]:
    """Bucket of each text under each k-means seed, [K, n]: the package's steps (unit length, PCA, k-means).

    The rows are sorted first, so that the buckets depend on the set of texts and not on which method wrote which:
    swapping two methods' texts swaps their buckets, as a permutation test needs.

    Args:
        rows: [n, d], human text and every method's.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    if len(rows) < settings.num_buckets:
        raise ValueError(f"{len(rows)} texts for {settings.num_buckets} buckets")
    order = np.lexsort(rows.T)
    ordered = normalize(rows[order].astype(np.float64))
    pca = PCA(random_state=0).fit(ordered)
    kept = int(np.argmax(np.cumsum(pca.explained_variance_ratio_) >= settings.explained_variance)) + 1
    low = pca.transform(ordered)[:, :kept]
    labels = np.empty((len(settings.seeds), len(rows)), np.int64)
    for found, seed in zip(labels, settings.seeds, strict=True):
        found[order] = KMeans(settings.num_buckets, n_init=5, random_state=seed).fit_predict(low)
    return labels


@dataclass(frozen=True, eq=False)
class JointMauve:
    """Buckets of all texts, and what follows from them.

    Attributes:
        human: [K, n] bucket of each human text under each k-means seed.
        texts: by method, [K, S, D, n]: training seed s, draw j; text i continues prompt i.
        clusters: [n] number of the cluster (article) of each prompt, every one 0..G-1 at least once.
        resamples: of the bootstrap, and swaps of the test. seed: of both.
    """

    human: NDArray[np.int64]
    texts: Mapping[str, NDArray[np.int64]]
    clusters: NDArray[np.int64]
    settings: MauveSettings
    resamples: int = 1999
    seed: int = 0

    @classmethod
    def of_features(
        cls,
        human: NDArray[np.float32],
        texts: Mapping[str, NDArray[np.float32]],
        settings: MauveSettings,
        clusters: ArrayLike | None = None,
        *,
        resamples: int = 1999,
        seed: int = 0,
    ) -> "JointMauve":
        """Quantises.

        Args:
            human: [n, d]. texts: by method, [S, D, n, d], as many texts a draw as prompts.
            clusters: a label for each prompt; None where the prompts are unrelated.

        Raises:
            ValueError: shapes that do not fit, fewer texts than buckets.
        """
        n, d = human.shape
        for name, rows in texts.items():
            if rows.ndim != 4 or rows.shape[2:] != (n, d):
                raise ValueError(f"{name}: expected [seeds, draws, {n}, {d}], got {rows.shape}")
        if n < settings.num_buckets:
            raise ValueError(f"{n} prompts for {settings.num_buckets} buckets")
        code = np.arange(n) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
        if code.shape != (n,) or code.max() < 1:
            raise ValueError(f"expected the cluster of each of {n} prompts, two at least, got {code.size} labels")
        labels = quantise(np.concatenate([human, *(rows.reshape(-1, d) for rows in texts.values())]), settings)
        ends = np.cumsum([n, *(rows[..., 0].size for rows in texts.values())])
        parts = np.split(labels, ends[:-1], axis=1)
        found = {m: part.reshape(-1, *rows.shape[:3]) for (m, rows), part in zip(texts.items(), parts[1:], strict=True)}
        return cls(parts[0], found, code.astype(np.int64), settings, resamples, seed)

    @property
    def description(self) -> str:
        """The settings in words, to be printed beside the numbers."""
        s, n = self.settings, self.human.shape[1]
        return (
            f"n={n}/{n}, {s.num_buckets} buckets of all {len(self.texts)} methods' and human texts together, scaling "
            f"{s.scaling:g}, PCA {s.explained_variance:.0%}, {len(s.seeds)} k-means seeds, features {s.features}"
        )

    def values(self, method: str) -> NDArray[np.float64]:
        """[K, S, D]: MAUVE of every draw under every k-means seed."""
        counts = self._counts(self.texts[method], self.clusters).sum(-2)
        human = self._counts(self.human, self.clusters).sum(-2)[:, None, None]
        return multinomial_mauve(counts, np.broadcast_to(human, counts.shape), self.settings.scaling)

    def estimate(self, method: str) -> Estimate:
        """Mean over seeds and draws. The error is that of drawing clusters (bootstrap), of k-means seeds and, with
        several, of training seeds, taken as independent: somewhat too large, since both of the latter see the texts'
        own noise too. So is a bootstrap where human and model text nearly agree and MAUVE is at its ceiling."""
        values = self.values(method)
        se, df = combined(self._parts(values.mean(2), self._bootstrap(method)))
        value = float(values.mean())
        half = float(stats.t.ppf(0.975, df)) * se
        seeds, n = values.shape[1], self.human.shape[1]
        return Estimate(value, max(0.0, value - half), min(1.0, value + half), se, seeds, n, f"t, {self._sources}, 95%")

    def difference(self, first: str, second: str) -> PairedTest:
        """MAUVE of `first` minus MAUVE of `second`, paired by training seed and prompt.

        The interval is `estimate`'s for the difference. The p-value is a permutation test's: were the two methods
        alike, their texts after a prompt could be swapped. Swapped is all that belongs to an article, in every draw and
        under every k-means seed at once (single prompts where there are fewer than MIN_CLUSTERS articles; then the
        test speaks of these articles only). Always one draw is exchanged for one draw, since MAUVE depends on the
        number of texts: draw j of one for draw j of the other, and with unequal numbers of draws the mean over all
        pairs, each of which is exchangeable. With several training seeds the p-value is the larger one of the
        permutation test and of Student's with the variance between seeds, which no swap of texts can see.
        """
        gaps = self.values(first).mean(2) - self.values(second).mean(2)  # [K, S]
        value = float(gaps.mean())
        se, df = combined(self._parts(gaps, self._bootstrap(first) - self._bootstrap(second)))
        half = float(stats.t.ppf(0.975, df)) * se
        enough = self._n_clusters >= MIN_CLUSTERS
        n, n_seeds = self.human.shape[1], gaps.shape[1]
        p = self._permutation(first, second, self.clusters if enough else np.arange(n))
        if n_seeds > 1:
            p = max(p, float(2 * stats.t.sf(abs(value) / se, df)) if se else float(value == 0))
        what = f"{self._n_clusters} clusters" if enough else f"{n} prompts"
        method = f"swaps of {what} ({self.resamples}); t, {self._sources}, 95%"
        return PairedTest(value, value - half, value + half, p, n_seeds, n, method)

    @property
    def _n_clusters(self) -> int:
        return int(self.clusters.max()) + 1

    @property
    def _sources(self) -> str:
        return f"bootstrap of {self._n_clusters} clusters, {len(self.human)} k-means seeds"

    def _counts(self, labels: NDArray[np.int64], units: NDArray[np.integer]) -> NDArray[np.float64]:
        """[..., U, k] from buckets [..., n]: how many texts of each unit lie in each bucket."""
        k, n_units = self.settings.num_buckets, int(units.max()) + 1
        flat = labels.reshape(-1, labels.shape[-1])
        made = [np.bincount(units * k + row, minlength=n_units * k) for row in flat]
        return np.stack(made).reshape(*labels.shape[:-1], n_units, k).astype(np.float64)

    @cached_property
    def _weights(self) -> NDArray[np.float64]:
        """[R, G]: how often each cluster is drawn, the same for all methods."""
        g = self._n_clusters
        drawn = np.random.default_rng(self.seed).multinomial(g, np.full(g, 1 / g), size=self.resamples)
        return drawn.astype(np.float64)

    @cached_property
    def _resampled(self) -> dict[str, NDArray[np.float64]]:
        return {}

    def _bootstrap(self, method: str) -> NDArray[np.float64]:
        """[R]: MAUVE of each resample, the mean over k-means seeds, training seeds and draws."""
        if method not in self._resampled:
            total = np.zeros(self.resamples)
            for human, texts in zip(self.human, self.texts[method], strict=True):
                h = self._weights @ self._counts(human, self.clusters)
                for labels in texts.reshape(-1, texts.shape[-1]):
                    counts = self._weights @ self._counts(labels, self.clusters)
                    total += multinomial_mauve(counts, h, self.settings.scaling)
            self._resampled[method] = total / self.texts[method][..., 0].size
        return self._resampled[method]

    def _parts(self, by_seed: NDArray[np.float64], resampled: NDArray[np.float64]) -> list[tuple[float, float]]:
        """Variances of a mean of [K, S] and their degrees of freedom; clusters drawn with replacement vary too little
        by (G - 1)/G."""
        (k, s), g = by_seed.shape, self._n_clusters
        parts = [
            (float(resampled.var(ddof=1)) * g / (g - 1), g - 1.0),
            (float(by_seed.mean(1).var(ddof=1)) / k, k - 1.0),
        ]
        return [*parts, (float(by_seed.mean(0).var(ddof=1)) / s, s - 1.0)] if s > 1 else parts

    def _permutation(self, first: str, second: str, units: NDArray[np.integer]) -> float:
        rng = np.random.default_rng([self.seed, 1])
        swaps = (rng.random((self.resamples, int(units.max()) + 1)) < 0.5).astype(np.float64)
        observed, permuted = np.zeros(()), np.zeros(self.resamples)
        for human, one, two in zip(self.human, self.texts[first], self.texts[second], strict=True):
            h = self._counts(human, units).sum(0)
            for a, b in zip(self._counts(one, units), self._counts(two, units), strict=True):  # [D, U, k] of a seed
                pairs = [(j, j) for j in range(len(a))]
                if len(a) != len(b):
                    pairs = [(i, j) for i in range(len(a)) for j in range(len(b))]
                for i, j in pairs:
                    moved = swaps @ (b[j] - a[i])  # [R, k]
                    observed += self._gap(a[i].sum(0), b[j].sum(0), h) / len(pairs)
                    permuted += self._gap(a[i].sum(0) + moved, b[j].sum(0) - moved, h) / len(pairs)
        as_far = np.abs(permuted) >= np.abs(observed) - 1e-9
        return float((1 + as_far.sum()) / (1 + self.resamples))

    def _gap(self, a: NDArray[np.float64], b: NDArray[np.float64], human: NDArray[np.float64]) -> NDArray[np.float64]:
        h, c = np.broadcast_to(human, a.shape), self.settings.scaling
        return np.asarray(multinomial_mauve(a, h, c) - multinomial_mauve(b, h, c))

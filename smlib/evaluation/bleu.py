"""Corpus BLEU by sacrebleu, with the signature that makes the number comparable (App. G.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smlib.evaluation.paired import PairedTest


@dataclass(frozen=True)
class BleuScore:
    """BLEU in 0..100, its 95 % bootstrap interval over sentences, and sacrebleu's signature."""

    value: float
    low: float
    high: float
    n: int
    n_empty: int
    signature: str
    method: str


def bleu(hypotheses: Sequence[str], references: Sequence[str], *, resamples: int = 1000, seed: int = 0) -> BleuScore:
    """Corpus BLEU of one hypothesis and one reference per sentence.

    sacrebleu takes a list of reference *streams* and silently truncates when it is handed the transpose, so
    the lengths are checked here. Empty hypotheses are counted, and score as such.

    Args:
        resamples: bootstrap samples over sentences for the interval (percentiles).

    Raises:
        ValueError: no sentence, different lengths, an empty reference, no resample.
        TypeError: something other than strings.
        ModuleNotFoundError: sacrebleu is missing.
    """
    _check(hypotheses, references, resamples)
    metric = _package()()
    score = metric.corpus_score(list(hypotheses), [list(references)])
    draws = _bootstrap(_sentence_statistics(hypotheses, references), resamples, seed)
    low, high = np.percentile(draws, [2.5, 97.5])
    return BleuScore(
        value=float(score.score),
        low=float(low),
        high=float(high),
        n=len(hypotheses),
        n_empty=sum(not text.strip() for text in hypotheses),
        signature=str(metric.get_signature()),
        method=f"percentile bootstrap over sentences, {resamples} resamples, 95%",
    )


def bleu_difference(
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[str],
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> PairedTest:
    """Difference of corpus BLEU, first minus second, by paired bootstrap over sentences (Koehn 2004).

    The p-value is twice the smaller share of resamples on either side of zero, at least 1/resamples.

    Raises:
        as `bleu`, for either method.
    """
    for hypotheses in (first, second):
        _check(hypotheses, references, resamples)
    draws = [_bootstrap(_sentence_statistics(h, references), resamples, seed) for h in (first, second)]
    totals = [_corpus(_sentence_statistics(h, references).sum(0)) for h in (first, second)]
    differences = draws[0] - draws[1]
    low, high = np.percentile(differences, [2.5, 97.5])
    tail = min(float((differences <= 0).mean()), float((differences >= 0).mean()))
    p = min(1.0, max(2 * tail, 1 / resamples))
    method = f"paired bootstrap of corpus BLEU over {len(references)} sentences, {resamples} resamples, 95%"
    return PairedTest(totals[0] - totals[1], float(low), float(high), p, 1, len(references), method)


def _sentence_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> NDArray[np.int64]:
    # Matches and totals of 1- to 4-grams and the two lengths, int64 [n, 10]: corpus BLEU is a function of
    # their sum. The effective order silences advice about sentence BLEU and leaves the counts alone.
    metric = _package()(effective_order=True)
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        score = metric.sentence_score(hypothesis, [reference])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, np.int64)


def _corpus(total: NDArray[np.int64]) -> float:
    correct, counted, sys_len, ref_len = total[:4].tolist(), total[4:8].tolist(), int(total[8]), int(total[9])
    return float(_package().compute_bleu(correct, counted, sys_len, ref_len, smooth_method="exp").score)


def _bootstrap(statistics: NDArray[np.int64], resamples: int, seed: int) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    n = len(statistics)
    # How often each sentence is drawn is all that a resample is: one multinomial row each.
    weights = rng.multinomial(n, np.full(n, 1 / n), size=resamples)
    return np.array([_corpus(row) for row in weights @ statistics])


def _check(hypotheses: Sequence[str], references: Sequence[str], resamples: int) -> None:
    for name, texts in (("hypotheses", hypotheses), ("references", references)):
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{name} must be a sequence of strings, one per sentence")
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(f"one reference per hypothesis is needed, got {len(hypotheses)} and {len(references)}")
    if not all(text.strip() for text in references):
        raise ValueError("a reference is empty: BLEU against nothing is undefined")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")


def _package() -> Any:
    try:
        from sacrebleu.metrics import BLEU
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("BLEU needs sacrebleu: pip install -e '.[translation]'") from error
    return BLEU

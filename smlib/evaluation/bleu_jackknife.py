"""Error bars for corpus BLEU over several seeds: the jackknife turns it into one number per sentence.

Corpus BLEU is no mean over sentences, so the crossed analysis of seeds and sentences in `smlib.evaluation.intervals`
does not apply to it directly. Its jackknife pseudo-values, n B - (n - 1) B_without_i, behave like independent draws
whose mean is BLEU up to a bias of order 1/n² (Tukey 1958; Efron 1982, ch. 3), and they pair sentence with sentence.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from smlib.evaluation.bleu import _check, _corpus, _sentence_statistics
from smlib.evaluation.intervals import Estimate, crossed_variance


def pseudovalues(hypotheses: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
    """Jackknife pseudo-values of corpus BLEU (0..100), one per sentence, [n].

    Raises:
        as `smlib.evaluation.bleu`; ValueError for fewer than two sentences.
    """
    _check(hypotheses, references, 1)
    n = len(hypotheses)
    if n < 2:
        raise ValueError("the jackknife leaves one sentence out: at least two are needed")
    counts = _sentence_statistics(hypotheses, references)  # [n, 10]
    total = counts.sum(0)
    whole = _corpus(total)
    return np.array([n * whole - (n - 1) * _corpus(total - row) for row in counts])


def bleu_estimate(
    hypotheses: Sequence[Sequence[str]], references: Sequence[str], *, confidence: float = 0.95
) -> Estimate:
    """Mean corpus BLEU over seeds, with an interval over seeds and sentences together.

    Args:
        hypotheses: for each seed, one text per sentence. references: shared by all seeds.
    """
    values = np.array([pseudovalues(texts, references) for texts in hypotheses])  # [seeds, n]
    corpus = [_corpus(_sentence_statistics(texts, references).sum(0)) for texts in hypotheses]
    variance, df = crossed_variance(values)
    se = math.sqrt(variance)
    half = float(stats.t.ppf(0.5 + confidence / 2, df)) * se
    mean = float(np.mean(corpus))
    method = f"jackknife over {len(references)} sentences and {len(corpus)} seeds, crossed, {confidence:.0%}"
    return Estimate(mean, mean - half, mean + half, se, len(corpus), len(references), method)

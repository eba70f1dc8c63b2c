"""Jackknife pseudo-values of corpus BLEU."""

import numpy as np
import pytest

from smlib.evaluation import bleu
from smlib.evaluation.bleu_jackknife import bleu_estimate, pseudovalues

REFERENCES = [f"le {n} mars {1900 + n} à {n} heures du matin" for n in range(1, 25)]


def spoiled(every: int) -> list[str]:
    """Every so many translations lack a word."""
    return [r.replace(" mars", "") if i % every == 0 else r for i, r in enumerate(REFERENCES)]


def test_perfect_translations_owe_100_each() -> None:
    # 100 up to the rounding of exp(mean log), times n
    assert pseudovalues(REFERENCES, REFERENCES) == pytest.approx(np.full(24, 100.0), abs=1e-8)


def test_one_left_out_is_bleu_without_it() -> None:
    texts = spoiled(3)
    n, whole = len(texts), bleu(texts, REFERENCES, resamples=1).value
    without = bleu(texts[1:], REFERENCES[1:], resamples=1).value
    assert pseudovalues(texts, REFERENCES)[0] == pytest.approx(n * whole - (n - 1) * without, abs=1e-8)


def test_their_mean_is_bleu() -> None:
    texts = spoiled(3)
    # the jackknife removes a bias of order 1/n, which is far below a point here
    assert pseudovalues(texts, REFERENCES).mean() == pytest.approx(bleu(texts, REFERENCES, resamples=1).value, abs=0.5)


def test_the_interval_agrees_with_the_bootstrap() -> None:
    texts = spoiled(3)
    booted, estimate = bleu(texts, REFERENCES, resamples=2000), bleu_estimate([texts], REFERENCES)
    assert estimate.value == pytest.approx(booted.value, abs=1e-8)
    # 24 sentences: two estimates of a width from the same data, each about 15 % uncertain
    assert estimate.high - estimate.low == pytest.approx(booted.high - booted.low, rel=0.35)


def test_seeds_widen_the_interval() -> None:
    one = bleu_estimate([spoiled(3)], REFERENCES)
    two = bleu_estimate([spoiled(3), spoiled(2)], REFERENCES)
    assert two.n_seeds == 2
    assert two.se > 0
    assert one.value > two.value


def test_one_sentence_is_too_few() -> None:
    with pytest.raises(ValueError, match="at least two"):
        pseudovalues(["un"], ["un"])

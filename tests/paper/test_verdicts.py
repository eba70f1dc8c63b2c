"""The rule behind every verdict."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smlib.evaluation import PairedTest, paired_difference
from smlib.paper.experiments.judging.verdicts import LEVEL, MIN_SEEDS, Comparison, Rate, holm, judge, outcome
from smlib.paper.items import VERDICTS


def comparison(difference: float, p: float, seeds: int = MIN_SEEDS) -> Comparison:
    return Comparison("SM > BC", PairedTest(difference, difference - 0.1, difference + 0.1, p, seeds, 100, "made up"))


def test_holm_by_hand() -> None:
    # m = 3: 3 * 0.01, 2 * 0.03, then max(0.06, 0.04)
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06], abs=1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_no_correction_and_bonferroni(p: list[float]) -> None:
    for raw, adjusted in zip(p, holm(p), strict=True):
        assert raw - 1e-12 <= adjusted <= min(1.0, len(p) * raw) + 1e-12


def test_the_four_outcomes() -> None:
    assert outcome(0.1, LEVEL / 2) == "confirmed"
    assert outcome(0.1, LEVEL) == "same sign"
    assert outcome(0.0, 1.0) == outcome(-0.1, LEVEL) == "opposite sign"
    assert outcome(-0.1, LEVEL / 2) == "contradicted"


@pytest.mark.parametrize(
    ("comparisons", "verdict"),
    [
        ([comparison(0.1, 0.001), comparison(0.2, 0.001)], "reproduced"),
        ([comparison(0.1, 0.001), comparison(0.2, 0.2)], "direction only"),
        ([comparison(0.1, 0.03), comparison(0.2, 0.03)], "direction only"),  # Holm: 0.06 for both
        ([comparison(0.1, 0.001, seeds=1)], "direction only"),
        ([comparison(0.1, 0.001), comparison(-0.01, 0.9)], "not reproduced"),
        ([comparison(0.1, 0.001), comparison(-0.2, 0.001)], "not reproduced"),
        ([comparison(0.0, 1.0)], "not reproduced"),
    ],
)
def test_the_rule(comparisons: list[Comparison], verdict: str) -> None:
    judgement = judge(comparisons)
    assert judgement.verdict == verdict
    assert verdict in VERDICTS
    assert len(judgement.comparisons) == len(comparisons)


def test_the_reason_counts_the_outcomes() -> None:
    assert judge([comparison(0.1, 0.001, 1), comparison(-0.2, 0.5, 1)]).why == (
        "of 2 comparisons 1 confirmed, 1 opposite sign; 1 seed, 3 needed for more"
    )


@pytest.mark.parametrize(
    ("difference", "high", "verdict"),
    [
        (0.1, 0.85, "reproduced"),
        (0.1, 0.8, "reproduced"),
        (0.1, 0.79, "direction only"),  # confirmed, and yet far from what the paper prints
        (-0.1, 0.85, "not reproduced"),
    ],
)
def test_a_rate_that_is_not_reached_leaves_the_direction(difference: float, high: float, verdict: str) -> None:
    judgement = judge([comparison(difference, 0.001)], [Rate("share deleted at once", high - 0.1, high, 0.8)])
    assert judgement.verdict == verdict
    assert ("where the paper has 0.8" in judgement.why) == (high < 0.8)


@pytest.mark.parametrize(
    ("low", "high", "chance", "reached"),
    [
        (0.6, 0.9, 0.0, True),
        (0.1, 0.9, 0.0, False),  # few questions: the interval holds everything, and nothing is shown
        (0.41, 0.9, 0.0, True),
        (0.41, 0.9, 0.2, False),  # nearer to chance than to 0.8
        (0.9, 0.95, 0.85, False),  # the paper's share shows no effect here
    ],
)
def test_a_wide_interval_reaches_nothing(low: float, high: float, chance: float, reached: bool) -> None:
    assert Rate("share deleted at once", low, high, 0.8, chance).reached == reached


def test_four_of_four_does_not_say_all() -> None:
    assert not Rate("all deleted", 0.99, 0.9999, 1.0).reached  # a share below 1 never reaches an exact 1
    assert Rate("all deleted", 0.99, 0.9999, 1.0, n=4).reached  # 4 of 4: Wilson's interval begins at 4/(4+z²) = 0.51
    assert Rate("all deleted", 0.505, 0.511, 1.0, n=4).reached
    assert not Rate("all deleted", 0.502, 0.509, 1.0, n=4).reached
    assert not Rate("all deleted", 0.4, 0.9, 1.0, n=4).reached  # nearer to 0 than to 1


def test_nothing_to_judge_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one comparison"):
        judge([])
    with pytest.raises(ValueError, match="the other way round"):
        Comparison("BC > SM", PairedTest(0.1, 0.0, 0.2, 0.5, 3, 9, "made up"), paper=-0.01)


def test_noise_is_rarely_confirmed() -> None:
    """Four comparisons of methods that do not differ: a false significance in about 5 % of items."""
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(200):
        tables = rng.random((5, 3, 80)) < 0.5
        tests = [paired_difference(tables[0], tables[i]) for i in range(1, 5)]
        found = judge([Comparison(str(i), t) for i, t in enumerate(tests)]).comparisons
        false += any(c["outcome"] in ("confirmed", "contradicted") for c in found)
    assert false <= 22  # binomial(200, 0.05): mean 10, four standard deviations 12.3

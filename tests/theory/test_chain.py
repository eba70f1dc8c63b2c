"""The chain of Figure 1: closed forms, matrix, simulation and the numbers of the design."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smlib.paper.experiments.theory import chain as experiment
from smlib.paper.experiments.theory.chain import Formula, printed_formulas, refuted
from smlib.paper.results import read_item
from smlib.theory.chain import CHAIN_DIVERGENCES, Chain, closed_form, data_outcomes, divergence

CHAINS = st.builds(Chain, st.integers(1, 12), st.floats(0.0, 0.8), st.sampled_from([0.0, 0.3, 0.9, 1.0]))


@given(CHAINS)
def test_matrix_and_closed_form_finish_alike(chain: Chain) -> None:
    outcomes = chain.outcomes()
    np.testing.assert_allclose(chain.transition().sum(axis=1), 1.0, atol=1e-14)
    # a solve of at most 24 unknowns with condition number below 1e3: 1e-12 is ample
    assert outcomes.sum() == pytest.approx(1.0, abs=1e-12)
    assert outcomes[-1] == pytest.approx(chain.finish(), abs=1e-12)


@given(CHAINS)
def test_every_divergence_in_closed_form_and_by_enumeration(chain: Chain) -> None:
    p, q = data_outcomes(chain.n), chain.outcomes()
    q = np.where(q < 1e-300, 0.0, q)
    for name in CHAIN_DIVERGENCES:
        closed, summed = closed_form(name, chain.finish()), divergence(name, p, q)
        if chain.finish() > 1 - 1e-12:
            continue  # the infinite ones jump from 0 to infinity at q = 1, where rounding decides
        # the point mass's own term carries the relative error of q, 1e-12, times 1/q for chi2_q
        assert summed == pytest.approx(closed, abs=1e-11, rel=1e-10), name


def test_without_backspace_by_listing_the_paths() -> None:
    n, eps = 4, 0.3
    listed = [(1 - eps) ** k * eps for k in range(n)] + [(1 - eps) ** n]
    np.testing.assert_allclose(Chain(n, eps).outcomes(), listed, atol=1e-15)


def test_with_backspace_by_listing_the_retries() -> None:
    n, eps, b = 3, 0.2, 0.6
    most = 40  # retries listed per node; the tail weighs (eps b)^40 < 1e-36
    finish = math.prod(sum((eps * b) ** j * (1 - eps) for j in range(most)) for _ in range(n))
    assert Chain(n, eps, b).finish() == pytest.approx(finish, abs=1e-15)


def test_numbers_of_the_example() -> None:
    q = Chain(10, 0.1).finish()
    expected = {"forward_kl": 1.0536, "chi2_q": 1.8680, "chi2_mixture": 0.4829, "tv": 0.6513}
    for name, value in expected.items():
        assert closed_form(name, q) == pytest.approx(value, abs=5e-5)
    assert closed_form("reverse_kl", q) == math.inf


def test_kl_counts_errors_and_the_mixture_counts_lost_sequences() -> None:
    for n, eps in itertools.product((5, 20, 80), (0.001, 0.05)):
        q = Chain(n, eps).finish()
        assert closed_form("forward_kl", q) == pytest.approx(-n * math.log1p(-eps), rel=1e-12)
        assert closed_form("chi2_mixture", q) == pytest.approx((1 - q) / (1 + q), rel=1e-12)
        assert 0.0 <= closed_form("chi2_mixture", q) <= 1.0


def test_simulation_agrees_within_its_error() -> None:
    chain = Chain(6, 0.15, 0.4)
    samples = 20_000
    drawn, exact = chain.simulate(samples, seed=1), chain.outcomes()
    # five standard errors of a binomial share, seven outcomes: a false alarm once in 10^5 seeds
    assert (abs(drawn - exact) <= 5 * np.sqrt(exact * (1 - exact) / samples) + 1e-12).all()


def test_arrows_are_read_off_the_matrix() -> None:
    edges = Chain(3, 0.1, 0.5).edges()
    kinds = [edge.kind for edge in edges]
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {"data": 3, "error": 3, "backspace": 3, "lost": 3}
    assert all(edge.probability == Chain(3, 0.1, 0.5).transition()[edge.source, edge.target] for edge in edges)


def test_what_is_printed_is_held_against_its_definitions() -> None:
    """q = 0.9^10: 1 - q is no probability of staying, and q^2 is neither infinite nor (1 - q)/q = 1.868."""
    found = printed_formulas(10, 0.1)
    assert [round(f.defined, 4) for f in found] == [0.3487, math.inf, 1.868]
    assert [round(f.printed, 4) for f in found] == [0.6513, 0.1216, 0.1216]
    assert refuted(found) == ["P(end) = 1 − q", "χ² = q²"]
    assert refuted([Formula("f", "one reading", 0.5, 0.5), Formula("f", "another", 0.5, 0.7)]) == []


@pytest.mark.parametrize(("shift", "verdict"), [(0.0, "reproduced"), (1e-6, "not reproduced")])
def test_the_verdict_on_figure_1_is_computed(
    shift: float, verdict: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "closed_form", lambda name, q: closed_form(name, q) + shift)
    experiment.run("smoke", str(tmp_path))
    item = read_item("fig1", "smoke", tmp_path)
    assert item["verdict"] == verdict
    assert "refuted: P(end) = 1 − q, χ² = q²" in str(item["ours"])
    assert str(item["error"]).startswith("largest gap ")


def test_the_items_rows_carry_the_right_names(tmp_path: Path) -> None:
    """q = 0.9^10 = 0.34868: KL = -log q = 1.0536, (1-q)/q = 1.8680, (1-q)/(1+q) = 0.4829, 2 - 2 sqrt(q) = 0.8190, and
    2 JS = log(2/(1+q)) + q log(2q/(1+q)) + (1-q) log 2 = 0.6155; off the data the other two are infinite."""
    for _ in range(2):  # computed, then read back from the file
        experiment.run("smoke", str(tmp_path))
        rows = {str(row["label"]): row for row in read_item("fig1", "smoke", tmp_path)["rows"]}  # type: ignore[attr-defined]
        expected = {
            "KL(P‖Q)": 1.0536, "KL(Q‖P)": "∞", "E_P[(Q/P − 1)²]": "∞", "E_Q[(P/Q − 1)²]": 1.8680,
            "E_M[(P/M − 1)²]": 0.4829, "2·JS(P, Q)": 0.6155, "Hellinger²(P, Q)": 0.8190, "TV(P, Q)": 0.6513,
        }  # fmt: skip
        for title, value in expected.items():
            row = rows[f"{title}, n = 10, ε = 0.1"]
            assert row["ours"] == (value if value == "∞" else pytest.approx(value, abs=5e-5)), title
            assert (row["error"] is None) == (value == "∞"), title


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="n=0"):
        Chain(0, 0.1)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Chain(3, 1.0)
    with pytest.raises(ValueError, match="backspace probability"):
        Chain(3, 0.1, 1.5)
    with pytest.raises(KeyError, match="chi2_mixture"):
        closed_form("kl", 0.5)
    with pytest.raises(KeyError, match="known"):
        divergence("kl", data_outcomes(2), data_outcomes(2))

"""Every divergence against the definitions: conjugates by search, slopes by autograd, values by their textbook form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smlib.objectives.divergences import DIVERGENCES, INTEGRAL_METRICS, Divergence, UnknownDivergenceError, get

ALL = pytest.mark.parametrize("record", DIVERGENCES.values(), ids=list(DIVERGENCES))
RATIOS = torch.tensor([0.02, 0.2, 0.6, 0.9, 1.0, 1.1, 1.7, 3.0, 8.0], dtype=torch.float64)


def inside(record: Divergence, count: int = 200, margin: float = 0.02) -> torch.Tensor:
    """Points well inside the domain of phi."""
    lo, hi = max(record.domain[0], -3.0), min(record.domain[1], 3.0)
    return torch.linspace(lo + margin, hi - margin, count, dtype=torch.float64)


@ALL
def test_normalised(record: Divergence) -> None:
    one, zero = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64, requires_grad=True)
    assert float(record.f(one)) == 0.0
    assert float(record.phi(zero.detach())) == 0.0
    (slope,) = torch.autograd.grad(record.phi(zero), zero)
    assert float(slope) == 1.0


@ALL
def test_phi_is_minus_the_conjugate_mirrored(record: Divergence) -> None:
    x = inside(record)
    # f* and phi are written separately; both are a handful of operations on numbers below 20: 1e-13 covers rounding
    torch.testing.assert_close(record.phi_exact(x), -record.f_conj(-x), atol=1e-13, rtol=1e-13)


@ALL
def test_conjugate_is_the_supremum(record: Divergence) -> None:
    y = -inside(record, 40, margin=0.1)  # the maximiser t = phi'(-y) stays below 100, inside the grid
    t = torch.cat(
        [
            torch.linspace(-3.0, 0.0, 3001) if record.name == "chi2" else torch.zeros(0),
            torch.linspace(1e-6, 400.0, 400_001),
        ]
    )
    t = t.double()
    searched = (y[:, None] * t[None] - record.f(t)[None]).amax(dim=1)
    conjugate = record.f_conj(y)
    assert bool((searched <= conjugate + 1e-9).all()), "Fenchel-Young: y t - f(t) <= f*(y)"
    # the grid's step is 1e-3, curvature below 10^3 near the optimum: the search falls short by at most 1e-6 * 10^3 / 2
    assert float((conjugate - searched).max()) < 2e-3


@ALL
def test_reward_attains_the_maximum(record: Divergence) -> None:
    r = record.reward(RATIOS)
    torch.testing.assert_close(record.phi_exact(r) - RATIOS * r, record.f(RATIOS), atol=1e-13, rtol=1e-12)


@ALL
def test_reward_is_minus_the_slope_of_f(record: Divergence) -> None:
    t = RATIOS[RATIOS != 1.0].clone().requires_grad_()
    (slope,) = torch.autograd.grad(record.f(t).sum(), t)
    torch.testing.assert_close(record.reward(t.detach()), -slope, atol=1e-13, rtol=1e-12)


@ALL
def test_slope_of_phi_inside_and_outside(record: Divergence) -> None:
    x = torch.linspace(-5.0, 5.0, 401, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(record.phi(x).sum(), x)
    torch.testing.assert_close(record.dphi(x.detach()), slope, atol=1e-9, rtol=1e-12)


@ALL
def test_surrogate_is_continuous_with_its_slope(record: Divergence) -> None:
    lo, hi = record.domain
    edges = []
    if record.surrogate == "linear":
        edges = [lo + record.delta]
    elif record.surrogate == "quadratic":
        edges = [lo, hi]
    for edge in edges:
        near = torch.tensor([edge - 1e-9, edge + 1e-9], dtype=torch.float64)
        value, slope = record.phi(near), record.dphi(near)
        bound = 3e-9 * (float(slope.abs().max()) + 2.0 / record.delta**3)  # third derivative of Hellinger: 6 / delta^4
        assert abs(float(value[1] - value[0])) < 3e-9 * float(slope.abs().max())
        assert abs(float(slope[1] - slope[0])) < bound


@ALL
def test_phi_is_finite_and_concave_where_training_may_go(record: Divergence) -> None:
    x = torch.linspace(-20.0, 20.0, 4001, dtype=torch.float64)
    slope = record.dphi(x)
    assert bool(record.phi(x).isfinite().all())
    assert bool((slope[1:] <= slope[:-1] + 1e-9 * slope[:-1].abs()).all())


@pytest.mark.parametrize(
    "record", [d for d in DIVERGENCES.values() if math.isfinite(d.domain[0])], ids=lambda d: d.name
)
def test_exact_phi_outside_its_domain(record: Divergence) -> None:
    lo = record.domain[0]
    x = torch.tensor([lo - 0.1, 0.1], dtype=torch.float64, requires_grad=True)
    value = record.phi_exact(x)
    assert value[0] == -math.inf
    (slope,) = torch.autograd.grad(value[1], x)
    assert bool(slope.isfinite().all()), "a masked entry must not poison the gradient"
    assert record.outside(x.detach()).tolist() == [True, False]


@given(st.integers(0, 1000))
def test_textbook_values(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = torch.rand(2, 7, generator=generator, dtype=torch.float64).add(0.05)
    p, q = p / p.sum(), q / q.sum()
    m = (p + q) / 2
    textbook = {
        "forward_kl": (p * (p / q).log()).sum(),
        "reverse_kl": (q * (q / p).log()).sum(),
        "js": (p * (p / m).log()).sum() + (q * (q / m).log()).sum(),
        "chi2": ((q - p).square() / p).sum(),
        "hellinger": (p.sqrt() - q.sqrt()).square().sum(),
        "tv": (p - q).abs().sum() / 2,
    }
    for name, value in textbook.items():
        torch.testing.assert_close((p * get(name).f(q / p)).sum(), value, atol=1e-13, rtol=1e-12)


@ALL
def test_cost_off_the_data_is_the_slope_at_infinity(record: Divergence) -> None:
    t = torch.tensor(1e9, dtype=torch.float64)
    growth = float(record.f(t) / t)
    if math.isinf(record.off_data):
        assert growth > 10.0
    else:
        # f(t)/t approaches f'(inf) like t^-1/2 for Hellinger, the slowest
        assert growth == pytest.approx(record.off_data, abs=1e-4)


def test_names() -> None:
    assert list(DIVERGENCES) == ["forward_kl", "reverse_kl", "js", "chi2", "hellinger", "tv"]
    with pytest.raises(UnknownDivergenceError, match="forward_kl, reverse_kl, js"):
        get("helinger")
    with pytest.raises(KeyError, match="mixture=True"):
        get("chi2_mixture")
    for name in INTEGRAL_METRICS:
        with pytest.raises(KeyError, match="phi\\(x\\) = x and no f"):
            get(name)


@ALL
def test_float32_stays_float32(record: Divergence) -> None:
    x = torch.linspace(-4.0, 4.0, 9)
    assert record.phi(x).dtype == torch.float32
    assert bool(record.phi(x).isfinite().all())

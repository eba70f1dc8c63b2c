"""The divergences of Sec. 3.2 and App. D, one record each.

The data occupancy rho_data and the policy occupancy rho_theta meet in the ratio t = rho_theta / rho_data:

    D_f(rho_theta, rho_data) = E_data[f(t)] = max_r E_data[phi(r)] - E_theta[r],  phi(x) = -f*(-x)  (eq. 11)

Adding a multiple of (t - 1) to f changes nothing, so each f is written with f(1) = f'(1) = 0, which makes
phi(0) = 0 and phi'(0) = 1. With that, alpha -> 0 turns eq. 4 into gamma-weighted maximum likelihood for
*every* phi. The maximiser is r*(t) = -f'(t), and mass that the policy puts where the data has none costs
f'(inf) = -lo per unit, with lo the lower end of phi's domain.

The paper reads its divergences from the other side: what D.2 calls KL (phi = -e^-x) is the reverse KL here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor

Elementwise = Callable[[Tensor], Tensor]


class UnknownDivergenceError(KeyError, ValueError):
    """No divergence of that name; the message lists the known ones.

    It is a ValueError too, as that of an unknown method is, so that whoever tells users of their options hears it.
    """

    def __str__(self) -> str:
        return str(self.args[0])


def underflow(dtype: torch.dtype) -> float:
    """What counts as 0 in a derivative: sums of a million reciprocals of anything larger are still finite."""
    return float(torch.finfo(dtype).tiny) * 2.0**20


def raised(x: Float[Tensor, "*shape"], smallest: float) -> Float[Tensor, "*shape"]:
    """x, and `smallest` where x is less, with derivative 1 everywhere."""
    return torch.where(x < smallest, smallest + (x - x.detach()), x)


@dataclass(frozen=True)
class Divergence:
    """One f-divergence and the phi that trains against it. All functions are elementwise on tensors, in nats.

    Attributes:
        name: key in `DIVERGENCES`.
        title: how a figure or table names it.
        paper_name: what the paper calls it, empty where the paper has none.
        f: t -> f(t), t > 0, convex, f(1) = f'(1) = 0.
        f_conj: y -> f*(y) = sup_t y t - f(t), for -y in `domain`.
        reward: t -> -f'(t), the critic that attains the maximum of eq. 11.
        inner: phi on its domain, -inf or nan outside; use `phi` or `phi_exact`.
        inner_slope: its derivative phi'(x).
        domain: (lo, hi), where phi is finite.
        surrogate: how `phi` goes on outside: "none", "linear" (C1, from lo + delta downwards, as in G.1) or
            "quadratic".
        delta: distance from the edge at which the surrogate takes over.
        symmetric: D(p, q) = D(q, p).
        notes: one sentence on what it does with mass off the data.
    """

    name: str
    title: str
    paper_name: str
    f: Elementwise
    f_conj: Elementwise
    reward: Elementwise
    inner: Elementwise
    inner_slope: Elementwise
    domain: tuple[float, float]
    surrogate: str
    delta: float
    symmetric: bool
    notes: str

    def at(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """f(t) for t >= 0 with a finite derivative wherever f(t) is finite, t = 0 included.

        f'(0) is infinite for most f, and an infinite slope times the vanishing derivative of t is no number. A ratio
        below `underflow` counts as 0: f has its value there, infinite for the forward KL, and the slope at `underflow`.
        """
        smallest = underflow(t.dtype)
        at_zero = self.f(torch.zeros((), dtype=t.dtype, device=t.device))
        value = self.f(raised(t, smallest))
        return torch.where(t < smallest, at_zero + (value - value.detach()), value)

    @property
    def off_data(self) -> float:
        """f'(inf): cost per unit of policy mass where the data has none; inf for chi2 and the reverse KL."""
        return -self.domain[0]

    def phi(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """phi as training uses it: exact inside the domain, finite and differentiable (C1) everywhere.

        A linear surrogate below lo + delta bounds phi' by phi'(lo + delta), so on the data the divergence is
        unchanged as long as rho_theta <= phi'(lo + delta) rho_data. Total variation has slope 1 inside its
        domain, where a linear surrogate would forget the edge: it gets a quadratic penalty outside.
        """
        if self.surrogate == "none":
            return self.inner(x)
        lo, hi = self.domain
        if self.surrogate == "quadratic":
            outside = torch.relu(lo - x) + torch.relu(x - hi)
            return self.inner(x) - outside.square() / self.delta
        edge = lo + self.delta
        held = x.clamp(min=edge)  # gradient 1 above the edge and 0 below: each summand is exact on its side
        return self.inner(held) + _slope_at(self, edge) * (x - held)

    def phi_exact(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """phi with -inf outside its domain: the concave function of eq. 11."""
        lo, hi = self.domain
        inside = (x >= lo) & (x <= hi)
        safe = torch.where(inside, x, torch.zeros_like(x))  # no nan in the gradient of the masked branch
        return torch.where(inside, self.inner(safe), torch.full_like(x, -math.inf))

    def dphi(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """phi'(x) of `phi`, surrogate included."""
        if self.surrogate == "none":
            return self.inner_slope(x)
        lo, hi = self.domain
        if self.surrogate == "quadratic":
            return self.inner_slope(x) + 2.0 * (torch.relu(lo - x) - torch.relu(x - hi)) / self.delta
        return self.inner_slope(x.clamp(min=lo + self.delta))

    def outside(self, x: Float[Tensor, "*shape"]) -> Tensor:
        """Bool [*shape]: where x left the exact part of phi and the surrogate speaks."""
        lo, hi = self.domain
        margin = self.delta if self.surrogate == "linear" else 0.0
        return (x < lo + margin) | (x > hi)


@dataclass(frozen=True)
class IntegralMetric:
    """max_r E_data[r] - E_theta[r] over a restricted class of critics: phi(x) = x, and no f (App. D)."""

    name: str
    title: str
    critics: str
    notes: str


def _slope_at(divergence: Divergence, edge: float) -> float:
    return float(divergence.inner_slope(torch.tensor(edge, dtype=torch.float64)))


_RECORDS = (
    Divergence(
        name="forward_kl",
        title="forward KL",
        paper_name="",
        f=lambda t: t - 1.0 - torch.log(t),
        f_conj=lambda y: -torch.log1p(-y),
        reward=lambda t: 1.0 / t - 1.0,
        inner=torch.log1p,
        inner_slope=lambda x: 1.0 / (1.0 + x),
        domain=(-1.0, math.inf),
        surrogate="linear",
        delta=0.01,
        symmetric=False,
        notes="KL(rho_data || rho_theta): infinite where the policy misses data; 1 per unit off the data",
    ),
    Divergence(
        name="reverse_kl",
        title="reverse KL",
        paper_name="KL (D.2)",
        f=lambda t: 1.0 - t + torch.xlogy(t, t),
        f_conj=torch.expm1,
        reward=lambda t: -torch.log(t),
        inner=lambda x: -torch.expm1(-x),
        inner_slope=lambda x: torch.exp(-x),
        domain=(-math.inf, math.inf),
        surrogate="none",
        delta=0.0,
        symmetric=False,
        notes="KL(rho_theta || rho_data): infinite for any policy mass off the data",
    ),
    Divergence(
        name="js",
        title="Jensen-Shannon",
        paper_name="JS (D.3, G.1)",
        f=lambda t: torch.xlogy(t, 2.0 * t / (1.0 + t)) - torch.log((1.0 + t) / 2.0),
        f_conj=lambda y: -torch.log1p(-torch.expm1(y)),
        reward=lambda t: torch.log((1.0 + t) / (2.0 * t)),
        inner=lambda x: torch.log1p(-torch.expm1(-x)),
        inner_slope=lambda x: 1.0 / (2.0 * torch.exp(x) - 1.0),
        domain=(-math.log(2.0), math.inf),
        surrogate="linear",
        delta=0.01,
        symmetric=True,
        notes="KL(rho_data || m) + KL(rho_theta || m), m the mean, twice the usual JS; log 2 per unit off it",
    ),
    Divergence(
        name="chi2",
        title="chi-squared",
        paper_name="chi^2 (D.4)",
        f=lambda t: (t - 1.0).square(),
        f_conj=lambda y: y + y.square() / 4.0,
        reward=lambda t: 2.0 * (1.0 - t),
        inner=lambda x: x - x.square() / 4.0,
        inner_slope=lambda x: 1.0 - x / 2.0,
        domain=(-math.inf, math.inf),
        surrogate="none",
        delta=0.0,
        symmetric=False,
        notes="E_data[(rho_theta/rho_data - 1)^2]: infinite off the data, finite with the mixture of D.4",
    ),
    Divergence(
        name="hellinger",
        title="squared Hellinger",
        paper_name="",
        f=lambda t: (1.0 - t.sqrt()).square(),
        f_conj=lambda y: y / (1.0 - y),
        reward=lambda t: t.rsqrt() - 1.0,
        inner=lambda x: x / (1.0 + x),
        inner_slope=lambda x: (1.0 + x).square().reciprocal(),
        domain=(-1.0, math.inf),
        surrogate="linear",
        delta=0.01,
        symmetric=True,
        notes="sum (sqrt rho_theta - sqrt rho_data)^2: 1 per unit off the data",
    ),
    Divergence(
        name="tv",
        title="total variation",
        paper_name="",
        f=lambda t: (t - 1.0).abs() / 2.0,
        f_conj=lambda y: y.clone(),
        reward=lambda t: torch.sign(1.0 - t) / 2.0,
        inner=lambda x: x.clone(),
        inner_slope=torch.ones_like,
        domain=(-0.5, 0.5),
        surrogate="quadratic",
        delta=0.01,
        symmetric=True,
        notes="half of sum |rho_theta - rho_data|: 1/2 per unit off the data",
    ),
)

DIVERGENCES: Mapping[str, Divergence] = MappingProxyType({record.name: record for record in _RECORDS})

INTEGRAL_METRICS: Mapping[str, IntegralMetric] = MappingProxyType(
    {
        "wasserstein": IntegralMetric(
            "wasserstein", "Wasserstein-1", "1-Lipschitz r", "needs a metric on (state, action) pairs"
        ),
        "mmd": IntegralMetric("mmd", "MMD", "unit ball of an RKHS", "needs a kernel on (state, action) pairs"),
    }
)


def get(name: str) -> Divergence:
    """The record called `name`.

    Raises:
        UnknownDivergenceError: (a KeyError and a ValueError) for any other name; nothing falls back to a default.

    >>> get("chi2").phi(torch.tensor([0.0, 1.0])).tolist()
    [0.0, 0.75]
    """
    if name in DIVERGENCES:
        return DIVERGENCES[name]
    known = ", ".join(DIVERGENCES)
    if name == "chi2_mixture":
        raise UnknownDivergenceError("chi2_mixture is 'chi2' with the mixture regulariser: say 'chi2', mixture=True")
    if name in INTEGRAL_METRICS:
        metric = INTEGRAL_METRICS[name]
        raise UnknownDivergenceError(
            f"{name} has phi(x) = x and no f: it restricts the critic to the {metric.critics}, which eq. 4 "
            f"cannot express; known divergences: {known}"
        )
    raise UnknownDivergenceError(f"unknown divergence {name!r}; known: {known}")

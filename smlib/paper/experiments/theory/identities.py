"""Each claim of Sec. 3 and App. C, D as one number: how far two sides of it are apart, in float64.

Each is {"claim", "where", "value", "bound"}: `value` is an error that should vanish, `bound` what rounding and
the optimisers' tolerance (or, for the limit, the next order in alpha) allow.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from smlib.objectives.divergences import DIVERGENCES, get
from smlib.theory import occupancy as exact
from smlib.theory.datasets import data_occupancy, random_strings
from smlib.theory.estimator import data_part, model_part, sample_walks
from smlib.theory.flow import Flow, as_flow, f_divergence, flow
from smlib.theory.matching import Match, match
from smlib.theory.mdp import EditMDP
from smlib.theory.objective import Parts, behaviour_cloning, sequencematch
from smlib.theory.optimise import minimise

GAMMA = 0.9
SMOOTH = ("forward_kl", "reverse_kl", "js", "chi2", "hellinger")


def _setting(noise: float = 0.1, seed: int = 0) -> tuple[EditMDP, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A small MDP, two random policies with full support, a random Q and terminal values."""
    mdp = EditMDP(2, 3, noise=noise)
    rng = np.random.default_rng(seed)
    shape = (mdp.n_strings, mdp.n_actions)
    first, second = exact.softmax(rng.normal(size=shape)), exact.softmax(rng.normal(size=shape))
    return mdp, first, second, rng.normal(size=shape), rng.normal(size=mdp.n_strings)


def occupancy_gives_policy() -> float:
    """rho determines p: p(a|s) = rho(s, a) / sum_a rho(s, a), and rho satisfies the flow constraints."""
    mdp, policy, *_ = _setting()
    rho = exact.occupancy(mdp, policy, GAMMA)
    gap = abs(exact.policy_of(rho) - policy).max()
    return float(max(gap, exact.flow_residual(mdp, rho, GAMMA), abs(rho.mass - 1.0)))


def bellman_bijection() -> float:
    """Theorem C.1: Q -> r -> Q and r -> Q -> r return where they started."""
    mdp, policy, _, q, end = _setting()
    there = exact.bellman_fixed_point(mdp, *exact.inverse_bellman(mdp, q, end, policy, GAMMA), policy, GAMMA)
    back = exact.inverse_bellman(mdp, *exact.bellman_fixed_point(mdp, q, end, policy, GAMMA), policy, GAMMA)
    return float(max(abs(a - b).max() for pair in (there, back) for a, b in zip(pair, (q, end), strict=True)))


def telescoping_own() -> float:
    """Eq. 5: E_theta[T Q] + H[rho_theta] = (1 - gamma) V(s_0)."""
    mdp, policy, _, q, end = _setting()
    rho = exact.occupancy(mdp, policy, GAMMA)
    r, r_end = exact.inverse_bellman(mdp, q, end, policy, GAMMA)
    left = (rho.pairs * r).sum() + (rho.terminal * r_end).sum() + exact.causal_entropy(rho)
    return float(abs(left - (1.0 - GAMMA) * exact.soft_value(q, policy)[0]))


def telescoping_any() -> float:
    """Eq. 6: E_rho[V(s) - gamma V(s')] = (1 - gamma) V(s_0) for the occupancy rho of any other policy."""
    mdp, policy, other, q, end = _setting()
    rho, v = exact.occupancy(mdp, other, GAMMA), exact.soft_value(q, policy)
    drop = v[:, None] - GAMMA * exact.expected_next(mdp, v, end)
    left = (rho.pairs * drop).sum() + (rho.terminal * (1.0 - GAMMA) * end).sum()
    return float(abs(left - (1.0 - GAMMA) * v[0]))


def dual_of_f(name: str) -> float:
    """Eq. 11: max_r phi(r) - t r over a fine grid of r, and at r = -f'(t), against f(t)."""
    record = get(name)
    t = torch.tensor([0.05, 0.3, 0.7, 1.3, 2.0, 5.0], dtype=torch.float64)
    lo, hi = max(record.domain[0], -40.0), min(record.domain[1], 40.0)
    grid = torch.linspace(lo, hi, 400_001, dtype=torch.float64)
    best = (record.phi_exact(grid)[None] - t[:, None] * grid[None]).amax(dim=1)
    attained = record.phi_exact(record.reward(t)) - t * record.reward(t)
    searched = float((best - record.f(t)).clamp(min=0.0).max())  # a grid can only fall short
    return max(searched, float((attained - record.f(t)).abs().max()))


def full_support_match(name: str, alpha: float = 0.5) -> tuple[Match, EditMDP, Flow]:
    """inf over occupancies of D - alpha H where the data reaches everything, so that no reward leaves phi's domain."""
    mdp, policy, *_ = _setting()
    data = as_flow(exact.occupancy(mdp, policy, GAMMA))
    batched = Flow(data.pairs[None], data.terminal[None])
    return match(mdp, batched, name, alpha, GAMMA, tolerance=1e-10, max_iterations=4000), mdp, batched


def maximal_j(mdp: EditMDP, data: Flow, name: str, alpha: float) -> float:
    """sup over logits of alpha J by L-BFGS from zero, phi at the expected next state as in Prop. 3.1."""
    n, a = mdp.n_strings, mdp.n_actions

    def negative(theta: Tensor) -> Tensor:
        logits, end = theta[:, : n * a].reshape(-1, n, a), theta[:, n * a :]
        return -alpha * j_parts(mdp, logits, end, data, name, alpha, mdp.noise, False).total

    found = minimise(negative, torch.zeros(1, n * a + n, dtype=torch.float64), max_iterations=3000, tolerance=1e-10)
    return -float(found.value)


def j_parts(
    mdp: EditMDP,
    logits: Tensor,
    end: Tensor,
    data: Flow,
    name: str,
    alpha: float,
    noise: float,
    sampled: bool,
    model: Flow | None = None,
    mixture: bool = False,
) -> Parts:
    """J with one noise level for data and rollouts; the data stands in for rollouts that only telescope."""
    return sequencematch(
        mdp,
        logits,
        end,
        data=data,
        model=data if model is None else model,
        divergence=get(name),
        alpha=alpha,
        gamma=GAMMA,
        data_noise=noise,
        model_noise=noise,
        mixture=mixture,
        sampled_next=sampled,
    )


def strong_duality(name: str) -> float:
    """Prop. 3.1 from both ends: min over occupancies of D - alpha H against max over logits of alpha J."""
    found, mdp, data = full_support_match(name)
    return abs(float(found.value[0]) - maximal_j(mdp, data, name, 0.5))


def likelihood_limit(name: str, alpha: float = 1e-5) -> float:
    """alpha -> 0: J - E_data[log p] vanishes like alpha; the ratio to alpha |phi''(0)|/2 E[r^2] is returned minus 1."""
    mdp, policy, _, q, end = _setting(noise=0.0)
    data = as_flow(exact.occupancy(mdp, policy, GAMMA))
    logits, ends = torch.from_numpy(q), torch.from_numpy(end)
    j = j_parts(mdp, logits, ends, data, name, alpha, 0.0, True).total
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(get(name).phi(zero), zero, create_graph=True)
    curvature = torch.autograd.grad(slope, zero)[0] if slope.requires_grad else torch.zeros_like(zero)
    r, r_end = exact.inverse_bellman(mdp, q, end, exact.softmax(q), GAMMA)
    second = float((data.pairs.numpy() * r**2).sum() + (data.terminal.numpy() * r_end**2).sum())
    return abs(float(j - behaviour_cloning(logits, data)) / alpha - float(curvature) * second / 2.0)


def reduced_chi2(mixture: bool) -> float:
    """Design of the reduced form: E_data[log p] - alpha/4 (E_data[r^2] + E_theta[r^2]) equals J for chi^2."""
    mdp, policy, other, q, end = _setting(noise=0.0)
    data, model = (as_flow(exact.occupancy(mdp, p, GAMMA)) for p in (policy, other))
    logits, ends, alpha = torch.from_numpy(q), torch.from_numpy(end), 0.7
    j = j_parts(mdp, logits, ends, data, "chi2", alpha, 0.0, True, model, mixture).total
    r, r_end = exact.inverse_bellman(mdp, q, end, exact.softmax(q), GAMMA)
    squares = [
        float((rho.pairs.numpy() * r**2).sum() + (rho.terminal.numpy() * r_end**2).sum()) for rho in (data, model)
    ]
    reduced = behaviour_cloning(logits, data) - alpha / 4.0 * (squares[0] + mixture * squares[1])
    return abs(float(j - reduced))


def forward_kl_is_mle() -> float:
    """Without `<bkspc>`, KL(rho_data || rho_theta) + E_data[log p] / (1 - gamma) does not depend on theta (Sec. 4).

    log rho_theta(s_t, a_t) sums log p over the past, so step i is weighted by the mass after it, which is gamma^i.
    """
    mdp = EditMDP(2, 4, backspace=False)
    strings = random_strings(mdp, 5, 0, shortest=1, longest=3)
    data = as_flow(data_occupancy(mdp, strings, GAMMA))
    logits = torch.randn(8, mdp.n_strings, mdp.n_actions, generator=torch.Generator().manual_seed(0)).double()
    rho = flow(mdp, torch.softmax(logits, -1), GAMMA)
    batched = Flow(data.pairs.expand_as(rho.pairs), data.terminal.expand_as(rho.terminal))
    constant = f_divergence(get("forward_kl"), rho, batched) + behaviour_cloning(logits, batched) / (1.0 - GAMMA)
    return float(constant.max() - constant.min())


def training_minimises_kl_to_mixture(alpha: float = 1.0) -> float:
    """The gradient of J with the mixture, rollouts held fixed, at the minimiser of 4 KL(data || M) - alpha H."""
    mdp = EditMDP(2, 4, noise=0.1)
    data = as_flow(data_occupancy(mdp, random_strings(mdp, 4, 0, shortest=1, longest=3), GAMMA, 0.1))
    data = Flow(data.pairs[None], data.terminal[None])
    found = match(mdp, data, "kl_to_mixture", alpha, GAMMA, tolerance=1e-10, max_iterations=2000)
    shift = 2.0 / alpha / (1.0 - GAMMA)  # the reward of 4 KL is the critic's plus a constant 2
    logits, end = (found.q - shift).requires_grad_(), (found.q_terminal - shift).requires_grad_()
    held = flow(mdp, torch.softmax(logits, -1), GAMMA).detach()
    total = j_parts(mdp, logits, end, data, "chi2", alpha, 0.1, False, held, True).total
    return max(float(g.abs().max()) for g in torch.autograd.grad(total.sum(), [logits, end]))


def monte_carlo(samples: int, seed: int = 0) -> dict[str, float]:
    """App. C.6: (1 - gamma) J^ over sampled walks against J, with its standard error and variance by part."""
    mdp, policy, other, q, end = _setting(noise=0.0)
    logits, ends, alpha = torch.from_numpy(q), torch.from_numpy(end), 0.5
    data, model = (as_flow(exact.occupancy(mdp, p, GAMMA)) for p in (policy, other))
    j = float(j_parts(mdp, logits, ends, data, "chi2", alpha, 0.0, True, model).total)
    scale = 1.0 - GAMMA
    on_data = np.array(
        [
            scale * float(data_part(w, logits, ends, get("chi2"), alpha, GAMMA))
            for w in sample_walks(mdp, policy, samples, seed)
        ]
    )
    on_model = np.array(
        [scale * float(model_part(w, logits, ends, alpha, GAMMA)) for w in sample_walks(mdp, other, samples, seed + 1)]
    )
    total = on_data + on_model
    half = -0.5 * scale * float(torch.logsumexp(logits[0], 0))
    return {
        "exact": j,
        "mean": float(total.mean()),
        "standard_error": float(total.std(ddof=1) / np.sqrt(samples)),
        "variance_data": float(on_data.var()),
        "variance_model": float(on_model.var()),
        "telescoped_gap": float(abs(on_model - half).max()),
        "samples": samples,
    }


def off_data(alpha: float = 1.0) -> dict[str, object]:
    """What J of eq. 4 does with rewards off the data, where no phi sees them.

    `lowered`: alpha J for JS after lowering the optimal reward by c wherever the data never goes; it should not rise
    above min D - alpha H, and it does, because eq. 4 leaves JS's domain r > -log 2 unenforced there. `rewards`: mean
    alpha r on and off the data at SequenceMatch's stationary point, where the mixture regulariser does see it.
    """
    mdp = EditMDP(2, 4, noise=0.1)
    data = as_flow(data_occupancy(mdp, random_strings(mdp, 4, 0, shortest=1, longest=3), GAMMA, 0.1))
    data = Flow(data.pairs[None], data.terminal[None])
    js = match(mdp, data, "js", alpha, GAMMA, tolerance=1e-9)
    lowered = []
    for c in (0.0, 0.5, 1.0, 2.0, 4.0):
        reward = js.reward - c * (data.pairs == 0.0)
        q, end = exact.soft_optimal(mdp, reward[0].numpy(), js.reward_terminal[0].numpy(), GAMMA)
        total = j_parts(
            mdp, torch.from_numpy(q)[None], torch.from_numpy(end)[None], data, "js", alpha, 0.1, False
        ).total
        lowered.append({"c": c, "alpha_j": alpha * float(total)})
    sm = match(mdp, data, "kl_to_mixture", alpha, GAMMA, tolerance=1e-9)
    critic = alpha * sm.reward - 2.0
    on = data.pairs > 0.0
    rewards = {
        "on": float((critic * sm.rho.pairs)[on].sum() / sm.rho.pairs[on].sum()),
        "off_min": float(critic[~on].min()),
        "off_max": float(critic[~on].max()),
    }
    return {"alpha": alpha, "minimum": float(js.value), "lowered": lowered, "rewards": rewards}


CLAIMS: tuple[tuple[str, str, Callable[[], float], float], ...] = (
    ("an occupancy determines its policy", "Sec. 3.2", occupancy_gives_policy, 1e-12),
    ("r and Q are in bijection", "Thm C.1", bellman_bijection, 1e-11),
    ("E_θ[TQ] + H = (1−γ)V(s₀)", "eq. 5", telescoping_own, 1e-12),
    ("E_ρ[V(s) − γV(s′)] = (1−γ)V(s₀) for any ρ", "eq. 6", telescoping_any, 1e-12),
    *((f"duality of f and φ: {n}", "eq. 11", lambda n=n: dual_of_f(n), 1e-9) for n in DIVERGENCES),
    *((f"min D − αH = max J: {n}", "Prop. 3.1", lambda n=n: strong_duality(n), 1e-8) for n in SMOOTH),
    *((f"α → 0 is γ-weighted MLE: {n}", "App. D.2", lambda n=n: likelihood_limit(n), 1e-3) for n in SMOOTH),
    ("χ² in the reduced form", "eq. 4", lambda: reduced_chi2(False), 1e-11),
    ("χ² with the mixture in the reduced form", "eq. 4, D.4", lambda: reduced_chi2(True), 1e-11),
    ("forward KL of occupancies = γ-weighted MLE", "Sec. 4", forward_kl_is_mle, 1e-12),
    ("training's stationary point: min 4 KL(data‖M) − αH", "beyond", training_minimises_kl_to_mixture, 1e-8),
)


def check_all() -> list[dict[str, object]]:
    """Every claim with its error and bound."""
    return [{"claim": c, "where": w, "value": float(check()), "bound": b} for c, w, check, b in CLAIMS]

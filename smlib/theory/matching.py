"""min over all policies of D(rho_theta, rho_data) - alpha H[rho_theta] (eq. 3), and the logits that J has there.

The problem is convex in rho. With R = -dD/drho at the current occupancy, soft policy iteration for the reward R / alpha
moves the logits towards its soft Q; a step tau < 1 along it (entropy-regularised natural gradient) is mirror descent on
rho. At the optimum the logits are that Q, so `Match.q` maximises J over unrestricted logits, up to a constant in the
reward, which shifts every value by the same amount. Batched: each problem has its own step size.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smlib.objectives.divergences import get
from smlib.theory.flow import MIXTURES, Flow, causal_entropy, f_divergence, flow, values
from smlib.theory.mdp import EditMDP

STEP_LIMIT = 2.0  # nats a log-probability may move in one step: keeps the linearisation honest far from the optimum


@dataclass(frozen=True, eq=False)
class Match:
    """The optimum of eq. 3, [B, ...].

    Attributes:
        log_policy: [B, S, A]; rho: its occupancy.
        q, q_terminal: soft Q [B, S, A] and terminal values [B, S] for the reward below.
        reward, reward_terminal: r = critic / alpha, so that J's phi sees alpha r.
        value: D - alpha H; divergence: D alone.
        residual: largest visits * p * |Q - V - log p|, 0 at the optimum.
        iterations: mirror-descent steps taken.
    """

    log_policy: Tensor
    rho: Flow
    q: Tensor
    q_terminal: Tensor
    reward: Tensor
    reward_terminal: Tensor
    value: Tensor
    divergence: Tensor
    residual: Tensor
    iterations: int

    @property
    def policy(self) -> Tensor:
        """p(a|s) [B, S, A]."""
        return self.log_policy.exp()


def occupancy_divergence(name: str) -> Callable[[Flow, Flow], Tensor]:
    """D(rho, data) [...] by name: an f-divergence, `chi2_mixture`, or `kl_to_mixture`.

    Raises:
        KeyError: unknown name.
    """
    if name in MIXTURES:
        return MIXTURES[name]
    record = get(name)
    return lambda rho, data: f_divergence(record, rho, data)


def soft_q(
    mdp: EditMDP, log_policy: Tensor, reward: Tensor, end: Tensor, gamma: float, noise: float | None = None
) -> tuple[Tensor, Tensor]:
    """Q of a policy for a reward [..., S, A], [..., S]: the fixed point of the soft Bellman operator (Sec. 3.2.1)."""
    policy, q_terminal = log_policy.exp(), end / (1.0 - gamma)
    value = values(mdp, policy, (policy * (reward - log_policy)).sum(-1), q_terminal, gamma, noise)
    after = torch.cat([value, q_terminal], dim=-1)[..., torch.from_numpy(mdp.next_state)]
    return reward + gamma * after @ torch.from_numpy(mdp.execution(noise)).T, q_terminal


def start_near(data: Flow, share: float = 0.9) -> Tensor:
    """log of `share` times the data's policy plus the rest uniform [..., S, A]; uniform where the data never goes."""
    visits = data.pairs.sum(-1, keepdim=True)
    uniform = torch.full_like(data.pairs, 1.0 / data.pairs.shape[-1])
    known = torch.where(visits > 0.0, data.pairs / torch.where(visits > 0.0, visits, torch.ones_like(visits)), uniform)
    return (share * known + (1.0 - share) * uniform).log()


def match(
    mdp: EditMDP,
    data: Flow,
    divergence: str,
    alpha: float,
    gamma: float,
    *,
    noise: float | None = None,
    tolerance: float = 1e-8,
    max_iterations: int = 5000,
) -> Match:
    """Minimises D - alpha H over all policies for each data occupancy of the batch [B, ...], D smooth.

    Raises:
        ValueError: alpha <= 0, or a divergence that is infinite wherever the policy leaves the data.
    """
    if alpha <= 0.0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    distance = occupancy_divergence(divergence)

    def evaluate(log_policy: Tensor) -> Match:
        rho = flow(mdp, log_policy.exp(), gamma, noise).detach()
        leaf = Flow(rho.pairs.clone().requires_grad_(), rho.terminal.clone().requires_grad_())
        d = distance(leaf, data)
        slope = torch.autograd.grad(d.sum(), (leaf.pairs, leaf.terminal))
        reward, end = -slope[0] / alpha, -slope[1] / alpha
        q, q_terminal = soft_q(mdp, log_policy, reward, end, gamma, noise)
        residual = (rho.pairs * (torch.log_softmax(q, dim=-1) - log_policy).abs()).amax(dim=(-1, -2))
        total = d.detach() - alpha * causal_entropy(rho)
        return Match(log_policy, rho, q, q_terminal, reward, end, total, d.detach(), residual, 0)

    now = evaluate(start_near(data))
    if not bool(now.value.isfinite().all()):
        raise ValueError(f"{divergence} is infinite for every policy that leaves the data: use a mixture, or another")
    tau = torch.full_like(now.value, min(1.0, 10.0 * alpha))
    for iteration in range(max_iterations + 1):
        if float(now.residual.max()) < tolerance or iteration == max_iterations or float(tau.max()) < 1e-12:
            break
        gap = torch.log_softmax(now.q, dim=-1) - now.log_policy
        step = torch.minimum(tau, STEP_LIMIT / gap.abs().amax(dim=(-1, -2)))[..., None, None]
        trial = evaluate(torch.log_softmax(now.log_policy + step * gap, dim=-1))
        # within rounding the value cannot rank two policies any more, the residual still can
        rounding = 1e-12 * (1.0 + now.value.abs())
        better = (trial.value < now.value - rounding) | (
            (trial.value < now.value + rounding) & (trial.residual < now.residual)
        )
        better = better & trial.residual.isfinite()
        now = replace(_choose(better, trial, now), iterations=iteration + 1)
        tau = torch.where(better, (1.3 * tau).clamp(max=1.0), tau / 2.0)
    return now


def _choose(mask: Tensor, new: Match, old: Match) -> Match:
    """Problem by problem, the new match where the mask is True."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(mask.reshape(mask.shape + (1,) * (a.dim() - mask.dim())), a, b)

    kept = {
        name: pick(getattr(new, name), getattr(old, name))
        for name in Match.__dataclass_fields__
        if name not in ("rho", "iterations")
    }
    rho = Flow(pick(new.rho.pairs, old.rho.pairs), pick(new.rho.terminal, old.rho.terminal))
    return Match(rho=rho, iterations=old.iterations, **kept)

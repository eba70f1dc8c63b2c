"""Occupancies of the edit MDP in closed form, batched and differentiable: Gaussian elimination along the tree.

Strings form a tree, insertions go to a child and `<bkspc>` to the parent, so the linear system of eq. 1 is eliminated
without fill-in. From the leaves up, with p the executed action's probability and b the backspace's,

    u(s) = gamma p(b|s) G(s)                  discounted chance of ever stepping back to the parent,
    G(s) = 1 / (1 - gamma sum_c p(c|s) u(sc)) discounted visits to s per arrival at s;

then from the root down, N(root) = (1 - gamma) G(root) and N(sc) = gamma p(c|s) N(s) G(sc). Linear time in the number
of strings, and autograd differentiates through it, which is what direct minimisation of a divergence needs.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smlib.objectives.divergences import Divergence, raised, underflow
from smlib.theory.mdp import EditMDP
from smlib.theory.occupancy import Occupancy, check_discount


@dataclass(frozen=True, eq=False)
class Flow:
    """An occupancy as tensors, with any leading batch axes: `pairs` [..., S, A], `terminal` [..., S]."""

    pairs: Tensor
    terminal: Tensor

    def flat(self) -> Float[Tensor, "*batch n"]:
        """All entries [..., S A + S], pairs first."""
        return torch.cat([self.pairs.flatten(-2), self.terminal], dim=-1)

    def detach(self) -> "Flow":
        """The same numbers without the path to the policy: what a replay buffer gives."""
        return Flow(self.pairs.detach(), self.terminal.detach())

    def numpy(self) -> Occupancy:
        """One occupancy, without batch axes, for the functions of `smlib.theory.occupancy`."""
        return Occupancy(self.pairs.detach().numpy(), self.terminal.detach().numpy())


def as_flow(rho: Occupancy) -> Flow:
    """An exact occupancy as tensors."""
    return Flow(torch.from_numpy(rho.pairs), torch.from_numpy(rho.terminal))


@dataclass(frozen=True, eq=False)
class _Elimination:
    """Per level: executed policy, gain G and return chance u of the module's docstring."""

    executed: Tensor
    gain: list[Tensor]
    up: list[Tensor]


def _eliminate(mdp: EditMDP, policy: Tensor, gamma: float, noise: float | None) -> _Elimination:
    executed = policy @ torch.as_tensor(mdp.execution(noise), dtype=policy.dtype)
    back = executed[..., mdp.bkspc] if mdp.backspace else torch.zeros_like(executed[..., 0])
    gain: list[Tensor] = []
    up: list[Tensor] = []
    for length in range(mdp.max_len, -1, -1):
        level = mdp.levels[length]
        returned = torch.zeros_like(back[..., level])
        if length < mdp.max_len:
            returned = gamma * (executed[..., level, : mdp.tokens] * _siblings(mdp, up[-1])).sum(dim=-1)
        if length == 0:
            returned = returned + gamma * back[..., level]  # <bkspc> at the root stays there
        gain.append(1.0 / (1.0 - returned))
        up.append(gamma * back[..., level] * gain[-1])
    return _Elimination(executed, gain[::-1], up[::-1])


def _siblings(mdp: EditMDP, level: Tensor) -> Tensor:
    """[..., n k] of one level to [..., n, k]: strings are sorted, so siblings are neighbours."""
    return level.reshape(*level.shape[:-1], -1, mdp.tokens)


def _visits(
    mdp: EditMDP, policy: Float[Tensor, "*batch s a"], gamma: float, noise: float | None
) -> tuple[Float[Tensor, "*batch s"], Float[Tensor, "*batch s"]]:
    """sum_t gamma^t P(s_t = s) [..., S], and the executed flow into each terminal twin [..., S]."""
    tree = _eliminate(mdp, policy, gamma, noise)
    visits = [tree.gain[0]]
    for length in range(mdp.max_len):
        arrivals = gamma * tree.executed[..., mdp.levels[length], : mdp.tokens] * visits[-1].unsqueeze(-1)
        visits.append(arrivals.flatten(-2) * tree.gain[length + 1])
    total = torch.cat(visits, dim=-1)
    ending, last = tree.executed[..., mdp.eos], mdp.levels[-1]
    # tokens at the length limit are executed as <eos>
    forced = ending[..., last] + tree.executed[..., last, : mdp.tokens].sum(dim=-1)
    return total, total * torch.cat([ending[..., : last.start], forced], dim=-1)


def values(
    mdp: EditMDP,
    policy: Float[Tensor, "*batch s a"],
    gain: Float[Tensor, "*batch s"],
    terminal: Float[Tensor, "*batch s"],
    gamma: float,
    noise: float | None = None,
) -> Float[Tensor, "*batch s"]:
    """V = gain + gamma P_pi V with the terminal twins' values given: the transpose of the system behind `flow`.

    From the leaves up V(sc) = own(sc) + u(sc) V(s) with own(s) = G(s) (gain(s) + gamma sum_c p(c|s) own(sc)).
    """
    tree = _eliminate(mdp, policy, gamma, noise)
    ending, last = tree.executed[..., mdp.eos], mdp.levels[-1]
    forced = ending[..., last] + tree.executed[..., last, : mdp.tokens].sum(dim=-1)
    gain = gain + gamma * terminal * torch.cat([ending[..., : last.start], forced], dim=-1)
    own = [tree.gain[-1] * gain[..., last]]
    for length in range(mdp.max_len - 1, -1, -1):
        level = mdp.levels[length]
        below = (tree.executed[..., level, : mdp.tokens] * _siblings(mdp, own[-1])).sum(dim=-1)
        own.append(tree.gain[length] * (gain[..., level] + gamma * below))
    result = [own[-1]]
    for length in range(1, mdp.max_len + 1):
        above = result[-1].repeat_interleave(mdp.tokens, dim=-1)
        result.append(own[mdp.max_len - length] + tree.up[length] * above)
    return torch.cat(result, dim=-1)


def flow(mdp: EditMDP, policy: Float[Tensor, "*batch s a"], gamma: float, noise: float | None = None) -> Flow:
    """The occupancy of a policy (eq. 1), normalised to mass 1; differentiable in the policy."""
    check_discount(gamma)
    visits, ending = _visits(mdp, policy, gamma, noise)
    return Flow((1.0 - gamma) * visits.unsqueeze(-1) * policy, gamma * ending)


def final_strings(
    mdp: EditMDP, policy: Float[Tensor, "*batch s a"], noise: float | None = None
) -> Float[Tensor, "*batch s"]:
    """Probability [..., S] that a generation ends with each string; sums to 1 unless the policy loops for ever."""
    return _visits(mdp, policy, 1.0, noise)[1]


def causal_entropy(rho: Flow) -> Float[Tensor, "*batch"]:
    """H = -E_rho[log p(a|s)] (nats); terminal states have one action and contribute nothing."""
    return _x_log_x(rho.pairs.sum(dim=-1)).sum(-1) - _x_log_x(rho.pairs).sum((-1, -2))


def _x_log_x(x: Tensor) -> Tensor:
    """x log x, 0 at 0, where autograd of `xlogy` would return nan; the derivative is held where x underflows."""
    smallest = underflow(x.dtype)
    held = raised(x, smallest)
    value = torch.special.xlogy(held, held)
    return torch.where(x < smallest, value - value.detach(), value)


def f_divergence(divergence: Divergence, rho: Flow, data: Flow) -> Float[Tensor, "*batch"]:
    """E_data[f(rho_theta / rho_data)] with f'(inf) per unit of policy mass off the data; inf where that is infinite.

    The gradient is finite wherever the value is: an occupancy that underflows to 0 contributes none of it.
    """
    p, q = data.flat(), rho.flat()
    on = p > 0.0
    ratio = torch.where(on, q / torch.where(on, p, torch.ones_like(p)), torch.ones_like(q))
    inside = (p * divergence.at(ratio)).sum(dim=-1)
    outside = torch.where(on, torch.zeros_like(q), q).sum(dim=-1)
    if divergence.off_data == float("inf"):
        return torch.where(outside > 0.0, torch.full_like(inside, float("inf")), inside)
    return inside + divergence.off_data * outside


def chi2_mixture(rho: Flow, data: Flow) -> Float[Tensor, "*batch"]:
    """2 chi^2(rho_data || M) = sum (rho_data - rho_theta)^2 / (rho_data + rho_theta), M the even mixture (D.4)."""
    p, q = data.flat(), rho.flat()
    total = p + q
    exponent = round(math.log2(torch.finfo(q.dtype).tiny))
    # each term is homogeneous of degree 1: scaled up by a power of two, exactly, where its square would underflow
    scale = torch.ones_like(total).masked_fill(total < 2.0 ** (exponent // 2), 2.0 ** (-3 * exponent // 4))
    whole = torch.where(total > 0.0, total, torch.ones_like(total)) * scale
    terms = ((p - q) * scale).square() / whole / scale
    return torch.where(total > 0.0, terms, q).sum(dim=-1)  # from 0 a term without data rises as q does


def kl_to_mixture(rho: Flow, data: Flow) -> Float[Tensor, "*batch"]:
    """4 KL(rho_data || M): what the mixture regulariser minimises if its rollouts are held fixed (see `objective`)."""
    p, q = data.flat(), rho.flat()
    on = p > 0.0
    ratio = torch.where(on, 2.0 * p / torch.where(on, p + q, torch.ones_like(p)), torch.ones_like(p))
    return 4.0 * (p * ratio.log()).sum(dim=-1)


MIXTURES = {"chi2_mixture": chi2_mixture, "kl_to_mixture": kl_to_mixture}
"""Divergences to the mixture that are no f of `smlib.objectives.divergences`; known wherever these are compared."""

"""Occupancies of the edit MDP in closed form, batched and differentiable: Gaussian elimination along the tree.

Strings form a tree, insertions go to a child and `<bkspc>` to the parent, so the linear system of eq. 1 is eliminated
without fill-in. From the leaves up, with p the executed action's probability and b the backspace's,

    u(s) = gamma p(b|s) G(s)                  discounted chance of ever stepping back to the parent,
    G(s) = 1 / (1 - gamma sum_c p(c|s) u(sc)) discounted visits to s per arrival at s;

then from the root down, N(root) = (1 - gamma) G(root) and N(sc) = gamma p(c|s) N(s) G(sc). Linear time in the number
of strings, and autograd differentiates through it, which is what direct minimisation of a divergence needs.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smlib.divergences import Divergence
from smlib.tabular.mdp import EditMDP
from smlib.tabular.occupancy import Occupancy, check_discount


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
        """One occupancy, without batch axes, for the functions of `smlib.tabular.occupancy`."""
        return Occupancy(self.pairs.detach().numpy(), self.terminal.detach().numpy())


def as_flow(rho: Occupancy) -> Flow:
    """An exact occupancy as tensors."""
    return Flow(torch.from_numpy(rho.pairs), torch.from_numpy(rho.terminal))


def _visits(
    mdp: EditMDP, policy: Float[Tensor, "*batch s a"], gamma: float, noise: float | None
) -> tuple[Float[Tensor, "*batch s"], Float[Tensor, "*batch s"]]:
    """sum_t gamma^t P(s_t = s) [..., S], and the executed flow into each terminal twin [..., S]."""
    executed = policy @ torch.as_tensor(mdp.execution(noise), dtype=policy.dtype)
    tokens, batch = mdp.tokens, policy.shape[:-2]
    back = executed[..., mdp.bkspc] if mdp.backspace else torch.zeros_like(executed[..., 0])
    gain: list[Tensor] = [torch.empty(0)] * len(mdp.levels)
    up = torch.empty(0)
    for length in range(mdp.max_len, -1, -1):
        level = mdp.levels[length]
        returned = torch.zeros_like(back[..., level])
        if length < mdp.max_len:
            children = up.reshape(*batch, -1, tokens)  # strings are sorted, so siblings are neighbours
            returned = gamma * (executed[..., level, :tokens] * children).sum(dim=-1)
        if length == 0:
            returned = returned + gamma * back[..., level]  # <bkspc> at the root stays there
        gain[length] = 1.0 / (1.0 - returned)
        up = gamma * back[..., level] * gain[length]
    visits = [gain[0]]
    for length in range(mdp.max_len):
        arrivals = gamma * executed[..., mdp.levels[length], :tokens] * visits[-1].unsqueeze(-1)
        visits.append(arrivals.flatten(-2) * gain[length + 1])
    total = torch.cat(visits, dim=-1)
    ending = executed[..., mdp.eos]
    last = mdp.levels[-1]
    forced = ending[..., last] + executed[..., last, :tokens].sum(dim=-1)  # tokens at the limit are executed as <eos>
    return total, total * torch.cat([ending[..., : last.start], forced], dim=-1)


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
    visits = rho.pairs.sum(dim=-1)
    return torch.special.xlogy(visits, visits).sum(-1) - torch.special.xlogy(rho.pairs, rho.pairs).sum((-1, -2))


def f_divergence(divergence: Divergence, rho: Flow, data: Flow) -> Float[Tensor, "*batch"]:
    """E_data[f(rho_theta / rho_data)] with f'(inf) per unit of policy mass off the data; inf where that is infinite."""
    p, q = data.flat(), rho.flat()
    on = p > 0.0
    ratio = torch.where(on, q / torch.where(on, p, torch.ones_like(p)), torch.ones_like(q))
    inside = (p * divergence.f(ratio)).sum(dim=-1)
    outside = torch.where(on, torch.zeros_like(q), q).sum(dim=-1)
    if divergence.off_data == float("inf"):
        return torch.where(outside > 0.0, torch.full_like(inside, float("inf")), inside)
    return inside + divergence.off_data * outside


def chi2_mixture(rho: Flow, data: Flow) -> Float[Tensor, "*batch"]:
    """2 chi^2(rho_data || M) = sum (rho_data - rho_theta)^2 / (rho_data + rho_theta), M the even mixture (D.4)."""
    p, q = data.flat(), rho.flat()
    total = p + q
    return ((p - q).square() / torch.where(total > 0.0, total, torch.ones_like(total))).sum(dim=-1)


def kl_to_mixture(rho: Flow, data: Flow) -> Float[Tensor, "*batch"]:
    """4 KL(rho_data || M): what the mixture regulariser minimises if its rollouts are held fixed (see `objective`)."""
    p, q = data.flat(), rho.flat()
    on = p > 0.0
    ratio = torch.where(on, 2.0 * p / torch.where(on, p + q, torch.ones_like(p)), torch.ones_like(p))
    return 4.0 * (p * ratio.log()).sum(dim=-1)


MIXTURES = {"chi2_mixture": chi2_mixture, "kl_to_mixture": kl_to_mixture}
"""Divergences to the mixture that are no f of `smlib.divergences`; keys usable wherever an occupancy is compared."""

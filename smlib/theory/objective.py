"""The SequenceMatch objective J of eq. 4 with exact expectations, any phi, on an explicit edit MDP.

    J(l) =  1/alpha  E_data[phi(alpha l(a|s) - alpha gamma V(s'))]        + the same at the terminal states
          - 1/2 E_data[V(s) - gamma V(s')] - 1/2 E_theta[V(s) - gamma V(s')]
          - alpha/4 E_theta[(l(a|s) - gamma V(s'))^2]                      with the mixture regulariser (D.4)

Occupancies are normalised, so (1 - gamma) E[J^] = J for the estimator of eq. 4, which sums gamma^i without the factor.
A terminal state has one action, so its logit is its value and its reward (1 - gamma) V.

The policy's occupancy enters as an argument. Training holds it fixed within a step (rollouts are samples), and then the
stationary points with the mixture are not those of the divergence 2 chi^2(data || M) - alpha H. There
alpha r = 2 (rho_data - rho_theta) / (rho_data + rho_theta), while the policy sees the reward r and not r + alpha r^2/4,
the derivative of that divergence: with unrestricted logits the stationary point minimises 4 KL(data || M) - alpha H.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smlib.objectives.divergences import Divergence
from smlib.theory.flow import Flow
from smlib.theory.mdp import EditMDP
from smlib.theory.occupancy import check_discount


@dataclass(frozen=True, eq=False)
class Parts:
    """The terms of J, each [...]; `total` is to be maximised."""

    phi: Tensor
    phi_terminal: Tensor
    data_values: Tensor
    model_values: Tensor
    mixture: Tensor

    @property
    def total(self) -> Float[Tensor, "*batch"]:
        """J."""
        return self.phi + self.phi_terminal + self.data_values + self.model_values + self.mixture


def rewards(
    mdp: EditMDP, logits: Float[Tensor, "*batch s a"], terminal: Float[Tensor, "*batch s"], gamma: float
) -> Float[Tensor, "*batch s a a"]:
    """r = l(a|s) - gamma V(s') for each chosen action a and executed action b, [..., S, A, A]."""
    values = torch.cat([torch.logsumexp(logits, dim=-1), terminal], dim=-1)
    after = values[..., torch.from_numpy(mdp.next_state)]
    return logits.unsqueeze(-1) - gamma * after.unsqueeze(-2)


def sequencematch(
    mdp: EditMDP,
    logits: Float[Tensor, "*batch s a"],
    terminal: Float[Tensor, "*batch s"],
    *,
    data: Flow,
    model: Flow,
    divergence: Divergence,
    alpha: float,
    gamma: float,
    data_noise: float = 0.0,
    model_noise: float = 0.0,
    mixture: bool = False,
    sampled_next: bool = True,
) -> Parts:
    """J of eq. 4, exactly.

    Args:
        logits: l(a|s) [..., S, A]; terminal: value of each terminal twin [..., S].
        data: rho_data; model: rho_theta. Detach it to reproduce training.
        data_noise: execution noise of the data's dynamics (Sec. 4.2); model_noise: of the rollouts'.
        sampled_next: phi at a sampled s', as eq. 4 estimates it. False puts the expectation over s' inside phi, as in
            Prop. 3.1. They agree where the dynamics are deterministic; by Jensen's inequality eq. 4 is lower elsewhere.
    """
    check_discount(gamma)
    if alpha <= 0.0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    reward = rewards(mdp, logits, terminal, gamma)
    reward_end = (1.0 - gamma) * terminal
    value = torch.logsumexp(logits, dim=-1)

    def mean(rho: Flow, noise: float, function: Divergence | None) -> Tensor:
        """E_rho of phi(alpha r) / alpha, or of -(alpha / 4) r^2 when no phi is given, over decision pairs."""
        executed = torch.as_tensor(mdp.execution(noise), dtype=logits.dtype)
        r = reward if sampled_next else (reward * executed).sum(dim=-1)
        if function is None:
            g = -alpha / 4.0 * r.square()
        else:  # phi may be infinite at what never happens, and 0 times infinity is no number
            happens = (rho.pairs > 0.0).unsqueeze(-1) & (executed > 0.0) if sampled_next else rho.pairs > 0.0
            g = function.phi(torch.where(happens, alpha * r, 0.0)) / alpha
        inner = (g * executed).sum(dim=-1) if sampled_next else g
        return (rho.pairs * inner).sum(dim=(-1, -2))

    def half_telescope(rho: Flow, noise: float) -> Tensor:
        """-1/2 E_rho[V(s) - gamma V(s')], terminal states included; equals -(1 - gamma) V(s_0) / 2 (eq. 6)."""
        executed = torch.as_tensor(mdp.execution(noise), dtype=logits.dtype)
        after = (logits - (reward * executed).sum(dim=-1)) / gamma
        here = rho.pairs * (value.unsqueeze(-1) - gamma * after)
        return -0.5 * (here.sum(dim=(-1, -2)) + (rho.terminal * reward_end).sum(dim=-1))

    seen_end = torch.where(data.terminal > 0.0, alpha * reward_end, 0.0)
    phi_terminal = (data.terminal * divergence.phi(seen_end)).sum(dim=-1) / alpha
    mixed = torch.zeros_like(phi_terminal)
    if mixture:
        mixed = mean(model, model_noise, None) - alpha / 4.0 * (model.terminal * reward_end.square()).sum(dim=-1)
    return Parts(
        phi=mean(data, data_noise, divergence),
        phi_terminal=phi_terminal,
        data_values=half_telescope(data, data_noise),
        model_values=half_telescope(model, model_noise),
        mixture=mixed,
    )


def behaviour_cloning(logits: Float[Tensor, "*batch s a"], data: Flow) -> Float[Tensor, "*batch"]:
    """E_data[log p(a|s)] with discounted weights: gamma-weighted MLE, and BC where the data contains `<bkspc>`."""
    return (data.pairs * torch.log_softmax(logits, dim=-1)).sum(dim=(-1, -2))

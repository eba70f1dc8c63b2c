"""Occupancy matching with a critic of its own: Prop. 3.1 before theta is eliminated, as in GAIL (Ho & Ermon 2016).

    min_theta max_r  E_data[r - r^2/4] - E_theta[r + r^2/4] - alpha H[rho_theta]     (chi^2 to the mixture, App. D.4)

Eq. 4 makes critic and policy one set of logits. Here the critic is a second network, and reads what the policy cannot:
the state that an action led to. Expectations are over occupancies, (1 - gamma) sum_i gamma^i over visits and gamma^N at
the terminal state, where a trajectory stays for ever.

*Critic.* r - r^2/4 = 1 - (r - 2)^2/4, and likewise for rollouts: least squares towards 2 on data and -2 on rollouts.
Its optimum is r* = 2 (rho_data - rho_theta) / (rho_data + rho_theta), and the maximum 2 less the least-squares loss.

*Actor.* The derivative of the maximum is that of -E_theta[r + r^2/4] with r held fixed: a policy gradient with that
reward and -alpha log p. It holds for rollouts of the present policy, so every rollout is used once. (Eq. 4 with its
mixture uses r alone, and so minimises 4 KL(data || mixture): notebook 02, section 5.)

Under injected noise data and rollouts need the same dynamics (`TrainConfig.rollout_noise` = eta): the critic sees what
the environment did, and would take a policy that makes no mistakes for a bad copy of one that does.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smlib.edits.packing import PackedBatch
from smlib.objectives.losses import Loss, VisitValues, check_alpha, check_gamma, discount, mass, trajectory_counts
from smlib.policies.decoder import decoder, last_hidden
from smlib.policies.policy import Policy
from smlib.policies.unembedding import unrounded

TARGET = 2.0  # of the least squares: r* lies between -TARGET and TARGET


@dataclass(frozen=True)
class CriticValues:
    """What a critic says of a batch: N visits of B trajectories.

    Attributes:
        reward: [N] r of the transition s_i -> s_{i+1}. end_reward: [B] r of staying in s_N, once a step.
        baseline: [N] its guess of the actor's discounted reward from s_i on, times 1 - gamma.
    """

    reward: Float[Tensor, " N"]
    end_reward: Float[Tensor, " B"]
    baseline: Float[Tensor, " N"]


class Critic(nn.Module):
    """A copy of the policy's network with four scalars for the unembedding: r of an insertion, read where the inserted
    token stands; r of a deletion, read where the deleted one stood; r of a finished string; and the baseline.

    The scalars start at 0: so does r. The baseline changes the variance of the actor's gradient and not its mean, and
    does not train the network.

    Args:
        policy: whose network is copied, adapters and what they leave frozen included.
    """

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.body: Any = copy.deepcopy(decoder(policy.lm))
        self.heads = nn.Linear(policy.w_bkspc.numel(), 4).to(policy.device)
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)

    def forward(self, batch: PackedBatch) -> CriticValues:
        """One pass over a packed batch."""
        hidden = last_hidden(self.body, batch.tokens, batch.positions, batch.mask())
        states = hidden.flatten(0, 1)[batch.slots].to(self.heads.weight.dtype)
        with unrounded(states):  # rewards are float32 under autocast too
            insertion, deletion, end = self.heads(states)[:, :3].unbind(-1)
            baseline = self.heads(states.detach())[:, 3]
        depth = batch.positions.flatten()[batch.slots]
        inserted = depth[batch.visit_next] > depth[batch.visit_state]
        reward = torch.where(inserted, insertion[batch.visit_next], deletion[batch.visit_state])
        return CriticValues(reward, end[batch.terminal], baseline[batch.visit_state])


def critic_loss(visits: VisitValues, said: CriticValues, *, gamma: float) -> Loss:
    """2 - (E_data[r - r^2/4] - E_theta[r + r^2/4]), by least squares; `chi2_mixture` is the critic's estimate of D.

    Raises:
        ValueError: gamma outside (0, 1).
    """
    check_gamma(gamma)
    weight = (1.0 - gamma) * discount(visits.step, gamma, said.reward)
    end_weight = discount(visits.end, gamma, said.reward)
    n_data, n_model = trajectory_counts(visits)

    def squares(of_model: bool, target: float) -> Tensor:
        chosen, ends = visits.model == of_model, visits.trajectory_model == of_model
        total = (weight * (said.reward - target).square())[chosen].sum()
        total = total + (end_weight * (said.end_reward - target).square())[ends].sum()
        return total / (4.0 * (n_model if of_model else n_data))

    total = squares(False, TARGET) + squares(True, -TARGET)
    share = 1.0
    if visits.whole is not None:  # of the batch that this is a part of
        share = visits.trajectory_model.numel() / (visits.whole.n_data + visits.whole.n_model)
    return Loss(total, {"critic": total.detach(), "chi2_mixture": share * TARGET - total.detach()})


def actor_loss(visits: VisitValues, said: CriticValues, *, alpha: float, gamma: float) -> Loss:
    """A loss with the gradient of D - alpha H over the policy, and the baseline's squared error.

    - sum_rollouts gamma^i A_i log p(a_i|s_i),
    A_i = (1 - gamma) sum_{k >= i} gamma^(k-i) (r_k + r_k^2/4 - alpha log p_k) - baseline_i,

    the terminal state's reward included; divided as the other losses are, by the number of rollouts and by the mean
    discounted number of visits of a data trajectory.

    Raises:
        ValueError: gamma outside (0, 1), alpha <= 0.
    """
    check_gamma(gamma)
    check_alpha(alpha)
    log_prob = visits.log_prob
    with torch.no_grad():
        worth = said.reward + said.reward.square() / 4.0 - alpha * log_prob
        end = (said.end_reward + said.end_reward.square() / 4.0) / (1.0 - gamma)
        length = visits.end - visits.start
        returns = (1.0 - gamma) * returns_to_go(worth, end, length, gamma)
    n_data, n_model = trajectory_counts(visits)
    weight = discount(visits.step, gamma, log_prob)
    surrogate = -(weight * (returns - said.baseline.detach()) * log_prob)[visits.model].sum() / n_model
    actor = surrogate * n_data / mass(visits, weight * ~visits.model, gamma)
    visits_of_rollouts = visits.model.sum() if visits.whole is None else len(visits.whole.model_step)
    error = (returns - said.baseline).square()[visits.model].sum() / max(int(visits_of_rollouts), 1)
    return Loss(actor + error, {"actor": actor.detach(), "baseline_error": error.detach()})


def returns_to_go(
    reward: Float[Tensor, " N"], terminal: Float[Tensor, " B"], length: Int[Tensor, " B"], gamma: float
) -> Float[Tensor, " N"]:
    """sum_{k >= i} gamma^(k - i) reward_k + gamma^(N - i) terminal of each visit i of its trajectory.

    Args:
        reward: trajectory after trajectory. terminal: what follows the last visit of each.
    """
    begin = torch.cumsum(length, 0) - length
    # The critic's heads are in float32, log p is of the model's type.
    after, found = terminal.to(reward.dtype, copy=True), torch.empty_like(reward)
    for t in range(int(length.max()) - 1, -1, -1):
        rows = length > t
        at = begin[rows] + t
        after[rows] = reward[at] + gamma * after[rows]
        found[at] = after[rows]
    return found

"""Occupancy matching by policy gradient with the exact critic, where every prompt has one right answer.

The derivative of a divergence D_f(rho_theta, rho_ref) along rho_theta is f'(rho_theta / rho_ref), so a policy that is
rewarded with r = -f' (held fixed) climbs D's own gradient: r is the best critic's reward. Where the reference is one
known path, of N actions with `<eos>` the last, nobody has to learn r. With t the ratio of the occupancies,

    total variation     r = 1/2 on the path, -1/2 off it
    chi^2-mixture       r = (1 - t)(3 + t) / (1 + t)^2 on the path, -1 off it    (2 chi^2(data || mixture), D.4)

for every visit (s, a), and for every step in the terminal state. Without `<bkspc>` and execution noise t at the i-th
pair of the path is P_i, the product of the probabilities of its first actions, which a rollout that is still on it
knows exactly. Otherwise t is a discounted number of visits, estimated by the other rollouts of the group (so it is
right as the group grows, and not exactly unbiased in t); total variation asks for no t.

*Theorem (occupancy matching is reinforcement learning with a verifiable reward).* Without `<bkspc>` and execution
noise, with K the number of right actions before the first wrong one,

    D_TV(rho_theta, rho_ref) = 1 - E_theta[R],     R = 1 - gamma^K, and R = 1 where all N actions are right.

So the policy gradient of total variation is that of a reward which is checked against the answer and gives partial
credit for its right beginning; as gamma -> 1 the credit vanishes and R is 1 for a right answer and 0 for a wrong one.
*Proof.* rho_theta <= rho_ref on the path, since the i-th pair is met at time i or never; so D_TV, the sum of the
positive parts of rho_ref - rho_theta, is 1 - rho_theta(path), and rho_theta(path) is the expectation of
(1 - gamma) sum_{i < K} gamma^i = 1 - gamma^K, or of 1 where the trajectory ends on the path and stays. With `<bkspc>`
or noise a pair may be met again, and D_TV >= 1 - rho_theta(path) with equality where rho_theta stays below rho_ref on
the path; what is maximised is then rho_theta(path), the discounted share of the steps on the path, for which a wrong
token that is deleted costs two steps and not the rest of the answer. The optimum, the path itself, is the same.

*Estimator.* -sum gamma^i A_i log p(a_i|s_i) over rollouts of the present policy (`TrainConfig.on_policy`), with A_i the
discounted reward to go less a baseline: the mean over the other rollouts of the group (`TrainConfig.group` from each
prompt) at the same place, which is the state itself on the path, and off it the states with as many right tokens and
as many others after them. Where no other rollout came by, the baseline is 0. It depends on no action of its own
rollout, so the gradient's mean is left as it is.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smlib.edits.path import Judged
from smlib.objectives.adversarial import returns_to_go
from smlib.objectives.direct import path_log_probs
from smlib.objectives.losses import Loss, VisitValues, check_alpha, check_gamma, discount, mass, trajectory_counts


def exact_rewards(divergence: str, mixture: bool) -> tuple[Callable[[Tensor], Tensor], float]:
    """Reward on the path as a function of t, and off it: -f'(t) and -f'(inf).

    Raises:
        ValueError: another divergence than total variation or the chi^2-mixture.
    """
    if divergence == "tv" and not mixture:
        return (lambda t: torch.full_like(t, 0.5)), -0.5
    if divergence == "chi2" and mixture:
        return (lambda t: (1.0 - t) * (3.0 + t) / (1.0 + t).square()), -1.0
    raise ValueError(
        "exact knows the critics of total variation (divergence='tv', mixture=False) and of the chi^2-mixture "
        f"(divergence='chi2', mixture=True), got {divergence!r} and mixture={mixture}"
    )


def exact(visits: VisitValues, where: Judged, *, divergence: str, mixture: bool, alpha: float, gamma: float) -> Loss:
    """A loss whose gradient is that of D - alpha H over the policy; `on_path` is rho_theta(path), the share of steps on
    the path as the rollouts have it.

    Divided as the other losses are, by the number of rollouts and by the mean discounted number of visits of a data
    trajectory.

    Raises:
        ValueError: gamma outside (0, 1), alpha <= 0; an unknown divergence; the chi^2-mixture with `<bkspc>` or noise
            and a group of one, which leaves nobody to estimate t.
    """
    check_gamma(gamma)
    check_alpha(alpha)
    on_path, off_path = exact_rewards(divergence, mixture)
    log_prob, length = visits.log_prob, visits.end - visits.start
    owner = torch.repeat_interleave(torch.arange(length.numel(), device=length.device), length)
    with torch.no_grad():
        ratio, ratio_end = _ratios(visits, where, owner, gamma, needed=divergence != "tv")
        reward = torch.where(where.right, on_path(ratio), off_path)
        end_reward = torch.where(where.finished, on_path(ratio_end), off_path)
        to_go = returns_to_go(reward - alpha * log_prob, end_reward / (1.0 - gamma), length, gamma)
        returns = (1.0 - gamma) * to_go
        advantage = returns - leave_one_out(returns, visits, where, owner)
        weight = discount(visits.step, gamma, log_prob)
        n_data, n_model = trajectory_counts(visits)
        share = (1.0 - gamma) * (weight * where.right)[visits.model].sum()
        ends = discount(visits.end, gamma, log_prob)
        share = (share + (ends * where.finished)[visits.trajectory_model].sum()) / n_model
    surrogate = -(weight * advantage * log_prob)[visits.model].sum() / n_model
    total = surrogate * n_data / mass(visits, weight * ~visits.model, gamma)
    return Loss(total, {"exact": total.detach(), "on_path": share})


def leave_one_out(
    returns: Float[Tensor, " N"], visits: VisitValues, where: Judged, owner: Int[Tensor, " N"]
) -> Float[Tensor, " N"]:
    """Mean of the returns at the same place over the other rollouts of the group; 0 where there are none."""
    group = where.group[owner]
    _, place = torch.unique(torch.stack([group, where.matched, where.beyond]), dim=1, return_inverse=True)
    _, own = torch.unique(torch.stack([owner, place]), dim=1, return_inverse=True)
    chosen = visits.model.to(returns.dtype)

    def total(values: Tensor, at: Tensor) -> Tensor:
        return values.new_zeros(values.numel()).index_add_(0, at, values)[at]

    others = total(returns * chosen, place) - total(returns * chosen, own)
    count = total(chosen, place) - total(chosen, own)
    return torch.where(count > 0, others / count.clamp(min=1.0), torch.zeros_like(others))


def _ratios(
    visits: VisitValues, where: Judged, owner: Int[Tensor, " N"], gamma: float, needed: bool
) -> tuple[Float[Tensor, " N"], Float[Tensor, " B"]]:
    """t = rho_theta / rho_ref at each visit and at each end; anything off the path, where nobody asks."""
    length = visits.end - visits.start
    if not needed:
        return torch.zeros_like(visits.logit), torch.zeros_like(visits.terminal_value)
    last = torch.cumsum(length, 0) - 1
    if where.closed:
        reached = path_log_probs(visits.log_prob, length).exp()
        return reached, reached[last]
    size = torch.bincount(where.group[visits.trajectory_model])[where.group]
    if bool((size[visits.trajectory_model] < 2).any()):
        raise ValueError(
            "with <bkspc> or execution noise the chi^2-mixture's critic needs two rollouts from each prompt at least, "
            "to count how often the others come by: train with config.on_policy(group=8), or divergence='tv'"
        )
    # gamma^(step - i) at the i-th pair of the path, summed over the rollouts of the group but its own
    late = (visits.step - visits.start[owner] - where.matched).to(visits.logit.dtype)
    seen = torch.where(where.right & visits.model, gamma**late, 0.0)
    late_end = (length - 1 - where.matched[last]).to(visits.logit.dtype)
    seen_end = torch.where(where.finished & visits.trajectory_model, gamma**late_end, 0.0)
    _, pair = torch.unique(torch.stack([where.group[owner], where.matched]), dim=1, return_inverse=True)
    _, own = torch.unique(torch.stack([owner, pair]), dim=1, return_inverse=True)

    def but_own(values: Tensor, all_of: Tensor, mine: Tensor) -> Tensor:
        sums = [values.new_zeros(values.numel()).index_add_(0, at, values)[at] for at in (all_of, mine)]
        return sums[0] - sums[1]

    ratio = but_own(seen, pair, own) / (size[owner] - 1).clamp(min=1)
    ends = but_own(seen_end, where.group, torch.arange(len(size), device=size.device)) / (size - 1).clamp(min=1)
    return ratio, ends

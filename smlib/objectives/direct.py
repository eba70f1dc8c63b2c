"""Occupancy matching without a critic, where every prompt has one answer: D(rho_theta, rho_data) as a function of p.

The data's occupancy from a prompt is then one path, (1 - gamma) gamma^i at its i-th visit and gamma^N at the end. A
policy without `<bkspc>` that leaves the path never comes back. With P_i = prod_{k <= i} p(a_k|s_k), its occupancy on
the path is P_i times the data's, and what it lacks there it has where the data has nothing:

    D_f = sum_i (1 - gamma) gamma^i h(P_i) + gamma^N h(P_{N-1}),     h(P) = f(P) + f'(inf) (1 - P).

The forward KL has h = -log P and is maximum likelihood weighted by gamma^i. Jensen-Shannon, Hellinger and the
chi^2-mixture, h = 2 (1 - P) / (1 + P), are bounded: an answer that the model cannot get right costs no more than one
unit per unit, and its probability is better spent elsewhere. Of two answers believed in with 0.8 and 0.2 likelihood
writes one in five the second way, the chi^2-mixture never: (1 + P_1)/(1 + P_2) = sqrt(0.8/0.2) and P_1 + P_2 = 1 have
P_1 = 1. This is what direct minimisation gains in `smlib.theory.restricted`, at the price of maximum likelihood. In a
long text P_i is next to 0 and so is the gradient: then a critic has to say where the path was left.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smlib.objectives import divergences
from smlib.objectives.losses import Loss, VisitValues, check_gamma, discount, mass, trajectory_counts


def path_divergence(name: str, mixture: bool) -> Callable[[Tensor], Tensor]:
    """h(P) of a divergence; of the chi^2-mixture for `chi2` with `mixture`.

    Raises:
        ValueError: a divergence that is infinite wherever the policy leaves the data; a mixture of another than chi2.
    """
    if mixture:
        if name != "chi2":
            raise ValueError(f"the mixture has a closed form with chi2 alone, got {name!r}: set mixture=False")
        return lambda p: 2.0 * (1.0 - p) / (1.0 + p)
    record = divergences.get(name)
    if record.off_data == float("inf"):
        raise ValueError(
            f"{name} is infinite for any policy that can leave the data: choose chi2 with mixture=True, js, hellinger, "
            "tv or forward_kl"
        )
    return lambda p: record.at(p) + record.off_data * (1.0 - p)


def direct(visits: VisitValues, *, divergence: str, mixture: bool, gamma: float) -> Loss:
    """D(rho_theta, rho_data) of the data's paths, divided by their mean discounted number of visits as the other losses
    are; `path` is the share of answers that a policy at temperature 1 writes as the data has them, on average.

    Raises:
        ValueError: gamma outside (0, 1); a divergence without a finite value.
    """
    check_gamma(gamma)
    h, data = path_divergence(divergence, mixture), ~visits.model
    reached = path_log_probs(visits.log_prob, visits.end - visits.start).exp()
    last = reached[torch.cumsum(visits.end - visits.start, 0) - 1]
    weight, ends = discount(visits.step, gamma, reached), discount(visits.end, gamma, reached)
    own, (n_data, _) = ~visits.trajectory_model, trajectory_counts(visits)
    total = (1.0 - gamma) * (weight * h(reached))[data].sum() + (ends * h(last))[own].sum()
    total = total / mass(visits, weight * data, gamma)
    return Loss(total, {"direct": total.detach(), "path": last[own].sum().detach() / n_data})


def path_log_probs(log_prob: Float[Tensor, " N"], length: Int[Tensor, " B"]) -> Float[Tensor, " N"]:
    """log P_i, the running sum of each trajectory's log-probabilities."""
    running = torch.cumsum(log_prob.double(), 0)  # one sum over the batch: its rounding must not reach short answers
    begin = torch.cumsum(length, 0) - length
    before = torch.cat([running.new_zeros(1), running])[begin]
    return (running - torch.repeat_interleave(before, length)).to(log_prob.dtype)

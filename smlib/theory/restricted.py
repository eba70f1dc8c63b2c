"""Fitting a restricted policy: by likelihood, by a divergence of occupancies directly, and by J of eq. 4.

Three objectives over the same parameters theta [B, K], all exact:

* `fit_mle`      max E_data[log p(a|s)], the gamma-weighted likelihood, and the limit alpha -> 0 of J;
* `fit_direct`   min D(rho_theta, rho_data) - alpha H[rho_theta], by gradients through the linear solve;
* `fit_j`        max J(l_theta), where one set of logits is both policy and critic.

Without restriction the last two agree (Prop. 3.1). With it they need not: J's reward l(a|s) - gamma V(s') is then
confined to what the policy's own parameters can express.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smlib.objectives.divergences import get
from smlib.theory.flow import Flow, causal_entropy, flow
from smlib.theory.matching import occupancy_divergence
from smlib.theory.mdp import EditMDP
from smlib.theory.objective import behaviour_cloning, sequencematch
from smlib.theory.optimise import Minimum, minimise
from smlib.theory.policies import PolicyClass


@dataclass(frozen=True, eq=False)
class Fit:
    """Fitted parameters [B, K], the policy they give [B, S, A], and how far the search came.

    `value` [B] is the objective as minimised; `gradient` [B] its largest derivative where the search stopped; `finite`
    [B] is False for a problem none of whose starts could be searched from: its other entries mean nothing.
    """

    theta: Tensor
    policy: Tensor
    value: Tensor
    gradient: Tensor
    finite: Tensor


def _policy(family: PolicyClass, theta: Tensor) -> Tensor:
    return torch.softmax(family.logits(theta)[0], dim=-1)


def _fit(family: PolicyClass, found: Minimum) -> Fit:
    return Fit(found.x, _policy(family, found.x), found.value, found.gradient, found.finite)


def repeat(data: Flow, times: int) -> Flow:
    """Each problem of the batch `times` times, in blocks: the starts of a multi-start search."""
    return Flow(data.pairs.repeat(times, 1, 1), data.terminal.repeat(times, 1))


def best_start(found: Minimum, batch: int) -> Minimum:
    """The best start of each problem, among those with a finite value and gradient; `finite` is False without any."""
    value, finite = found.value.reshape(-1, batch), found.finite.reshape(-1, batch)
    best = torch.where(finite, value, torch.inf).argmin(dim=0)
    chosen = best * batch + torch.arange(batch)
    return Minimum(found.x[chosen], found.value[chosen], found.gradient[chosen], found.iterations, found.finite[chosen])


def fit_mle(
    family: PolicyClass,
    data: Flow,
    *,
    starts: int = 1,
    seed: int = 0,
    max_iterations: int = 400,
    tolerance: float = 1e-7,
) -> Fit:
    """gamma-weighted maximum likelihood (BC where the data has `<bkspc>`), the best of `starts` Gaussian starts."""
    batch = data.pairs.shape[0]
    many = repeat(data, starts)
    begin = family.start(batch * starts, 0.3, seed)
    found = minimise(
        lambda theta: -behaviour_cloning(family.logits(theta)[0], many),
        begin,
        max_iterations=max_iterations,
        tolerance=tolerance,
    )
    return _fit(family, best_start(found, batch))


def fit_direct(
    family: PolicyClass,
    mdp: EditMDP,
    data: Flow,
    divergence: str,
    gamma: float,
    begin: Tensor,
    *,
    alpha: float = 0.0,
    noise: float | None = None,
    max_iterations: int = 400,
    tolerance: float = 1e-7,
    seen: Callable[[Flow], Flow] = lambda rho: rho,
) -> Fit:
    """min D - alpha H over the family, from the starts `begin` [n B, K] (blocks of B); the best of each problem.

    Args:
        seen: what D sees of an occupancy; all of it by default.
    """
    batch = data.pairs.shape[0]
    many = seen(repeat(data, begin.shape[0] // batch))
    distance = occupancy_divergence(divergence)

    def objective(theta: Tensor) -> Tensor:
        rho = flow(mdp, _policy(family, theta), gamma, noise)
        return distance(seen(rho), many) - (alpha * causal_entropy(rho) if alpha > 0.0 else 0.0)

    found = minimise(objective, begin, max_iterations=max_iterations, tolerance=tolerance)
    return _fit(family, best_start(found, batch))


def fit_j(
    family: PolicyClass,
    mdp: EditMDP,
    data: Flow,
    divergence: str,
    gamma: float,
    begin: Tensor,
    *,
    alpha: float,
    mixture: bool = False,
    data_noise: float = 0.0,
    noise: float = 0.0,
    through_rollouts: bool = False,
    rounds: int = 12,
    max_iterations: int = 400,
    tolerance: float = 1e-7,
) -> Fit:
    """max J over the family from one start [B, K], as training meets it: after MLE.

    Without `mixture` J does not depend on the rollouts. With it they are held fixed while J is maximised and then
    drawn again, `rounds` times with `max_iterations` in total, unless `through_rollouts` differentiates through them.
    The gradient reported is that of the last J with its own rollouts.
    """
    record = get(divergence)

    def negative_j(theta: Tensor, model: Flow | None) -> Tensor:
        logits, terminal = family.logits(theta)
        rho = flow(mdp, torch.softmax(logits, dim=-1), gamma, noise) if model is None else model
        return -sequencematch(
            mdp,
            logits,
            terminal,
            data=data,
            model=rho,
            divergence=record,
            alpha=alpha,
            gamma=gamma,
            data_noise=data_noise,
            model_noise=noise,
            mixture=mixture,
        ).total

    if not mixture or through_rollouts:
        model = None if mixture else data  # any occupancy: its value terms telescope
        found = minimise(lambda t: negative_j(t, model), begin, max_iterations=max_iterations, tolerance=tolerance)
        return _fit(family, found)
    theta = begin
    finite = torch.ones(begin.shape[0], dtype=torch.bool)
    for _ in range(rounds):
        held = flow(mdp, _policy(family, theta), gamma, noise).detach()
        step = max_iterations // rounds
        found = minimise(functools.partial(negative_j, model=held), theta, max_iterations=step, tolerance=tolerance)
        theta, finite = found.x, finite & found.finite
    leaf = theta.detach().requires_grad_()
    held = flow(mdp, _policy(family, theta), gamma, noise).detach()
    value = negative_j(leaf, held)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    finite = finite & value.detach().isfinite() & gradient.isfinite().all(dim=-1)
    return Fit(theta, _policy(family, theta), value.detach(), gradient.abs().amax(dim=-1), finite)

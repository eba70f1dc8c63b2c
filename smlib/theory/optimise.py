"""A batched L-BFGS: many small smooth problems at once, each with its own curvature and its own line search."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

Objective = Callable[[Tensor], Tensor]


class NoFiniteStartError(ArithmeticError):
    """No problem of a batch has a finite value and gradient at its start, so there is nothing to search from."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """Where the search ended: `x` [B, K], `value` [B], `gradient` [B] (largest entry), `iterations`.

    `finite` [B] is False where value or gradient is no finite number: such a start was left where it is.
    """

    x: Tensor
    value: Tensor
    gradient: Tensor
    iterations: int
    finite: Tensor


def _evaluate(objective: Objective, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    value = objective(leaf)
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def minimise(
    objective: Objective,
    start: Float[Tensor, "b k"],
    *,
    max_iterations: int = 500,
    tolerance: float = 1e-8,
    memory: int = 12,
) -> Minimum:
    """Minimises objective(x) [B], problem by problem, from `start`.

    A problem is left alone once its gradient is below `tolerance`, or once the line search fails for it along its
    quasi-Newton direction and then along its gradient. The problems must not interact: objective(x)[i] may depend on
    x[i] only. A start whose value or gradient is not finite is dropped with a warning: `Minimum.finite` is False there.

    Raises:
        NoFiniteStartError: every start is of that kind.
    """
    x = start.detach().clone()
    value, gradient = _evaluate(objective, x)
    finite = value.isfinite() & gradient.isfinite().all(dim=-1)
    _report(value, gradient, finite)
    steps: list[Tensor] = []
    changes: list[Tensor] = []
    inverses: list[Tensor] = []
    failed = torch.zeros_like(value, dtype=torch.bool)
    done = (gradient.abs().amax(dim=-1) < tolerance) | ~finite
    iterations = 0
    while iterations < max_iterations and not bool(done.all()):
        iterations += 1
        direction = -_two_loop(gradient, steps, changes, inverses)
        plain = failed | ~((direction * gradient).sum(-1) < 0.0)  # uphill, or not a number after an overflow
        direction = torch.where(plain.unsqueeze(-1), -gradient, direction)
        if not steps or bool(failed.any()):
            direction = _shorten(direction, plain | (not steps))
        size, new_value, new_gradient = _line_search(objective, x, value, gradient, direction, done)
        moved = size > 0.0
        step = torch.where(moved.unsqueeze(-1), size.unsqueeze(-1) * direction, 0.0)
        change = new_gradient - gradient
        product = (step * change).sum(-1)
        good = moved & (product > 1e-12 * step.norm(dim=-1) * change.norm(dim=-1))
        inverses = [torch.where(moved, inverse, 0.0) for inverse in inverses]  # stale curvature is dropped
        steps.append(step)
        changes.append(change)
        inverses.append(torch.where(good, 1.0 / torch.where(good, product, torch.ones_like(product)), 0.0))
        steps, changes, inverses = steps[-memory:], changes[-memory:], inverses[-memory:]
        stalled = value - new_value <= 1e-14 * (1.0 + value.abs())
        done = done | (stalled & failed) | (new_gradient.abs().amax(dim=-1) < tolerance)
        failed = stalled
        x, value, gradient = x + step, new_value, new_gradient
    return Minimum(x, value, gradient.abs().amax(dim=-1), iterations, finite)


def _report(value: Tensor, gradient: Tensor, finite: Tensor) -> None:
    """Warns of starts that cannot be searched from, and raises if there is no other."""
    dropped = (~finite).nonzero().flatten().tolist()
    if not dropped:
        return
    first = dropped[0]
    entries = (~gradient[first].isfinite()).nonzero().flatten().tolist()
    where = f", its gradient's entry {entries[0]} is {float(gradient[first, entries[0]])}" if entries else ""
    example = f"start {first} has the value {float(value[first])}{where}"
    if len(dropped) == len(finite):
        raise NoFiniteStartError(
            f"none of the {len(finite)} starts has a finite value and gradient ({example}): start elsewhere, for "
            "instance from smaller parameters"
        )
    numbers = ", ".join(map(str, dropped[:5])) + (", …" if len(dropped) > 5 else "")
    warnings.warn(
        f"{len(dropped)} of {len(finite)} starts are dropped, for want of a finite value and gradient: {numbers} "
        f"({example})",
        RuntimeWarning,
        stacklevel=3,
    )


def _shorten(direction: Tensor, chosen: Tensor) -> Tensor:
    """Unit length at most where chosen: a gradient's scale says nothing about the problem's."""
    scale = 1.0 / direction.norm(dim=-1).clamp(min=1.0)
    return torch.where(chosen, scale, 1.0).unsqueeze(-1) * direction


def _two_loop(gradient: Tensor, steps: list[Tensor], changes: list[Tensor], inverses: list[Tensor]) -> Tensor:
    """H g by the two-loop recursion (Nocedal & Wright, Alg. 7.4); pairs of zero weight are skipped."""
    q, weights = gradient.clone(), []
    for s, y, inverse in zip(reversed(steps), reversed(changes), reversed(inverses), strict=True):
        weight = inverse * (s * q).sum(-1)
        q = q - weight.unsqueeze(-1) * y
        weights.append(weight)
    if steps:
        fresh = inverses[-1] > 0.0
        scale = (steps[-1] * changes[-1]).sum(-1) / changes[-1].square().sum(-1).clamp(min=1e-300)
        q = torch.where(fresh, scale, torch.ones_like(scale)).unsqueeze(-1) * q
    for s, y, inverse, weight in zip(steps, changes, inverses, reversed(weights), strict=True):
        q = q + (weight - inverse * (y * q).sum(-1)).unsqueeze(-1) * s
    return q


def _line_search(
    objective: Objective, x: Tensor, value: Tensor, gradient: Tensor, direction: Tensor, done: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Backtracking to sufficient decrease (Armijo, 1e-4). A problem that cannot decrease gets size 0 and stays."""
    slope = (direction * gradient).sum(-1)
    size = torch.ones_like(value)
    accepted = torch.zeros_like(value, dtype=torch.bool)
    best, best_gradient = value, gradient
    for _ in range(14):
        trial, trial_gradient = _evaluate(objective, x + size.unsqueeze(-1) * direction)
        finite = trial.isfinite() & trial_gradient.isfinite().all(dim=-1)
        enough = finite & (trial <= value + 1e-4 * size * slope) & ~accepted & ~done
        best = torch.where(enough, trial, best)
        best_gradient = torch.where(enough.unsqueeze(-1), trial_gradient, best_gradient)
        accepted = accepted | enough
        if bool((accepted | done).all()):
            break
        size = torch.where(accepted, size, 0.4 * size)
    return torch.where(accepted, size, torch.zeros_like(size)), best, best_gradient

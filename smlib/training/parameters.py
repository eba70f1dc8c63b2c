"""Which parameters the optimiser treats alike, and which it leaves alone: decay, rate, the critic's, idle gradients."""

from typing import Any

from torch import nn

from smlib.objectives.methods import ObjectiveConfig, get_method
from smlib.policies.policy import Policy
from smlib.training.checkpoints import trainable


def decayed_apart(policy: Policy, learning_rate: float, weight_decay: float, bkspc_rate: float) -> list[dict[str, Any]]:
    """AdamW's groups: weight decay for matrices only, as usual; none for norms, biases and the `<bkspc>` row.

    Args:
        bkspc_rate: learning rate of that row as a multiple of the others'.
    """
    parameters = list(trainable(policy).values())
    row = [p for p in parameters if p is policy.w_bkspc and bkspc_rate != 1.0]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2 and not any(p is r for r in row)], "weight_decay": 0.0},
    ]
    return groups + [{"params": [r], "weight_decay": 0.0, "lr": learning_rate * bkspc_rate} for r in row]


def critic_apart(policy: Policy) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """What is trained of the critic, if there is one, and of the policy itself: their gradients are clipped apart."""
    every = trainable(policy)
    critic = [p for name, p in every.items() if name.startswith("critic.")]
    return critic, [p for name, p in every.items() if not name.startswith("critic.")]


def drop_idle_gradients(policy: Policy, goal: ObjectiveConfig, step: int) -> None:
    """Forgets the gradient of the offset head where the loss of this step does not depend on it.

    A likelihood does not; Adam would scale its gradient's rounding noise up to steps.
    """
    method = get_method(goal.method)
    if policy.offset is not None and (goal.beta(step) == 1.0 or method.on_policy or not method.backspace):
        policy.offset.zero_grad(set_to_none=True)

"""A policy as transformers' `Trainer` sees a model: one forward pass is the objective of one packed batch."""

from typing import Any

from torch import nn

from smlib.edits.packing import PackedBatch
from smlib.objectives.losses import Loss, Sizes
from smlib.objectives.methods import ObjectiveConfig, objective
from smlib.policies.policy import Policy


class PolicyUnderTraining(nn.Module):
    """Wraps a policy so that what surrounds a `Trainer` (trackers, precision, wrappers) finds what it looks for.

    `config` is the language model's configuration, which trackers write down; the policy's own is `policy.config`.

    Args:
        policy: trained in place.
        branches: rollouts start inside a text of the data (`smlib.objectives.losses`).
    """

    def __init__(self, policy: Policy, branches: bool) -> None:
        super().__init__()
        self.policy = policy
        self.branches = branches

    @property
    def config(self) -> Any:
        """The language model's configuration."""
        return self.policy.lm.config

    @property
    def generation_config(self) -> Any:
        """The language model's, None where it has none."""
        return getattr(self.policy.lm, "generation_config", None)

    @property
    def quantization_method(self) -> Any:
        """What the weights are quantised by, if they are: such a model is never moved."""
        return getattr(self.policy.lm, "quantization_method", None)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Recompute activations in the backward pass, as `load_policy(gradient_checkpointing=True)` has it."""
        kwargs = {"use_reentrant": False, **(activation_checkpointing_kwargs or {})}
        if hasattr(self.policy.lm, "activation_checkpointing_enable"):
            self.policy.lm.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs, **options)
        else:  # its name in earlier releases of transformers
            self.policy.lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """The same by its name in earlier releases of transformers."""
        self.activation_checkpointing_enable(gradient_checkpointing_kwargs)

    def forward(
        self, batch: PackedBatch, goal: ObjectiveConfig, step: int, chunk: int | None, whole: Sizes | None
    ) -> Loss:
        """The objective of one packed batch at a step, see `smlib.objectives.methods.objective`."""
        return objective(self.policy, batch, goal, step, chunk, whole, self.branches)

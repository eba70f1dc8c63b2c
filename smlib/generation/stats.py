"""What the sampler asks of a policy, and what a call of it cost."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from smlib.edits.actions import ActionSpace
from smlib.policies.kv_cache import SlotCache


@runtime_checkable
class SamplesActions(Protocol):
    """What the sampler asks of a policy; `smlib.policies.policy.Policy` is one."""

    @property
    def space(self) -> ActionSpace: ...

    @property
    def device(self) -> torch.device: ...

    def hidden(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: SlotCache | None = None) -> Tensor: ...

    def logits(self, hidden: Tensor, positions: Tensor | None) -> Tensor: ...


def keeps_edits(policy: object) -> bool:
    """Whether a policy reads what was deleted (soft deletion)."""
    return bool(getattr(getattr(policy, "config", None), "keep_edits", False))


@dataclass
class SampleStats:
    """Counts over one call of `sample`.

    Attributes:
        actions: actions taken, the `<eos>` of each trajectory included.
        backspaces: executed `<bkspc>`, at the root or not.
        insertions: executed tokens other than `<eos>`.
        forward_tokens: generated tokens that the model read: `insertions`, less those that a decision operator deleted
            at once, and with soft deletion all `backspaces` too.
        prefill_tokens: tokens of prompts and prefixes that the model read, padding not counted.
        forward_calls: calls of the model, prefill included.
        forced_eos: trajectories ended by the length or action limit.
        noised: actions replaced by execution noise.
    """

    actions: int = 0
    backspaces: int = 0
    insertions: int = 0
    forward_tokens: int = 0
    prefill_tokens: int = 0
    forward_calls: int = 0
    forced_eos: int = 0
    noised: int = 0

    def __iadd__(self, other: "SampleStats") -> "SampleStats":
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        return self


@contextmanager
def evaluating(policy: SamplesActions) -> Iterator[None]:
    """Dropout off inside, the training mode of every submodule as before afterwards."""
    modules = list(policy.modules()) if isinstance(policy, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode

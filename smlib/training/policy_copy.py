"""A policy on its way into another process of this machine: its structure as bytes, its tensors as safetensors.

The two processes are one program, and neither reads what somebody else has written: the structure (modules, their
configurations) travels through a pipe between them, and the tensors in a file of a private folder. Parameters that are
one object arrive as one, so that tied weights stay tied.
"""

import io
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from smlib.policies.policy import Policy
from smlib.training.checkpoints import trainable

STEP = "step"
"""In the metadata of a file of weights: the step that they are of."""


def structure(policy: Policy, file: Path) -> bytes:
    """The policy without its tensors, which go into `file`. A critic that is trained beside it stays behind.

    Raises:
        TypeError: something in the policy that cannot be sent to another process.
    """
    written = io.BytesIO()
    pickler = _Packer(written, policy)
    try:
        pickler.dump(policy)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        raise TypeError(
            f"this {type(policy.lm).__name__} cannot be copied into another process ({error}): train it with "
            "rollout_engine=in_process"
        ) from error
    write(pickler.tensors, file)
    return written.getvalue()


def rebuilt(given: bytes, file: Path, device: torch.device | None = None) -> Policy:
    """The policy that `structure` took apart, in evaluation mode.

    Args:
        device: where what was on the policy's device goes; there again when omitted.
    """
    with safe_open(file, "pt") as tensors:
        policy = _Unpacker(io.BytesIO(given), tensors, device).load()
    if not isinstance(policy, Policy):
        raise TypeError(f"expected a policy, got a {type(policy).__name__}")
    return policy.eval()


def moving(policy: Policy) -> dict[str, nn.Parameter]:
    """What training changes of it, and a copy that samples needs."""
    return {name: p for name, p in trainable(policy).items() if not name.startswith("critic.")}


def write(tensors: Mapping[str, torch.Tensor], file: Path, step: int = 0) -> None:
    """A file that is whole or absent; a reader of the one before it still has that."""
    seen: set[int] = set()
    plain = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if place in seen else value  # a file has no two names for one storage
        seen.add(place)
    beside = file.with_suffix(".partial")
    save_file(plain, beside, {STEP: str(step)})
    os.replace(beside, file)


def read_into(policy: Policy, file: Path) -> int:
    """Puts the weights of a file in place; the step that they are of."""
    parameters = moving(policy)
    with safe_open(file, "pt") as tensors, torch.no_grad():
        for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
            parameters[name].copy_(tensors.get_tensor(name))
        return int(tensors.metadata()[STEP])


class _Packer(pickle.Pickler):
    """Takes tensors out, and the critic."""

    def __init__(self, stream: io.BytesIO, policy: Policy) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self.critic, self.home = policy.critic, policy.device
        self.tensors: dict[str, torch.Tensor] = {}
        self._names: dict[int, str] = {}

    def persistent_id(self, value: Any) -> Any:
        """A name for what is not part of the structure."""
        if value is self.critic and value is not None:
            return ("nothing",)
        if getattr(value, "__name__", "") == "make_inputs_require_grads":
            return (
                "hook",
            )  # of transformers, a function inside a function; gradients are none of a sampler's business
        if type(value) not in (torch.Tensor, nn.Parameter):
            return None
        name = self._names.setdefault(id(value), str(len(self._names)))
        self.tensors[name] = value
        at_home = value.device == self.home
        return ("tensor", name, type(value) is nn.Parameter, value.requires_grad, str(value.device), at_home)


class _Unpacker(pickle.Unpickler):
    """Puts tensors in."""

    def __init__(self, stream: io.BytesIO, tensors: Any, device: torch.device | None) -> None:
        super().__init__(stream)
        self.tensors, self.device = tensors, device
        self._made: dict[str, torch.Tensor] = {}

    def persistent_load(self, what: Any) -> Any:
        """What goes by the name."""
        if what[0] == "nothing":
            return None
        if what[0] == "hook":
            return _nothing
        _, name, parameter, learned, device, at_home = what
        if name not in self._made:
            value = self.tensors.get_tensor(name).to(self.device if at_home and self.device else device, copy=True)
            self._made[name] = nn.Parameter(value, learned) if parameter else value
        return self._made[name]


def _nothing(*given: object) -> None:
    """A hook that changes nothing."""

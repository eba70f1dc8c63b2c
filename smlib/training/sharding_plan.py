"""Whether a policy is to be split over the processes, what cannot be, and where (`smlib.training.sharding`)."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from smlib.environment import OFF, PASSED, SPLIT, without
from smlib.policies.decoder import decoder
from smlib.policies.policy import Policy
from smlib.training.processes import Processes


@dataclass(frozen=True)
class Sharding:
    """What a launcher asked for.

    Attributes:
        reshard: gathered layers are let go after the forward pass and gathered again in the backward pass.
        layers: class names of the units; none for the layers of the model.
    """

    reshard: bool = True
    layers: tuple[str, ...] = ()


def check_engine(split: "Sharding | None", engine: str) -> None:
    """Raises ValueError where split weights would have to be copied into a process beside training."""
    if split is not None and engine != "in_process":
        raise ValueError(
            f"rollout_engine={engine} copies the whole policy beside training, and FSDP2 splits it over the processes: "
            "choose rollout_engine=in_process, or train without FSDP2"
        )


def asked(processes: Processes, environment: Mapping[str, str] = os.environ) -> Sharding | None:
    """What the environment asks for; None where nothing is to be split.

    Raises:
        ValueError: FSDP1, or an option that has no counterpart here; the message names it.
    """
    if environment.get(SPLIT, "").lower() in OFF or processes.count == 1:
        return None
    version = environment.get("FSDP_VERSION", "1")
    if version != "2":
        raise ValueError(f"FSDP_VERSION={version}: FSDP2 alone can train a policy. Set it to 2 (--fsdp_version 2)")
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import CPUOffloadPolicy

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2)
    wrap = getattr(plugin.auto_wrap_policy, "__name__", "")
    refused = {
        "FSDP_OFFLOAD_PARAMS": (
            isinstance(plugin.cpu_offload, CPUOffloadPolicy),
            "pieces stay on the device that trains them",
        ),
        "FSDP_CPU_RAM_EFFICIENT_LOADING": (
            plugin.cpu_ram_efficient_loading,
            "every process reads the weights, and cuts them afterwards",
        ),
        "FSDP_ACTIVATION_CHECKPOINTING": (
            plugin.activation_checkpointing,
            "it renames the layers. load_policy(gradient_checkpointing=True), --gradient_checkpointing true of "
            "smlib finetune, does the same",
        ),
        "FSDP_AUTO_WRAP_POLICY": (
            wrap == "size_based_auto_wrap_policy",
            "it would cut out the unembedding, which would be gathered for every chunk of logits. "
            "TRANSFORMER_BASED_WRAP cuts between the layers",
        ),
        "FSDP_IGNORED_MODULES": (plugin.ignored_modules, "all weights are split"),
    }
    for name, (is_on, why) in refused.items():
        if is_on:
            raise ValueError(f"the environment has {name}={environment.get(name)}, and {why}: leave it out")
    return Sharding(bool(plugin.reshard_after_forward), tuple(plugin.transformer_cls_names_to_wrap or ()))


@contextlib.contextmanager
def unsaid() -> Iterator[None]:
    """Hides from an `Accelerator` that is made inside what was asked for, and what no setting of a run says."""
    with without((SPLIT, *PASSED)):
        yield


def check_can_be_split(policy: Policy) -> None:
    """Whether `fully_shard` can cut these weights.

    Raises:
        ValueError: quantised weights; weights of several types that are trained together.
    """
    for name, p in policy.named_parameters():
        if type(p) is not nn.Parameter or not p.is_floating_point():
            raise ValueError(
                f"{name} is quantised ({p.dtype}), and quantised weights cannot be split over processes: load the "
                f"model without load_in_4bit, or leave out {SPLIT} (by DDP each process has all of a model, which in 4 "
                "bits is small)"
            )
    kept = {id(p) for p in whole_anyway(policy)}
    kinds = {p.dtype: name for name, p in policy.named_parameters() if p.requires_grad and id(p) not in kept}
    if len(kinds) > 1:
        raise ValueError(
            "weights of several types are trained, and FSDP2 splits those of one: "
            f"{' and '.join(f'{name} is {dtype}' for dtype, name in kinds.items())}. Load the model in one type (dtype)"
        )


def whole_anyway(policy: Policy) -> list[nn.Parameter]:
    """Parameters that stay whole: a few thousand numbers, which have a type of their own."""
    critic: Any = policy.critic
    parts = [policy.offset, getattr(policy, "deletion", None), None if critic is None else critic.heads]
    return [policy.w_bkspc, *(p for part in parts if part is not None for p in part.parameters())]


def units(policy: Policy, names: tuple[str, ...] = ()) -> list[nn.Module]:
    """The layers, of the critic's network too.

    Args:
        names: their classes; left out, they are the members of the network's longest list of modules.

    Raises:
        ValueError: no class is called so; parameters that several layers share.
    """
    critic: Any = policy.critic
    bodies = [decoder(policy.lm), *([] if critic is None else [critic.body])]
    found: list[nn.Module] = []
    for body in bodies:
        if names:
            found += [m for m in body.modules() if type(m).__name__ in names and m is not body]
        else:
            lists: list[nn.ModuleList] = [m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m)]
            found += max(lists, key=lambda several: len(list(several))) if lists else []
    if names and not found:
        raise ValueError(f"FSDP_TRANSFORMER_CLS_TO_WRAP={','.join(names)}: this model has no such layers. Leave it out")
    found = list(dict.fromkeys(found))
    owner: dict[int, int] = {}
    for i, unit in enumerate(found):
        for name, p in unit.named_parameters():
            if owner.setdefault(id(p), i) != i and not names:
                raise ValueError(
                    f"layers {owner[id(p)]} and {i} of this model share {name}: it cannot be split by FSDP2"
                )
    return found

"""SequenceMatch (Cundy & Ermon, ICLR 2024): language models that may delete the last token they wrote.

    import smlib

    policy, tokenizer = smlib.load_shipped("sm-arithmetic")
    prompt = [tokenizer.bos, *tokenizer.encode("In base 7, what is 12 + 34? Solution: ")]
    steps = smlib.stream(policy, prompt, smlib.SamplingConfig(max_new_tokens=24), seed=0)
    smlib.show(steps, policy.space, tokenizer.decode)

The names in `__all__` are the public face: they stay, see `docs/stability.md`. Each is loaded when it is first used
(PEP 562), so that `import smlib` and `smlib status` do not load torch.
"""

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from smlib.chatter import hush_bitsandbytes

if TYPE_CHECKING:
    from smlib.data.continuations import Continuations
    from smlib.data.demonstrations import TaskDemonstrations
    from smlib.data.tasks import load_task
    from smlib.edits.actions import ActionSpace, Trajectory, final_state, replay
    from smlib.edits.noise import NoiseLaw, expert_trajectory
    from smlib.edits.packing import pack
    from smlib.generation.contrastive import contrastive_search
    from smlib.generation.decoding import SamplingConfig
    from smlib.generation.sampling import sample
    from smlib.generation.streaming import show, stream
    from smlib.objectives.divergences import get as get_divergence
    from smlib.objectives.losses import sequencematch
    from smlib.objectives.methods import ObjectiveConfig
    from smlib.policies.export import export_policy
    from smlib.policies.loading import load_policy, save_policy
    from smlib.policies.policy import Policy, tiny_policy
    from smlib.policies.shipped import load as load_shipped
    from smlib.policies.shipped import names as shipped_policies
    from smlib.policies.sources import Lora
    from smlib.training.algorithm_1 import TrainConfig, train
    from smlib.training.trainer import SequenceMatchTrainer
    from smlib.training.trainer_config import SequenceMatchConfig

__version__ = "0.1.0"

hush_bitsandbytes()

__all__ = [
    "ActionSpace",
    "Continuations",
    "Lora",
    "NoiseLaw",
    "ObjectiveConfig",
    "Policy",
    "SamplingConfig",
    "SequenceMatchConfig",
    "SequenceMatchTrainer",
    "TaskDemonstrations",
    "TrainConfig",
    "Trajectory",
    "contrastive_search",
    "expert_trajectory",
    "export_policy",
    "final_state",
    "get_divergence",
    "load_policy",
    "load_shipped",
    "load_task",
    "pack",
    "replay",
    "sample",
    "save_policy",
    "sequencematch",
    "shipped_policies",
    "show",
    "stream",
    "tiny_policy",
    "train",
]

_HOMES = MappingProxyType(
    {
        "smlib.data.continuations": ("Continuations",),
        "smlib.data.demonstrations": ("TaskDemonstrations",),
        "smlib.data.tasks": ("load_task",),
        "smlib.edits.actions": ("ActionSpace", "Trajectory", "final_state", "replay"),
        "smlib.edits.noise": ("NoiseLaw", "expert_trajectory"),
        "smlib.edits.packing": ("pack",),
        "smlib.generation.contrastive": ("contrastive_search",),
        "smlib.generation.decoding": ("SamplingConfig",),
        "smlib.generation.sampling": ("sample",),
        "smlib.generation.streaming": ("show", "stream"),
        "smlib.objectives.divergences": ("get_divergence",),
        "smlib.objectives.losses": ("sequencematch",),
        "smlib.objectives.methods": ("ObjectiveConfig",),
        "smlib.policies.export": ("export_policy",),
        "smlib.policies.loading": ("load_policy", "save_policy"),
        "smlib.policies.policy": ("Policy", "tiny_policy"),
        "smlib.policies.shipped": ("load_shipped", "shipped_policies"),
        "smlib.policies.sources": ("Lora",),
        "smlib.training.algorithm_1": ("TrainConfig", "train"),
        "smlib.training.trainer": ("SequenceMatchTrainer",),
        "smlib.training.trainer_config": ("SequenceMatchConfig",),
    }
)
_OWN_NAMES = MappingProxyType({"get_divergence": "get", "load_shipped": "load", "shipped_policies": "names"})
"""What a name is called in its own module, where that differs."""


def __getattr__(name: str) -> Any:
    for module, offered in _HOMES.items():
        if name in offered:
            found = getattr(import_module(module), _OWN_NAMES.get(name, name))
            globals()[name] = found  # the next look-up finds it at once
            return found
    raise AttributeError(f"module 'smlib' has no attribute {name!r}; its names are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

"""The parameters of SequenceMatch that the ablations change, and to what."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Sweep:
    """One parameter of SequenceMatch and the values it takes beside the default."""

    title: str
    parameter: str
    values: tuple[Any, ...]


SWEEPS: Mapping[str, Sweep] = MappingProxyType(
    {
        "alpha": Sweep("entropy weight α", "alpha", (0.001, 0.1, 1.0)),
        "gamma": Sweep("discount γ", "gamma", (0.9, 0.998)),
        "beta_floor": Sweep("floor of the BC weight β", "beta_floor", (0.0, 0.5)),
        "mixture": Sweep("mixture regulariser", "mixture", (False,)),
        "offset_head": Sweep("offset head", "offset_head", (False,)),
        "initial_value": Sweep("V(s) at the start, shifted by", "initial_value", (-10.0, 10.0)),
        "backspace": Sweep("backspace", "backspace", (False,)),
        "paired": Sweep("data from the rollouts' prompts", "paired", (True,)),
        "times_seen": Sweep("uses of a rollout", "times_seen", (1.0, 32.0)),
        "burst": Sweep("noise tokens in a row", "burst", (2, 4)),
        "rollout_noise": Sweep("execution noise in rollouts", "rollout_noise", (0.1,)),
        "n_train": Sweep("training questions", "n_train", (1_000,)),
    }
)
"""The noise level is a sweep too, read from Figure 3's runs. Without backspace there is no noise either: a mistake that
cannot be undone has no label."""

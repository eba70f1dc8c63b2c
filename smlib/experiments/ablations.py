"""What the objective's parameters do: one setting changed at a time, judged on the validation split (beyond the paper).

The default of Figure 3 was chosen from these runs; none of them looks at the test questions.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.experiments import arithmetic
from smlib.experiments.finetuning import FineTuneConfig, fine_tune, in_parallel
from smlib.results import Run

ETA = 0.1  # noise level of the demonstrations in every run, digit noise

SWEEPS: Mapping[str, tuple[str, tuple[Any, ...]]] = MappingProxyType(
    {
        "alpha": ("alpha", (0.01, 0.1, 1.0)),
        "gamma": ("gamma", (0.9, 0.998)),
        "beta_floor": ("beta_floor", (0.0, 0.5)),
        "mixture": ("mixture", (False,)),
        "times_seen": ("times_seen", (1.0, 32.0)),
        "burst": ("burst", (2, 4)),
        "rollout_noise": ("rollout_noise", (0.1,)),
    }
)
"""Sweep name -> (what is changed, its values); the default's value is the run `sm-default`."""


def cells(preset: str, only: tuple[str, ...] = ()) -> dict[str, FineTuneConfig]:
    """Every run: the default, the sweeps around it, and the other methods."""
    chosen = arithmetic.preset(preset)

    def one(method: str = "sm", **changes: Any) -> FineTuneConfig:
        return dataclasses.replace(chosen.run(method, "ground_truth", ETA, **changes), examples=0)

    made = {"sm-default": one(), "bc": one("bc"), "iqlearn": one("iqlearn"), "dagger": one("dagger")}
    for name, (what, values) in SWEEPS.items():
        made |= {f"sm-{name}={value}": one(**{what: value}) for value in values}
    made["dagger-rollout_noise=0.1"] = one("dagger", rollout_noise=0.1)
    made["bc-burst=4"] = one("bc", burst=4)
    return {k: v for k, v in made.items() if not only or any(k.startswith(o) for o in only)}


def run(
    preset: str, results_dir: str | Path = "results", only: tuple[str, ...] = (), processes: int | None = None
) -> dict[str, Run]:
    """The runs of a preset, computed or read."""
    chosen = cells(preset, only)
    calls = [
        {"config": c, "name": k, "item": "ablations", "preset": preset, "results_dir": results_dir, "test": False}
        for k, c in chosen.items()
    ]
    return dict(zip(chosen, in_parallel(fine_tune, calls, processes), strict=True))

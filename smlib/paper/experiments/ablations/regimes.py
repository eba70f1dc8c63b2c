"""Where SequenceMatch pays and where it does not: MLE, BC and SM again in other regimes of the arithmetic task.

A regime changes something for all three methods alike: how much there is to learn from, how long and how fast, how good
the base model is. Figure 3's is the default. Judged on the validation questions, one setting away from it at a time.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.evaluation import paired_difference
from smlib.objectives.methods import get_method
from smlib.paper.experiments.ablations import study as ablations
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.arithmetic.grid import ArithmeticPreset
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.method_tables import METHODS, PAIRS
from smlib.paper.experiments.runs.executor import in_parallel
from smlib.paper.experiments.runs.finetuning import REMOVALS, FineTuneConfig, fine_tune
from smlib.paper.experiments.runs.pretraining import TinyModel
from smlib.paper.results import Run, check_preset

DEFAULT = "default"
DECODINGS = ("t1", "greedy_exclude")


@dataclass(frozen=True)
class Regime:
    """A change of the preset that holds for every method.

    Attributes:
        title: of the figure.
        changes: fields of `ArithmeticPreset`. base: fields of the base model's `PretrainConfig`.
    """

    title: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    base: Mapping[str, Any] = field(default_factory=dict)

    def of(self, chosen: ArithmeticPreset) -> ArithmeticPreset:
        """The preset under this regime; the base model's other settings stay."""
        return dataclasses.replace(chosen, **self.changes, base=dataclasses.replace(chosen.base, **self.base))


REGIMES: Mapping[str, Regime] = MappingProxyType(
    {
        "n_train=1000": Regime("1,000 questions", {"n_train": 1_000}),
        "n_train=50000": Regime("50,000 questions", {"n_train": 50_000}),
        "long": Regime(
            "50,000 questions, three times the steps", {"n_train": 50_000, "steps": 4_500, "warmup_steps": 450}
        ),
        "steps=500": Regime("a third of the steps", {"steps": 500, "warmup_steps": 50}),
        "steps=4500": Regime("three times the steps", {"steps": 4_500, "warmup_steps": 450}),
        "learning_rate=1e-4": Regime("a third of the learning rate", {"learning_rate": 1e-4}),
        "base=100000": Regime("a base model of a quarter of the training", base={"questions": 100_000}),
        "base=small": Regime("a base model of a fifth of the size", base={"model": TinyModel(dim=64, layers=2)}),
        "base=deep": Regime("a base model twice as deep, as large", base={"model": TinyModel(dim=96, layers=6)}),
        "alpha=0.1": Regime("α = 0.1", {"alpha": 0.1}),
    }
)
"""Beside the default. Only the last concerns SequenceMatch alone; it is here since theory expects it to matter most."""

SEEDS = 1
"""Of the ablations' seeds the first: the map looks for differences much larger than those between seeds."""

PRESETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "smoke": ("alpha=0.1",),
        "quick": (),
        "full": ("n_train=1000", "n_train=50000", "long", "steps=500", "alpha=0.1"),
        "paper": (),
    }
)


def cells(preset: str, names: tuple[str, ...] | None = None) -> dict[str, tuple[str, str, bool, FineTuneConfig]]:
    """`<regime>/<method>-s<seed>` -> (item that keeps the run, its name there, whether it saw the test, configuration).

    Runs that Figure 3 or the ablations have already are shared with them; alpha concerns SequenceMatch alone.

    Args:
        names: regimes beside the default; the preset's when omitted.
    """
    check_preset(preset)
    chosen, eta = arithmetic.preset(preset), ablations.level(preset)
    # A sweep may have the very run. (What a run leaves out of the policy does not show in its configuration.)
    every = ablations.cells(preset, ablations.EVERYTHING)
    swept = {c: k for k, c in every.items() if not any(f"sm-{part}=" in k for part in REMOVALS)}
    made: dict[str, tuple[str, str, bool, FineTuneConfig]] = {}
    for seed in ablations.seeds(preset)[:SEEDS]:
        shared = {
            "mle": ("fig3", f"mle-s{seed}", True, chosen.grid()[f"mle-s{seed}"]),
            "bc": (ablations.ITEM, f"bc-s{seed}", False, _ablation(preset, "bc", seed)),
            "sm": (ablations.ITEM, f"{ablations.DEFAULT}-s{seed}", False, _ablation(preset, ablations.DEFAULT, seed)),
        }
        made |= {f"{DEFAULT}/{method}-s{seed}": cell for method, cell in shared.items()}
        for name in PRESETS[preset] if names is None else names:
            regime = REGIMES[name]
            here = regime.of(chosen)
            for method in METHODS:
                if set(regime.changes) == {"alpha"} and method != "sm":
                    made[f"{name}/{method}-s{seed}"] = shared[method]
                    continue
                config = config_of(here, method, eta, seed)
                kept_as = swept.get(config, kept_name(name, method, seed))
                made[f"{name}/{method}-s{seed}"] = (ablations.ITEM, kept_as, False, config)
    return made


def config_of(here: ArithmeticPreset, method: str, eta: float, seed: int, **changes: Any) -> FineTuneConfig:
    """A method's run in a regime's preset: judged on the validation questions alone, under two decoding rules."""
    noisy = get_method(method).noise
    config = here.run(method, ablations.KIND if noisy else "none", eta if noisy else 0.0, seed, **changes)
    return dataclasses.replace(config, decodings=DECODINGS, examples=0, recovery_prompts=0)


def kept_name(regime: str, method: str, seed: int) -> str:
    """Under which such a run is kept, among the ablations'."""
    return f"regime-{regime}-{method}-s{seed}"


def _ablation(preset: str, name: str, seed: int) -> FineTuneConfig:
    return ablations.cells(preset, (name,))[f"{name}-s{seed}"]


def run(preset: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Run]:
    """Every run by `<regime>/<method>-s<seed>`, computed or read; each run once."""
    wanted = cells(preset)
    for config in {c.base: c for _, _, _, c in wanted.values()}.values():
        config.prepare(preset, results_dir)
    distinct = {(item, name): (test, config) for item, name, test, config in wanted.values()}
    calls = [
        {"config": config, "name": name, "item": item, "preset": preset, "results_dir": results_dir, "test": test}
        for (item, name), (test, config) in distinct.items()
    ]
    found = dict(zip(distinct, in_parallel(fine_tune, calls, processes), strict=True))
    return {cell: found[item, name] for cell, (item, name, _, _) in wanted.items()}


def study(preset: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Any]:
    """Accuracy of each method in each regime and paired differences between methods, under two decoding rules.

    Returns `rows` (JSON types, for the figure) and `sources` (the runs).
    """
    runs = run(preset, results_dir, processes)
    rows = []
    for name in (DEFAULT, *PRESETS[preset]):
        for decoding in DECODINGS:
            found = {m: scores.by_prefix(runs, f"{name}/{m}") for m in METHODS}
            # Without `<bkspc>` there is nothing to exclude: MLE's greedy answers are both.
            rule = {m: decoding if decoding in found[m][0]["val"] else "greedy" for m in METHODS}
            accuracy = {m: scores.accuracy(found[m], "val", rule[m]) for m in METHODS}
            right = {m: scores.correctness(found[m], "val", rule[m]) for m in METHODS}
            tests = {f"{a}-{b}": paired_difference(right[a], right[b]) for a, b in PAIRS}
            rows.append(
                {
                    "regime": name,
                    "title": "Figure 3" if name == DEFAULT else REGIMES[name].title,
                    "decoding": decoding,
                    "n_seeds": len(found["sm"]),
                    "accuracy": {m: scores.estimate_record(e) for m, e in accuracy.items()},
                    "differences": {pair: scores.paired_record(t) for pair, t in tests.items()},
                }
            )
    return {"rows": rows, "sources": list({r.path: r for r in runs.values()}.values())}

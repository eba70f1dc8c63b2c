"""Tables 6 and 7: multiplication and lists of prime factors (App. G.3, G.4), set up as the arithmetic task.

Bespoke noise is digits. The paper trains on 5,000 questions, and on 50,000 for prime factors, where 5,000 gave less
than 1 % accuracy; the other size is run beside the table's at the higher noise level.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.data.mixture import MIXTURES
from smlib.evaluation import Estimate, PairedTest
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.arithmetic.grid import ArithmeticPreset
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.method_tables import METHODS, PAIRS, write_table
from smlib.paper.experiments.runs.executor import in_parallel
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune
from smlib.paper.experiments.runs.pretraining import Base, PretrainConfig
from smlib.paper.results import check_preset

KIND = "ground_truth"
TASKS: Mapping[str, str] = MappingProxyType({"tab6": "mul", "tab7": "list_prime_factors"})
SIZES: Mapping[str, tuple[int, int]] = MappingProxyType({"tab6": (5_000, 50_000), "tab7": (50_000, 5_000)})
"""Item -> training questions of the table, and of the comparison beside it."""

DECODINGS = ("t1", "greedy_exclude")
SEEDS = 3


@dataclass(frozen=True)
class TablePreset:
    """Figure 3's runs on another task.

    Attributes:
        runs: base model, sizes, steps, seeds; `levels` are the table's columns.
        other_sizes: further numbers of training questions, at the highest noise level and with the first seed alone.
    """

    runs: ArithmeticPreset
    other_sizes: tuple[int, ...] = ()


def preset(item: str, name: str, regime: str = "known") -> TablePreset:
    """The frozen preset of `tab6` or `tab7` in a regime of `REGIMES`; raises for unknown names."""
    check_preset(name)
    for value, known in ((item, TASKS), (regime, REGIMES)):
        if value not in known:
            what = "table" if known is TASKS else "regime"
            raise ValueError(f"unknown {what} {value!r}; known: {', '.join(known)}")
    return REGIMES[regime][item][name]


def _presets(item: str, sources: Mapping[str, ArithmeticPreset]) -> Mapping[str, TablePreset]:
    table_size, other = SIZES[item]
    made = {}
    for name, source in sources.items():
        whole = name in ("full", "paper")
        size = table_size if whole else min(table_size, source.n_train)
        made[name] = TablePreset(
            dataclasses.replace(
                source,
                base=_base(source.base, TASKS[item]),
                seeds=source.seeds[:SEEDS],
                levels=(0.02, 0.2) if whole else (0.2,),
                kinds=(KIND,),
                n_train=size,
                recovery_prompts=0,
            ),
            other_sizes=(other,) if name == "full" else (),
        )
    return MappingProxyType(made)


def _base(base: Base, task: str) -> Base:
    """The same base model for another task, which reads the mixture of that task where it reads one."""
    if isinstance(base, PretrainConfig) and base.mixture is not None:
        mixture = dataclasses.replace(MIXTURES[task], apart=base.mixture.apart)
        return dataclasses.replace(base, task=task, mixture=mixture)
    return dataclasses.replace(base, task=task)


REGIMES: Mapping[str, Mapping[str, Mapping[str, TablePreset]]] = MappingProxyType(
    {
        regime: MappingProxyType({item: _presets(item, sources) for item in TASKS})
        for regime, sources in (("known", arithmetic.PRESETS), ("learning", learning.PRESETS))
    }
)
"""`known`: a base that has read the task's own module; `learning`: one that has read others (`arithmetic.learning`), to
be fine-tuned four times as long. quick: one seed, η = 0.2, 5,000 questions; full: three seeds and both columns, and one
seed of the other size; paper: Llama-2-7b, both columns."""

PRESETS = REGIMES["known"]

RESTS_ON: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {item: MappingProxyType(dict.fromkeys(arithmetic.PRESETS, "known")) for item in TASKS}
)
"""Item -> preset -> regime of the table. It changes when the base models and runs of the other regime are committed."""


def cells(item: str, name: str, regime: str = "known") -> dict[str, FineTuneConfig]:
    """Run name -> configuration; seeds outermost. MLE sees no noise, so one run serves every column."""
    chosen = preset(item, name, regime)
    runs = chosen.runs

    def one(method: str, level: float, seed: int, size: int) -> FineTuneConfig:
        kind, eta = ("none", 0.0) if method == "mle" else (KIND, level)
        config = runs.run(method, kind, eta, seed)
        return dataclasses.replace(config, n_train=size, decodings=DECODINGS, examples=0)

    made: dict[str, FineTuneConfig] = {}
    for seed in runs.seeds:
        made[f"mle-s{seed}"] = one("mle", 0.0, seed, runs.n_train)
        for level in runs.levels:
            for method in ("bc", "sm"):
                made[f"{method}-{level:g}-s{seed}"] = one(method, level, seed, runs.n_train)
        for size in chosen.other_sizes if seed == runs.seeds[0] else ():
            for method in METHODS:
                made[f"{method}-n{size}-s{seed}"] = one(method, max(runs.levels), seed, size)
    return made


def run(item: str, name: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Any]:
    """Trains or reads every run, writes the ledger's line, and returns what the figure and tables show."""
    regime = RESTS_ON[item][name] if item in RESTS_ON and name in RESTS_ON[item] else "known"  # else: `preset` says it
    chosen, configs = preset(item, name, regime), cells(item, name, regime)
    next(iter(configs.values())).prepare(name, results_dir)
    calls = [
        {"config": c, "name": label, "item": item, "preset": name, "results_dir": results_dir}
        for label, c in configs.items()
    ]
    runs = dict(zip(configs, in_parallel(fine_tune, calls, processes), strict=True))
    estimates, tests = table(runs, chosen.runs.levels)
    return write_table(
        item,
        name,
        estimates,
        tests,
        n_seeds=len(chosen.runs.seeds),
        sources=list(runs.values()),
        results_dir=results_dir,
        details={
            "task": TASKS[item],
            "n_train": chosen.runs.n_train,
            "n_test": chosen.runs.n_test,
            "greedy": _decoded(runs, chosen.runs.levels, "greedy_exclude"),
            "backspace_rate": {p: scores.number(scores.backspace_rate(r)) for p, r in _editing(runs, chosen).items()},
            "sizes": _sizes(runs, chosen),
        },
    )


def prefix(method: str, level: float) -> str:
    """Run name of a cell of the table without its seed."""
    return "mle" if method == "mle" else f"{method}-{level:g}"


def table(
    runs: Mapping[str, Any], levels: tuple[float, ...], decoding: str = "t1"
) -> tuple[dict[tuple[str, float], Estimate], dict[tuple[str, str, float], PairedTest]]:
    """Accuracy of every cell, and the paired tests between methods."""

    def of(method: str, level: float) -> list[Any]:
        return scores.by_prefix(runs, prefix(method, level))

    estimates = {(m, v): scores.accuracy(of(m, v), decoding=decoding) for v in levels for m in METHODS}
    tests = {(a, b, v): scores.difference(of(a, v), of(b, v), decoding=decoding) for v in levels for a, b in PAIRS}
    return estimates, tests


def _decoded(runs: Mapping[str, Any], levels: tuple[float, ...], decoding: str) -> list[dict[str, object]]:
    estimates, _ = table(runs, levels, decoding)
    return [{"method": m, "level": v, **scores.estimate_record(e)} for (m, v), e in estimates.items()]


def _editing(runs: Mapping[str, Any], chosen: TablePreset) -> dict[str, list[Any]]:
    names = [prefix(method, level) for level in chosen.runs.levels for method in ("bc", "sm")]
    return {name: scores.by_prefix(runs, name) for name in names}


def _sizes(runs: Mapping[str, Any], chosen: TablePreset) -> list[dict[str, object]]:
    """Accuracy by number of training questions, at the highest noise level."""
    level, rows = max(chosen.runs.levels), []
    for size in sorted({chosen.runs.n_train, *chosen.other_sizes}):
        for method in METHODS:
            name = prefix(method, level) if size == chosen.runs.n_train else f"{method}-n{size}"
            found = scores.by_prefix(runs, name)
            record = scores.estimate_record(scores.accuracy(found))
            rows.append({"n_train": size, "method": method, "n_seeds": len(found), **record})
    return rows

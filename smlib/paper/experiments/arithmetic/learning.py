"""Figure 3 and Table 1 where there is something to learn: a base model that has not read the task (Sec. 6.1).

The base of `grid` has read the generator's own module and answers as well before fine-tuning as after it. The paper's
Llama has to learn the task from 5,000 questions. Here the base reads other modules of the generator
(`smlib.data.mixture`), is deeper (8 layers of 96 instead of 3 of 128), and is fine-tuned four times as long, so that
the 5,000 questions are passed 38 times (the paper: 128).

The plan, fixed and committed before the first of these runs was started
-----------------------------------------------------------------------
*What chose it.* Prototypes with one or two seeds, on validation questions alone: bases of 3 x 128 and 8 x 96, noise of
digits at 0.05 and 0.2, 1,500 and 6,000 steps, learning rate 1e-3. After 1,500 steps BC and SequenceMatch were behind
MLE by 12 points and more; after 6,000 steps they were ahead by 2 to 5 at temperature 1, and greedy answers did not
settle it. Depth, steps and rate were taken from there. No test question was looked at in this regime.

*What is run.* MLE once a seed; BC and SequenceMatch with digit noise and with random noise at levels 0.05, 0.2 and 0.4;
SequenceMatch without noise. Seeds 0 to 4. `cells` is the order: first the three methods at digit noise 0.2 with every
seed, then the rest, seeds outermost. All of them are run, whatever the first ones show.

*What is claimed.* At digit noise 0.2 and temperature 1, on the 1,000 test questions: BC is ahead of MLE, SequenceMatch
is ahead of MLE, SequenceMatch is ahead of BC (`CLAIMS`). Two-sided tests paired over seeds and questions, Holm's
correction over the three, 5 %. They are decided once all five seeds are there, and shown as undecided before. Greedy
answers (without the tokens deleted at the same place), the language model alone, top-p and the truncation law are shown
beside them and not tested. The verdict on Figure 3 is by `items.claims` over the whole grid and the rule of every item,
once the grid is complete.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.data.mixture import MIXTURES
from smlib.files import canonical_json, resolve, write_atomically
from smlib.paper import checksums
from smlib.paper.experiments.arithmetic import grid
from smlib.paper.experiments.arithmetic.grid import ArithmeticPreset
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.verdicts import MIN_SEEDS, holm, outcome
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tuned
from smlib.paper.experiments.runs.pretraining import PretrainConfig, TinyModel, pretraining_run
from smlib.paper.results import Run, check_preset

ITEM = "fig3"
KIND, LEVEL = "ground_truth", 0.2
"""Of the headline and of the claims."""

CLAIMS = (("bc", "mle"), ("sm", "mle"), ("sm", "bc"))
"""Who is ahead of whom."""

SHOWN = ("t1", "greedy", "greedy_exclude", "no_backspace", "top_p", "truncation")

BASE = PretrainConfig(questions=300_000, model=TinyModel(dim=96, layers=8), mixture=MIXTURES["add_or_sub_in_base"])
"""The base model of 0.9 M parameters, trained in one pass."""

_SMOKE_BASE = PretrainConfig(
    questions=1_024,
    batch_size=64,
    model=TinyModel(dim=32, layers=1, heads=2),
    mixture=dataclasses.replace(MIXTURES["add_or_sub_in_base"], apart=1_000),
)

PRESETS: Mapping[str, ArithmeticPreset] = MappingProxyType(
    {
        "smoke": dataclasses.replace(grid.PRESETS["smoke"], base=_SMOKE_BASE, learning_rate=1e-3, eval_every=6),
        # Two passes instead of 38: it shows what deleting costs early in training, and not where the curves cross.
        "quick": ArithmeticPreset(
            base=BASE,
            levels=(0.2,),
            kinds=("ground_truth",),
            seeds=(0,),
            steps=300,
            learning_rate=1e-3,
            warmup_steps=30,
            n_test=500,
            recovery_prompts=200,
            eval_every=150,
        ),
        "full": ArithmeticPreset(
            base=BASE,
            levels=(0.05, 0.2, 0.4),
            seeds=(0, 1, 2, 3, 4),
            steps=6_000,
            learning_rate=1e-3,
            warmup_steps=600,
            eval_every=750,
        ),
        "paper": grid.PRESETS["paper"],
    }
)


RESTS_ON: Mapping[str, str] = MappingProxyType(
    {"smoke": "learning", "quick": "learning", "full": "known", "paper": "learning"}
)
"""Preset -> regime of Figure 3: `learning`, or `known`, that of `grid`, whose base knows the task. `full` rests on the
committed runs of the old regime until the plan's are complete; then this one word changes. Table 1 needs the headline's
cells alone, which are there: it rests on the learning regime with every preset."""


def preset(name: str) -> ArithmeticPreset:
    """The frozen preset; raises for unknown names."""
    return PRESETS[check_preset(name)]


def figure_3(name: str) -> ArithmeticPreset:
    """The grid that Figure 3 rests on; raises for unknown names of presets."""
    return preset(name) if RESTS_ON[check_preset(name)] == "learning" else grid.preset(name)


def run(name: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Run]:
    """Every run of that grid, computed or read."""
    return grid.run(name, results_dir, processes, figure_3(name))


def table_1(name: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Run]:
    """The runs of Table 1, computed or read: BC and SequenceMatch at the headline's noise, from a base that learns."""
    chosen = preset(name)
    only = [f"{method}-{KIND}-{headline_level(chosen)}" for method in ("bc", "sm")]
    return grid.run(name, results_dir, processes, chosen, only)


def headline_level(chosen: ArithmeticPreset) -> float:
    """The noise level of the claims; the highest one of a preset that has another."""
    return LEVEL if LEVEL in chosen.levels else max(chosen.levels)


def cells(name: str) -> dict[str, FineTuneConfig]:
    """Name of each run and its configuration in the order of the plan: most telling first."""
    chosen = preset(name)
    every = chosen.grid()
    level = headline_level(chosen)
    first = [
        f"{cell}-s{seed}"
        for seed in chosen.seeds
        for cell in ("mle", *(f"{method}-{KIND}-{level}" for method in ("bc", "sm")))
    ]
    return {label: every[label] for label in (*first, *(k for k in every if k not in first))}


def finished(name: str, results_dir: str | Path = "results") -> dict[str, Run]:
    """The runs of the plan that are there, by name; none is started."""
    found = {
        label: fine_tuned(config, label, item=ITEM, preset=name, results_dir=results_dir)
        for label, config in cells(name).items()
    }
    return {label: run for label, run in found.items() if run is not None}


def study(name: str, results_dir: str | Path = "results") -> dict[str, Any]:
    """What the finished runs say so far, and how many of the planned seeds that is.

    Returns (JSON types): `planned` and `done`, runs; `seeds`, planned ones; `passes` over the training questions;
    `base`, the base model's accuracy on the validation questions by decoding rule, None without its run; `cells`, one
    record a cell of the grid with its number of seeds, test accuracy by decoding rule, its lead over MLE with the same
    seeds at temperature 1 (None for MLE itself, and where there is none) and the validation curve of each seed;
    `claims`, with `decided` False until every planned seed is there; `sources`, the files.
    """
    chosen, runs = preset(name), finished(name, results_dir)
    grouped = _grouped(runs)
    return {
        "preset": name,
        "planned": len(cells(name)),
        "done": len(runs),
        "seeds": len(chosen.seeds),
        "steps": chosen.steps,
        "passes": chosen.steps * chosen.batch_size / chosen.n_train,
        "base": base_accuracy(name, results_dir),
        "cells": [
            {"cell": cell, **_record(found), "lead": _lead(found, grouped.get("mle", {}))}
            for cell, found in grouped.items()
        ],
        "claims": claims(chosen, grouped),
        "sources": sorted(run.path.name for run in runs.values()),
    }


def latest(name: str, results_dir: str | Path = "results") -> dict[str, Any]:
    """The study of a preset, or of `full` where the preset has no run: what the committed files hold."""
    own = study(name, results_dir)
    return own if own["done"] else study("full", results_dir)


def write(name: str, results_dir: str | Path = "results") -> Path:
    """Keeps the study in `results/<preset>/learning.json`, which is no item of the ledger while runs are missing."""
    folder = resolve(results_dir) / name
    path, text = folder / "learning.json", canonical_json(study(name, results_dir))
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return path  # a reader changes no file
    checksums.note(path, text, folder)
    return write_atomically(path, text)


def base_accuracy(name: str, results_dir: str | Path = "results") -> dict[str, float] | None:
    """Share of the validation questions that the base answers before it is fine-tuned, by decoding rule."""
    base = preset(name).base
    assert isinstance(base, PretrainConfig)
    run = pretraining_run(base, name, results_dir)
    return None if run is None else dict(run["val_accuracy"])  # type: ignore[call-overload]


def claims(chosen: ArithmeticPreset, grouped: Mapping[str, Mapping[int, Run]]) -> list[dict[str, Any]]:
    """The plan's three comparisons over the seeds that both sides have; without a verdict until they are all there, or
    where a preset has too few of them for one."""
    level = headline_level(chosen)
    named = {"mle": "mle", "bc": f"bc-{KIND}-{level}", "sm": f"sm-{KIND}-{level}"}
    made: list[dict[str, Any]] = []
    for ahead, behind in CLAIMS:
        one, other = grouped.get(named[ahead], {}), grouped.get(named[behind], {})
        seeds = sorted(set(one) & set(other))
        record: dict[str, Any] = {"claim": f"{ahead.upper()} > {behind.upper()}", "n_seeds": len(seeds), "level": level}
        if seeds:
            test = scores.difference([one[s] for s in seeds], [other[s] for s in seeds])
            record |= scores.paired_record(test)
        made.append(record | {"decided": len(seeds) == len(chosen.seeds) >= MIN_SEEDS})
    if all(record["decided"] for record in made):
        for record, adjusted in zip(made, holm([record["p_value"] for record in made]), strict=True):
            record |= {"p_holm": scores.number(adjusted, 6), "outcome": outcome(record["difference"], adjusted)}
    return made


def _grouped(runs: Mapping[str, Run]) -> dict[str, dict[int, Run]]:
    """Cell -> seed -> run."""
    made: dict[str, dict[int, Run]] = {}
    for label, run in runs.items():
        cell, seed = label.rsplit("-s", 1)
        made.setdefault(cell, {})[int(seed)] = run
    return made


def _lead(found: Mapping[int, Run], mle: Mapping[int, Run]) -> dict[str, Any] | None:
    """Accuracy less that of MLE on the test questions, paired by seed and question."""
    seeds = sorted(set(found) & set(mle))
    if not seeds or found is mle:
        return None
    record = scores.paired_record(scores.difference([found[s] for s in seeds], [mle[s] for s in seeds]))
    each = {str(s): scores.number(scores.difference([found[s]], [mle[s]]).difference, 6) for s in seeds}
    return {name: record[name] for name in ("difference", "low", "high")} | {"n_seeds": len(seeds), "by_seed": each}


def _record(found: Mapping[int, Run]) -> dict[str, Any]:
    runs: Sequence[Any] = [found[seed] for seed in sorted(found)]
    curves = [
        {"seed": seed, "step": found[seed]["history"]["val_step"]}  # type: ignore[index]
        | {d: found[seed]["history"][f"val_{d}"] for d in SHOWN if f"val_{d}" in found[seed]["history"]}  # type: ignore
        for seed in sorted(found)
    ]
    return {
        "n_seeds": len(runs),
        "test": {d: scores.estimate_record(scores.accuracy(runs, "test", d)) for d in SHOWN if d in runs[0]["test"]},
        "backspace_rate": scores.number(scores.backspace_rate(runs)),
        "curves": curves,
    }

"""What the learning regime has cost so far, and what is left of its plans, in hours of one processor.

A run that is missing is priced at the median of the finished runs of its method in the plan's grid, resumed ones left
out, and where that method has none, of the nearest one that has: SequenceMatch for what samples while it trains, BC
for what has noise, MLE for the rest. A base model of another size is priced by its parameters, a run on it alike.
"""

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smlib.files import resolve
from smlib.objectives.methods import get_method
from smlib.paper.experiments.ablations import in_learning
from smlib.paper.experiments.arithmetic import (
    after_writing,
    deletion_cost,
    deletion_ways,
    late_mistakes,
    learning,
    learning_variants,
    rivals_of_deletion,
)
from smlib.paper.experiments.judging.scores import number
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tuned
from smlib.paper.experiments.runs.pretraining import PretrainConfig, pretraining_run, weights_file
from smlib.paper.experiments.tasks import mathematics, translation
from smlib.paper.results import Run, finished_run

GRID = "the grid of Figure 3"


@dataclass(frozen=True)
class Job:
    """A run of a plan: its result if it is there, what would be trained, and the shape of its base as a factor."""

    config: FineTuneConfig
    run: Run | None
    size: float = 1.0


def regime(preset: str = "full", results_dir: str | Path = "results") -> dict[str, Any]:
    """Hours spent and left of every plan (JSON types).

    Returns `spent`, hours of the finished runs and base models that are there, at least (a resumed run counts from its
    last start); `runs` and `bases`, how many; `left`, one record a plan with `title`, `runs` and `hours`, those with
    nothing left out; `hours`, their sum. With no finished run to price by, the hours left are None.
    """
    took = _timings(preset, results_dir)
    plans = {title: list(jobs) for title, jobs in _plans(preset, results_dir).items()}
    every = {job.run.path: job.run for jobs in plans.values() for job in jobs if job.run is not None}
    bases = dict.fromkeys(job.config.base for jobs in plans.values() for job in jobs)
    known = [base for base in bases if isinstance(base, PretrainConfig)]
    trained = {base: pretraining_run(base, preset, results_dir) for base in known}
    there = {base: weights_file(base, preset, results_dir).exists() for base in known}
    prices = _prices(plans[GRID], took)
    base_price = [took[run.path.name][0] for run in trained.values() if run is not None and run.path.name in took]
    left: list[dict[str, Any]] = []
    counted: set[PretrainConfig] = set()
    for title, jobs in plans.items():
        missing = [job for job in jobs if job.run is None]
        if not missing:
            continue
        hours = sum(job.size * _price(job.config, prices) for job in missing) if prices else None
        for job in missing:
            base = job.config.base
            assert isinstance(base, PretrainConfig)
            if not there[base] and base not in counted and hours is not None and base_price:
                hours += job.size * max(base_price)
                counted.add(base)
        left.append({"title": title, "runs": len(missing), "hours": None if hours is None else number(hours / 3600, 1)})
    spent = [took[path.name][0] for path in every if path.name in took] + base_price
    return {
        "spent": number(sum(spent) / 3600, 1),
        "runs": len(every),
        "bases": sum(there.values()),
        "left": left,
        "hours": number(sum(part["hours"] for part in left), 1) if prices else None,
    }


def _plans(preset: str, results_dir: str | Path) -> Mapping[str, Iterable[Job]]:
    """Every plan of the regime; what one shares with another is counted with the first."""
    where = {"preset": preset, "results_dir": results_dir}
    plan = learning.cells(preset)
    made: dict[str, list[Job]] = {
        GRID: [Job(c, fine_tuned(c, name, item=learning.ITEM, **where)) for name, c in plan.items()]  # type: ignore
    }
    for item in mathematics.TASKS:
        cells = mathematics.cells(item, preset, "learning")
        made[f"Table {item.removeprefix('tab')}"] = [
            Job(c, fine_tuned(c, name, item=item, **where))  # type: ignore[arg-type]
            for name, c in cells.items()
        ]
    made["Table 5"] = [
        Job(c, finished_run(translation.ITEM, name, c, **translation.kept(c), **where))  # type: ignore[arg-type]
        for name, c in translation.cells(preset, "learning").items()
    ]
    cost: list[Job] = []
    for shape in deletion_ways.SHAPES:
        size = deletion_ways.minutes_of_base(shape) / deletion_ways.minutes_of_base("8x96")
        for item, name, test, c in deletion_cost.cells(preset, (shape,)).values():
            if name not in plan:
                cost.append(Job(c, fine_tuned(c, name, item=item, test=test, **where), size))  # type: ignore[arg-type]
        for way in after_writing.WAYS:
            identity = after_writing.identity(preset, way, shape, 0)
            run = finished_run(results_dir=results_dir, **identity)
            cost.append(Job(after_writing.deletions(preset, shape, 0), run, size))
    made["the cost of deletion"] = cost
    made["rivals of deletion"] = [
        Job(cell.config, finished_run(results_dir=results_dir, **rivals_of_deletion.identity(label, cell, preset)))
        for label, cell in rivals_of_deletion.cells(preset).items()
        if cell.kept_as not in plan
    ]
    made["late mistakes"] = [
        Job(c, finished_run(results_dir=results_dir, **late_mistakes.identity(label, c, preset)))
        for label, (kept_as, c) in late_mistakes.cells(preset).items()
        if kept_as not in plan
    ]
    variants = {"divergences": learning_variants.cells(preset), "ablations": in_learning.cells(preset)}
    for title, found in variants.items():
        own = [cell for cell in found.values() if cell.item != learning.ITEM]
        made[title] = [Job(cell.config, fine_tuned(**cell.where(preset, results_dir))) for cell in own]
    return made


def _timings(preset: str, results_dir: str | Path) -> dict[str, tuple[float, bool]]:
    """File name of a result -> seconds of processor time that its last start took, and whether that went on from a
    checkpoint."""
    log = resolve(results_dir) / preset / "timings.jsonl"
    if not log.is_file():
        return {}
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return {f"{e['name']}-{e['hash']}.json": (float(e["cpu_s"]), bool(e["resumed"])) for e in entries}


def _prices(jobs: Iterable[Job], took: Mapping[str, tuple[float, bool]]) -> dict[str, float]:
    """Method -> seconds of a run."""
    every: dict[str, list[float]] = {}
    for job in jobs:
        seconds, resumed = took.get(job.run.path.name, (0.0, True)) if job.run is not None else (0.0, True)
        if not resumed:
            every.setdefault(job.config.training.objective.method, []).append(seconds)
    return {method: statistics.median(found) for method, found in every.items()}


def _price(config: FineTuneConfig, prices: Mapping[str, float]) -> float:
    method = config.training.objective.method
    needs = get_method(method)
    nearest = "sm" if needs.rollouts else "bc" if needs.noise else "mle"
    own = prices.get(method, prices.get(nearest, max(prices.values())))
    return own

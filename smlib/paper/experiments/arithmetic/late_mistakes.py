"""Mistakes that show only later: answers written most or least significant digit first, in the learning regime.

The first digit of a sum needs the carries of all digits to its right, which are written after it. Written from the
other end, every digit needs what stands already. So a mistake of the first kind of answer can be one that shows only
later, when going back is worth more than drawing well, and one of the second kind shows at once. Measured for either
order: accuracy, recovery, and how late a wrong digit becomes visible (`runs.visibility`), for MLE, BC, SequenceMatch,
DAgger, and BC with bursts of three wrong digits.

The task is the paper's own; the order of the digits is the only change, and it is made here, not the generator's. The
base model has read numbers most significant digit first. Validation questions alone.
"""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.data.tasks import ORDERS
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.runs.finetuning import VERSIONS, FineTuneConfig, kept_or_trained, measured
from smlib.paper.experiments.runs.pretraining import BASE, checksum
from smlib.paper.experiments.runs.visibility import KINDS, visibility
from smlib.paper.items import PRESETS
from smlib.paper.results import Run, finished_run, run_cached

ITEM = "ablations"
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {"mle": ("mle", {}), "bc": ("bc", {}), "sm": ("sm", {}), "dagger": ("dagger", {}), "bc-burst": ("bc", {"burst": 3})}
)
"""Name -> method, and what it changes in the run."""

Cell = tuple[str, FineTuneConfig]
"""Name under which the policy is kept (the plan's, for the plan's runs), and configuration."""


def cells(
    preset: str, seeds: Sequence[int] = (0,), methods: Sequence[str] = tuple(METHODS), orders: Sequence[str] = ORDERS
) -> dict[str, Cell]:
    """`late-<order>-<method>-s<seed>` -> its run, seeds outermost; the plan's own runs are shared with it.

    Raises:
        ValueError: an unknown method or order.
    """
    for given, known, what in ((methods, tuple(METHODS), "method"), (orders, ORDERS, "order")):
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"unknown {what} {', '.join(unknown)}; known: {', '.join(known)}")
    chosen, plan = learning.preset(preset), learning.cells(preset)
    level = learning.headline_level(chosen)
    made: dict[str, Cell] = {}
    for seed in seeds:
        for order in orders:
            for name in methods:
                method, changes = METHODS[name]
                kind, eta = ("none", 0.0) if method == "mle" else (learning.KIND, level)
                config = dataclasses.replace(chosen.run(method, kind, eta, seed, **changes), answer_order=order)
                label = f"late-{order}-{name}-s{seed}"
                made[label] = (next((n for n, own in plan.items() if own == config), label), config)
    return made


def run(
    label: str,
    cell: Cell,
    preset: str,
    results_dir: str | Path = "results",
    weights_dir: str | Path = "models/learning",
) -> Run:
    """What one policy answers and what it sees, computed or read; the policy from `weights_dir`, or trained."""
    kept_as, config = cell

    def compute(scratch: Path) -> Mapping[str, object]:
        policy, history = kept_or_trained(kept_as, config, preset, results_dir, weights_dir, scratch)
        task = config.task()
        seen = {
            kind: visibility(policy, task, task.val, kind=kind, seed=config.training.seed, batch=128) for kind in KINDS
        }
        found = measured(policy, task, dataclasses.replace(config, examples=0), test=False)
        return {"visibility": seen, "history": history, **found, BASE: checksum(config.base, preset, results_dir)}

    return run_cached(compute=compute, results_dir=results_dir, **identity(label, config, preset))


def study(preset: str, seeds: Sequence[int] = (0,), results_dir: str | Path = "results") -> dict[str, Any]:
    """One row an order and method (JSON types), `not run` where there is no run; nothing is trained.

    A row has `order`, `method`, `status`, and where it was run `n_seeds`, `accuracy` at temperature 1, and `visible`:
    kind of mistake -> records by distance, means over the seeds weighted by how many answers were long enough.
    """
    grouped: dict[tuple[str, str], list[Run]] = {(order, name): [] for order in ORDERS for name in METHODS}
    for label, (_, config) in cells(preset, seeds).items():
        there = finished_run(results_dir=results_dir, **identity(label, config, preset))
        if there is not None:
            name = label.removeprefix(f"late-{config.answer_order}-").rsplit("-s", 1)[0]
            grouped[config.answer_order, name].append(there)
    rows: list[dict[str, Any]] = []
    for (order, name), runs in grouped.items():
        row: dict[str, Any] = {"order": order, "method": name, "status": "run" if runs else "not run"}
        if runs:
            row |= {
                "n_seeds": len(runs),
                "accuracy": scores.estimate_record(scores.accuracy(runs, "val")),
                "visible": {kind: _pooled([run["visibility"][kind] for run in runs]) for kind in KINDS},  # type: ignore
            }
        rows.append(row)
    return {"preset": preset, "rows": rows, "sources": sorted(r.path.name for runs in grouped.values() for r in runs)}


def latest(preset: str, results_dir: str | Path = "results") -> dict[str, Any]:
    """The study of a preset over all its seeds, or that of `full` where the preset has no run: what is committed."""
    own = study(preset, learning.preset(preset).seeds, results_dir)
    return own if own["sources"] else study("full", learning.preset("full").seeds, results_dir)


def _pooled(records: Sequence[Sequence[Mapping[str, float]]]) -> list[dict[str, float]]:
    """By distance, over runs."""
    made: list[dict[str, float]] = []
    for distance in sorted({row["distance"] for rows in records for row in rows}):
        same = [row for rows in records for row in rows if row["distance"] == distance]
        n = sum(row["n"] for row in same)
        means = {k: sum(row[k] * row["n"] for row in same) / n for k in same[0] if k not in ("distance", "n")}
        made.append({"distance": distance, "n": n} | {k: scores.number(v, 6) for k, v in means.items()})
    return made


def identity(label: str, config: FineTuneConfig, preset: str) -> dict[str, Any]:
    """What makes a run this one and no other: what `run_cached` and `finished_run` are asked with."""
    return {
        "item": ITEM,
        "name": label,
        "config": {"config": config, "kinds": KINDS},
        "preset": preset,
        "seeds": [config.training.seed],
        "version_key": VERSIONS,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m smlib.paper.experiments.arithmetic.late_mistakes`: trains what is missing, one after another."""
    parser = argparse.ArgumentParser(description="Answers in either order of digits: what shows when.")
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--weights-dir", default="models/learning", help="where policies are kept, and left")
    parser.add_argument("--method", choices=METHODS, action="append", help="all by default; may be repeated")
    parser.add_argument("--order", choices=ORDERS, action="append", help="both by default")
    parser.add_argument("--seed", type=int, action="append", help="0 by default; may be repeated")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = cells(given.preset, given.seed or (0,), given.method or tuple(METHODS), given.order or ORDERS)
    next(iter(wanted.values()))[1].prepare(given.preset, given.results_dir)
    for label, cell in wanted.items():
        found = run(label, cell, given.preset, given.results_dir, given.weights_dir)
        print(f"{label} -> {found.path}", flush=True)


if __name__ == "__main__":
    main()

"""The ablations once more where there is something to learn: parameters and methods, one change of the plan at a time.

The old regime's runs stay under its name. Every run here begins with the learning regime's base and differs from the
plan's SequenceMatch run at the headline's noise in one setting or in its method; the plan's own runs are read. Judged
on the validation questions alone: one seed to see, three where something moves.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smlib.paper.experiments.ablations import rivals, study
from smlib.paper.experiments.ablations.sweeps import SWEEPS
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.arithmetic.learning_variants import (
    DEFAULT,
    SEEDS,
    Cell,
    command_line,
    compared,
    has_own,
    planned,
)
from smlib.paper.experiments.runs.finetuning import REMOVALS


def cells(preset: str, seeds: Sequence[int] = SEEDS[:1]) -> dict[str, Cell]:
    """`<name>-s<seed>` -> its run, seeds outermost: MLE, BC and SequenceMatch of the plan, then every change."""
    made: dict[str, Cell] = {}
    level = learning.headline_level(learning.preset(preset))
    for seed in seeds:
        made |= {f"{name}-s{seed}": planned(preset, name, seed) for name in ("mle", "bc", DEFAULT)}
        regime = dataclasses.replace(learning.preset(preset), seeds=(seed,), levels=(level,))
        for label, config in study.cells(preset, study.EVERYTHING, regime).items():
            name = label.rsplit("-s", 1)[0]
            if name not in (rivals.DEFAULT, "bc"):
                parts = tuple(part for part in REMOVALS if name == f"sm-{part}=False")
                made[label] = Cell(study.ITEM, f"learning-{label}", config, without=parts)
    return made


def titles() -> dict[str, str]:
    """Name of a variant -> how the table names it."""
    sweeps = {
        f"sm-{sweep.parameter}={value}": f"{sweep.title}: {value}"
        for sweep in SWEEPS.values()
        for value in sweep.values
    }
    methods = {name: rivals.TITLES.get(name, name) for name in rivals.METHODS}
    return {"mle": "MLE", DEFAULT: "SequenceMatch", **methods, **sweeps}


def table(preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """One row a change, `not run` where there is no run; see `learning_variants.compared`."""
    return compared(cells(preset, SEEDS), titles(), preset, results_dir)


def latest(preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """The rows of a preset, or of `full` where the preset has no run: what the committed files hold."""
    own = table(preset, results_dir)
    return own if has_own(own) else table("full", results_dir)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m smlib.paper.experiments.ablations.in_learning`."""
    command_line("Ablations in the learning regime.", cells, arguments)


if __name__ == "__main__":
    main()

"""Variants of SequenceMatch once more where there is something to learn: other divergences, one run a variant.

The old regime's runs of App. G.1 stay what they are. Here the base has to learn the task, and each variant is one
change of the plan's SequenceMatch run at the headline's noise, judged on the validation questions alone: one seed to
see, three where something moves. `ablations.in_learning` has the other parameters and methods in the same way.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smlib.evaluation import paired_difference
from smlib.paper.experiments.arithmetic import divergences, learning
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune, fine_tuned
from smlib.paper.items import PRESETS
from smlib.paper.results import Run

SEEDS = (0, 1, 2)
"""That may be asked for; the first when nobody says."""
DEFAULT = "sm"
"""Name of the plan's SequenceMatch run, which every variant is compared with."""


@dataclass(frozen=True)
class Cell:
    """One run of a variant.

    Attributes:
        item, kept_as: where its result is. test: whether it saw the test questions, as the plan's own runs do.
        without: parts of the policy to leave out.
    """

    item: str
    kept_as: str
    config: FineTuneConfig
    test: bool = False
    without: tuple[str, ...] = ()

    def where(self, preset: str, results_dir: str | Path) -> dict[str, Any]:
        """What `fine_tune` and `fine_tuned` are asked with."""
        return {
            "config": self.config,
            "name": self.kept_as,
            "item": self.item,
            "preset": preset,
            "results_dir": results_dir,
            "test": self.test,
            "without": self.without,
        }


def planned(preset: str, method: str, seed: int) -> Cell:
    """The plan's run of a method at the headline's noise."""
    chosen = learning.preset(preset)
    name = "mle" if method == "mle" else f"{method}-{learning.KIND}-{learning.headline_level(chosen)}"
    plan = learning.cells(preset)
    label = f"{name}-s{seed}"
    if label in plan:
        return Cell(learning.ITEM, label, plan[label], test=True)
    kind, eta = ("none", 0.0) if method == "mle" else (learning.KIND, learning.headline_level(chosen))
    return Cell(learning.ITEM, label, chosen.run(method, kind, eta, seed), test=True)


def cells(preset: str, seeds: Sequence[int] = SEEDS[:1]) -> dict[str, Cell]:
    """`<divergence>-s<seed>` -> its run, seeds outermost; BC and the paper's own divergence are the plan's runs."""
    chosen, made = learning.preset(preset), dict[str, Cell]()
    for seed in seeds:
        made[f"bc-s{seed}"], made[f"{DEFAULT}-s{seed}"] = (planned(preset, name, seed) for name in ("bc", DEFAULT))
        for name in divergences.PRESETS[preset].variants:
            variant = divergences.VARIANTS[name]
            if name != "chi2_mixture":
                how = {"divergence": variant.divergence, "mixture": variant.mixture}
                config = chosen.run(DEFAULT, learning.KIND, learning.headline_level(chosen), seed, **how)
                short = dataclasses.replace(config, decodings=("t1", "greedy_exclude"), recovery_prompts=0, examples=0)
                made[f"{name}-s{seed}"] = Cell(divergences.ITEM, f"learning-{name}-s{seed}", short)
    return made


def titles() -> dict[str, str]:
    """Name of a variant -> how the table names it."""
    own = {name: variant.title for name, variant in divergences.VARIANTS.items() if name != "chi2_mixture"}
    return {"bc": "BC", DEFAULT: divergences.VARIANTS["chi2_mixture"].title, **own}


def study(preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """One row a divergence, `not run` where there is no run; see `compared`."""
    return compared(cells(preset, SEEDS), titles(), preset, results_dir)


def latest(preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """The rows of a preset, or of `full` where the preset has no run: what the committed files hold."""
    own = study(preset, results_dir)
    return own if has_own(own) else study("full", results_dir)


def has_own(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run is there that is not the plan's anyway."""
    return any(row["status"] == "run" and row["name"] not in ("mle", "bc", DEFAULT) for row in rows)


def compared(
    wanted: Mapping[str, Cell], named: Mapping[str, str], preset: str, results_dir: str | Path = "results"
) -> list[dict[str, Any]]:
    """One row a variant (JSON types): `name`, `title`, `status`, and where it was run `n_seeds`, `accuracy` at
    temperature 1 on the validation questions, `over`: paired over the seeds that both have, less the default."""
    found: dict[str, dict[int, Run]] = {name: {} for name in named}
    for label, cell in wanted.items():
        name, seed = label.rsplit("-s", 1)
        there = fine_tuned(**cell.where(preset, results_dir))
        if there is not None and name in found:
            found[name][int(seed)] = there
    rows: list[dict[str, Any]] = []
    for name, title in named.items():
        runs, usual = found[name], found.get(DEFAULT, {})
        row: dict[str, Any] = {"name": name, "title": title, "status": "run" if runs else "not run"}
        if runs:
            accuracy = scores.accuracy([runs[seed] for seed in sorted(runs)], "val")
            row |= {"n_seeds": len(runs), "accuracy": scores.estimate_record(accuracy)}
        both = sorted(set(runs) & set(usual))
        if both and name != DEFAULT:
            ours, theirs = (scores.correctness([part[s] for s in both], "val") for part in (runs, usual))
            row["over"] = scores.paired_record(paired_difference(ours, theirs))
        rows.append(row)
    return rows


def train(
    wanted: Mapping[str, Cell],
    preset: str,
    results_dir: str | Path = "results",
    only: Sequence[str] = (),
    weights_dir: str | Path | None = None,
) -> int:
    """Trains what is missing, one after another, and returns how many runs that was.

    Args:
        only: names of variants, without seed; all of them by default.

    Raises:
        ValueError: a name in `only` that is no variant.
    """
    known = list(dict.fromkeys(label.rsplit("-s", 1)[0] for label in wanted))
    if unknown := sorted(set(only) - set(known)):
        raise ValueError(f"unknown variant {', '.join(unknown)}; known: {', '.join(known)}")
    chosen = {label: c for label, c in wanted.items() if not only or label.rsplit("-s", 1)[0] in only}
    next(iter(chosen.values())).config.prepare(preset, results_dir)
    done = 0
    for place, (label, cell) in enumerate(chosen.items(), start=1):
        where = cell.where(preset, results_dir)
        if fine_tuned(**where) is not None:
            continue
        run = fine_tune(**where, weights_dir=weights_dir)
        done += 1
        print(f"{place} of {len(chosen)}: {label} -> {run.path}", flush=True)
    return done


def command_line(
    what: str, made: Callable[[str, Sequence[int]], Mapping[str, Cell]], arguments: Sequence[str] | None
) -> None:
    """The command line of a study of variants; `made` gives its cells."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--weights-dir", help="leave the trained policies there, such as models/learning")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a variant; may be repeated")
    parser.add_argument("--seed", type=int, choices=SEEDS, action="append", help="0 by default; may be repeated")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = made(given.preset, given.seed or SEEDS[:1])
    done = train(wanted, given.preset, given.results_dir, given.only, given.weights_dir)
    print(f"{done} runs trained", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m smlib.paper.experiments.arithmetic.learning_variants`."""
    command_line("Divergences (App. G.1) in the learning regime.", cells, arguments)


if __name__ == "__main__":
    main()

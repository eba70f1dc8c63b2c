"""Decoupled deletion in the learning regime: maximum likelihood writes, another network deletes (beyond the paper).

The writer is the learning regime's MLE run, the deleter its BC or SequenceMatch run, or a DAgger run of the same
settings, all of one seed and at the plan's noise. No new network is trained where those runs left theirs
(`tasks.queue --weights-dir`); otherwise they are trained again, to the same weights.

Judged on the validation questions alone: this looks for a setting. If one is ahead of MLE at temperature 1, the test
questions are for a plan with new seeds that is fixed first, as `ablations.confirmation` did.
"""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.evaluation import PairedTest, paired_difference
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.verdicts import holm
from smlib.paper.experiments.runs.finetuning import VERSIONS, FineTuneConfig, fine_tuned, kept_or_trained, measured
from smlib.paper.experiments.runs.pretraining import BASE, checksum
from smlib.paper.items import PRESETS
from smlib.paper.results import Run, finished_run, run_cached
from smlib.policies.decoupled import DecoupledPolicy, DeletionRule

ITEM = "ablations"
DELETERS = ("bc", "sm", "dagger")
RULES: Mapping[str, DeletionRule] = MappingProxyType(
    {"drawn": DeletionRule(), "doubled": DeletionRule(strength=2.0), "threshold": DeletionRule(threshold=0.5)}
)
"""What is made of the deleter's probability: as it is, twice it, and only where it is above one half."""

DECODINGS = ("t1", "greedy", "greedy_exclude", "no_backspace")
RIVALS = ("t1", "top_p", "min_p", "truncation", "greedy")
"""Rules for the writer alone, which cost one network; the decoupled policy has to be ahead of them too."""


def parts(preset: str, deleter: str, seed: int) -> dict[str, tuple[str, FineTuneConfig]]:
    """`writer` and `deleter` -> name and configuration of their runs.

    Raises:
        ValueError: an unknown deleter.
    """
    if deleter not in DELETERS:
        raise ValueError(f"unknown deleter {deleter!r}; known: {', '.join(DELETERS)}")
    chosen = learning.preset(preset)
    level = learning.headline_level(chosen)
    cell = f"{deleter}-{learning.KIND}-{level}-s{seed}"
    return {
        "writer": (f"mle-s{seed}", chosen.run("mle", seed=seed)),
        "deleter": (cell, chosen.run(deleter, learning.KIND, level, seed)),
    }


def run(
    preset: str,
    deleter: str,
    seed: int,
    results_dir: str | Path = "results",
    weights_dir: str | Path = "models/learning",
) -> Run:
    """The answers of one pair of networks under each of `RULES`, computed or read."""
    pair = parts(preset, deleter, seed)

    def compute(scratch: Path) -> Mapping[str, object]:
        found = {
            part: kept_or_trained(name, config, preset, results_dir, weights_dir, scratch / part)[0]
            for part, (name, config) in pair.items()
        }
        config = dataclasses.replace(pair["deleter"][1], decodings=DECODINGS, examples=0)
        task = config.task()
        answers: dict[str, object] = {}
        for rule, how in RULES.items():
            both = DecoupledPolicy(found["writer"], found["deleter"], how)
            answers[rule] = measured(both, task, config, test=False)
        alone = dataclasses.replace(pair["writer"][1], decodings=RIVALS)
        return {
            "rules": answers,
            "writer": measured(found["writer"], task, alone, test=False),
            "parameters": both.counts(),
            BASE: checksum(config.base, preset, results_dir),
        }

    return run_cached(compute=compute, results_dir=results_dir, **_identity(preset, deleter, seed))


def study(preset: str, results_dir: str | Path = "results") -> dict[str, Any]:
    """Decoupled deletion against the writer alone, over the seeds that are there; nothing is trained.

    Returns (JSON types) `rows`, one for each deleter and rule with accuracy at temperature 1 and the paired difference
    from each of `RIVALS`, Holm-corrected over all rows for the first of them; and `sources`.
    """
    chosen = learning.preset(preset)
    rows: list[dict[str, Any]] = []
    sources: list[Run] = []
    for deleter in DELETERS:
        found = [finished_run(results_dir=results_dir, **_identity(preset, deleter, seed)) for seed in chosen.seeds]
        there = [run for run in found if run is not None]
        sources += there
        for rule in RULES if there else ():
            ours: list[Any] = [run["rules"][rule] for run in there]  # type: ignore[index]
            alone: list[Any] = [run["writer"] for run in there]
            rows.append(
                {
                    "deleter": deleter,
                    "rule": rule,
                    "n_seeds": len(there),
                    "accuracy": scores.estimate_record(scores.accuracy(ours, "val")),
                    "over": {r: scores.paired_record(_test(ours, alone, r)) for r in RIVALS},
                    "backspace_rate": scores.number(scores.backspace_rate(ours, "val")),
                }
            )
    adjusted = holm([row["over"]["t1"]["p_value"] for row in rows]) if rows else []
    for row, p in zip(rows, adjusted, strict=True):
        row["p_holm"] = scores.number(p, 6)
    return {"rows": rows, "sources": sources}


def latest(preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """The rows of a preset, or of `full` where the preset has none: what the committed files hold."""
    rows: list[dict[str, Any]] = study(preset, results_dir)["rows"] or study("full", results_dir)["rows"]
    return rows


def _test(ours: Sequence[Any], alone: Sequence[Any], rule: str) -> PairedTest:
    return paired_difference(scores.correctness(ours, "val"), scores.correctness(alone, "val", rule))


def _identity(preset: str, deleter: str, seed: int) -> dict[str, Any]:
    return {
        "item": ITEM,
        "name": f"decoupled-{deleter}-s{seed}",
        "config": {part: config for part, (_, config) in parts(preset, deleter, seed).items()} | {"rules": dict(RULES)},
        "preset": preset,
        "seeds": [seed],
        "version_key": VERSIONS,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m smlib.paper.experiments.arithmetic.decoupled`: every seed whose writer and deleter are finished."""
    parser = argparse.ArgumentParser(description="Decoupled deletion for the finished runs of the learning regime.")
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--weights-dir", default="models/learning")
    parser.add_argument("--deleter", choices=DELETERS, action="append", help="bc and sm by default")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for seed in learning.preset(given.preset).seeds:
        for deleter in given.deleter or ("bc", "sm"):
            where = {"item": learning.ITEM, "preset": given.preset, "results_dir": given.results_dir}
            pair = parts(given.preset, deleter, seed)
            needed = pair if deleter in ("bc", "sm") else {"writer": pair["writer"]}
            if any(fine_tuned(config, name, **where) is None for name, config in needed.values()):
                print(f"decoupled-{deleter}-s{seed}: its runs are not finished", flush=True)
                continue
            found = run(given.preset, deleter, seed, given.results_dir, given.weights_dir)
            print(f"decoupled-{deleter}-s{seed} -> {found.path}", flush=True)


if __name__ == "__main__":
    main()

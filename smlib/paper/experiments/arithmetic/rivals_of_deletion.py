"""Rivals of deletion itself, in the learning regime: what else can be done about a wrong token (beyond the paper).

    soft            the mistake and `<bkspc>` stay in the context (`soft`)
    masked          mistakes in the training data stand, and their own labels are left out; no `<bkspc>` (`masked`)
    delete, resample  decision operators: MLE's own token is deleted where MLE gave it less than tau; no training
    exact           the critic that is known: policy gradient on the steps that are on the one right path, from groups
                    of eight rollouts, as total variation and chi^2-mixture, with `<bkspc>`, without, and under
                    execution noise in the rollouts

beside MLE, BC and SequenceMatch of the plan at its headline noise. Everything else, base, questions, order, steps and
rate, is the learning regime's. Judged on the validation questions alone: accuracy, recovery from one to four wrong
tokens, tokens written and forward passes an answer. A run that is missing is said to be missing.
"""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.data.tasks import Task
from smlib.evaluation import paired_difference
from smlib.generation.stats import SampleStats
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.runs.answers import OPERATORS, Answers, answer, recovery
from smlib.paper.experiments.runs.finetuning import OF_METHOD, VERSIONS, FineTuneConfig, bits, kept_or_trained
from smlib.paper.experiments.runs.pretraining import BASE, checksum
from smlib.paper.items import PRESETS
from smlib.paper.results import Run, finished_run, run_cached
from smlib.policies.policy import Policy
from smlib.training.configuration import GROUP

ITEM = "ablations"


@dataclass(frozen=True)
class Way:
    """One row's training: method, what it changes in the run, and how its answers are written.

    Attributes:
        changes: to objective and training. noisy: demonstrations have the plan's noise.
        rollout_noise: rate of execution noise in rollouts, in multiples of the plan's noise.
        without: parts of the policy to leave out. decodings: rules under which it answers.
    """

    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    noisy: bool = True
    rollout_noise: float = 0.0
    without: tuple[str, ...] = ()
    decodings: tuple[str, ...] = ("t1", "greedy")


_TV = {"divergence": "tv", "mixture": False}
WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "mle": Way("mle", noisy=False, decodings=("t1", "greedy", "top_p", "truncation", *OPERATORS)),
        "bc": Way("bc"),
        "sm": Way("sm"),
        "soft": Way("soft"),
        "masked": Way("masked"),
        "exact-tv": Way("exact", _TV),
        "exact-chi2": Way("exact", {"divergence": "chi2", "mixture": True}),
        "exact-tv-noise": Way("exact", _TV, rollout_noise=1.0),
        "exact-tv-append": Way("exact", _TV, noisy=False, without=("backspace",)),
        "exact-chi2-append": Way("exact", {"divergence": "chi2", "mixture": True}, noisy=False, without=("backspace",)),
    }
)
"""Name -> training. The first three are the plan's own runs, trained again only where their weights were not kept."""


@dataclass(frozen=True)
class Cell:
    """A run: where its weights are kept (the plan's name, for the plan's runs), its configuration, what is left out."""

    kept_as: str
    config: FineTuneConfig
    way: Way


def cells(preset: str, seeds: Sequence[int] = (0,), ways: Sequence[str] = tuple(WAYS)) -> dict[str, Cell]:
    """`rival-<way>-s<seed>` -> its run, seeds outermost.

    Raises:
        ValueError: an unknown way.
    """
    if unknown := sorted(set(ways) - set(WAYS)):
        raise ValueError(f"unknown way {', '.join(unknown)}; known: {', '.join(WAYS)}")
    chosen, plan = learning.preset(preset), learning.cells(preset)
    level = learning.headline_level(chosen)
    made: dict[str, Cell] = {}
    for seed in seeds:
        for name in ways:
            way, label = WAYS[name], f"rival-{name}-s{seed}"
            kind, eta = (learning.KIND, level) if way.noisy else ("none", 0.0)
            config = chosen.run(way.method, kind, eta, seed, **way.changes)
            if way.method == "exact":
                training = config.training.on_policy(GROUP)
                training = dataclasses.replace(training, rollout_noise=way.rollout_noise * level)
                config = dataclasses.replace(config, training=training)
                if way.without:  # then <bkspc> cannot be switched off in an answer either
                    config = dataclasses.replace(config, curve=tuple(c for c in config.curve if c != "no_backspace"))
            planned = next((n for n, own in plan.items() if own == config), None)
            made[label] = Cell(planned or label, config, way)
    return made


def run(
    label: str,
    cell: Cell,
    preset: str,
    results_dir: str | Path = "results",
    weights_dir: str | Path = "models/learning",
) -> Run:
    """What one policy answers, computed or read; the policy itself from `weights_dir`, or trained and left there."""

    def compute(scratch: Path) -> Mapping[str, object]:
        policy, history = kept_or_trained(
            cell.kept_as, cell.config, preset, results_dir, weights_dir, scratch, cell.way.without
        )
        task = cell.config.task()
        found: dict[str, object] = {rule: answered(policy, task, cell.config, rule) for rule in cell.way.decodings}
        return {"val": found, "history": history, BASE: checksum(cell.config.base, preset, results_dir)}

    return run_cached(compute=compute, results_dir=results_dir, **identity(label, cell, preset))


def answered(policy: Policy, task: Task, config: FineTuneConfig, rule: str) -> dict[str, object]:
    """The validation questions under one decoding rule: right answers, costs, and recovery if anything is deleted."""
    limits = config.limits()
    given = answer(policy, task, task.val, decoding=rule, **limits)
    result: dict[str, object] = {
        "correct": bits(given.correct),
        "accuracy": given.accuracy,
        "backspace_rate": given.backspace_rate,
        **_costs(given),
    }
    deletes = policy.config.backspace or rule in OPERATORS
    if deletes and config.recovery_prompts:
        examples = task.val[: config.recovery_prompts]
        result["recovery"] = {
            str(depth): {"all_removed": bits(r.all_removed), "correct": bits(r.correct)}
            for depth in config.recovery_depths
            for r, _ in (recovery(policy, task, examples, depth, decoding=rule, **limits),)
        }
    return result


def study(preset: str, seeds: Sequence[int] = (0,), results_dir: str | Path = "results") -> dict[str, Any]:
    """The table (JSON types): one row a way and decoding rule, `not run` where there is no run; nothing is trained.

    A row has `way`, `decoding`, `status`, and where it was run `n_seeds`, `accuracy`, `over_mle` (paired over the
    seeds that both have, at temperature 1 of MLE), `recovery` (wrong tokens -> shares), `tokens`, `passes`.
    """
    found: dict[str, dict[int, Run]] = {name: {} for name in WAYS}
    for label, cell in cells(preset, seeds).items():
        there = finished_run(results_dir=results_dir, **identity(label, cell, preset))
        if there is not None:
            name, seed = label.removeprefix("rival-").rsplit("-s", 1)
            found[name][int(seed)] = there
    rows: list[dict[str, Any]] = []
    for name, way in WAYS.items():
        for rule in way.decodings:
            row: dict[str, Any] = {"way": name, "decoding": rule, "status": "run" if found[name] else "not run"}
            rows.append(row | (_row(found[name], found["mle"], rule) if found[name] else {}))
    sources = sorted(run.path.name for runs in found.values() for run in runs.values())
    return {"preset": preset, "rows": rows, "sources": sources}


def latest(preset: str, results_dir: str | Path = "results") -> dict[str, Any]:
    """The table of a preset over all its seeds, or that of `full` where the preset has no run: what is committed."""
    own = study(preset, learning.preset(preset).seeds, results_dir)
    return own if own["sources"] else study("full", learning.preset("full").seeds, results_dir)


def _row(runs: Mapping[int, Any], writer: Mapping[int, Any], rule: str) -> dict[str, Any]:
    there = [runs[seed] for seed in sorted(runs)]
    both = sorted(set(runs) & set(writer))
    row: dict[str, Any] = {
        "n_seeds": len(there),
        "accuracy": scores.estimate_record(scores.accuracy(there, "val", rule)),
        **{name: _mean(run["val"][rule][name] for run in there) for name in ("tokens", "passes")},
    }
    if both:
        ours = scores.correctness([runs[s] for s in both], "val", rule)
        row["over_mle"] = scores.paired_record(
            paired_difference(ours, scores.correctness([writer[s] for s in both], "val"))
        )
    if "recovery" in there[0]["val"][rule]:
        depths = there[0]["val"][rule]["recovery"]
        row["recovery"] = {
            depth: {
                name: _mean(_share(run["val"][rule]["recovery"][depth][name]) for run in there)
                for name in ("all_removed", "correct")
            }
            for depth in depths
        }
    return row


def _mean(values: Any) -> float:
    every = list(values)
    return round(sum(every) / len(every), 6)


def _share(flags: str) -> float:
    return flags.count("1") / len(flags)


def _costs(given: Answers) -> dict[str, float]:
    """Tokens written and tokens read by the model, an answer."""
    stats: SampleStats = given.stats
    n = len(given.correct)
    return {"tokens": round(stats.insertions / n, 6), "passes": round(stats.forward_tokens / n, 6)}


def identity(label: str, cell: Cell, preset: str) -> dict[str, Any]:
    """What makes a run this one and no other: what `run_cached` and `finished_run` are asked with."""
    own = OF_METHOD.get(cell.config.training.objective.method)
    operators = ["operators"] if set(cell.way.decodings) & set(OPERATORS) else []
    return {
        "item": ITEM,
        "name": label,
        "config": {"config": cell.config, "decodings": cell.way.decodings, "without": cell.way.without},
        "preset": preset,
        "seeds": [cell.config.training.seed],
        "version_key": (*VERSIONS, *([own] if own else []), *operators),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m smlib.paper.experiments.arithmetic.rivals_of_deletion`: trains what is missing, one after another."""
    parser = argparse.ArgumentParser(description="Rivals of deletion in the learning regime.")
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--weights-dir", default="models/learning", help="where policies are kept, and left")
    parser.add_argument("--way", choices=WAYS, action="append", help="all by default; may be repeated")
    parser.add_argument("--seed", type=int, action="append", help="0 by default; may be repeated")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = cells(given.preset, given.seed or (0,), given.way or tuple(WAYS))
    next(iter(wanted.values())).config.prepare(given.preset, given.results_dir)
    for label, cell in wanted.items():
        found = run(label, cell, given.preset, given.results_dir, given.weights_dir)
        print(f"{label} -> {found.path}", flush=True)


if __name__ == "__main__":
    main()

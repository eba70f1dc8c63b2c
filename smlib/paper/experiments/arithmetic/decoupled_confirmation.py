"""Decoupled deletion once more, on test questions and with seeds that chose nothing (beyond the paper).

`decoupled` found on validation questions and seeds 0 and 1 that BC's deletions on MLE's writing gain at temperature 1.
That is a hypothesis. What is here was fixed, and committed, before any of these answers was drawn:

- the 1,000 test questions of the learning regime, and the seeds 2, 3 and 4 of its plan, whose policies were never
  joined;
- the deletion rule is the plain one: `<bkspc>` with the deleter's own probability;
- seven claims, at temperature 1: BC's deletions on MLE's writing are ahead of MLE alone; of MLE under top-p, min-p and
  the truncation law; of MLE at the temperature that is best on the seed's validation questions; of the likelier one of
  two answers of MLE, which costs as many forward passes; and of BC itself, whose one network writes and deletes.
  Two-sided paired tests over seeds and questions, Holm's correction over the seven, 5 %.

SequenceMatch's deletions, and greedy answers, are shown beside them and not tested.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from smlib.data.mathematics import Example
from smlib.data.tasks import Task
from smlib.edits.actions import Trajectory, final_state
from smlib.edits.packing import pack
from smlib.evaluation import PairedTest, paired_difference
from smlib.generation.sampling import SamplingConfig, sample
from smlib.paper.experiments.arithmetic import decoupled, learning
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.verdicts import MIN_SEEDS, holm, outcome
from smlib.paper.experiments.runs.answers import answer
from smlib.paper.experiments.runs.finetuning import VERSIONS, FineTuneConfig, bits, fine_tuned, kept_or_trained
from smlib.paper.experiments.runs.pretraining import BASE, checksum
from smlib.paper.items import PRESETS
from smlib.paper.results import Run, finished_run, run_cached
from smlib.policies.decoupled import DecoupledPolicy
from smlib.policies.policy import Policy

ITEM = "ablations"
CHOSE = (0, 1)
"""Seeds on which decoupled deletion was first seen; they confirm nothing."""

DELETERS = ("bc", "sm")
OURS = "mle writes, bc deletes"
TEMPERATURES = (0.1, 0.3, 0.5, 0.7, 0.85, 1.0)
"""Of which the validation questions of a seed choose."""

ANSWERS_EACH = 2
RIVALS: Mapping[str, str] = MappingProxyType(
    {
        "mle": "MLE alone",
        "mle top_p": "MLE, top-p 0.9",
        "mle min_p": "MLE, min-p 0.1",
        "mle truncation": "MLE, truncation law",
        "mle temperature": "MLE, best temperature on validation questions",
        "mle best of 2": "MLE, the likelier of two answers",
        "bc": "BC, one network",
    }
)
"""Of whom it has to be ahead: name in a run -> words."""


def seeds(preset: str) -> tuple[int, ...]:
    """The plan's seeds that chose nothing; all of a preset that has no others."""
    every = learning.preset(preset).seeds
    return tuple(seed for seed in every if seed not in CHOSE) or every


def parts(preset: str, seed: int) -> dict[str, tuple[str, FineTuneConfig]]:
    """`mle`, `bc`, `sm` -> name and configuration of the plan's run."""
    pairs = {deleter: decoupled.parts(preset, deleter, seed) for deleter in DELETERS}
    return {"mle": pairs["bc"]["writer"], **{deleter: pair["deleter"] for deleter, pair in pairs.items()}}


def run(
    preset: str, seed: int, results_dir: str | Path = "results", weights_dir: str | Path = "models/learning"
) -> Run:
    """The answers of one seed to the test questions by every way, computed or read."""
    wanted = parts(preset, seed)

    def compute(scratch: Path) -> Mapping[str, object]:
        found = {
            part: kept_or_trained(name, config, preset, results_dir, weights_dir, scratch / part)[0]
            for part, (name, config) in wanted.items()
        }
        config = wanted["mle"][1]
        return answered(found, config.task(), config) | {BASE: checksum(config.base, preset, results_dir)}

    return run_cached(compute=compute, results_dir=results_dir, **_identity(preset, seed))


def answered(policies: Mapping[str, Policy], task: Task, config: FineTuneConfig) -> dict[str, object]:
    """Every way's answers to the test questions, and the temperature that the validation questions chose.

    Args:
        policies: `mle` and each of `DELETERS`.
    """
    writer, limits = policies["mle"], config.limits()
    made: dict[str, object] = {}
    ways: list[tuple[str, Policy | DecoupledPolicy, str]] = [
        *(("mle" if rule == "t1" else f"mle {rule}", writer, rule) for rule in decoupled.RIVALS),
        *((deleter, policies[deleter], "t1") for deleter in DELETERS),
        *((f"mle writes, {d} deletes", DecoupledPolicy(writer, policies[d]), "t1") for d in DELETERS),
    ]
    for name, policy, rule in ways:
        given = answer(policy, task, task.test, decoding=rule, **limits)
        made[name] = _record(given.correct, given.stats.forward_tokens)
    best, by_temperature = best_temperature(writer, task, config)
    made["mle temperature"] = _record(*_drawn(writer, task, task.test, config, best)[1:])
    made["mle best of 2"] = _record(*likelier(writer, task, task.test, config))
    return {"test": made, "temperature": best, "val_by_temperature": by_temperature}


def best_temperature(policy: Policy, task: Task, config: FineTuneConfig) -> tuple[float, dict[str, float]]:
    """The temperature with most right answers to the validation questions, the highest of equals; and all of them."""
    found = {t: float(np.mean(_drawn(policy, task, task.val, config, t)[1])) for t in TEMPERATURES}
    best = max(found, key=lambda t: (found[t], t))
    return best, {str(t): scores.number(share) for t, share in found.items()}


def likelier(policy: Policy, task: Task, examples: Sequence[Example], config: FineTuneConfig) -> tuple[list[bool], int]:
    """Right or wrong: of two answers at temperature 1 the one that the policy gives more probability; tokens read."""
    drawn = [_drawn(policy, task, examples, config, 1.0, attempt) for attempt in range(ANSWERS_EACH)]
    logp = np.array([log_probabilities(policy, trajectories) for trajectories, _, _ in drawn])
    chosen = logp.argmax(0)
    correct = [drawn[attempt][1][i] for i, attempt in enumerate(chosen)]
    return correct, sum(read for _, _, read in drawn)


def log_probabilities(policy: Policy, trajectories: Sequence[Trajectory], at_a_time: int = 100) -> list[float]:
    """log p of all actions of each trajectory, as they were chosen, in nats."""
    found: list[float] = []
    policy.eval()
    for begin in range(0, len(trajectories), at_a_time):
        part = trajectories[begin : begin + at_a_time]
        batch = pack([[t] for t in part], policy.space).to(policy.device)
        with torch.inference_mode():
            logit, value = policy(batch)
            logp = (logit - value[batch.visit_state]).double()
        sums = torch.zeros(len(part), dtype=torch.float64, device=logp.device).index_add_(0, batch.trajectory, logp)
        found += sums.tolist()
    return found


def study(preset: str, results_dir: str | Path = "results") -> dict[str, Any]:
    """The seven comparisons over the seeds that are there; nothing is trained.

    Returns (JSON types): `seeds` and `planned`, how many; `accuracy`, an estimate of each way; `passes`, tokens read an
    answer; `claims`, a record each, with `outcome` once every planned seed is there; `sources`.
    """
    planned = seeds(preset)
    found = [finished_run(results_dir=results_dir, **_identity(preset, seed)) for seed in planned]
    there: list[Any] = [run for run in found if run is not None]
    if not there:
        return {"seeds": 0, "planned": len(planned), "accuracy": {}, "passes": {}, "claims": [], "sources": []}
    names = list(there[0]["test"])
    claims: list[dict[str, Any]] = [
        {"over": title, **scores.paired_record(_ahead(there, rival))} for rival, title in RIVALS.items()
    ]
    for record, adjusted in zip(claims, holm([record["p_value"] for record in claims]), strict=True):
        record["p_holm"] = scores.number(adjusted, 6)
        if len(there) == len(planned) >= MIN_SEEDS:
            record["outcome"] = outcome(record["difference"], adjusted)
    return {
        "seeds": len(there),
        "planned": len(planned),
        "accuracy": {name: scores.estimate_record(scores.accuracy(there, "test", name)) for name in names},
        "passes": {name: scores.number(scores.mean(run["test"][name]["passes"] for run in there)) for name in names},
        "claims": claims,
        "sources": there,
    }


def _ahead(runs: Sequence[Any], rival: str) -> PairedTest:
    return paired_difference(scores.correctness(runs, "test", OURS), scores.correctness(runs, "test", rival))


def _drawn(
    policy: Policy,
    task: Task,
    examples: Sequence[Example],
    config: FineTuneConfig,
    temperature: float,
    attempt: int = 0,
) -> tuple[list[Trajectory], list[bool], int]:
    """One answer each at a temperature: trajectories, right or wrong, tokens read. `attempt` draws others."""
    rng = np.random.default_rng([config.training.seed, 29, attempt])
    numbers = rng.integers(0, 2**63, size=len(examples)).tolist()
    how = SamplingConfig(max_new_tokens=config.max_new_tokens, temperature=temperature, allow_backspace=False)
    result = sample(policy, [task.prompt_ids(e) for e in examples], how, numbers)
    texts = [task.tokenizer.decode(final_state(t, task.space).tolist()) for t in result.trajectories]
    correct = [task.is_correct(text, example) for text, example in zip(texts, examples, strict=True)]
    return result.trajectories, correct, result.stats.forward_tokens


def _record(correct: Sequence[bool], read: int) -> dict[str, object]:
    share = scores.number(float(np.mean(correct)))
    return {"correct": bits(correct), "accuracy": share, "passes": scores.number(read / len(correct))}


def _identity(preset: str, seed: int) -> dict[str, Any]:
    configs = {part: config for part, (_, config) in parts(preset, seed).items()}
    return {
        "item": ITEM,
        "name": f"confirm-decoupled-s{seed}",
        "config": {**configs, "temperatures": TEMPERATURES, "answers_each": ANSWERS_EACH},
        "preset": preset,
        "seeds": [seed],
        "version_key": VERSIONS,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m smlib.paper.experiments.arithmetic.decoupled_confirmation`: every seed whose three runs are there."""
    parser = argparse.ArgumentParser(description="Decoupled deletion on the test questions, with new seeds.")
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--weights-dir", default="models/learning")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for seed in seeds(given.preset):
        where = {"item": learning.ITEM, "preset": given.preset, "results_dir": given.results_dir}
        missing = [n for n, c in parts(given.preset, seed).values() if fine_tuned(c, n, **where) is None]
        if missing:
            print(f"seed {seed}: not finished: {', '.join(missing)}", flush=True)
            continue
        found = run(given.preset, seed, given.results_dir, given.weights_dir)
        print(f"seed {seed} -> {found.path}", flush=True)


if __name__ == "__main__":
    main()

"""Deletions that are learned after writing, with the trunk held: maximum likelihood first, `<bkspc>` then.

The finished MLE run of the learning regime writes, and not one of its weights is trained again, so with `<bkspc>`
forbidden it answers what it answered: the cost of deletion is 0 by construction, and what the edits win is measured.
What is trained on the demonstrations with mistakes, by behavioural cloning with the plan's steps and rate:

    held row        the row of `<bkspc>` in the unembedding alone, a linear look at the last hidden vector
    held head       a head of its own on the hidden vectors of the state and of the state before it
                    (`smlib.policies.deletion_head`)
    held adapters   adapters of their own on every matrix of the trunk; the trunk without them writes, with them deletes

The first two cost one network, the last two forward passes a token.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from smlib.data.demonstrations import TaskDemonstrations
from smlib.data.tasks import Task
from smlib.evaluation import paired_difference
from smlib.paper.experiments.arithmetic import deletion_ways, learning
from smlib.paper.experiments.arithmetic.deletion_ways import DECODINGS, ITEM, Cell, check_known, label_of
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.runs.finetuning import VERSIONS, FineTuneConfig, fine_tuned, kept_or_trained, measured
from smlib.paper.experiments.runs.pretraining import BASE, checksum
from smlib.paper.results import Run, finished_run, run_cached
from smlib.policies.adapters import with_adapters
from smlib.policies.decoupled import DecoupledPolicy
from smlib.policies.deletion_head import DeletionHeadPolicy
from smlib.policies.policy import Policy
from smlib.policies.sources import Lora
from smlib.training.algorithm_1 import train

ADAPTERS = Lora(r=8, alpha=16)
WAYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"held row": (), "held head": ("deletion_head",), "held adapters": ()}
)
"""Way -> the versions that its numbers rest on beside those of every run."""


def writer(preset: str, shape: str, seed: int) -> Cell:
    """The MLE run that writes: the plan's, or that of a base of another shape."""
    return next(iter(deletion_ways.cells(preset, (shape,), (seed,), ("mle",)).values()))


def deletions(preset: str, shape: str, seed: int) -> FineTuneConfig:
    """How the deletions are learned: the plan's BC run, without looks at the validation questions on the way."""
    chosen = dataclasses.replace(deletion_ways.with_shape(preset, shape), eval_every=0)
    config = chosen.run("bc", learning.KIND, learning.headline_level(chosen), seed)
    return dataclasses.replace(config, decodings=DECODINGS, recovery_prompts=0, examples=0)


def learned(
    way: str, writes: Policy, config: FineTuneConfig, task: Task, scratch: Path
) -> tuple[Policy | DecoupledPolicy, dict[str, int]]:
    """The policy after it has learned to delete, and how many parameters that took; `writes` is used up.

    Raises:
        ValueError: an unknown way.
    """
    check_known((way,), tuple(WAYS), "way")
    if way == "held adapters":
        with torch.random.fork_rng(devices=[]):  # adapters start at random
            torch.manual_seed(config.training.seed)
            deleter = Policy(with_adapters(copy.deepcopy(writes.lm), ADAPTERS), writes.config)
        with torch.no_grad():
            deleter.w_bkspc.copy_(writes.w_bkspc)
        deleter.remove_offset_head()  # no likelihood depends on it
    elif way == "held head":
        deleter = DeletionHeadPolicy.of(writes).hold_writing()
    else:
        deleter = writes.requires_grad_(False)
        deleter.w_bkspc.requires_grad_(True)
    trained = sum(p.numel() for p in deleter.parameters() if p.requires_grad)
    data = TaskDemonstrations(task, task.train, config.noise)
    train(deleter.allow_backspace(), data, config.training, scratch)
    counts = {"written": sum(p.numel() for p in writes.lm.parameters()), "trained": trained}
    return (DecoupledPolicy(writes, deleter) if way == "held adapters" else deleter), counts


def run(
    preset: str,
    way: str,
    shape: str = "8x96",
    seed: int = 0,
    results_dir: str | Path = "results",
    weights_dir: str | Path = "models/learning",
) -> Run:
    """The answers of one way, computed or read; the writer from `weights_dir`, or trained and left there."""
    check_known((way,), tuple(WAYS), "way")
    _, name, _, writing = writer(preset, shape, seed)
    config = deletions(preset, shape, seed)

    def compute(scratch: Path) -> Mapping[str, object]:
        torch.set_num_threads(1)  # as everywhere: the result is then the same bytes however the run was started
        writes, _ = kept_or_trained(name, writing, preset, results_dir, weights_dir, scratch / "writer")
        task = config.task()
        policy, counts = learned(way, writes, config, task, scratch / "deletions")
        return {
            **measured(policy, task, config, test=False),
            "parameters": counts,
            BASE: checksum(config.base, preset, results_dir),
        }

    return run_cached(compute=compute, results_dir=results_dir, **identity(preset, way, shape, seed))


def study(preset: str, seeds: Sequence[int] = (0,), results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """Cost and gain of every way whose runs are there, as `deletion_cost.study` has them; nothing is trained."""
    rows: list[dict[str, Any]] = []
    for shape in deletion_ways.SHAPES:
        for way in WAYS:
            ours, alone = [], []
            for seed in seeds:
                own = finished_run(results_dir=results_dir, **identity(preset, way, shape, seed))
                item, name, test, config = writer(preset, shape, seed)
                mle = fine_tuned(config, name, item=item, preset=preset, results_dir=results_dir, test=test)
                if own is not None and mle is not None:
                    ours.append(own)
                    alone.append(mle)
            if ours:
                bare = scores.correctness(ours, "val", "no_backspace")
                cost = paired_difference(scores.correctness(alone, "val"), bare)
                gain = paired_difference(scores.correctness(ours, "val"), bare)
                differences = {"cost": scores.paired_record(cost), "gain": scores.paired_record(gain)}
                rows.append({"shape": shape, "way": way, "n_seeds": len(ours), **differences})
    return rows


def identity(preset: str, way: str, shape: str, seed: int) -> dict[str, Any]:
    """What makes a run this one and no other: what `run_cached` and `finished_run` are asked with."""
    adapters = {"adapters": ADAPTERS} if way == "held adapters" else {}
    return {
        "item": ITEM,
        "name": label_of(shape, way, seed),
        "config": {
            "writer": writer(preset, shape, seed)[3],
            "deletions": deletions(preset, shape, seed),
            "way": way,
            **adapters,
        },
        "preset": preset,
        "seeds": [seed],
        "version_key": (*VERSIONS, *WAYS[way]),
    }

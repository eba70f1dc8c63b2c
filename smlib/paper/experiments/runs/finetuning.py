"""One fine-tuning run on a question-answer task, from the base model to the numbers that figures and tables read.

Every method gets the same base, the same questions in the same order and the same number of gradient steps. Numbers on
the test split are computed once, at the end; only the validation split is looked at while choosing anything.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from smlib.data.demonstrations import TaskDemonstrations
from smlib.data.mathematics import Example
from smlib.data.tasks import Task, load_task
from smlib.edits.actions import Trajectory
from smlib.paper.experiments.runs.answers import answer, recovery
from smlib.paper.experiments.runs.kept import kept_policy, weights_of
from smlib.paper.experiments.runs.pretraining import (
    BASE,
    Base,
    PretrainConfig,
    checksum,
    of_present_base,
    pretrained,
    weights_file,
)
from smlib.files import ADDED_LATER
from smlib.objectives.methods import ObjectiveConfig, get_method
from smlib.policies.decoupled import DecoupledPolicy
from smlib.policies.deletion_head import DeletionHeadPolicy
from smlib.policies.policy import Policy
from smlib.paper.results import Run, finished_run, run_cached
from smlib.training.algorithm_1 import TrainConfig, train

VERSIONS = ("data", "sampling", "training")
OF_METHOD: Mapping[str, str] = MappingProxyType(
    {"direct": "direct", "gail": "critic", "exact": "exact", "soft": "soft", "masked": "masked"}
)
"""What else a method's numbers rest on."""
REMOVALS: Mapping[str, Callable[[Policy], Policy]] = MappingProxyType(
    {"offset_head": Policy.remove_offset_head, "backspace": Policy.forbid_backspace}
)


@dataclass(frozen=True)
class FineTuneConfig:
    """What distinguishes one run from another; together with the code's versions it is the run's identity.

    Attributes:
        base: the model that is fine-tuned, tiny or pretrained, and with it the task and the difficulty.
        training: Algorithm 1's parameters; its seed is the run's.
        noise: kind of injected noise (`Task.noise`).
        n_train, n_val, n_test: sizes of the splits.
        decodings: rules under which test and validation accuracy are measured.
        recovery_prompts, recovery_depths: how many prompts with how many wrong tokens (Table 1); 0 for none.
        examples: number of mistake-conditioned completions that are kept in full.
        max_new_tokens: length limit of an answer.
        answers_at_a_time: questions that are answered side by side; None for all.
        curve: rules under which the validation questions are answered every `training.eval_every` steps.
        answer_order: of the digits of an answer, see `load_task`.
        initial_value: added to every V(s) before training; 0 leaves V as the base model's logits have it.
        deletion_head: whether `<bkspc>` has a head of its own (`smlib.policies.deletion_head`) in place of a row.
    """

    base: Base = field(default_factory=PretrainConfig)
    training: TrainConfig = field(default_factory=TrainConfig)
    noise: str = "ground_truth"
    n_train: int = 5_000
    n_val: int = 500
    n_test: int = 1_000
    decodings: tuple[str, ...] = ("t1", "greedy", "greedy_exclude")
    recovery_prompts: int = 500
    recovery_depths: tuple[int, ...] = (1, 2, 3, 4)
    examples: int = 4
    max_new_tokens: int = 24
    answers_at_a_time: int | None = field(default=None, metadata=ADDED_LATER)
    initial_value: float = field(default=0.0, metadata=ADDED_LATER)
    answer_order: str = field(default="most_first", metadata=ADDED_LATER)
    curve: tuple[str, ...] = field(default=(), metadata=ADDED_LATER)
    deletion_head: bool = field(default=False, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        method = get_method(self.training.objective.method)
        if self.deletion_head and (not method.backspace or method.soft or method.critic):
            raise ValueError(
                f"deletion_head=True asks for a head of its own for <bkspc>, and {method.title} has "
                f"{'no <bkspc>' if not method.backspace else 'another use for what such a head reads'}: leave it out, "
                "or train by bc, sm or dagger"
            )
        if bool(self.curve) != bool(self.training.eval_every):
            raise ValueError(
                f"curve={self.curve} and eval_every={self.training.eval_every}: give both, or neither, to see "
                "accuracy while training"
            )

    def task(self) -> Task:
        """The task with its splits."""
        return load_task(
            self.base.task,
            difficulty=self.base.difficulty,
            n_train=self.n_train,
            n_val=self.n_val,
            n_test=self.n_test,
            seed=0,
            tokenizer=self.base.tokenizer(),
            answer_order=self.answer_order,
        )

    def limits(self) -> dict[str, Any]:
        """What every answer of the run is sampled with."""
        seed = self.training.seed
        return {"seed": seed, "max_new_tokens": self.max_new_tokens, "batch": self.answers_at_a_time}

    def prepare(self, preset: str, results_dir: str | Path = "results") -> None:
        """Trains a tiny base model that is not there yet, before runs that need it start side by side.

        Where it is there, nothing is made of the task: its questions take seconds to generate, which whoever reads
        finished runs would wait for.
        """
        if isinstance(self.base, PretrainConfig) and not weights_file(self.base, preset, results_dir).exists():
            pretrained(self.base, self.task(), preset=preset, results_dir=results_dir)


def fine_tune(
    config: FineTuneConfig,
    name: str,
    *,
    item: str,
    preset: str,
    results_dir: str | Path = "results",
    test: bool = True,
    without: tuple[str, ...] = (),
    weights_dir: str | Path | None = None,
) -> Run:
    """The result of one run, computed or read.

    Args:
        test: whether the test split is looked at; False for anything that chooses a setting.
        without: parts of the policy to leave out, keys of `REMOVALS`; for ablations.
        weights_dir: where a run that is computed leaves its policy, for whatever goes on from it (`kept_policy`).

    Raises:
        ResultError: what `run_cached` does; a run that was fine-tuned from other weights of the base model.
    """
    unknown = set(without) - set(REMOVALS)
    if unknown:
        raise ValueError(f"cannot leave out {', '.join(sorted(unknown))}; known: {', '.join(REMOVALS)}")

    def compute(scratch: Path) -> Mapping[str, object]:
        task = config.task()
        policy, history = trained(config, task, preset, results_dir, scratch, without)
        if weights_dir is not None:
            policy.save(weights_of(config, name, weights_dir))
        return {
            "history": _curves(history),
            "grad_norms": [round(norm, 4) for row in history for norm in row.get("grad_norms", [])],
            BASE: checksum(config.base, preset, results_dir),
            **measured(policy, task, config, test),
        }

    run = run_cached(item, name, compute=compute, results_dir=results_dir, **_identity(config, preset, test, without))
    return of_present_base(run, config.base, preset, results_dir)


def fine_tuned(
    config: FineTuneConfig,
    name: str,
    *,
    item: str,
    preset: str,
    results_dir: str | Path = "results",
    test: bool = True,
    without: tuple[str, ...] = (),
) -> Run | None:
    """What `fine_tune` would read, and None where it would have to train; the same arguments."""
    run = finished_run(item, name, results_dir=results_dir, **_identity(config, preset, test, without))
    return None if run is None else of_present_base(run, config.base, preset, results_dir)


def _identity(config: FineTuneConfig, preset: str, test: bool, without: tuple[str, ...]) -> dict[str, Any]:
    """What makes a run this one and no other, beside its item and name."""
    own = OF_METHOD.get(config.training.objective.method)
    head = ["deletion_head"] if config.deletion_head else []
    return {
        "config": {"config": config, "test": test} | ({"without": without} if without else {}),
        "preset": preset,
        "seeds": [config.training.seed],
        "version_key": (*VERSIONS, *([own] if own else []), *head),
    }


def trained(
    config: FineTuneConfig, task: Task, preset: str, results_dir: str | Path, scratch: Path, without: tuple[str, ...] = ()
) -> tuple[Policy, list[dict[str, Any]]]:
    """The trained policy, and what was logged on the way."""
    torch.set_num_threads(1)  # as everywhere: the result is then the same bytes however the run was started
    policy = pretrained(config.base, task, preset=preset, results_dir=results_dir)
    if config.deletion_head:
        policy = DeletionHeadPolicy.of(policy)
    for part in without:
        REMOVALS[part](policy)
    if config.initial_value:
        policy.shift_value(config.initial_value)
    data = TaskDemonstrations(task, task.train, config.noise)
    limits = config.limits()

    def evaluate(policy: Policy) -> dict[str, float]:
        return {d: answer(policy, task, task.val, decoding=d, **limits).accuracy for d in config.curve}

    result = train(
        policy,
        data,
        config.training,
        scratch,
        evaluate=evaluate if config.curve else None,
        without_backspace="backspace" in without,
    )
    return policy, result.history


def kept_or_trained(
    name: str,
    config: FineTuneConfig,
    preset: str,
    results_dir: str | Path,
    weights_dir: str | Path,
    scratch: Path,
    without: tuple[str, ...] = (),
) -> tuple[Policy, dict[str, list[float]]]:
    """The policy that the run left in `weights_dir`, or trained now and left there; and its curves, empty if it was
    there."""
    kept = kept_policy(config, name, weights_dir)
    if kept is not None:
        return kept, {}
    policy, history = trained(config, config.task(), preset, results_dir, scratch, without)
    policy.save(weights_of(config, name, weights_dir))
    return policy, _curves(history)


def measured(policy: Policy | DecoupledPolicy, task: Task, config: FineTuneConfig, test: bool) -> dict[str, object]:
    """What a policy answers: accuracy under each decoding rule, recovery from wrong tokens, some completions."""
    splits = {"val": task.val, "test": task.test} if test else {"val": task.val}
    limits, result = config.limits(), dict[str, object]()
    for split, examples in splits.items():
        answers = {d: answer(policy, task, examples, decoding=d, **limits) for d in config.decodings}
        result[split] = {
            d: {"correct": bits(a.correct), "accuracy": a.accuracy, "backspace_rate": a.backspace_rate}
            for d, a in answers.items()
        }
    if config.recovery_prompts and policy.config.backspace:
        examples = (task.test if test else task.val)[: config.recovery_prompts]
        found = {depth: recovery(policy, task, examples, depth, **limits) for depth in config.recovery_depths}
        result["recovery"] = {
            str(depth): {
                "first_backspace": bits(r.first_backspace),
                "all_removed": bits(r.all_removed),
                "correct": bits(r.correct),
            }
            for depth, (r, _) in found.items()
        }
        result["completions"] = [
            _completion(task, examples, found, config.recovery_depths, i)
            for i in range(min(config.examples, len(examples)))
        ]
    return result


def _completion(
    task: Task, examples: Sequence[Example], found: Mapping[int, Any], depths: Sequence[int], index: int
) -> dict[str, object]:
    """Example `index` with as many wrong tokens as its place says (1, 2, 3, 4, 1, ...), edits visible."""
    depth = depths[index % len(depths)]
    trajectory: Trajectory = found[depth][1].trajectories[index]
    example = examples[index]
    tokens = [task.tokenizer.token(int(a)) for a in trajectory.realised]
    return {
        "question": example.prompt,
        "answer": example.answer,
        "mistake": tokens[:depth],
        "actions": tokens[depth:],
        "correct": bool(found[depth][0].correct[index]),
    }


def _curves(history: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Columns instead of rows, gradient norms apart; accuracy on the validation questions with steps of its own."""
    logged = [row for row in history if "loss" in row]
    answered = [{"val_step": row["step"], **row} for row in history if "loss" not in row]
    for row in answered:
        del row["step"]
    rows = [*logged, *answered]
    names = sorted({name for row in rows for name in row} - {"grad_norms"})
    return {n: [round(float(row[n]), 6) for row in rows if n in row] for n in names}


def bits(flags: Sequence[bool]) -> str:
    """A string of 0 and 1, one per question: compact, and paired tests can read it."""
    return "".join("1" if flag else "0" for flag in flags)


def objective(method: str, *, steps: int, alpha: float, gamma: float, **options: Any) -> ObjectiveConfig:
    """The beta schedule in proportion to a run's length: a third on BC alone, a fifth to anneal (the paper: 10,000
    steps of BC, 2,000 to anneal, at least 8,000 more)."""
    return ObjectiveConfig(
        method=method, alpha=alpha, gamma=gamma, bc_steps=steps // 3, anneal_steps=steps // 5, **options
    )

"""The base models: a tiny Llama trained on the generator's unlimited stream, in place of Llama-2's pretraining.

There are two kinds. One reads the task's own module and knows the task before it is fine-tuned. The other reads a
mixture of other modules (`smlib.data.mixture`) and has to learn the task, as the paper's Llama has. Neither reads a
question of the task's splits. The weights, in bfloat16, are committed beside the result file of their run where they are
under 2 MB, so that fine-tuning starts from the same model everywhere; `pretrained(...)` trains them again where the file
is missing. That is so for the bases of 2 x 192 and 3 x 160 in the study of what deletion costs.
"""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from smlib.data import mixture as mixtures
from smlib.data.demonstrations import TaskDemonstrations
from smlib.data.mathematics import Example, stream
from smlib.data.mixture import Mixture
from smlib.data.tasks import Task, load_task
from smlib.files import ADDED_LATER, ResultError, config_hash, write_atomically
from smlib.objectives.methods import ObjectiveConfig
from smlib.paper.experiments.runs.answers import answer
from smlib.paper.experiments.runs.language_models import LanguageModel
from smlib.paper.results import Run, finished_run, resolve, run_cached
from smlib.policies.policy import Policy, tiny_policy
from smlib.training.algorithm_1 import TrainConfig, train

FOLDER = "pretrained"
BASE = "base_sha256"  # of the result of a run that starts from such weights
UNCOMMITTED = ("smoke", "quick")  # what these train stays with their results, which git ignores


@dataclass(frozen=True)
class TinyModel:
    """Shape of the tiny Llama."""

    dim: int = 128
    layers: int = 3
    heads: int = 4
    positions: int = 128
    seed: int = 0

    def build(self, task: Task) -> Policy:
        """With random weights, over the vocabulary of a task."""
        return tiny_policy(
            task.space,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            positions=self.positions,
            seed=self.seed,
        )


@dataclass(frozen=True)
class PretrainConfig:
    """One base model: the stream it reads and how.

    Attributes:
        task, difficulty: which questions.
        mixture: read other modules of the generator instead of the task's own.
        other_kinds: for translation, read names in two languages instead of the task's own pairs
            (`smlib.data.translation_names`).
        questions: the stream's first so many, of which steps for `epochs` passes are drawn through a moving window:
            about two thirds of them, some several times.
    """

    task: str = "add_or_sub_in_base"
    difficulty: str = "easy"
    questions: int = 400_000
    epochs: int = 1
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    model: TinyModel = field(default_factory=TinyModel)
    seed: int = 1
    mixture: Mixture | None = field(default=None, metadata=ADDED_LATER)
    other_kinds: bool = field(default=False, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        if self.other_kinds and self.task != "translation":
            raise ValueError(f"other_kinds=True is of translation; a base model for {self.task} reads a mixture")
        if self.mixture is not None:
            self.mixture.check(self.task)

    def tokenizer(self) -> None:
        """None: the task's own."""

    def training(self) -> TrainConfig:
        """Maximum likelihood, as long as `epochs` passes over the questions take."""
        steps = self.questions * self.epochs // self.batch_size
        return TrainConfig(
            objective=ObjectiveConfig(method="mle"),
            steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=min(self.warmup_steps, steps // 2),
            eta=0.0,
            buffer_size=8 * self.batch_size,
            times_seen=1.0,
            refill=self.batch_size,
            row_len=128,
            paired=True,
            log_every=50,
            checkpoint_every=500,
            seed=self.seed,
        )


Base = PretrainConfig | LanguageModel
"""What fine-tuning starts from."""


def pretrained(config: Base, task: Task, *, preset: str, results_dir: str | Path = "results") -> Policy:
    """The base model of a task: read from its committed weights, trained now, or a pretrained language model.

    Committed weights are an input like a data set: neither `--fresh` nor a new version of the code replaces them.

    Args:
        task: its validation questions measure the base; none of its questions is in the stream.

    Raises:
        ValueError: a base that reads a mixture, and a task with more training questions than it is apart from.
    """
    if isinstance(config, LanguageModel):
        return config.policy(task)
    if config.mixture is not None and len(task.train) > config.mixture.apart:
        raise ValueError(
            f"this base model stays apart from the first {config.mixture.apart:,} training questions of {task.name}, "
            f"and there are {len(task.train):,}: raise Mixture.apart, which makes another base model"
        )
    weights = weights_file(config, preset, results_dir)
    if not weights.exists():
        # A policy of its own: maximum likelihood switches <bkspc> off in the one it trains.
        _pretrain(config, task, config.model.build(task), weights, preset, results_dir)
    policy = config.model.build(task)
    tensors = load_file(weights)
    policy.lm.load_state_dict({name: value.float() for name, value in tensors.items()})
    with torch.no_grad():
        policy.w_bkspc.copy_(policy.lm.get_output_embeddings().weight.mean(0))
    return policy


def weights_file(config: PretrainConfig, preset: str, results_dir: str | Path = "results") -> Path:
    """Where the weights of a base model are, or will be when it is trained."""
    name = f"{config.task}-{config_hash(config)}.safetensors"
    committed, own = (folder / FOLDER / name for folder in (resolve(results_dir), resolve(results_dir) / preset))
    return own if preset in UNCOMMITTED and not committed.exists() else committed


def checksum(config: Base, preset: str, results_dir: str | Path = "results") -> str | None:
    """SHA-256 of a base model's weights; None where they are not there, and for a pretrained language model."""
    if isinstance(config, LanguageModel):
        return None
    weights = weights_file(config, preset, results_dir)
    return hashlib.sha256(weights.read_bytes()).hexdigest() if weights.exists() else None


def of_present_base(run: Run, config: Base, preset: str, results_dir: str | Path = "results") -> Run:
    """`run` itself, if its `BASE` is the checksum of the weights as they are; earlier runs have none.

    A run's identity has how its base model was trained, and not what came out.

    Raises:
        ResultError: it was fine-tuned from other weights.
    """
    then, now = run.get(BASE), checksum(config, preset, results_dir)
    if then and now and then != now:
        assert isinstance(config, PretrainConfig)
        raise ResultError(
            f"{run.path} was fine-tuned from other weights than {weights_file(config, preset, results_dir)} holds now "
            f"(SHA-256 {str(then)[:12]}…, not {now[:12]}…): put those back, or repeat the run with "
            "`smlib reproduce --fresh`"
        )
    return run


def _questions(config: PretrainConfig, task: Task) -> list[Example]:
    """What a base model reads, without a question of the task's."""
    if config.mixture is None:
        questions = stream(config.task, config.difficulty, config.seed, task.keys())
        return list(itertools.islice(questions, config.questions))
    # Every training set of at most this size is a part of this one, so the base serves them all.
    keys = load_task(config.task, difficulty=config.difficulty, n_train=config.mixture.apart).keys() | task.keys()
    mixed = mixtures.stream(config.task, config.mixture, config.difficulty, config.seed, keys)
    examples = list(itertools.islice(mixed, config.questions))
    mixtures.check_apart(config.task, examples, keys)
    return examples


def _pretrain(
    config: PretrainConfig, task: Task, policy: Policy, weights: Path, preset: str, results_dir: str | Path
) -> None:
    def compute(scratch: Path) -> Mapping[str, object]:
        data = TaskDemonstrations(task, _questions(config, task))
        history = train(policy, data, config.training(), scratch).history
        rounded = {k: v.to(torch.bfloat16).contiguous() for k, v in policy.lm.state_dict().items()}
        policy.lm.load_state_dict({k: v.float() for k, v in rounded.items()})
        write_atomically(weights, save(rounded))
        return {
            "loss": [[row["step"], row["loss"]] for row in history],
            "parameters": sum(p.numel() for p in policy.lm.parameters()),
            "val_accuracy": {
                d: answer(policy, task, task.val, decoding=d, seed=config.seed).accuracy for d in ("t1", "greedy")
            },
        }

    run_cached(**_identity(config, preset), compute=compute, results_dir=results_dir, beside=weights)


def pretraining_run(config: PretrainConfig, preset: str, results_dir: str | Path = "results") -> Run | None:
    """How a base model was trained, and what it answered before any fine-tuning; None where nobody has trained it."""
    return finished_run(**_identity(config, preset), results_dir=results_dir)


def _identity(config: PretrainConfig, preset: str) -> dict[str, Any]:
    return {
        "item": "shared",
        "name": f"pretrain-{config.task}",
        "config": config,
        "preset": preset,
        "seeds": [config.seed],
        "version_key": ["training", "data", "sampling"],
    }

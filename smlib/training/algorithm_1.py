"""Algorithm 1: training an autoregressive model against a SequenceMatch objective.

The loop of `train` is the paper's, line by line; the comments in quotation marks are its text. It runs in one process
on one device, which Accelerate finds; on CPUs alone so far. No generator carries state from step to step: noise, draws
from the buffer and rollouts follow from the seed and the step, and a run that was killed resumes to the same bytes.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import torch
from tqdm.auto import tqdm

from smlib.edits.actions import Trajectory
from smlib.edits.packing import PackedBatch, pack
from smlib.environment import check_environment
from smlib.files import ADDED_LATER, added_later
from smlib.generation.sampling import SamplingConfig
from smlib.kinds import check_kinds
from smlib.objectives.adversarial import Critic
from smlib.objectives.losses import Loss, sizes
from smlib.objectives.methods import ObjectiveConfig, get_method, is_finite, objective
from smlib.policies.policy import Policy
from smlib.training.checkpoints import TrainingState, load_checkpoint, run_identity, save_checkpoint
from smlib.training.dataset import Dataset
from smlib.training.folder import hold, release, usable_folder
from smlib.training.metrics import METRICS, MetricsLog, show_bar
from smlib.training.parameters import critic_apart, decayed_apart
from smlib.training.preflight import (
    check_fits,
    check_on_policy,
    check_rollouts_fit,
    check_run,
    say_coverage,
    settle_backspace,
)
from smlib.training.rollouts import Entry, EpochOrder, ReplayBuffer, RolloutSource, refill_interval

__all__ = ["Dataset", "NonFiniteLossError", "TrainConfig", "TrainResult", "train"]


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite; the message names the step, the parts and the file with the batch."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Appendix E's values are the defaults where it gives them.

    Attributes:
        objective: method, divergence, alpha, gamma, beta schedule.
        steps: gradient steps. batch_size: data trajectories a step, and as many rollouts.
        learning_rate, warmup_steps, weight_decay: AdamW; linear warm-up, then cosine decay to 0 at `steps`.
        bkspc_rate: learning rate of the `<bkspc>` row as a multiple of `learning_rate`. The row starts as an average
            token's, with a probability near 1e-8 in a pretrained model; few steps at an adapter's rate leave it there.
        clip_norm: largest gradient norm; a large number does not clip.
        eta, burst: noise level of the demonstrations, and tokens per mistake.
        buffer_size, times_seen, refill: replay buffer; `refill` rollouts are sampled at a time.
        paired: take the data from the examples whose rollouts are drawn, which then share the slots of their prompts,
            and not from all of D as Algorithm 1 does. A run then sees as many examples as enter the buffer:
            steps * batch_size / times_seen, and those that are in it from the start.
        rollout_tokens: length limit of a rollout, after its prompt. rollout_noise: execution noise in rollouts, tokens
            from the example's noise law (the paper does not say whether rollouts run under the noisy dynamics).
        rollout_batch: rollouts sampled side by side, see `sample`; a model of billions of parameters has a key/value
            cache of a gigabyte for a few thousand tokens. None: as many as 32,768 tokens make, 256 at most.
        row_len: slots of a packed row; None for the longest block. chunk: states whose logits are held at a time.
        accumulation: the batch is processed in this many parts.
        log_every, eval_every, checkpoint_every: steps; `eval_every` is 0 without `evaluate`, and only then.
        seed: of everything.
    """

    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    steps: int = 20_000
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup_steps: int = 2_000
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    eta: float = 0.1
    burst: int = 1
    buffer_size: int = 1_000
    times_seen: float = 8.0
    refill: int = 128
    rollout_tokens: int = 512
    rollout_noise: float = 0.0
    rollout_burst: int = 1
    row_len: int | None = None
    chunk: int | None = None
    accumulation: int = 1
    log_every: int = 50
    eval_every: int = 0
    checkpoint_every: int = 500
    seed: int = 0
    bkspc_rate: float = field(default=1.0, metadata=ADDED_LATER)
    paired: bool = field(default=False, metadata=added_later(before=True))
    rollout_batch: int | None = field(default=None, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        check_kinds(self)
        for name in ("steps", "batch_size", "refill", "buffer_size", "accumulation", "rollout_tokens", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_steps", "eval_every", "checkpoint_every", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("eta", "rollout_noise"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")
        for name in ("rollout_batch", "chunk"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, or None, got {getattr(self, name)}")
        for name in ("learning_rate", "burst", "rollout_burst", "bkspc_rate", "times_seen", "clip_norm"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}")
        if self.checkpoint_every % self.log_every:
            raise ValueError(f"checkpoint_every {self.checkpoint_every} is no multiple of log_every {self.log_every}")
        refill_interval(self.batch_size, self.refill, self.times_seen)

    def on_policy(self) -> "TrainConfig":
        """The same run with new rollouts every step, under the demonstrations' noise: what a method with a critic needs
        (`smlib.objectives.adversarial`)."""
        return replace(
            self,
            refill=self.batch_size,
            buffer_size=self.batch_size,
            times_seen=1.0,
            rollout_noise=self.eta,
            rollout_burst=self.burst,
        )


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the policy, and the logged metrics (one dictionary per logged or evaluated step)."""

    policy: Policy
    history: list[dict[str, Any]]


def train(
    policy: Policy,
    data: Dataset,
    config: TrainConfig,
    folder: Path | str,
    *,
    evaluate: Callable[[Policy], Mapping[str, SupportsFloat]] | None = None,
    progress: bool | None = None,
    without_backspace: bool = False,
) -> TrainResult:
    """Algorithm 1. "Input: Dataset D of data sequences, gradient-based optimizer step, number of train steps, ..."

    Args:
        policy: trained in place. Its `<bkspc>` is switched off for methods that have none, and stays so.
        data: the training set.
        config: all parameters.
        folder: for checkpoints and `metrics.jsonl`; a run that was killed goes on from here.
        evaluate: called every `eval_every` steps (on a validation split, never the test set); its numbers are logged.
        progress: show a bar; by default where there is a terminal or a live notebook to show it.
        without_backspace: train a method that has `<bkspc>` without it (an ablation). It takes clean demonstrations.

    Raises:
        NonFiniteLossError: with the step, the loss's parts and the batch's file. CheckpointError: a foreign checkpoint.
        ValueError, TypeError: what cannot be trained, see `check_run` and the other checks of
        `smlib.training.preflight`. OSError: a folder that cannot be written to. RuntimeError: several
        processes, in this run or in its folder; an environment variable that would change it (`smlib.environment`).
    """
    from accelerate import Accelerator
    from accelerate.utils import GradientAccumulationPlugin
    from transformers import get_cosine_schedule_with_warmup

    check_environment()
    # All that would else be taken from the environment; its number of accumulation steps overrides the plain argument.
    once = GradientAccumulationPlugin(num_steps=1)
    accelerator = Accelerator(mixed_precision="no", gradient_accumulation_plugin=once, dynamo_backend="no")
    if accelerator.num_processes > 1:
        raise RuntimeError(
            f"training runs in one process on one device, and {accelerator.num_processes} were started: start it "
            "without `accelerate launch` or `torchrun`"
        )
    check_run(policy, data, config, evaluate)
    method = get_method(config.objective.method)
    settle_backspace(policy, config.objective.method, config.eta, without_backspace)
    if method.rollouts:
        check_rollouts_fit(policy, data, config.rollout_tokens)
    if method.critic:
        check_on_policy(config.objective.method, config.refill, config.times_seen, min(config.buffer_size, len(data)))
    work = usable_folder(folder)
    if progress is not False:
        say_coverage(data)
    within = hold(work)
    policy.critic = Critic(policy) if method.critic else None
    parameters = decayed_apart(policy, config.learning_rate, config.weight_decay, config.bkspc_rate)
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.95))
    schedule = get_cosine_schedule_with_warmup(optimizer, config.warmup_steps, config.steps)
    buffer = ReplayBuffer(len(data), config.buffer_size, config.seed)
    model, optimizer = accelerator.prepare(policy, optimizer)
    state = TrainingState(policy, optimizer, schedule, buffer)
    identity = run_identity(config, policy, data)
    begin = load_checkpoint(work, identity, state, policy.space)
    log = MetricsLog(work / METRICS, before=begin)
    interval = refill_interval(config.batch_size, config.refill, config.times_seen)
    if begin == 0:
        buffer.enter(buffer.size, 0)
    rollouts, order = _source(policy, data, config), EpochOrder(len(data), config.seed, 5)

    model.train()
    bar = tqdm(
        total=config.steps, initial=begin, disable=not show_bar(progress), desc=config.objective.method, mininterval=1.0
    )
    for k in range(begin, config.steps):  # "for k in n_train do"
        sampling = method.rollouts and config.objective.beta(k) < 1.0
        if k and k % interval == 0:  # "if k mod k_sample = 0 then"
            buffer.enter(config.refill, k)  # "Remove oldest model sequences from B"
        if sampling:  # "Populate B with trajectories T ~ l_theta": the new ones, and all of them when rollouts start
            buffer.populate([e for e in buffer.entries if e.rollout is None], rollouts, k)
        entries = buffer.draw(config.batch_size, k)  # "Sample ... trajectories T_data ~ D and ... T_model ~ B"
        examples = [e.example if config.paired else order[k * len(entries) + i] for i, e in enumerate(entries)]
        rng = np.random.default_rng([config.seed, 3, k, 0])  # the 0 keeps the noise of earlier runs
        loss_parts: dict[str, float] = {}
        parts: list[list[list[Trajectory]]] = []
        batches: list[PackedBatch] = []
        for part in np.array_split(np.arange(len(entries)), config.accumulation):
            groups = [[_demonstration(examples[i], data, config, rng)] for i in part]
            flags = [[False] for _ in part]
            if sampling and config.paired:
                groups = [[*group, _rollout(entries[i])] for group, i in zip(groups, part, strict=True)]
                flags = [[False, True] for _ in part]
            elif sampling:
                groups += [[_rollout(entries[i])] for i in part]
                flags += [[True] for _ in part]
            parts.append(groups)
            packed = pack(groups, policy.space, model=flags, row_len=config.row_len)
            check_fits(policy, packed)
            batches.append(packed.to(accelerator.device))
        whole = sizes(batches) if config.accumulation > 1 else None
        with _dropout_of_step(config.seed, k, accelerator.device):
            for groups, batch in zip(parts, batches, strict=True):
                # "Compute g = grad J(...)"
                loss = objective(model, batch, config.objective, k, config.chunk, whole, data.branches)
                if not is_finite(loss):
                    _stop(loss, k, groups, work)
                accelerator.backward(loss.total)
                for name, value in {**loss.parts, "loss": loss.total.detach()}.items():
                    loss_parts[name] = loss_parts.get(name, 0.0) + value.item()
        if policy.offset is not None and (config.objective.beta(k) == 1.0 or method.critic or not method.backspace):
            # A likelihood does not depend on the offset; Adam would scale its gradient's rounding noise up to steps.
            policy.offset.zero_grad(set_to_none=True)
        critic, own = critic_apart(policy)
        norm = accelerator.clip_grad_norm_(own, config.clip_norm)
        if critic:
            accelerator.clip_grad_norm_(critic, config.clip_norm)
        optimizer.step()  # "update theta via step using gradient g"
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        bar.update()
        log.norm(float(norm))
        done = k + 1
        if done % config.log_every == 0 or done == config.steps:
            log.write(done, {"beta": config.objective.beta(k), "lr": schedule.get_last_lr()[0], **loss_parts})
            bar.set_postfix(loss=f"{loss_parts['loss']:.3f}", refresh=False)
        if evaluate is not None and config.eval_every and (done % config.eval_every == 0 or done == config.steps):
            log.write(done, {f"val_{name}": value for name, value in evaluate(policy).items()})
            model.train()
        if config.checkpoint_every and done % config.checkpoint_every == 0:
            log.flush()
            save_checkpoint(work, done, identity, state)
    bar.close()
    log.flush()
    policy.critic = None
    policy.eval()
    if not within:
        release(work)
    return TrainResult(policy, log.rows)


@contextlib.contextmanager
def _dropout_of_step(seed: int, step: int, device: torch.device) -> Iterator[None]:
    """Lets torch's generators follow from seed and step, for dropout; the caller's are left as they were."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.default_rng([seed, 6, step, 0]).integers(2**63)))
        yield


def _source(policy: Policy, data: Dataset, config: TrainConfig) -> RolloutSource:
    """T ~ l_theta, as the run asks for them."""
    how = SamplingConfig(
        max_new_tokens=config.rollout_tokens,
        execution_noise=config.rollout_noise,
        noise_burst=config.rollout_burst,
    )
    relabel = config.objective.method == "dagger"
    return RolloutSource(policy, data, how, config.seed, batch_size=config.rollout_batch, relabel=relabel)


def _demonstration(example: int, data: Dataset, config: TrainConfig, rng: np.random.Generator) -> Trajectory:
    """A data trajectory, with fresh noise."""
    eta = config.eta if get_method(config.objective.method).noise else 0.0
    return data.demonstration(example, rng, eta, config.burst)


def _rollout(entry: Entry) -> Trajectory:
    assert entry.rollout is not None
    return entry.rollout


def _stop(loss: Loss, step: int, groups: Sequence[Sequence[Trajectory]], work: Path) -> None:
    path = work / f"nonfinite-step-{step}.json"
    dump = [[{"prompt": t.prompt.tolist(), "labels": t.labels.tolist(), "realised": t.realised.tolist()} for t in g]
            for g in groups]  # fmt: skip
    path.write_text(json.dumps(dump))
    parts = ", ".join(f"{name} = {value.item():.4g}" for name, value in loss.parts.items())
    raise NonFiniteLossError(f"the loss is {loss.total.item()} at step {step}: {parts}; the batch is in {path}")

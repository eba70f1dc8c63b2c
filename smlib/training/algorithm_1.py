"""Algorithm 1: training an autoregressive model against a SequenceMatch objective.

The loop of `train` is the paper's, line by line; the comments in quotation marks are its text. It runs on one device,
or in several processes that `accelerate launch` starts, each of which takes its share of every batch
(`smlib.training.processes`, docs/machines.md). No generator carries state from step to step: noise, draws
from the buffer and rollouts follow from the seed and the step, and a run that was killed resumes to the same bytes.
"""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import torch

from smlib.environment import check_environment
from smlib.objectives.adversarial import Critic
from smlib.objectives.methods import get_method
from smlib.policies.policy import Policy
from smlib.training import sharding
from smlib.training.batches import Batches, NonFiniteLossError, dropout_of_step, stop_if_infinite
from smlib.training.checkpoints import TrainingState, load_checkpoint, run_identity, save_checkpoint
from smlib.training.configuration import TrainConfig
from smlib.training.dataset import Dataset
from smlib.training.folder import held, usable_folder
from smlib.training.memory import for_parts, for_weights, room
from smlib.training.metrics import METRICS, MetricsLog
from smlib.training.module import PolicyUnderTraining
from smlib.training.parameters import critic_apart, decayed_apart, drop_idle_gradients
from smlib.training.preflight import (
    check_group,
    check_on_policy,
    check_rollouts_fit,
    check_run,
    say_coverage,
    settle_backspace,
    settle_memory,
)
from smlib.training.processes import Processes
from smlib.training.progress import Progress, telling_where_it_stopped
from smlib.training.sharding import Shards
from smlib.training.sharding_plan import asked, check_engine, unsaid

__all__ = ["Dataset", "NonFiniteLossError", "TrainConfig", "TrainResult", "train"]


@dataclass(frozen=True)
class TrainResult:
    """What a run leaves: the policy, and the logged metrics (one dictionary per logged or evaluated step)."""

    policy: Policy
    history: list[dict[str, Any]]


@telling_where_it_stopped
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
        progress: show a bar; by default where there is a terminal or a live notebook to show it, and else a line every
            half minute (`smlib.training.progress`). False: nothing.
        without_backspace: train a method that has `<bkspc>` without it (an ablation). It takes clean demonstrations.

    Raises:
        NonFiniteLossError: with the step, the loss's parts and the batch's file. CheckpointError: a foreign checkpoint.
        ValueError, TypeError: what cannot be trained, see `check_run` and the other checks of
        `smlib.training.preflight`; processes that do not divide a batch, or were started differently. OSError: a folder
        that cannot be written to. RuntimeError: another run in its folder; an environment variable that would change it
        (`smlib.environment`); another process that failed; a device out of memory (`smlib.training.memory`).

    >>> task = smlib.load_task("mul", n_train=8, n_val=0, n_test=0, difficulty="easy")
    >>> policy = smlib.tiny_policy(task.space, dim=16, layers=1, heads=2)
    >>> config = TrainConfig(smlib.ObjectiveConfig(method="bc"), steps=2, batch_size=4, warmup_steps=1)
    >>> data = smlib.TaskDemonstrations(task, task.train, "ground_truth")
    >>> len(train(policy, data, config, "mine", progress=False).history)
    1
    """
    from accelerate import Accelerator
    from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin
    from transformers import get_cosine_schedule_with_warmup

    check_environment(several=True)
    # All that would else be taken from the environment; its number of accumulation steps overrides the plain argument.
    once = GradientAccumulationPlugin(num_steps=1)
    # Which parameters a loss depends on changes from step to step (`drop_idle_gradients`).
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    with unsaid():
        accelerator = Accelerator(
            mixed_precision="no", gradient_accumulation_plugin=once, dynamo_backend="no", kwargs_handlers=[ddp]
        )
    processes = Processes.of(accelerator)
    with processes.together(), contextlib.ExitStack() as at_end:
        split = asked(processes)
        check_run(policy, data, config, evaluate)
        check_engine(split, config.rollout_engine)
        processes.check_divides(config.batch_size, config.accumulation)
        method = get_method(config.objective.method)
        settle_backspace(policy, config.objective.method, config.eta, without_backspace)
        settle_memory(policy, config.vocabulary_tile, config.flex_from)
        if method.rollouts:
            check_rollouts_fit(policy, data, config.rollout_tokens)
        if method.on_policy:
            places = min(config.buffer_size, len(data) * config.group)
            check_on_policy(config.objective.method, config.refill, config.times_seen, places)
        check_group(policy, config.objective, config.group, config.rollout_noise)
        work = usable_folder(folder)
        if progress is not False and processes.leads:
            say_coverage(data)
        if processes.leads:
            at_end.enter_context(held(work))
        policy.critic = Critic(policy) if method.critic else None
        batches = Batches(policy, data, config, processes)
        at_end.callback(batches.close)
        identity = run_identity(config, policy, data)
        processes.check_same(config, identity, data)
        model: Any = PolicyUnderTraining(policy, data.branches)
        shards = None if split is None else Shards(model, processes, split)
        parameters = decayed_apart(policy, config.learning_rate, config.weight_decay, config.bkspc_rate)
        optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, betas=(0.9, 0.95))
        schedule = get_cosine_schedule_with_warmup(optimizer, config.warmup_steps, config.steps)
        if shards is None:
            model, optimizer = accelerator.prepare(model, optimizer)
        else:
            shards.hold(optimizer)
        state = TrainingState(policy, optimizer, schedule, batches.buffer)
        begin = load_checkpoint(work, identity, state, policy.space)
        processes.check_begin(begin)
        log = MetricsLog(work / METRICS, before=begin, writes=processes.leads)
        if begin == 0:
            batches.begin()

        model.train()
        shown = progress if processes.leads else False
        bar = Progress(config.objective.method, begin, config.steps, config.checkpoint_every, work, shown)
        for k in range(begin, config.steps):  # "for k in n_train do"
            # "if k mod k_sample = 0 then Populate B with trajectories T ~ l_theta; Remove oldest model sequences ..."
            batches.populate(k)
            # "Sample ... trajectories T_data ~ D and ... T_model ~ B"
            batch = batches.draw(k, accelerator.device)
            loss_parts: dict[str, float] = {}
            with (
                room("training on a part of a batch", for_parts(config, processes.count)),
                dropout_of_step(config.seed, k, accelerator.device, rank=processes.rank),
            ):
                for i, (groups, part) in enumerate(zip(batch.groups, batch.packed, strict=True), 1):
                    # "Compute g = grad J(...)", which is added up over the processes after the last part
                    unfinished = i < len(batch.packed) and shards is None  # pieces are added up part by part
                    with accelerator.no_sync(model) if unfinished else contextlib.nullcontext():
                        loss = model(part, config.objective, k, config.chunk, batch.whole)
                        stop_if_infinite(loss, k, groups, work, processes)
                        accelerator.backward(processes.averaged(loss.total))
                    for name, value in {**loss.parts, "loss": loss.total.detach()}.items():
                        loss_parts[name] = loss_parts.get(name, 0.0) + value.item()
            if shards is not None:
                shards.add_up()
            drop_idle_gradients(policy, config.objective, k)
            critic, own = critic_apart(policy)
            norm = accelerator.clip_grad_norm_(own, config.clip_norm)
            if critic:
                accelerator.clip_grad_norm_(critic, config.clip_norm)
            with room("updating the weights", for_weights()):
                optimizer.step()  # "update theta via step using gradient g"
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            bar.update()
            log.norm(float(sharding.full(norm)))
            done = k + 1
            if done % config.log_every == 0 or done == config.steps:
                loss_parts = processes.summed(loss_parts)
                row = {"beta": config.objective.beta(k), "lr": schedule.get_last_lr()[0], **loss_parts}
                log.write(done, row | batches.staleness())
                bar.log(loss_parts["loss"])
            if evaluate is not None and config.eval_every and (done % config.eval_every == 0 or done == config.steps):
                with sharding.whole(policy):
                    log.write(done, {f"val_{name}": value for name, value in evaluate(policy).items()})
                model.train()
            if config.checkpoint_every and done % config.checkpoint_every == 0:
                batches.settle()
                log.flush()
                save_checkpoint(work, done, identity, state, writes=processes.leads)
        bar.close()
        log.flush()
        if shards is not None:
            shards.dissolve()
        policy.critic = None
        policy.eval()
        return TrainResult(policy, log.rows)

"""What is checked before and while a policy is trained, so that hours are not spent first.

What cannot work is refused: data that lack what the method asks of them, a policy that cannot delete, trajectories that
do not fit its context. What works and is hardly meant is warned of: a schedule that
ends before its point, weights too coarse for the steps that they are to take.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from tqdm import tqdm

from smlib.edits.packing import PackedBatch
from smlib.generation.prompts import check_context, checked_prompt
from smlib.kinds import lacking
from smlib.objectives.methods import ObjectiveConfig, get_method
from smlib.policies.policy import Policy
from smlib.policies.vocabulary_tiles import chosen_tile
from smlib.training.checkpoints import trainable
from smlib.training.dataset import Dataset, some

TO_CALLER = 4
"""`stacklevel` of a warning, from the checks that `check_run` calls to the line that called `train`."""


@runtime_checkable
class Settings(Protocol):
    """What is read of `smlib.training.configuration.TrainConfig`, so that whatever else has these will do."""

    @property
    def objective(self) -> ObjectiveConfig: ...
    @property
    def steps(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def warmup_steps(self) -> int: ...
    @property
    def eta(self) -> float: ...
    @property
    def rollout_noise(self) -> float: ...
    @property
    def eval_every(self) -> int: ...
    @property
    def rollout_engine(self) -> str: ...
    @property
    def staleness(self) -> int: ...


def check_run(policy: Policy, data: Dataset, config: Settings, evaluate: Callable[..., object] | None) -> None:
    """All that can be told of a run from its parts, before anything is done or written.

    Raises:
        TypeError: something else than a policy, than a `TrainConfig`, than a data set with what the method asks of it,
            or than a function that evaluates.
        ValueError: data without examples, answers or noise where they are needed, or of other actions than the
            policy's; an evaluation that would never be called, or that is missing.
    """
    if not isinstance(policy, Policy):
        raise TypeError(
            f"the policy is a {type(policy).__name__}: expected a Policy, the first of the two that load_policy returns"
        )
    if lacking(config, Settings):
        raise TypeError(f"the configuration is a {type(config).__name__}: expected a TrainConfig")
    check_data(data, config.objective.method, config.eta, config.rollout_noise)
    check_same_actions(policy, data)
    if evaluate is not None and not callable(evaluate):
        raise TypeError(f"evaluate={evaluate!r}: expected a function of the policy, which gives numbers by name")
    if evaluate is not None and not config.eval_every:
        raise ValueError(
            "with eval_every=0 evaluate is never called: set eval_every, to steps for the end alone, or leave evaluate "
            "out"
        )
    if config.eval_every and evaluate is None:
        raise ValueError(f"eval_every={config.eval_every} and nothing to call: give evaluate, or set eval_every=0")
    warn_of_stale_policy(config.objective.method, config.rollout_engine, config.staleness)
    warn_of_cloning_alone(config.objective, config.steps)
    warn_of_warm_up_alone(config.warmup_steps, config.steps)
    warn_of_coarse_weights(policy, config.learning_rate)


def say_coverage(data: Dataset) -> None:
    """How much of the texts a run is trained on, in one line to standard error; data that were not cut say nothing."""
    coverage = getattr(data, "coverage", None)
    if coverage is not None:
        tqdm.write(f"texts: {coverage}", file=sys.stderr)


def check_data(data: Dataset, name: str, eta: float, rollout_noise: float) -> None:
    """What a method asks of its data is there, at up to 1,024 of the examples.

    Args:
        name: of the method. eta: noise level of its demonstrations. rollout_noise: of its rollouts.

    Raises:
        TypeError: no data set, or one that lacks what this method asks of it.
        ValueError: no examples; no single right answer, for DAgger and the exact critic; no tokens to be inserted, for
            noise.
    """
    method = get_method(name)
    rates = {"eta": eta if method.noise else 0.0, "rollout_noise": rollout_noise if method.rollouts else 0.0}
    noise = ", ".join(f"{rate}={level:g}" for rate, level in rates.items() if level > 0.0)
    asked = {"rollout_prompt": method.rollouts, "reference": method.reference, "noise_law": bool(noise)}
    needed = ["branches", "__len__", "demonstration", *(part for part, needs in asked.items() if needs)]
    missing = [part for part in needed if not hasattr(data, part)]
    if missing:
        raise TypeError(
            f"the data are a {type(data).__name__} without {', '.join(missing)}, which {name} needs"
            f"{' with ' + noise if noise else ''}: expected a data set such as Continuations (texts) or "
            "TaskDemonstrations (questions), or one of your own with what smlib.training.dataset.Dataset lists"
        )
    if len(data) == 0:
        raise ValueError("the data set is empty: expected one example at least")
    for i in some(data):
        if method.reference:
            try:
                data.reference(i)
            except (ValueError, NotImplementedError) as error:
                raise ValueError(f"{name} cannot be trained on these data: {error}; choose sm or bc") from error
        law = data.noise_law(i) if noise else None
        if noise and (law is None or len(law.tokens) == 0):
            raise ValueError(
                f"{noise} asks for noise, and the noise law of example {i} has no tokens: set it to 0, or make the "
                'data with a noise, such as TaskDemonstrations(task, task.train, noise="ground_truth")'
            )


def settle_memory(policy: Policy, vocabulary_tile: int | None, flex_from: int | None) -> None:
    """Tells the policy how to cut its head and from where on to use FlexAttention, where a run says so.

    Raises:
        ValueError: tiles of a head with adapters or quantised weights.
    """
    if vocabulary_tile is not None:
        chosen_tile(vocabulary_tile, policy.lm.get_output_embeddings(), 1, policy.space.vocab_size, None)
        policy.vocabulary_tile = vocabulary_tile
    if flex_from is not None:
        policy.flex_from = flex_from


def settle_backspace(policy: Policy, name: str, eta: float, without: bool) -> None:
    """Switches `<bkspc>` off where the method has none; one that is off already is never switched on unasked.

    Args:
        name: of the method. eta: noise level of its demonstrations. without: train it without `<bkspc>` all the same.

    Raises:
        ValueError: `<bkspc>` is off and the method needs it; `without`, and demonstrations that delete.
    """
    method = get_method(name)
    if policy.config.keep_edits and not method.soft:
        raise ValueError(
            f"this policy keeps what was deleted in its context (soft deletion), and {name} goes back to the state "
            "before: build the policy anew, or train it with soft"
        )
    if method.soft:
        policy.keep_edits()
    if not method.backspace:
        policy.forbid_backspace()
    elif without:
        if eta > 0.0 or name == "dagger":  # their labels hold deletions, which would have probability 0
            raise ValueError(
                f"without_backspace: {name} with eta={eta} has demonstrations that delete; "
                "set eta=0, and train dagger with its backspace"
            )
        policy.forbid_backspace()
    elif not policy.config.backspace:
        raise ValueError(
            f"{name} deletes with <bkspc>, which is switched off in this policy (training by mle or unlikelihood does "
            "that): call policy.allow_backspace() first, build the policy anew, or pass without_backspace=True for an "
            "ablation"
        )


def check_same_actions(policy: Policy, data: Dataset) -> None:
    """A token or `<bkspc>` of the data must be the policy's; a data set that names no action space is taken on trust.

    Raises:
        ValueError: the two have another number of tokens, or another `<eos>`.
    """
    space = getattr(data, "space", None) or getattr(getattr(data, "task", None), "space", None)
    ours = policy.space
    if space is not None and (space.vocab_size, space.eos) != (ours.vocab_size, ours.eos):
        raise ValueError(
            f"the data has {space.vocab_size} tokens with <eos> {space.eos} and <bkspc> {space.bkspc}, and the policy "
            f"{ours.vocab_size} with <eos> {ours.eos} and <bkspc> {ours.bkspc}: make the data with the tokeniser that "
            "`load_policy` returned"
        )


def check_rollouts_fit(policy: Policy, data: Dataset, rollout_tokens: int) -> None:
    """Looks at the prompts of up to 1,024 examples before a long run starts; `sample` looks at every one it is given.

    A finished rollout has `<eos>` beside its tokens, which the model reads when it is trained on.
    """
    rng = np.random.default_rng(0)
    prompt = max(checked_prompt(i, data.rollout_prompt(i, rng), policy.space).size for i in some(data))
    what = f"rollouts, of a prompt of {prompt} tokens, rollout_tokens={rollout_tokens} and <eos>,"
    check_context(policy, prompt + rollout_tokens + 1, what, "lower rollout_tokens, or shorten the prompts")


def check_on_policy(name: str, refill: int, times_seen: float, buffer_size: int) -> None:
    """A policy gradient holds for rollouts of the present policy: each is used once, and soon.

    Raises:
        ValueError: rollouts that are used again, or that stay in the buffer beside new ones.
    """
    if times_seen != 1.0 or buffer_size > refill:
        raise ValueError(
            f"{name} needs rollouts of the present policy: train with config.on_policy(), or set times_seen=1 (it is "
            f"{times_seen:g}) and buffer_size to refill, {refill} (it is {buffer_size})"
        )


def warn_of_stale_policy(name: str, engine: str, staleness: int) -> None:
    """A policy gradient from rollouts of older weights is one of another policy."""
    if staleness and get_method(name).on_policy:
        warnings.warn(
            f"{name} needs rollouts of the present policy, and with rollout_engine={engine} theirs may be {staleness} "
            "steps old: its gradient is biased by as much as the policy changes meanwhile. Lower rollout_staleness, or "
            "leave rollout_engine out",
            stacklevel=TO_CALLER,
        )


def check_group(policy: Policy, goal: ObjectiveConfig, group: int, rollout_noise: float) -> None:
    """The exact critic of the chi^2-mixture counts how often the other rollouts from a prompt come by.

    Raises:
        ValueError: there are no others, and the count has no closed form.
    """
    counted = goal.method == "exact" and bool(goal.mixture)
    if counted and group < 2 and (policy.config.backspace or rollout_noise > 0.0):
        raise ValueError(
            "exact with the chi^2-mixture and with <bkspc> or execution noise compares rollouts from one prompt, and "
            "group=1: train with config.on_policy(group=8), or set divergence='tv' and mixture=False"
        )


def warn_of_cloning_alone(goal: ObjectiveConfig, steps: int) -> None:
    """A short trial of a schedule for a long run never reaches the objective that it is named after."""
    if get_method(goal.method).annealed and goal.beta_floor < 1.0 and goal.beta(steps - 1) == 1.0:
        warnings.warn(
            f"with bc_steps={goal.bc_steps} all of this run's steps={steps} are behavioural cloning, and none is "
            f"{goal.method}: lower bc_steps and anneal_steps, or raise steps",
            stacklevel=TO_CALLER,
        )


def warn_of_warm_up_alone(warmup_steps: int, steps: int) -> None:
    """The warm-up of a long run, 2,000 steps by default, is longer than a short one."""
    if warmup_steps >= steps:
        warnings.warn(
            f"with warmup_steps={warmup_steps} all of this run's steps={steps} are warm-up, and the learning rate is "
            f"never reached: lower warmup_steps (a tenth of steps, {steps // 10}, is usual), or raise steps",
            stacklevel=TO_CALLER,
        )


def warn_of_coarse_weights(policy: Policy, learning_rate: float) -> None:
    """A 16-bit number keeps 8 or 11 digits: a step that is smaller than half the last of them leaves it as it is."""
    every = trainable(policy).values()
    coarse = [p for p in every if p.is_floating_point() and torch.finfo(p.dtype).bits < 32]
    if coarse:
        dtype = coarse[0].dtype
        share = sum(p.numel() for p in coarse) / sum(p.numel() for p in every)
        unmoved = 2.0 * learning_rate / torch.finfo(dtype).eps
        warnings.warn(
            f"{share:.0%} of the weights that are trained are of type {dtype}, which rounds a step of learning_rate="
            f"{learning_rate:g} away in every weight beyond about {unmoved:.2g}: load the model in float32, or train "
            "adapters, which are in float32 (load_policy's lora)",
            stacklevel=TO_CALLER,
        )


def check_fits(policy: Policy, batch: PackedBatch) -> None:
    """Whatever a data set gives: the longest state of a batch, on the way to the device."""
    remedy = "shorten the data's examples (context=... of Continuations), or lower rollout_tokens"
    check_context(policy, int(batch.positions.max()) + 1, "the trajectories of a batch", remedy)

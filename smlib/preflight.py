"""What is checked before and while a policy is trained: that it can delete, and that trajectories fit its context."""

import warnings

import numpy as np

from smlib.dataset import Dataset
from smlib.methods import ObjectiveConfig, get_method
from smlib.models import Policy
from smlib.packing import PackedBatch
from smlib.prompts import check_context


def settle_backspace(policy: Policy, name: str, eta: float, without: bool) -> None:
    """Switches `<bkspc>` off where the method has none; one that is off already is never switched on unasked.

    Args:
        name: of the method. eta: noise level of its demonstrations. without: train it without `<bkspc>` all the same.

    Raises:
        ValueError: `<bkspc>` is off and the method needs it; `without`, and demonstrations that delete.
    """
    if not get_method(name).backspace:
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
    some = np.unique(np.linspace(0, len(data) - 1, 1_024).astype(int)).tolist()
    prompt = max(data.rollout_prompt(i, rng).size for i in some)
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


def warn_of_cloning_alone(goal: ObjectiveConfig, steps: int) -> None:
    """A short trial of a schedule for a long run never reaches the objective that it is named after."""
    if get_method(goal.method).annealed and goal.beta_floor < 1.0 and goal.beta(steps - 1) == 1.0:
        warnings.warn(
            f"with bc_steps={goal.bc_steps} all of this run's steps={steps} are behavioural cloning, and none is "
            f"{goal.method}: lower bc_steps and anneal_steps, or raise steps",
            stacklevel=3,
        )


def check_fits(policy: Policy, batch: PackedBatch) -> None:
    """Whatever a data set gives: the longest state of a batch, on the way to the device."""
    remedy = "shorten the data's examples (context=... of Continuations), or lower rollout_tokens"
    check_context(policy, int(batch.positions.max()) + 1, "the trajectories of a batch", remedy)

"""Generation one action at a time: what was possible in a state, what was done, and what it cost.

`steps` is the sampler of `smlib.generation.sampling`, slowed down: with the same seed it takes the same actions. It
adds what a reader wants to see at each of them (probabilities, V(s), the reward of Sec. 3.2), and any action can be
chosen by hand: type a wrong digit, and watch what the policy does about it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.noise_dynamics import TokenLaw
from smlib.generation.decoding import SamplingConfig
from smlib.generation.edit_batch import EditBatch, SamplesActions, evaluating
from smlib.generation.prompts import check_room, check_sampling, checked_prefix, checked_prompt

TOP = 8
"""How many of the most probable actions a step lists, `<bkspc>` besides."""

_ONE = np.zeros(1, dtype=np.int64)
ENDED = "the trajectory has ended: nothing follows <eos>"


@dataclass(frozen=True)
class Look:
    """A state s and what the policy would do in it.

    Attributes:
        state: tokens of s beyond the prompt.
        top: the most probable actions with their probabilities under the filtered law, largest first; `<bkspc>` is
            always among them where the policy has it.
        backspace: P(`<bkspc>` | s) under the filtered law.
        value: V(s) in nats, offset head included.
        forward_tokens: generated tokens that the model has read so far; `<bkspc>` adds none.
    """

    state: tuple[int, ...]
    top: tuple[tuple[int, float], ...]
    backspace: float
    value: float
    forward_tokens: int


@dataclass(frozen=True)
class Step:
    """One visit (s, a, s') of a trajectory, with what led to it.

    Attributes:
        index: number of the visit, from 0.
        before: the state s.
        chosen, executed: the label and what was carried out; they differ under execution noise, and where a length
            limit made an action `<eos>`.
        forced: whether the caller chose the action, and not the policy.
        probability: of the chosen action under the filtered law; 0 is possible where it was forced.
        next_value: V(s') in nats; NaN where the context has no place for the `<eos>` of s'.
        reward: r = l(a|s) - gamma V(s') of the chosen action (Sec. 3.2), in nats; -inf where the policy forbids it.
        forward_tokens: generated tokens that the model has read by now.
        ended: whether s' is terminal.
    """

    index: int
    before: Look
    chosen: int
    executed: int
    forced: bool
    probability: float
    next_value: float
    reward: float
    forward_tokens: int
    ended: bool


class Stepper:
    """A trajectory under way: each call of `step` takes one action, the policy's own or one that is given.

    Args:
        policy, prompt, config, seed, noise_law, prefix: as in `smlib.generation.sampling.sample`.
        gamma: discount of the reward.

    Raises:
        ValueError: where `sample` does; gamma outside [0, 1].

    Example:
        >>> from smlib.edits.actions import ActionSpace
        >>> from smlib.policies.policy import tiny_policy
        >>> policy = tiny_policy(ActionSpace(12, eos=1, bos=0), dim=16, layers=1, heads=2)
        >>> stepper = Stepper(policy, [0, 5], SamplingConfig(max_new_tokens=4), seed=0)
        >>> stepper.step(7).executed, stepper.step(policy.space.bkspc).before.state, stepper.state
        (7, (7,), ())
    """

    def __init__(
        self,
        policy: SamplesActions,
        prompt: NDArray[np.integer] | Sequence[int],
        config: SamplingConfig,
        seed: int,
        *,
        noise_law: TokenLaw | None = None,
        prefix: NDArray[np.integer] | Sequence[int] = (),
        gamma: float = 1.0,
    ) -> None:
        check_sampling(config, [seed])
        if config.needs_noise_law and noise_law is None:
            raise ValueError("truncation_eta and execution_noise need noise_law: the law of the noise tokens")
        if not 0.0 <= gamma <= 1.0:
            raise ValueError(f"gamma={gamma}: expected a discount in [0, 1]")
        root, standing = checked_prompt(0, prompt, policy.space), checked_prefix(0, prefix, config, policy.space)
        check_room(policy, [root], config.max_new_tokens)
        self.policy, self.prompt, self.gamma = policy, root, gamma
        self.prefix = standing
        self.ended = False
        self._present: tuple[Look, torch.Tensor, torch.Tensor] | None = None
        with evaluating(policy), torch.inference_mode():
            self._batch = EditBatch(policy, config, prompts=[root], seeds=[seed], laws=[noise_law], prefixes=[standing])

    @property
    def state(self) -> tuple[int, ...]:
        """Tokens that stand beyond the prompt."""
        batch = self._batch
        return tuple(batch.tokens[0, : batch.depth[0] - batch.root[0]].tolist())

    @property
    def look(self) -> Look:
        """The present state and what the policy would do in it, without doing it.

        Raises:
            ValueError: a trajectory that has ended.
        """
        return self._seen()[0]

    def _seen(self) -> tuple[Look, torch.Tensor, torch.Tensor]:
        """The present state's look, logits and filtered law, computed once, when they are asked for."""
        if self.ended:
            raise ValueError(ENDED)
        if self._present is None:
            batch, space = self._batch, self.policy.space
            with evaluating(self.policy), torch.inference_mode():
                logits = self._logits(batch.hidden_now(_ONE), int(batch.depth[0]) - 1)
                law = batch.distribution(_ONE)
            look = Look(
                state=self.state,
                top=_most_probable(law[0].cpu(), space, has_backspace(self.policy, batch.config)),
                backspace=float(law[0, space.bkspc]),
                value=float(logits.logsumexp(-1)),
                forward_tokens=batch.stats.forward_tokens,
            )
            self._present = (look, logits, law)
        return self._present

    def step(self, action: int | None = None) -> Step:
        """Takes one action.

        Args:
            action: what to do; the policy decides when omitted. The random number of this visit is used up either way,
                so that a later visit does not depend on who decided here.

        Raises:
            ValueError: an id that is no action, `<bkspc>` where the policy has none, or a trajectory that has ended.
        """
        look, logits, law = self._seen()
        index = int(self._batch.count[0])
        label, executed = self.take(action)
        following = self._terminal_value(look.state) if self.ended else self.look.value
        return Step(
            index=index,
            before=look,
            chosen=label,
            executed=executed,
            forced=action is not None,
            probability=float(law[0, label]),
            next_value=following,
            reward=float(logits[label]) - self.gamma * following,
            forward_tokens=self._batch.stats.forward_tokens,
            ended=self.ended,
        )

    def take(self, action: int | None = None) -> tuple[int, int]:
        """Takes one action without looking at values: what was chosen, and what was executed.

        For one who wants the trajectory alone: a value costs another pass through the vocabulary. Arguments and errors
        are those of `step`.
        """
        if self.ended:
            raise ValueError(ENDED)
        batch, space = self._batch, self.policy.space
        if action is not None:
            _check_action(action, space, self.policy, batch.config)
        with evaluating(self.policy), torch.inference_mode():
            if action is None:
                law = batch.distribution(_ONE) if self._present is None else self._present[2]
                chosen = batch.pick(_ONE, law)
            else:
                chosen = np.array([action], dtype=np.int64)
            executed = int(batch.act(_ONE, chosen)[0])
            self.ended, self._present = executed == space.eos, None
            if executed not in (space.eos, space.bkspc):
                batch.read()
        return int(chosen[0]), executed

    def trajectory(self) -> Trajectory:
        """What was done so far; before the end `<eos>` is added, so that it is a trajectory."""
        return self._batch.trajectories(unfinished=not self.ended)[0]

    def _logits(self, hidden: torch.Tensor, position: int) -> torch.Tensor:
        """l(a|s) with the offset, float64 [actions]."""
        with torch.inference_mode():
            return self.policy.logits(hidden, torch.tensor([position], device=hidden.device))[0].double().cpu()

    def _terminal_value(self, state: tuple[int, ...]) -> float:
        """V(s_N) of the state that ends in `<eos>`, by a forward pass of its own: the sampler never reads `<eos>`."""
        tokens = torch.tensor([[*self.prompt.tolist(), *state, self.policy.space.eos]], device=self.policy.device)
        n = tokens.shape[1]
        positions = torch.arange(n, device=tokens.device)[None]
        mask = torch.ones((1, 1, n, n), dtype=torch.bool, device=tokens.device).tril()
        if (most := getattr(self.policy, "max_positions", None)) is not None and n > most:
            return float("nan")  # a full context has no place for <eos>
        with evaluating(self.policy), torch.inference_mode():
            hidden = self.policy.hidden(tokens, positions, mask)[0, -1:]
        return float(self._logits(hidden, n - 1).logsumexp(-1))


def steps(
    policy: SamplesActions,
    prompt: NDArray[np.integer] | Sequence[int],
    config: SamplingConfig,
    seed: int,
    *,
    forced: Mapping[int, int] | Sequence[int] = (),
    noise_law: TokenLaw | None = None,
    prefix: NDArray[np.integer] | Sequence[int] = (),
    gamma: float = 1.0,
) -> Iterator[Step]:
    """The visits of one trajectory, from the prompt to `<eos>`.

    Args:
        forced: actions that the caller chooses: the first so many, or those at the visits that a mapping names. So an
            earlier trajectory is resumed, or taken back to some visit and continued otherwise.
        policy, prompt, config, seed, noise_law, prefix, gamma: as in `Stepper`.

    Raises:
        ValueError: where `Stepper` does; when the step is asked for.
    """
    given = dict(forced if isinstance(forced, Mapping) else enumerate(forced))
    stepper = Stepper(policy, prompt, config, seed, noise_law=noise_law, prefix=prefix, gamma=gamma)
    index = 0
    while not stepper.ended:
        yield stepper.step(given.get(index))
        index += 1


def has_backspace(policy: SamplesActions, config: SamplingConfig) -> bool:
    """Whether the policy can delete, and the decoding lets it."""
    return config.allow_backspace and bool(getattr(getattr(policy, "config", None), "backspace", True))


def _check_action(action: int, space: ActionSpace, policy: SamplesActions, config: SamplingConfig) -> None:
    if not 0 <= action < space.n_actions:
        raise ValueError(
            f"{action} is no action: expected a token id in [0, {space.vocab_size}), or <bkspc>, {space.bkspc}"
        )
    if action == space.bkspc and not has_backspace(policy, config):
        raise ValueError("this policy has no <bkspc>: it was trained without, or allow_backspace is False")


def _most_probable(law: torch.Tensor, space: ActionSpace, backspace: bool) -> tuple[tuple[int, float], ...]:
    # A stable order, ties by id: the recorded steps of one seed are the same bytes everywhere.
    order = torch.sort(law, descending=True, stable=True).indices[:TOP].tolist()
    if backspace and space.bkspc not in order:
        order.append(space.bkspc)
    return tuple((a, float(law[a])) for a in order if law[a] > 0 or a == space.bkspc)

"""The edit MDP of Sec. 3.1: states are token strings, actions append a token or delete the last one.

This module is the slow reference for everything that packs, masks or samples: `replay` is the definition of what a
sequence of actions means, and the fast paths are tested against it.

Conventions (Sec. 3.1 and 4.2 of the paper):

* `<bkspc>` at the root, i.e. at the end of the prompt, leaves the state unchanged (footnote 2);
* `<eos>` leads to a terminal state, which absorbs;
* a *label* is the action that was chosen, the *realised* action is the one that the environment executed. They differ
  where noise was injected, and where an over-long sequence was forced to end (the label stays, `<eos>` is executed).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int32]
State = tuple[int, ...]
IdSequence = Sequence[int | np.integer] | NDArray[np.integer]


@dataclass(frozen=True)
class ActionSpace:
    """A vocabulary of `vocab_size` tokens plus one action, `<bkspc>`, that takes the id after the last token.

    >>> space = ActionSpace(vocab_size=10, eos=0)
    >>> space.bkspc, space.n_actions
    (10, 11)
    """

    vocab_size: int
    eos: int
    bos: int | None = None

    def __post_init__(self) -> None:
        if self.vocab_size < 2:
            raise ValueError(f"vocab_size must be at least 2 (<eos> and one token), got {self.vocab_size}")
        for name, token in (("eos", self.eos), ("bos", self.bos)):
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(f"{name}={token} is not a token id: expected 0 <= id < {self.vocab_size}")

    @property
    def bkspc(self) -> int:
        """Id of the `<bkspc>` action; it is never an input token."""
        return self.vocab_size

    @property
    def n_actions(self) -> int:
        """Number of actions: the vocabulary and `<bkspc>`."""
        return self.vocab_size + 1


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The actions taken from a prompt until `<eos>`: N visits (s_i, a_i, s_{i+1}), i = 0..N-1.

    Attributes:
        prompt: tokens of the initial state s_0, int32 [P], P >= 1; the root of the edit MDP.
        labels: actions as chosen, int32 [N]; what the likelihood terms are taken at.
        realised: actions as executed, int32 [N]; what the states follow. The last one is `<eos>`.

    >>> space = ActionSpace(vocab_size=10, eos=0)
    >>> wrong_then_right = Trajectory.make([1], [5, space.bkspc, 6, space.eos], space=space)
    >>> len(wrong_then_right)
    4
    """

    prompt: Ids
    labels: Ids
    realised: Ids

    @classmethod
    def make(
        cls,
        prompt: IdSequence,
        labels: IdSequence,
        realised: IdSequence | None = None,
        *,
        space: ActionSpace,
        max_len: int | None = None,
    ) -> "Trajectory":
        """Checks the ids and returns a trajectory that ends in the terminal state.

        Args:
            prompt: the root state, one token at least.
            labels: chosen actions. If the realised actions do not end in `<eos>`, a final visit must be present that
                can be forced to `<eos>`: see `max_len`.
            realised: executed actions; the labels themselves when omitted.
            space: the action space.
            max_len: context length in tokens, prompt included (Sec. 4.2, last paragraph). The first action that would
                make the state longer than that is executed as `<eos>`, its label is kept, and the rest is dropped.

        Raises:
            ValueError: empty prompt or no action; ids outside the space; a backspace or action inside the prompt;
                actions after `<eos>`; no `<eos>` at the end; a prompt that leaves no room for `<eos>` in `max_len`.
        """
        prompt_ids = _ids("prompt", prompt, space.vocab_size)
        label_ids = _ids("labels", labels, space.n_actions)
        realised_ids = label_ids if realised is None else _ids("realised", realised, space.n_actions)
        if prompt_ids.size == 0:
            raise ValueError("the prompt is empty: the root state needs at least one token, for instance <bos>")
        if label_ids.size != realised_ids.size:
            raise ValueError(f"{label_ids.size} labels but {realised_ids.size} realised actions: one each per visit")
        if max_len is not None:
            label_ids, realised_ids = _truncate(prompt_ids.size, label_ids, realised_ids, space, max_len)
        ends = np.flatnonzero(realised_ids == space.eos)
        if ends.size == 0:
            raise ValueError(
                f"the trajectory never executes <eos> (id {space.eos}): end it, or give max_len to have it forced"
            )
        if ends[0] != realised_ids.size - 1:
            raise ValueError(
                f"action {ends[0] + 1} follows <eos> at action {ends[0]}: nothing may follow the terminal state"
            )
        return cls(prompt_ids, label_ids, realised_ids)

    def __len__(self) -> int:
        """Number of visits N."""
        return int(self.labels.size)


def as_ids(name: str, values: IdSequence) -> Ids:
    """`values` as int32 [n]; raises ValueError for what is no vector of integers: numpy alone would cut 2.7 to 2."""
    return _vector(name, values).astype(np.int32, copy=False)


def _ids(name: str, values: IdSequence, bound: int) -> Ids:
    raw = _vector(name, values)
    if raw.size and (raw.min() < 0 or raw.max() >= bound):
        worst = int(raw.max() if raw.max() >= bound else raw.min())
        raise ValueError(f"{name} contains id {worst}: expected 0 <= id < {bound}")
    return raw.astype(np.int32)


def _vector(name: str, values: IdSequence) -> NDArray[np.generic]:
    raw = np.asarray(values)
    if raw.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, got shape {raw.shape}")
    if raw.size and not np.issubdtype(raw.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got dtype {raw.dtype}")
    return raw


def _truncate(root: int, labels: Ids, realised: Ids, space: ActionSpace, max_len: int) -> tuple[Ids, Ids]:
    if root >= max_len:
        raise ValueError(f"the prompt has {root} tokens and max_len is {max_len}: there is no room for <eos>")
    depth = root
    for i, action in enumerate(realised.tolist()):
        if action == space.bkspc:
            depth = max(depth - 1, root)
        elif depth == max_len - 1 and action != space.eos:
            forced = realised[: i + 1].copy()
            forced[i] = space.eos
            return labels[: i + 1], forced
        else:
            depth += 1
    return labels, realised


def step(state: State, action: int, space: ActionSpace, root: int) -> State:
    """One transition of the edit MDP, P(.|s, a) of Sec. 3.1.

    Args:
        state: token string.
        action: token id, or `space.bkspc`.
        root: length of the prompt; `<bkspc>` never deletes beyond it.

    Raises:
        ValueError: an id outside the action space, or a state shorter than its root.
    """
    if not 0 <= action < space.n_actions:
        raise ValueError(f"action {action} is outside the action space: expected 0 <= id <= {space.bkspc}")
    if len(state) < root:
        raise ValueError(f"the state has {len(state)} tokens, fewer than its root of {root}")
    if len(state) > root and state[-1] == space.eos:
        return state
    if action == space.bkspc:
        return state[:-1] if len(state) > root else state
    return (*state, action)


def replay(trajectory: Trajectory, space: ActionSpace) -> list[State]:
    """States s_0, ..., s_N of a trajectory, one `step` after another.

    >>> space = ActionSpace(vocab_size=10, eos=0)
    >>> replay(Trajectory.make([1], [5, space.bkspc, 6, space.eos], space=space), space)
    [(1,), (1, 5), (1,), (1, 6), (1, 6, 0)]
    """
    state = tuple(trajectory.prompt.tolist())
    root = len(state)
    states = [state]
    for action in trajectory.realised.tolist():
        state = step(state, action, space, root)
        states.append(state)
    return states


def final_state(trajectory: Trajectory, space: ActionSpace) -> Ids:
    """Tokens after the prompt that survive all edits, `<eos>` left out; int32 [n]. What evaluation reads.

    >>> space = ActionSpace(vocab_size=10, eos=0)
    >>> final_state(Trajectory.make([1], [5, space.bkspc, 6, space.eos], space=space), space).tolist()
    [6]
    """
    kept: list[int] = []
    for action in trajectory.realised.tolist():
        if action == space.bkspc:
            if kept:
                kept.pop()
        elif action != space.eos:
            kept.append(action)
    return np.asarray(kept, dtype=np.int32)

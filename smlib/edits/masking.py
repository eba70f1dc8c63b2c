"""From trajectories to one forward pass: the trie packing that training uses (Sec. 4.1, Fig. 2).

A state that is revisited after a backspace has the hidden vector of its first visit, so it needs no second slot. The
packing therefore lays out the *inserted tokens only*, in order of insertion, and gives each slot two integers:

    position[j]  the depth of the token in its state
    expiry[j]    the number of slots that existed when the token was deleted (the end of its block if it never was)

Slot j is visible to slot i iff `j <= i < expiry[j]`; visit t reads its logits at the slot of its state s_t. One integer
replaces the L x L mask of Algorithm A (`smlib.edits.algorithm_a`), `<bkspc>` costs nothing, and a rollout that starts
from a prefix of a data trajectory is laid out as a branch of it and shares the prefix's slots.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from smlib.edits.actions import ActionSpace, Trajectory

Array = NDArray[np.int64]


@dataclass(frozen=True)
class Trie:
    """One trajectory, laid out. S slots (prompt and inserted tokens), N visits.

    Attributes:
        tokens, positions, expiry: int64 [S].
        states: slot of s_0, ..., s_N, int64 [N + 1]; the last is the slot of `<eos>`, the terminal state.
    """

    tokens: Array
    positions: Array
    expiry: Array
    states: Array


def dense_mask(expiry: Int[Tensor, "R S"]) -> Bool[Tensor, "R 1 S S"]:
    """Bool mask from expiry: query i sees key j iff `j <= i < expiry[j]`."""
    index = torch.arange(expiry.shape[1], device=expiry.device)
    query, key = index[:, None], index[None, :]
    return ((key <= query) & (query < expiry[:, None, :]))[:, None]


def visibility(
    expiry: Int[Tensor, "R S"], positions: Int[Tensor, "R S"] | None = None, window: int | None = None
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """The same as a function of (row, head, query, key), as FlexAttention asks for it: one integer a slot.

    Args:
        positions: of the slots; with `window`, a query sees only keys that are less than so many positions before it.
    """

    # Lambdas: FlexAttention traces them, and a checker of types around a function is no part of a kernel.
    visible = lambda row, head, query, key: (key <= query) & (query < expiry[row, key])  # noqa: E731
    if window is None:
        return visible
    if positions is None:
        raise ValueError(f"a window of {window} positions needs the positions of the slots")
    places, width = positions, window
    return lambda row, head, query, key: (
        visible(row, head, query, key) & (places[row, query] - places[row, key] < width)
    )


def kept(trajectory: Trajectory) -> Trie:
    """Lays out a trajectory of soft deletion: every action is a slot, `<bkspc>` too, and nothing expires.

    The state of visit t is the whole history, the prompt and the first t actions, at positions that go on. A trajectory
    of N actions takes N slots beyond its prompt, where `trie` takes as many as it inserts.

    >>> space = ActionSpace(vocab_size=10, eos=0)
    >>> laid = kept(Trajectory.make([1], [5, space.bkspc, 6, space.eos], space=space))
    >>> laid.tokens.tolist(), laid.positions.tolist()
    ([1, 5, 10, 6, 0], [0, 1, 2, 3, 4])
    """
    tokens = np.concatenate([trajectory.prompt, trajectory.realised]).astype(np.int64)
    root, count = trajectory.prompt.size, tokens.size
    return Trie(tokens, np.arange(count), np.full(count, count), np.arange(root - 1, count))


def trie(trajectory: Trajectory, space: ActionSpace) -> Trie:
    """Lays out one trajectory: a stack of slots, touched once per run of insertions and once per backspace."""
    realised = trajectory.realised
    root = trajectory.prompt.size
    edits = np.flatnonzero(realised == space.bkspc).tolist()
    stack = [root - 1]  # slots of the current state, bottom to top; the prompt's last slot stands for all of it
    states = [root - 1]
    deleted: list[tuple[int, int]] = []
    depth_before: list[tuple[int, int]] = []  # (first slot, depth) of each run of insertions
    count, begin = root, 0
    for end in [*edits, realised.size]:
        if end > begin:
            run = range(count, count + end - begin)
            depth_before.append((count, root - 1 + len(stack)))
            stack.extend(run)
            states.extend(run)
            count = run.stop
        if end < realised.size:
            if len(stack) > 1:
                deleted.append((stack.pop(), count))
            states.append(stack[-1])
        begin = end + 1
    inserted = realised if not edits else realised[realised != space.bkspc]
    positions = np.arange(count)
    for (first, depth), (stop, _) in zip(depth_before, [*depth_before[1:], (count, 0)], strict=True):
        positions[first:stop] += depth - first
    expiry = np.full(count, count)
    if deleted:
        slots, moments = zip(*deleted, strict=True)
        expiry[list(slots)] = moments
    return Trie(
        tokens=np.concatenate([trajectory.prompt, inserted]).astype(np.int64),
        positions=positions,
        expiry=expiry,
        states=np.asarray(states),
    )

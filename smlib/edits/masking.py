"""From trajectories to one forward pass: the trie packing that training uses (Sec. 4.1, Fig. 2).

A state that is revisited after a backspace has the hidden vector of its first visit, so it needs no second slot. The
packing therefore lays out the *inserted tokens only*, in order of insertion, and gives each slot two integers:

    position[j]  the depth of the token in its state
    expiry[j]    the number of slots that existed when the token was deleted (the end of its block if it never was)

Slot j is visible to slot i iff `j <= i < expiry[j]`; visit t reads its logits at the slot of its state s_t. One integer
replaces the L x L mask of Algorithm A (`smlib.edits.algorithm_a`), `<bkspc>` costs nothing, and a rollout that starts
from a prefix of a data trajectory is laid out as a branch of it and shares the prefix's slots.
"""

from collections.abc import Callable, Sequence
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
    """Lays out one trajectory.

    >>> space = ActionSpace(vocab_size=10, eos=0)
    >>> laid = trie(Trajectory.make([1], [5, space.bkspc, 6, space.eos], space=space), space)
    >>> laid.expiry.tolist(), laid.states.tolist()  # two slots existed when 5 was deleted; s_2 is s_0
    ([4, 2, 4, 4], [0, 1, 0, 2, 3])
    """
    return tries([trajectory], space)[0]


def tries(trajectories: Sequence[Trajectory], space: ActionSpace) -> list[Trie]:
    """Lays out trajectories, all of them in one pass of array operations and without a loop over visits.

    The depth of a state below its prompt is a walk that an insertion raises by one and a `<bkspc>` lowers by one, or
    leaves at 0. The token on top of a state is the last one inserted at its depth, so a stable sort of the visits by
    trajectory and depth brings it before them, and a running maximum carries its slot along. A `<bkspc>` above depth 0
    deletes the top of the state before it.
    """
    if not trajectories:
        return []
    visits = np.array([len(t) for t in trajectories])
    roots = np.array([t.prompt.size for t in trajectories])
    ends = np.cumsum(visits)
    begins, owner = ends - visits, np.repeat(np.arange(visits.size), visits)
    root = roots[owner]
    realised = np.concatenate([t.realised for t in trajectories])
    inserts = realised != space.bkspc

    walk = np.cumsum(np.where(inserts, 1, -1))
    walk -= np.append(0, walk[ends[:-1] - 1])[owner]
    apart = owner * (visits.max() + 1)  # keeps the trajectories' depths apart, so that one pass runs over all of them
    depth = walk - np.minimum(np.minimum.accumulate(walk - apart) + apart, 0)
    count = np.cumsum(inserts)
    count += (roots - np.append(0, count[ends[:-1] - 1]))[owner]  # slots that exist after each action

    order = np.argsort(apart + depth, kind="stable")
    last = np.maximum.accumulate(np.where(inserts[order], np.arange(order.size), 0))
    top = np.empty_like(count)
    top[order] = count[order[last]] - 1
    top[depth == 0] = root[depth == 0] - 1
    before = np.append(0, top[:-1])
    before[begins] = roots - 1

    sizes = count[ends - 1]
    first = np.cumsum(sizes) - sizes
    slot = first[owner] + count - 1  # among the slots of all trajectories; of use where the action inserts
    in_prompt = np.arange(roots.sum()) - np.repeat(np.cumsum(roots) - roots, roots)
    prompts = np.repeat(first, roots) + in_prompt
    tokens, positions = np.empty((2, int(sizes.sum())), dtype=np.int64)
    tokens[prompts], positions[prompts] = np.concatenate([t.prompt for t in trajectories]), in_prompt
    tokens[slot[inserts]], positions[slot[inserts]] = realised[inserts], (depth + root - 1)[inserts]
    expiry = np.repeat(sizes, sizes)
    deletes = ~inserts & (before >= root)
    expiry[(first[owner] + before)[deletes]] = count[deletes]
    states = np.insert(top, begins, roots - 1)

    laid = []
    for k, (start, size, begin, n) in enumerate(
        zip(first.tolist(), sizes.tolist(), begins.tolist(), visits.tolist(), strict=True)
    ):
        part = slice(start, start + size)
        laid.append(Trie(tokens[part], positions[part], expiry[part], states[begin + k : begin + k + n + 1]))
    return laid

"""Where a rollout is, seen from the one right answer: how much of it stands, and how much besides."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from numpy.typing import NDArray
from torch import Tensor

from smlib.edits.actions import ActionSpace, Ids, Trajectory


@dataclass(frozen=True)
class Along:
    """One trajectory of N visits beside its reference.

    Attributes:
        matched: of the tokens that stand at s_i, how many of the first agree with the reference, int64 [N].
        beyond: how many stand after these, int64 [N]; 0 on the reference.
        right: whether s_i is on the reference and the chosen action is its next token, bool [N].
        finished: whether the terminal state is the reference itself.
    """

    matched: NDArray[np.int64]
    beyond: NDArray[np.int64]
    right: NDArray[np.bool_]
    finished: bool


def along(trajectory: Trajectory, reference: Sequence[int] | Ids, space: ActionSpace) -> Along:
    """A trajectory beside its reference, in one pass over its actions.

    Args:
        trajectory: its realised actions decide which states are visited, its labels what was chosen there.
        reference: the one right answer, ending in its only `<eos>`.

    Raises:
        ValueError: a reference that does not.

    >>> space = ActionSpace(vocab_size=10, eos=0)
    >>> found = along(Trajectory.make([1], [5, 7, space.bkspc, 6, space.eos], space=space), [5, 6, space.eos], space)
    >>> found.matched.tolist(), found.beyond.tolist(), found.right.tolist(), found.finished
    ([0, 1, 1, 1, 2], [0, 0, 1, 0, 0], [True, False, False, True, True], True)
    """
    target = [int(t) for t in reference]
    if not target or target[-1] != space.eos or target.count(space.eos) != 1:
        raise ValueError(f"the reference must end in its only <eos> (id {space.eos}), got {target}")
    n = len(trajectory)
    matched, beyond = np.empty(n, np.int64), np.empty(n, np.int64)
    right = np.zeros(n, dtype=bool)
    depth = agree = 0
    for i, (label, action) in enumerate(zip(trajectory.labels.tolist(), trajectory.realised.tolist(), strict=True)):
        matched[i], beyond[i] = agree, depth - agree
        right[i] = depth == agree and label == target[agree]
        if action == space.bkspc:
            depth = max(depth - 1, 0)
            agree = min(agree, depth)
        else:
            agree += depth == agree and action == target[agree]
            depth += 1
    return Along(matched, beyond, right, depth == agree == len(target))


@dataclass(frozen=True)
class Judged:
    """`Along` for a batch of N visits of B trajectories; of those of the data it says nothing.

    Attributes:
        matched, beyond, right: [N]. finished: [B].
        group: [B] rollouts from one prompt have one number.
        closed: whether no rollout could leave the reference and come back, or be moved off it: there is no `<bkspc>`
            and no execution noise.
    """

    matched: Int[Tensor, " N"]
    beyond: Int[Tensor, " N"]
    right: Bool[Tensor, " N"]
    finished: Bool[Tensor, " B"]
    group: Int[Tensor, " B"]
    closed: bool

    def to(self, device: torch.device | str) -> "Judged":
        """The same on another device."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "closed"}
        return replace(self, **moved)


def judged(
    trajectories: Sequence[Trajectory],
    references: Sequence[Sequence[int] | Ids | None],
    groups: Sequence[int],
    space: ActionSpace,
    *,
    closed: bool,
) -> Judged:
    """The trajectories of a batch in their order, each beside its reference; None for those of the data."""
    found = [
        Along(np.zeros(len(t), np.int64), np.zeros(len(t), np.int64), np.zeros(len(t), bool), False)
        if reference is None
        else along(t, reference, space)
        for t, reference in zip(trajectories, references, strict=True)
    ]
    return Judged(
        matched=torch.from_numpy(np.concatenate([f.matched for f in found])),
        beyond=torch.from_numpy(np.concatenate([f.beyond for f in found])),
        right=torch.from_numpy(np.concatenate([f.right for f in found])),
        finished=torch.tensor([f.finished for f in found]),
        group=torch.tensor(list(groups)),
        closed=closed,
    )

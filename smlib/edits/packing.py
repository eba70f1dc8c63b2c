"""Batches: trajectories of data and rollouts laid out as rows for a single forward pass.

A rollout that starts from a prefix of a data trajectory is a branch of its trie and shares the prefix's slots; blocks
of a few trajectories are put side by side into rows, so that almost no slot is padding. The losses need only the
visits, which are kept as flat indices.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.masking import Array, Trie, dense_mask, kept, tries
from smlib.edits.path import Judged


@dataclass(frozen=True)
class PackedBatch:
    """A batch of trajectories as one input of R rows of S slots, with the visits as flat indices into it.

    U is the number of distinct states at which logits are needed, N the number of visits, B of trajectories.

    Attributes:
        tokens, positions, expiry: [R, S]; padding slots see only themselves.
        slots: [U] flat index (row * S + slot) of each needed state.
        visit_state, visit_next: [N] index into the U states of s_i and of s_{i+1}.
        label: [N] action id chosen at the visit.
        step: [N] the exponent i of the discount, 0 at the first visit after the prompt.
        trajectory: [N] index of the trajectory that a visit belongs to.
        initial, terminal: [B] index into the U states of s_0 and s_N.
        length: [B] number of visits.
        model: [B] True for rollouts of the policy, False for data.
        judged: where the rollouts are beside their references; None where no loss asks.
    """

    tokens: Int[Tensor, "R S"]
    positions: Int[Tensor, "R S"]
    expiry: Int[Tensor, "R S"]
    slots: Int[Tensor, " U"]
    visit_state: Int[Tensor, " N"]
    visit_next: Int[Tensor, " N"]
    label: Int[Tensor, " N"]
    step: Int[Tensor, " N"]
    trajectory: Int[Tensor, " N"]
    initial: Int[Tensor, " B"]
    terminal: Int[Tensor, " B"]
    length: Int[Tensor, " B"]
    model: Bool[Tensor, " B"]
    judged: Judged | None = None

    def mask(self) -> Bool[Tensor, "R 1 S S"]:
        """The dense mask, `mask[r, 0, i, j] = j <= i < expiry[r, j]`, True where slot i may attend to slot j."""
        return dense_mask(self.expiry)

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on another device."""
        there = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: part.to(device) for name, part in there.items() if part is not None})

    @property
    def padding(self) -> float:
        """Fraction of slots that carry no token."""
        own = self.expiry - torch.arange(self.expiry.shape[1], device=self.expiry.device)
        return float(((own == 1) & (self.positions == 0)).float().mean())


@dataclass(frozen=True)
class _Block:
    """A trunk and its branches as one run of slots, with the slots of each member's states."""

    tokens: Array
    positions: Array
    expiry: Array
    states: list[Array]  # one per member of the group, in its order


def _attachment(trunk: Trajectory, base: Trie, prompt: Array) -> int | None:
    """Slot count of the trunk right after the last token of `prompt` on its surviving path; None if off the path."""
    path = np.flatnonzero(base.expiry == base.tokens.size)  # the slots that were never deleted, by depth
    if not trunk.prompt.size <= prompt.size < path.size:
        return None
    if not np.array_equal(base.tokens[path[: prompt.size]], prompt):
        return None
    return int(path[prompt.size - 1]) + 1


def _blocks(group: Sequence[Trajectory], laid: Sequence[Trie]) -> list[tuple[_Block, list[int]]]:
    """One block for the trunk with every branch that fits on it, and a block of its own for each that does not."""
    trunk, base = group[0], laid[0]
    attached: list[tuple[int, int]] = []
    alone: list[int] = []
    for k in range(1, len(group)):
        at = _attachment(trunk, base, group[k].prompt.astype(np.int64))
        if at is None:
            alone.append(k)
        else:
            attached.append((at, k))
    out = []
    if not attached:
        out.append((_Block(base.tokens, base.positions, base.expiry, [base.states]), [0]))
    else:
        out.append(_branch(group, laid, sorted(attached)))
    for k in alone:
        out.append((_Block(laid[k].tokens, laid[k].positions, laid[k].expiry, [laid[k].states]), [k]))
    return out


def _branch(
    group: Sequence[Trajectory], laid: Sequence[Trie], attached: list[tuple[int, int]]
) -> tuple[_Block, list[int]]:
    """Inserts the branches' slots into the trunk's, each where the trunk stands at its prompt (depth-first order).

    A branch attaches right after a token that is never deleted, so no deletion of the trunk happens at that moment and
    every later slot and expiry of the trunk just moves back by the size of the branch.
    """
    base = laid[0]
    size = base.tokens.size
    shift = np.zeros(size + 1, dtype=np.int64)  # by how much the moment "c slots exist" moves back
    begins = []
    for at, k in attached:
        begins.append(at + int(shift[at]))
        shift[at:] += laid[k].tokens.size - group[k].prompt.size
    slot_of = np.arange(size) + shift[:size]
    tokens, positions, expiry = np.empty((3, size + int(shift[size])), dtype=np.int64)
    tokens[slot_of], positions[slot_of] = base.tokens, base.positions
    expiry[slot_of] = base.expiry + shift[base.expiry]
    states: list[Array] = [slot_of[base.states]]
    for begin, (at, k) in zip(begins, attached, strict=True):
        root, own = group[k].prompt.size, laid[k]
        part = slice(begin, begin + own.tokens.size - root)
        tokens[part], positions[part] = own.tokens[root:], own.positions[root:]
        expiry[part] = own.expiry[root:] + (begin - root)
        states.append(np.where(own.states >= root, own.states + (begin - root), slot_of[at - 1]))
    return _Block(tokens, positions, expiry, states), [0, *(k for _, k in attached)]


def pack(
    groups: Sequence[Sequence[Trajectory]],
    space: ActionSpace,
    *,
    model: Sequence[Sequence[bool]] | None = None,
    row_len: int | None = None,
    discount_from_root: bool = False,
    keep_edits: bool = False,
) -> PackedBatch:
    """Packs groups of trajectories into rows for a single forward pass.

    The first trajectory of a group is its trunk. Another member whose prompt is a prefix of the trunk's surviving
    tokens (a rollout from a prompt of the data, say) becomes a branch and shares those slots; one whose prompt is not
    is laid out by itself. Blocks are put into rows of `row_len` slots by first-fit decreasing.

    Args:
        groups: trajectories, grouped by what they share.
        space: the action space.
        model: True for each trajectory that was sampled from the policy; False everywhere when omitted.
        row_len: slots per row; the longest block when omitted or when a block is longer.
        discount_from_root: if True the exponent of the first visit after the prompt is the prompt's length, so that
            gamma^i counts from the start of the text and not from the end of the prompt.
        keep_edits: soft deletion, see `smlib.edits.masking.kept`: deleted tokens and `<bkspc>` stay visible. `tokens`
            then holds `<bkspc>` as well, which takes a policy that reads it (`Policy.keep_edits`).

    Raises:
        ValueError: no trajectory at all; `model` of another shape than `groups`.

    >>> space = ActionSpace(vocab_size=10, eos=0)
    >>> batch = pack([[Trajectory.make([1], [5, space.bkspc, 6, space.eos], space=space)]], space)
    >>> batch.tokens.tolist(), batch.positions.tolist()  # 6 stands where 5 stood
    ([[1, 5, 6, 0]], [[0, 1, 1, 2]])
    """
    members = [t for group in groups for t in group]
    if not members:
        raise ValueError("nothing to pack: there is no trajectory in the groups")
    if model is not None and [len(m) for m in model] != [len(g) for g in groups]:
        raise ValueError("model must have one flag for each trajectory of each group")
    laid = [kept(t) for t in members] if keep_edits else tries(members, space)
    placed: list[tuple[_Block, list[int]]] = []
    first = 0
    for group in groups:
        if len(group) == 1:
            one = laid[first]
            placed.append((_Block(one.tokens, one.positions, one.expiry, [one.states]), [first]))
        elif group:
            for block, owners in _blocks(group, laid[first : first + len(group)]):
                placed.append((block, [first + k for k in owners]))
        first += len(group)

    rows, capacity = _first_fit([block.tokens.size for block, _ in placed], row_len)
    n_rows = 1 + max(row for row, _ in rows)
    tokens = np.zeros((n_rows, capacity), dtype=np.int64)
    positions = np.zeros((n_rows, capacity), dtype=np.int64)
    expiry = np.tile(np.arange(1, capacity + 1), (n_rows, 1))
    states: list[Array] = [np.empty(0, np.int64)] * len(members)
    for (block, owners), (row, begin) in zip(placed, rows, strict=True):
        part = slice(begin, begin + block.tokens.size)
        tokens[row, part], positions[row, part] = block.tokens, block.positions
        expiry[row, part] = block.expiry + begin
        for owner, slots in zip(owners, block.states, strict=True):
            states[owner] = slots + (row * capacity + begin)
    return _gather(members, states, tokens, positions, expiry, model, discount_from_root)


def _first_fit(sizes: list[int], row_len: int | None) -> tuple[list[tuple[int, int]], int]:
    """(row, first slot) of each block, and the row length."""
    capacity = max(max(sizes), row_len or 0)
    place: list[tuple[int, int]] = [(0, 0)] * len(sizes)
    used: list[int] = []
    for k in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        row = next((r for r, filled in enumerate(used) if filled + sizes[k] <= capacity), len(used))
        if row == len(used):
            used.append(0)
        place[k] = (row, used[row])
        used[row] += sizes[k]
    return place, max(used)


def _gather(
    members: Sequence[Trajectory],
    states: list[Array],
    tokens: Array,
    positions: Array,
    expiry: Array,
    model: Sequence[Sequence[bool]] | None,
    discount_from_root: bool,
) -> PackedBatch:
    n_visits = np.array([len(t) for t in members])
    ends = np.cumsum(n_visits + 1)
    flat = np.concatenate(states)
    needed = np.zeros(tokens.size, dtype=bool)
    needed[flat] = True
    slots = np.flatnonzero(needed)
    inverse = (np.cumsum(needed) - 1)[flat]
    last = np.zeros(inverse.size, dtype=bool)
    last[ends - 1] = True
    first = ends - n_visits - 1
    step = np.arange(inverse.size) - np.repeat(first, n_visits + 1)
    if discount_from_root:
        step = step + np.repeat([t.prompt.size for t in members], n_visits + 1)
    flags = [False] * len(members) if model is None else [flag for group in model for flag in group]
    as_tensor = torch.from_numpy
    return PackedBatch(
        tokens=as_tensor(tokens),
        positions=as_tensor(positions),
        expiry=as_tensor(expiry),
        slots=as_tensor(slots),
        visit_state=as_tensor(inverse[~last]),
        visit_next=as_tensor(inverse[np.flatnonzero(~last) + 1]),
        label=as_tensor(np.concatenate([t.labels for t in members]).astype(np.int64)),
        step=as_tensor(step[~last]),
        trajectory=as_tensor(np.repeat(np.arange(len(members)), n_visits)),
        initial=as_tensor(inverse[first]),
        terminal=as_tensor(inverse[ends - 1]),
        length=as_tensor(n_visits),
        model=torch.tensor(flags, dtype=torch.bool),
    )

"""Gradient steps: ours part by part, and its rivals with the same weights and the same batch.

bare       a plain PyTorch loop: padded rows, causal attention, cross-entropy. What maximum likelihood costs anyone.
algorithm_a  what the paper does: Algorithm A as its input format, dense masks, logits at every position.
all_logits   our packing and loss, but logits at every slot and not only where a state is visited.
"""

import copy
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from smlib.bench.timing import stopwatch
from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.algorithm_a import algorithm_a
from smlib.edits.packing import PackedBatch, pack
from smlib.objectives.adversarial import Critic
from smlib.objectives.losses import Loss, visit_values
from smlib.objectives.methods import ObjectiveConfig, get_method, objective_of_visits
from smlib.policies.policy import Policy

T = TypeVar("T")
Groups = list[list[Trajectory]]


class GradientStep:
    """One step of `smlib.training.algorithm_1.train` on fixed trajectories: pack, forward, loss, backward, update.

    Args:
        policy: is copied, so that rivals start from the same weights.
        groups: data trajectories, each with its rollout if there is one.
        method: a key of `smlib.objectives.methods.METHODS` but `unlikelihood`, whose loss needs all logits.
        row_len: slots of a packed row. chunk: states whose logits are held at a time.
        apart: a rollout is laid out by itself, as where it is another example's (`TrainConfig.paired=False`); otherwise
            it shares the slots of its prompt with its group's data.
        branches: of the data, see `smlib.training.dataset.Dataset`.
    """

    def __init__(
        self,
        policy: Policy,
        groups: Groups,
        method: str = "sm",
        *,
        row_len: int | None = None,
        chunk: int | None = None,
        apart: bool = False,
        branches: bool = False,
    ) -> None:
        self.policy = copy.deepcopy(policy)
        self.groups, self.row_len, self.chunk, self.branches = groups, row_len, chunk, branches
        self.flags = [[False, True][: len(group)] for group in groups]
        if apart:
            self.groups = [[t] for k in (0, 1) for group in groups for t in group[k : k + 1]]
            self.flags = [[bool(k)] for k in (0, 1) for group in groups for _ in group[k : k + 1]]
        self.config = ObjectiveConfig(method=method, bc_steps=0, anneal_steps=0)
        if not get_method(method).backspace:
            self.policy.forbid_backspace()
        self.policy.critic = Critic(self.policy) if get_method(method).critic else None
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-5)

    def pack(self) -> PackedBatch:
        """The batch on the policy's device."""
        batch = pack(self.groups, self.policy.space, model=self.flags, row_len=self.row_len)
        return batch.to(self.policy.device)

    def values(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Forward pass: the logit of each visit's label `[N]`, and V of each state `[U]`."""
        values: tuple[Tensor, Tensor] = self.policy(batch, self.chunk)
        return values

    def loss(self, values: tuple[Tensor, Tensor], batch: PackedBatch) -> Loss:
        """The objective after annealing: BC and SM blended, or the method's own."""
        said = None if self.policy.critic is None else self.policy.critic(batch)
        return objective_of_visits(visit_values(*values, batch, branches=self.branches), self.config, 1, said)

    def update(self) -> None:
        """Clipping and AdamW."""
        update(self.policy, self.optimizer)

    def __call__(self) -> None:
        batch = self.pack()
        self.loss(self.values(batch), batch).total.backward()
        self.update()

    def breakdown(self) -> dict[str, float]:
        """Seconds of each part of one step, one after another."""
        parts: dict[str, float] = {}
        batch = _timed(parts, "packing", self.pack)
        values = _timed(parts, "forward", lambda: self.values(batch))
        loss = _timed(parts, "loss", lambda: self.loss(values, batch))
        _timed(parts, "backward", loss.total.backward)
        _timed(parts, "optimiser", self.update)
        return parts


class AllLogits(GradientStep):
    """The same loss from logits at every slot."""

    def values(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Unembeds all R x S slots, then picks."""
        hidden = self.policy.hidden(batch.tokens, batch.positions, batch.mask()).flatten(0, 1)
        logits = self.policy.logits(hidden, batch.positions.flatten())[batch.slots]
        return logits[batch.visit_state, batch.label], logits.logsumexp(-1)


class DenseAlgorithmA(GradientStep):
    """A row per trajectory in Algorithm A's format, a dense mask each, logits at every position."""

    def pack(self) -> PackedBatch:
        """Rows of Algorithm A. Their masks are kept beside the batch, whose own `expiry` is of no use here."""
        batch, masks = algorithm_a_batch(self.groups, self.flags, self.policy.space)
        self.masks = masks.to(self.policy.device)
        return batch.to(self.policy.device)

    def values(self, batch: PackedBatch) -> tuple[Tensor, Tensor]:
        """Unembeds all positions, then picks."""
        hidden = self.policy.hidden(batch.tokens, batch.positions, self.masks[:, None]).flatten(0, 1)
        logits = self.policy.logits(hidden, batch.positions.flatten())
        return logits[batch.visit_state, batch.label], logits.logsumexp(-1)


def algorithm_a_batch(
    groups: Groups, flags: Sequence[Sequence[bool]], space: ActionSpace
) -> tuple[PackedBatch, Tensor]:
    """The batch in Algorithm A's format, and its masks `[B, L, L]`: trajectory b is row b, state t at P - 1 + t."""
    members = [t for group in groups for t in group]
    laid = [algorithm_a(t, space) for t in members]
    length = max(m.inputs.size for m in laid)
    tokens, positions = np.zeros((2, len(laid), length), dtype=np.int64)
    masks = np.broadcast_to(np.eye(length, dtype=bool), (len(laid), length, length)).copy()
    for b, m in enumerate(laid):
        n = m.inputs.size
        tokens[b, :n], positions[b, :n], masks[b, :n, :n] = m.inputs, m.positions, m.mask
    tokens[tokens >= space.vocab_size] = 0
    visits = np.array([len(t) for t in members])
    begin = np.array([b * length + t.prompt.size - 1 for b, t in enumerate(members)])
    state = np.concatenate([first + np.arange(n) for first, n in zip(begin, visits, strict=True)])
    batch = PackedBatch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(positions),
        expiry=torch.full(tokens.shape, length),
        slots=torch.arange(tokens.size),
        visit_state=torch.from_numpy(state),
        visit_next=torch.from_numpy(state + 1),
        label=torch.from_numpy(np.concatenate([t.labels for t in members]).astype(np.int64)),
        step=torch.from_numpy(np.concatenate([np.arange(n) for n in visits])),
        trajectory=torch.from_numpy(np.repeat(np.arange(len(members)), visits)),
        initial=torch.from_numpy(begin),
        terminal=torch.from_numpy(begin + visits),
        length=torch.from_numpy(visits),
        model=torch.tensor([flag for group in flags for flag in group]),
    )
    return batch, torch.from_numpy(masks)


class BareStep:
    """Maximum likelihood as anyone would write it: `lm(tokens).logits`, cross-entropy after the prompt, AdamW."""

    def __init__(self, policy: Policy, groups: Groups) -> None:
        self.policy = copy.deepcopy(policy)
        self.data = [group[0] for group in groups]
        self.optimizer = torch.optim.AdamW(self.policy.parameters(), lr=1e-5)

    def loss(self) -> Tensor:
        """Mean cross-entropy of the tokens after the prompt; right padding needs no mask in a causal model."""
        texts = [torch.from_numpy(np.concatenate([t.prompt, t.labels]).astype(np.int64)) for t in self.data]
        tokens = pad_sequence(texts, batch_first=True).to(self.policy.device)
        targets = pad_sequence(texts, batch_first=True, padding_value=-100).to(self.policy.device)
        for row, trajectory in enumerate(self.data):
            targets[row, : trajectory.prompt.size] = -100
        logits = self.policy.lm(input_ids=tokens[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)

    def __call__(self) -> None:
        self.loss().backward()
        update(self.policy, self.optimizer)


def update(policy: Policy, optimizer: torch.optim.Optimizer) -> None:
    """Clips the gradient, takes an AdamW step, drops the gradient."""
    torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _timed(parts: dict[str, float], name: str, work: Callable[[], T]) -> T:
    parts[name], out = stopwatch(work)
    return out

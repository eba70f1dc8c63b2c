"""The sampler's inner loop: sequences that share forward passes while each edits its own state (Sec. 4.1).

A cache row holds the keys and values of one sequence's state, slot = position. `hidden[i, k]` holds the last hidden
vector of the state k tokens beyond the root on sequence i's path, so `<bkspc>` needs no forward pass. Sequences that
have ended leave: the last cache rows move into their places.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.noise_dynamics import ExecutionNoise, TokenLaw, dense_laws
from smlib.generation.decoding import SamplingConfig, action_distribution, draw
from smlib.policies.kv_cache import SlotCache


@runtime_checkable
class SamplesActions(Protocol):
    """What the sampler asks of a policy; `smlib.policies.policy.Policy` is one."""

    @property
    def space(self) -> ActionSpace: ...

    @property
    def device(self) -> torch.device: ...

    def hidden(self, tokens: Tensor, positions: Tensor, mask: Tensor, cache: SlotCache | None = None) -> Tensor: ...

    def logits(self, hidden: Tensor, positions: Tensor | None) -> Tensor: ...


@dataclass
class SampleStats:
    """Counts over one call of `sample`.

    Attributes:
        actions: actions taken, the `<eos>` of each trajectory included.
        backspaces: executed `<bkspc>`, at the root or not.
        insertions: executed tokens other than `<eos>`.
        forward_tokens: generated tokens that the model read; equals `insertions`.
        prefill_tokens: tokens of prompts and prefixes that the model read, padding not counted.
        forward_calls: calls of the model, prefill included.
        forced_eos: trajectories ended by the length or action limit.
        noised: actions replaced by execution noise.
    """

    actions: int = 0
    backspaces: int = 0
    insertions: int = 0
    forward_tokens: int = 0
    prefill_tokens: int = 0
    forward_calls: int = 0
    forced_eos: int = 0
    noised: int = 0

    def __iadd__(self, other: "SampleStats") -> "SampleStats":
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))
        return self


@contextmanager
def evaluating(policy: SamplesActions) -> Iterator[None]:
    """Dropout off inside, the training mode of every submodule as before afterwards."""
    modules = list(policy.modules()) if isinstance(policy, nn.Module) else []
    modes = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


class EditBatch:
    """Sequences that share forward passes. Arrays have one entry per sequence; cache rows are
    `self.active`, in order."""

    def __init__(
        self,
        policy: SamplesActions,
        config: SamplingConfig,
        prompts: list[NDArray[np.int32]],
        seeds: list[int],
        laws: Sequence[TokenLaw | None],
        prefixes: list[NDArray[np.int32]],
    ) -> None:
        n, limit = len(prompts), config.action_limit
        self.policy, self.config, self.prompts, self.prefixes = policy, config, prompts, prefixes
        self.device = policy.device
        self.stats = SampleStats()
        self.root = np.array([len(prompt) for prompt in prompts])
        self.depth = self.root + [len(prefix) for prefix in prefixes]
        self.count = np.zeros(n, dtype=np.int64)
        self.labels = np.zeros((n, limit), dtype=np.int32)
        self.realised = np.zeros((n, limit), dtype=np.int32)
        self.tokens = np.zeros((n, config.max_new_tokens), dtype=np.int64)  # the state beyond the root
        for i, prefix in enumerate(prefixes):
            self.tokens[i, : prefix.size] = prefix
        self.uniforms = np.stack([np.random.Generator(np.random.Philox(key=seed)).random(limit) for seed in seeds])
        self.noise = None
        if config.execution_noise > 0:
            self.noise = ExecutionNoise(
                config.execution_noise, config.noise_burst, limit, seeds, cast(list[TokenLaw], list(laws))
            )
        self.noise_rows = None
        if config.truncation_eta > 0:
            self.noise_rows = dense_laws(cast(list[TokenLaw], list(laws)), policy.space.n_actions, self.device)
        # deleted[i][d]: what was deleted at the ancestor of depth d of sequence i's state
        self.deleted: list[dict[int, list[int]]] = [{} for _ in range(n)]
        self.active = np.arange(n)
        self.cache = SlotCache(n, int(self.root.max()) + config.max_new_tokens)
        self.hidden = self._prefill()  # [n, max_new_tokens + 1, d]: the last hidden vector along each path

    def run(self) -> None:
        """Alternates actions and forward passes until every sequence has ended."""
        while self.advance():
            pass

    def advance(self) -> bool:
        """Actions until every sequence has an unread token, then the forward pass; False once all have ended."""
        self._act_until_pending()
        if self.active.size == 0:
            return False
        self._forward()
        return True

    def trajectories(self, *, unfinished: bool = False) -> list[Trajectory]:
        """What each sequence did; the tokens of its prefix come first, as insertions.

        Args:
            unfinished: before the end; `<eos>` is added where it is missing.
        """
        space, found = self.policy.space, []
        for i, n in enumerate(self.count.tolist()):
            labels = np.concatenate([self.prefixes[i], self.labels[i, :n]])
            realised = np.concatenate([self.prefixes[i], self.realised[i, :n]])
            if unfinished and not (n and realised[-1] == space.eos):
                labels, realised = (np.append(actions, np.int32(space.eos)) for actions in (labels, realised))
            found.append(Trajectory.make(self.prompts[i], labels, realised, space=space))
        return found

    def _prefill(self) -> Tensor:
        """Reads the prompts, left-aligned: padding lands in slots that are overwritten before they become visible."""
        n, width = len(self.prompts), int(self.depth.max())
        tokens = torch.zeros((n, width), dtype=torch.long)
        for i, state in enumerate(zip(self.prompts, self.prefixes, strict=True)):
            tokens[i, : self.depth[i]] = torch.from_numpy(np.concatenate(state))
        positions = torch.arange(width, device=self.device).expand(n, width)
        mask = torch.ones((width, width), dtype=torch.bool, device=self.device).tril().expand(n, 1, width, width)
        self.cache.point(positions, width, begin=0)
        states = self.policy.hidden(tokens.to(self.device), positions, mask, cache=self.cache)
        hidden = states.new_zeros((n, self.config.max_new_tokens + 1, states.shape[-1]))
        for i, (root, depth) in enumerate(zip(self.root, self.depth, strict=True)):
            hidden[i, : depth - root + 1] = states[i, root - 1 : depth]
        self.stats.prefill_tokens += int(self.depth.sum())
        self.stats.forward_calls += 1
        return hidden

    def act(self, acting: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """One action of each sequence of `acting`; those that end leave. Returns what was executed.

        Who inserts a token needs `read` before the next action.
        """
        executed = self._execute(acting, chosen)
        self._drop(acting[executed == self.policy.space.eos])
        return executed

    def read(self) -> None:
        """The forward pass over the pending token of every active sequence."""
        self._forward()

    def _act_until_pending(self) -> None:
        """Every active sequence acts until it has inserted a token that the model has not read, or has ended."""
        acting, ended = self.active, []
        while acting.size:
            chosen = self._choose(acting)
            executed = self._execute(acting, chosen)
            deleting = executed == self.policy.space.bkspc
            ended.append(acting[executed == self.policy.space.eos])
            acting = acting[deleting]
        self._drop(np.concatenate(ended) if ended else np.empty(0, dtype=np.int64))

    def _choose(self, acting: NDArray[np.int64]) -> NDArray[np.int64]:
        """Actions of the sequences `acting` in their current states."""
        return self.pick(acting, self.distribution(acting))

    def distribution(self, acting: NDArray[np.int64]) -> Tensor:
        """Law of the next action of each sequence of `acting` after all filters, float64 `[n, actions]`."""
        config, space = self.config, self.policy.space
        return action_distribution(
            self.policy.logits(self.hidden_now(acting), None),  # no positions: the offset does not change the policy
            config,
            space,
            forbidden=self._forbidden(acting) if config.exclude_deleted else None,
            noise=None if self.noise_rows is None else self.noise_rows(acting),
        )

    def hidden_now(self, acting: NDArray[np.int64]) -> Tensor:
        """Last hidden vector of the state of each sequence of `acting`, `[n, d]`."""
        return self.hidden[self._to_device(acting), self._to_device(self.depth[acting] - self.root[acting])]

    def pick(self, acting: NDArray[np.int64], p: Tensor) -> NDArray[np.int64]:
        """The most probable action where decoding is greedy, else the one that each sequence's next uniform draws."""
        if self.config.greedy:
            return p.argmax(-1).cpu().numpy()
        return draw(p, self._to_device(self.uniforms[acting, self.count[acting]])).cpu().numpy()

    def _execute(self, acting: NDArray[np.int64], chosen: NDArray[np.int64]) -> NDArray[np.int64]:
        """One transition of the edit MDP for each sequence of `acting`; returns the executed actions."""
        space, config, count = self.policy.space, self.config, self.count[acting]
        executed = chosen.copy()
        if self.noise is not None:
            self.stats.noised += self.noise.replace(executed, acting, count, space)
        full = self.depth[acting] - self.root[acting] == config.max_new_tokens
        forced = (full & (executed != space.bkspc)) | (count == config.action_limit - 1)
        self.stats.forced_eos += int((forced & (executed != space.eos)).sum())
        executed[forced] = space.eos
        self.labels[acting, count], self.realised[acting, count] = chosen, executed
        self.count[acting] += 1

        deleting = executed == space.bkspc
        inserting = ~deleting & (executed != space.eos)
        if config.exclude_deleted:
            for i in acting[deleting].tolist():
                self._remember_deletion(i)
        self.depth[acting[deleting]] = np.maximum(self.depth[acting[deleting]] - 1, self.root[acting[deleting]])
        grown = acting[inserting]
        self.tokens[grown, self.depth[grown] - self.root[grown]] = executed[inserting]
        self.depth[grown] += 1
        self.stats.actions += acting.size
        self.stats.backspaces += int(deleting.sum())
        self.stats.insertions += grown.size
        return executed

    def _drop(self, ended: NDArray[np.int64]) -> None:
        """Removes ended sequences; the last cache rows move into the gaps."""
        if ended.size == 0:
            return
        gone = np.isin(self.active, ended)
        left = self.active.size - ended.size
        gaps, movers = np.flatnonzero(gone[:left]), left + np.flatnonzero(~gone[left:])
        if gaps.size:
            self.cache.move(movers.tolist(), gaps.tolist(), int(self.depth[self.active[movers]].max()))
            self.active[gaps] = self.active[movers]
        self.active = self.active[:left]

    def _forward(self) -> None:
        """Reads the pending token of every active sequence; stores the hidden vector of its new state."""
        active = self.active
        last = self.depth[active] - 1
        offset = last - self.root[active]
        positions = self._to_device(last)[:, None]
        view = int(last.max()) + 1
        mask = (torch.arange(view, device=self.device) <= positions)[:, None, None]  # [R, 1, 1, view]
        self.cache.point(positions, view, begin=int(last[0]) if (last == last[0]).all() else None)
        tokens = self._to_device(self.tokens[active, offset])[:, None]
        states = self.policy.hidden(tokens, positions, mask, cache=self.cache)
        self.hidden[self._to_device(active), self._to_device(offset + 1)] = states[:, 0]
        self.stats.forward_tokens += active.size
        self.stats.forward_calls += 1

    def _remember_deletion(self, i: int) -> None:
        depth, root = int(self.depth[i]), int(self.root[i])
        if depth == root:
            self.deleted[i].setdefault(root, []).append(self.policy.space.bkspc)
        else:
            self.deleted[i].pop(depth, None)  # the memory of a state ends with the state
            self.deleted[i].setdefault(depth - 1, []).append(int(self.tokens[i, depth - 1 - root]))

    def _forbidden(self, acting: NDArray[np.int64]) -> Tensor:
        forbidden = torch.zeros((acting.size, self.policy.space.n_actions), dtype=torch.bool)
        for row, i in enumerate(acting.tolist()):
            forbidden[row, self.deleted[i].get(int(self.depth[i]), [])] = True
        return forbidden.to(self.device)

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

"""The sampler's inner loop: sequences that share forward passes while each edits its own state (Sec. 4.1).

A cache row holds the keys and values of one sequence's state, slot = position. `hidden[i, k]` holds the last hidden
vector of the state k tokens beyond the root on sequence i's path, so `<bkspc>` needs no forward pass. Sequences that
have ended leave: the last cache rows move into their places.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smlib.edits.actions import Trajectory
from smlib.edits.noise_dynamics import ExecutionNoise, TokenLaw, dense_laws
from smlib.generation.decoding import NOTHING_TO_DRAW, SamplingConfig, action_distribution, draw
from smlib.generation.operators import DecisionOperator
from smlib.generation.stats import SamplesActions, SampleStats, evaluating, keeps_edits
from smlib.policies.kv_cache import SlotCache

__all__ = ["EditBatch", "SampleStats", "SamplesActions", "evaluating", "keeps_edits"]


class EditBatch:
    """Sequences that share forward passes. Arrays have one entry per sequence; cache rows are
    `self.active`, in order.

    Raises:
        ValueError: a policy with soft deletion, whose batch is `smlib.generation.kept_batch.KeptBatch`.
    """

    keeps_edits = False

    def __init__(
        self,
        policy: SamplesActions,
        config: SamplingConfig,
        prompts: list[NDArray[np.int32]],
        seeds: list[int],
        laws: Sequence[TokenLaw | None],
        prefixes: list[NDArray[np.int32]],
    ) -> None:
        if keeps_edits(policy) != self.keeps_edits:
            raise ValueError(
                "this policy keeps what was deleted in its context (soft deletion), and here states are gone back to: "
                "generate with smlib.sample"
            )
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
        self.operator = None
        if config.delete_below > 0:
            self.operator = DecisionOperator(config.delete_below, config.deletions, n, config.max_new_tokens)
        self.cache = SlotCache(n, self.slots())
        self.hidden = self._prefill()  # [n, max_new_tokens + 1, d]: the last hidden vector along each path
        if self.operator is not None:
            self._judge_prefixes(self.operator)

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
        self.stats.prefill_tokens += int(self.depth.sum())
        self.stats.forward_calls += 1
        return self.remember(states)

    def slots(self) -> int:
        """Slots of a row of the cache."""
        return int(self.root.max()) + self.config.max_new_tokens

    def last_slot(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slot of the last token of each sequence of `rows`, read or pending."""
        return np.asarray(self.depth[rows] - 1)

    def remember(self, states: Tensor) -> Tensor:
        """Of the hidden vectors `[n, width, d]` of prompts and prefixes those that a later action may need."""
        hidden = states.new_zeros((len(self.prompts), self.config.max_new_tokens + 1, states.shape[-1]))
        for i, (root, depth) in enumerate(zip(self.root, self.depth, strict=True)):
            hidden[i, : depth - root + 1] = states[i, root - 1 : depth]
        return hidden

    def pending(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The last token of each sequence of `rows`, which the model has not read."""
        return self.tokens[rows, self.depth[rows] - 1 - self.root[rows]]

    def store(self, rows: NDArray[np.int64], states: Tensor) -> None:
        """Keeps the hidden vectors `[n, d]` of the states that the pending tokens of `rows` made."""
        self.hidden[self._to_device(rows), self._to_device(self.depth[rows] - self.root[rows])] = states

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
            known = executed == self.policy.space.bkspc  # who has something to do without another pass
            if self.operator is not None:
                known |= (executed != self.policy.space.eos) & self._due(acting)
            ended.append(acting[executed == self.policy.space.eos])
            acting = acting[known]
        self._drop(np.concatenate(ended) if ended else np.empty(0, dtype=np.int64))

    def _choose(self, acting: NDArray[np.int64]) -> NDArray[np.int64]:
        """Actions of the sequences `acting` in their current states."""
        # What an operator decides would hide a row that has nothing to draw.
        return self.pick(acting, self.distribution(acting, checked=self.operator is not None))

    def distribution(self, acting: NDArray[np.int64], checked: bool = True) -> Tensor:
        """Law of the next action of each sequence of `acting` after all filters, float64 `[n, actions]`.

        Args:
            checked: False leaves it to `pick` to raise where there is nothing to draw.
        """
        config, space = self.config, self.policy.space
        p = action_distribution(
            self.policy.logits(self.hidden_now(acting), None),  # no positions: the offset does not change the policy
            config,
            space,
            forbidden=self._forbidden(acting) if config.exclude_deleted else None,
            noise=None if self.noise_rows is None else self.noise_rows(acting),
            checked=checked,
        )
        if self.operator is not None and (due := self._due(acting)).any():
            p[self._to_device(due)] = torch.eye(space.n_actions, dtype=p.dtype, device=p.device)[space.bkspc]
        return p

    def hidden_now(self, acting: NDArray[np.int64]) -> Tensor:
        """Last hidden vector of the state of each sequence of `acting`, `[n, d]`."""
        return self.hidden[self._to_device(acting), self._to_device(self.depth[acting] - self.root[acting])]

    def pick(self, acting: NDArray[np.int64], p: Tensor) -> NDArray[np.int64]:
        """The most probable action where decoding is greedy, else the one that each sequence's next uniform draws.

        The one place where a GPU is waited for, once for all rows; whether there was something to draw comes with it.
        """
        if self.config.greedy:
            chosen = p.argmax(-1)
        else:
            chosen = draw(p, self._to_device(self.uniforms[acting, self.count[acting]]))
        found = torch.where(p[:, 0].isnan(), -1, chosen).cpu().numpy()
        if (found < 0).any():
            raise ValueError(NOTHING_TO_DRAW)
        return found

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
        if self.operator is not None:
            self.operator.went_back(acting[deleting], (self.depth - self.root)[acting[deleting]])
            written = acting[inserting]
            own = self._model(self.hidden_now(written))[np.arange(written.size), executed[inserting]]
            self.operator.wrote(written, (self.depth - self.root)[written], own)
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
            view = int(self.last_slot(self.active[movers]).max()) + 1
            self.cache.move(movers.tolist(), gaps.tolist(), view)
            self.active[gaps] = self.active[movers]
        self.active = self.active[:left]

    def _forward(self) -> None:
        """Reads the pending token of every active sequence; stores the hidden vector of its new state."""
        active = self.active
        last = self.last_slot(active)
        positions = self._to_device(last)[:, None]
        view = int(last.max()) + 1
        mask = (torch.arange(view, device=self.device) <= positions)[:, None, None]  # [R, 1, 1, view]
        self.cache.point(positions, view, begin=int(last[0]) if (last == last[0]).all() else None)
        tokens = self._to_device(self.pending(active))[:, None]
        states = self.policy.hidden(tokens, positions, mask, cache=self.cache)
        self.store(active, states[:, 0])
        self.stats.forward_tokens += active.size
        self.stats.forward_calls += 1

    def _due(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        assert self.operator is not None
        return self.operator.due(rows, self.depth[rows] - self.root[rows])

    def _model(self, hidden: Tensor) -> NDArray[np.float64]:
        """The model's own law over tokens, at temperature 1, `[n, actions]`."""
        logits = self.policy.logits(hidden, None).double()
        return np.asarray(logits[:, : self.policy.space.bkspc].softmax(-1).cpu().numpy())

    def _judge_prefixes(self, operator: DecisionOperator) -> None:
        for i, prefix in enumerate(self.prefixes):
            places = np.arange(prefix.size)
            own = self._model(self.hidden[i, : prefix.size])[places, prefix]
            operator.wrote(np.full(prefix.size, i), places, own)

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
        return self._sent(forbidden)

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return self._sent(torch.from_numpy(array))

    def _sent(self, tensor: Tensor) -> Tensor:
        # Without waiting for what the device is doing: CUDA has read ordinary memory when the call returns.
        return tensor.to(self.device, non_blocking=self.device.type == "cuda")

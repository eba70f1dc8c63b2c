"""Rows of a batch that insert and delete tokens, each for itself, on any causal language model that holds `<bkspc>`.

A cache row holds the keys and values of one sequence's state, slot = position. `hidden[i, k]` holds the last hidden
vector of the state k tokens beyond the root on row i's path, so `<bkspc>` needs no forward pass. Part of every export:
besides the cache it needs torch, numpy and transformers alone. See `smlib.generation.custom_generate`.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers.generation import logits_process as processing

from smlib.policies.kv_cache import SlotCache

# Look at the scores alone, each row by itself: all rows of a batch at once. Any other processor is called row by row,
# since the states of a batch have different lengths.
BATCHED = (
    processing.TemperatureLogitsWarper,
    processing.TopKLogitsWarper,
    processing.TopPLogitsWarper,
    processing.MinPLogitsWarper,
    processing.TypicalLogitsWarper,
    processing.EpsilonLogitsWarper,
    processing.SuppressTokensLogitsProcessor,
)


class RollingRows:
    """Sequences that share forward passes while each edits its own state; cache rows are `self.active`, in order.

    Args:
        model: a causal language model of transformers with `config.bkspc_token_id`.
        input_ids: prompts `[rows, width]`, padded on the left. mask: where they are; None for no padding.
        config: the generation configuration as `generate` prepared it.

    Raises:
        ValueError: no `<bkspc>` or `<eos>`, an empty or right-padded prompt, or one with `<bkspc>`, no room.
    """

    greedy = excluding = backspace = False
    uniforms: NDArray[np.float64] | None = None
    processors: list[Any]
    criteria: list[Any]
    max_actions = 0

    def __init__(self, model: Any, input_ids: Tensor, mask: Tensor | None, config: Any) -> None:
        text = model.config.get_text_config()
        self.model, self.body, self.device = model, model.get_decoder(), model.device
        bkspc = getattr(model.config, "bkspc_token_id", None)
        if bkspc is None:
            raise ValueError("the model has no <bkspc> (config.bkspc_token_id): `smlib export` writes one that has")
        self.bkspc = int(bkspc)
        eos = config.eos_token_id
        self.eos = set(eos if isinstance(eos, list) else [] if eos is None else [eos])
        if not self.eos:
            raise ValueError("generation_config.eos_token_id is missing: without <eos> no sequence ends")
        self.pad = config.pad_token_id if config.pad_token_id is not None else min(self.eos)
        n, self.width = input_ids.shape
        ids = input_ids.cpu().numpy()
        real = np.ones_like(ids, dtype=bool) if mask is None else mask.cpu().numpy().astype(bool)
        self.root = real.sum(1)
        if not self.root.all() or (real != (np.arange(self.width) >= self.width - self.root[:, None])).any():
            raise ValueError("every prompt has at least one token, and is padded on the left: padding_side='left'")
        if (ids[real] == self.bkspc).any():
            raise ValueError(f"a prompt holds <bkspc> (id {self.bkspc}), which is an action and no token")
        self.limit = int(config.max_length) - self.width  # tokens that stand beyond the root
        longest = int(self.root.max()) + self.limit
        window = getattr(text, "sliding_window", None) if getattr(text, "use_sliding_window", True) else None
        for most in (getattr(text, "max_position_embeddings", None), window):
            if most is not None and longest > most:
                raise ValueError(
                    f"a prompt of {int(self.root.max())} tokens and max_new_tokens={self.limit} take {longest} tokens, "
                    f"and the model's context is {most}: lower max_new_tokens, or shorten the prompts"
                )
        self.ids = np.concatenate([ids, np.full((n, self.limit), self.pad)], axis=1)
        self.edge = np.full(n, self.width)  # where the next token of each row goes in `ids`
        self.left = self.width - self.root  # padding
        self.chosen: list[list[int]] = [[] for _ in range(n)]
        self.deleted: list[dict[int, list[int]]] = [{} for _ in range(n)]  # by edge; forgotten with the state
        self.active = np.arange(n)
        self.cache = SlotCache(n, longest)
        self.forward_calls = self.forward_tokens = 0
        first = int(self.root.max())
        prompts = np.full((n, first), self.pad)
        for i, row in enumerate(ids):
            prompts[i, : self.root[i]] = row[self.left[i] :]
        states = self._read(prompts, np.broadcast_to(np.arange(first), (n, first)), first)
        self.hidden = states.new_zeros((n, self.limit + 1, states.shape[-1]))
        self.hidden[:, 0] = states[np.arange(n), self.root - 1]

    def run(self) -> None:
        """Every row acts until it has inserted a token that the model has not read; then all such tokens are read."""
        while self.active.size:
            acting, ended = self.active, []
            while acting.size:
                going, over = self._act(acting)
                ended += over
                acting = going
            self._drop(np.array(ended, dtype=np.int64))
            if self.active.size:
                last = self.edge[self.active] - 1
                places = (last - self.left[self.active])[:, None]
                states = self._read(self.ids[self.active, last][:, None], places, int(places.max()) + 1)
                self.hidden[self.active, last + 1 - self.width] = states[:, 0]
                self.forward_tokens += self.active.size

    def _act(self, acting: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[int]]:
        """One action of each row; returns those that have deleted, which act again, and those that have ended."""
        again, over = [], []
        for i, action in zip(acting.tolist(), self._choose(acting).tolist(), strict=True):
            full = self.edge[i] - self.width == self.limit and action != self.bkspc
            last = len(self.chosen[i]) == self.max_actions - 1
            if action in self.eos:
                self.chosen[i].append(action)
                over.append(i)
            elif full or last:
                over.append(i)
            elif action == self.bkspc:
                self.chosen[i].append(action)
                self._delete(i)
                again.append(i)
            else:
                self.chosen[i].append(action)
                self.ids[i, self.edge[i]] = action
                self.edge[i] += 1
                state = self._state(i)
                if any(bool(criterion(state, None).any()) for criterion in self.criteria):
                    over.append(i)
        return np.array(again, dtype=np.int64), over

    def _delete(self, i: int) -> None:
        edge = int(self.edge[i])
        if edge == self.width:  # at the root nothing changes
            self.deleted[i].setdefault(edge, []).append(self.bkspc)
            return
        self.deleted[i].pop(edge, None)
        self.deleted[i].setdefault(edge - 1, []).append(int(self.ids[i, edge - 1]))
        self.edge[i] -= 1

    def _choose(self, acting: NDArray[np.int64]) -> NDArray[np.int64]:
        """Actions in the current states, in float64: one does not depend on which other rows are in the batch."""
        scores = self._logits(self.hidden[acting, self.edge[acting] - self.width]).double()
        if not self.backspace:
            scores[:, self.bkspc] = -torch.inf
        if self.excluding:
            for row, i in enumerate(acting.tolist()):
                scores[row, self.deleted[i].get(int(self.edge[i]), [])] = -torch.inf
        for processor in self.processors:
            if isinstance(processor, BATCHED):
                scores = processor(None, scores)
            else:
                one_by_one = [processor(self._state(i), scores[row : row + 1]) for row, i in enumerate(acting.tolist())]
                scores = torch.cat(one_by_one)
        p = torch.softmax(scores, dim=-1)
        if not bool(p.isfinite().all()):
            raise ValueError("a state has no action to draw: its logits are not finite, or every action is forbidden")
        if self.greedy:
            return p.argmax(-1).cpu().numpy()
        if self.uniforms is None:
            uniforms = torch.rand(len(acting), dtype=p.dtype, device=p.device)
        else:
            taken = [len(self.chosen[i]) for i in acting.tolist()]
            uniforms = torch.from_numpy(self.uniforms[acting, taken]).to(p.device)
        # The first action whose cumulative mass exceeds the uniform; never one of probability 0.
        mass = p.cumsum(-1)
        total = mass[:, -1:]
        target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
        return torch.searchsorted(mass, target, right=True).squeeze(1).cpu().numpy()

    def _state(self, i: int) -> Tensor:
        """Row i as `generate` would hold it, padding on the left: `[1, tokens]`."""
        return torch.from_numpy(self.ids[i : i + 1, : self.edge[i]]).to(self.device)

    def _read(self, tokens: NDArray[np.int64], places: NDArray[np.int64], view: int) -> Tensor:
        """Last hidden vectors of tokens at these positions, for the first rows of the cache; `[rows, tokens, d]`."""
        positions = torch.from_numpy(np.array(places)).to(self.device)
        seen = (torch.arange(view, device=self.device) <= positions[:, :, None])[:, None]  # [rows, 1, tokens, view]
        if self.model.config._attn_implementation == "eager":  # which adds its mask
            added = torch.zeros(seen.shape, dtype=self.model.dtype, device=self.device)
            seen = added.masked_fill(~seen, torch.finfo(self.model.dtype).min)
        self.cache.point(positions, view)
        self.output = self.body(
            input_ids=torch.from_numpy(tokens).to(self.device),
            position_ids=positions,
            attention_mask=seen,
            past_key_values=self.cache,
            use_cache=True,
        )
        self.forward_calls += 1
        states: Tensor = self.output.last_hidden_state
        return states

    def _logits(self, hidden: Tensor) -> Tensor:
        """The model's own logits of last hidden vectors `[rows, d]`, soft caps and scales included.

        Its forward pass with the network below the head left out: that returns the vectors instead.
        """
        known = type(self.output)(**{**self.output, "last_hidden_state": hidden[:, None]})
        before = self.body.__dict__.get("forward")  # what device maps put there
        self.body.forward = lambda *args, **kwargs: known
        try:
            ids = torch.zeros(len(hidden), 1, dtype=torch.long, device=self.device)
            logits: Tensor = self.model(input_ids=ids, use_cache=False).logits[:, -1]
        finally:
            del self.body.forward
            if before is not None:
                self.body.forward = before
        return logits

    def _drop(self, ended: NDArray[np.int64]) -> None:
        """Rows that have ended leave; the last cache rows move into the gaps."""
        if ended.size == 0:
            return
        gone = np.isin(self.active, ended)
        left = self.active.size - ended.size
        gaps, movers = np.flatnonzero(gone[:left]), left + np.flatnonzero(~gone[left:])
        if gaps.size:
            moving = self.active[movers]
            self.cache.move(movers.tolist(), gaps.tolist(), int((self.edge - self.left)[moving].max()))
            self.active[gaps] = moving
        self.active = self.active[:left]

    def standing(self) -> list[list[int]]:
        """What each row has at the end, with its `<eos>` if it chose one."""
        kept = [self.ids[i, self.width : edge].tolist() for i, edge in enumerate(self.edge.tolist())]
        return [
            row + (all_[-1:] if all_ and all_[-1] in self.eos else [])
            for row, all_ in zip(kept, self.chosen, strict=True)
        ]

    def padded(self, rows: list[list[int]]) -> Tensor:
        """Prompts and what follows, as one tensor padded on the right."""
        longest = max(map(len, rows))
        after = np.array([row + [self.pad] * (longest - len(row)) for row in rows], dtype=np.int64)
        whole = np.concatenate([self.ids[:, : self.width], after.reshape(len(rows), longest)], axis=1)
        return torch.from_numpy(whole).to(self.device)

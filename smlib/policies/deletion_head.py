"""A policy that writes as its language model does and deletes by a head of its own (beyond the paper).

Elsewhere `<bkspc>` is one more row of the unembedding, and learning it changes the weights that write. Here a small
network f looks at two hidden vectors, that of the state s and that of the state s' before its last token, which says
what the model had expected there:

    q(s) = sigmoid f(h(s), h(s')),    pi(<bkspc> | s) = q(s),    pi(a | s) = (1 - q(s)) p(a | s)   for every token a.

It sees both *detached*: no gradient of a deletion reaches the language model. Behavioural cloning of noised answers
then splits into two losses that share nothing but a forward pass, -log p(a|s) of the labels that are tokens, for the
language model, and the cross-entropy of "delete or not" at every label, for the head. With the language model held
(`hold_writing`) the head alone is trained, and with `<bkspc>` forbidden the policy writes as before to the last bit.

A token costs one forward pass as everywhere. The hidden vectors of a state's ancestors are kept beside the key/value
cache, slot = position (`SlotCache.beside`), so that a state that was gone back to finds its own again.
"""

import math
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.nn.functional import gelu

from smlib.edits.packing import PackedBatch
from smlib.policies.block_masks import PACKED
from smlib.policies.policy import Policy, PolicyConfig
from smlib.policies.unembedding import recomputed

WIDTH = 4
"""Units of the head, in hidden vectors' widths."""


class DeletionHead(nn.Module):
    """Log-odds of `<bkspc>` from two hidden vectors: one hidden layer, for a token is wrong only beside what was due.

    It starts without looking, with the probability of an average token, as the row of `<bkspc>` does.

    Args:
        dim: of a hidden vector. n_tokens: of the vocabulary. seed: of the first weights; the global generator is left
            as it was.
    """

    def __init__(self, dim: int, n_tokens: int, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.inner, self.outer = nn.Linear(2 * dim, WIDTH * dim), nn.Linear(WIDTH * dim, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.constant_(self.outer.bias, -math.log(n_tokens))

    def forward(self, both: Float[Tensor, "N dd"]) -> Float[Tensor, " N"]:
        """Log-odds of the states whose own hidden vector and, after it, their parents' are given."""
        log_odds: Tensor = self.outer(gelu(self.inner(both)))
        return log_odds[:, 0]


class DeletionHeadPolicy(Policy):
    """A `Policy` whose probability of `<bkspc>` is that of a `DeletionHead`. Its row of `<bkspc>` is not used.

    Raises:
        ValueError: what `Policy` refuses; soft deletion, where there is no going back to a parent.
    """

    file_format = "smlib-deletion-head-1"

    def __init__(self, lm: Any, config: PolicyConfig) -> None:
        if config.keep_edits:
            raise ValueError("soft deletion keeps what was deleted in the context, and a deletion head goes back")
        super().__init__(lm, config)
        self.width = self.w_bkspc.numel()
        self.w_bkspc.requires_grad_(False)
        self.deletion = DeletionHead(self.width, config.space.vocab_size).to(self.device)

    @classmethod
    def of(cls, policy: Policy) -> "DeletionHeadPolicy":
        """The same language model and offset head, shared and not copied, with a fresh head for `<bkspc>`."""
        made = cls(policy.lm, policy.config)
        made.offset = policy.offset
        return made.to(policy.device)

    def hold_writing(self) -> "DeletionHeadPolicy":
        """Nothing but the head is trained from here on; in place."""
        self.requires_grad_(False)
        self.deletion.requires_grad_(True)
        return self

    def hidden(
        self,
        tokens: Int[Tensor, "R S"],
        positions: Int[Tensor, "R S"],
        mask: Bool[Tensor, "R 1 S K"] | BlockMask,
        cache: Any = None,
    ) -> Float[Tensor, "R S dd"]:
        """Last hidden vector of each slot and, after it, that of the state before its last token."""
        own = super().hidden(tokens, positions, mask, cache)
        return torch.cat([own, of_parents(own.detach(), positions, mask, cache)], dim=-1)

    def logits(self, hidden: Float[Tensor, "N dd"], positions: Int[Tensor, " N"] | None) -> Float[Tensor, "N A"]:
        """The language model's logits of the tokens, and that of `<bkspc>` which makes its probability the head's."""
        every = super().logits(hidden[:, : self.width], positions)
        if not self.config.backspace:
            return every
        tokens = every[:, : self.space.bkspc]
        log_odds = self.deletion(hidden.detach().to(self.deletion.outer.weight.dtype)).to(tokens.dtype)
        return torch.cat([tokens, (tokens.logsumexp(-1) + log_odds)[:, None]], dim=1)

    def forward(self, batch: PackedBatch, chunk: int | None = None, logits: bool = False) -> Any:
        """As `Policy.forward`.

        Raises:
            ValueError: tiles of the vocabulary, which know no head but rows.
        """
        if self.vocabulary_tile:
            raise ValueError(
                f"vocabulary_tile={self.vocabulary_tile} cuts rows, and this policy's <bkspc> is none: leave it out, "
                "or cut the states with chunk"
            )
        if logits:
            return self.state_logits(batch)
        hidden, positions = self.state_hidden(batch)
        if chunk is None or len(hidden) <= chunk:
            every = self.logits(hidden, positions)
            return every[batch.visit_state, batch.label], every.logsumexp(-1)
        order = torch.argsort(batch.visit_state, stable=True)
        state, label = batch.visit_state[order], batch.label[order]
        picked, values = recomputed(
            lambda part: self.logits(hidden[part], positions[part]), len(hidden), state, label, chunk
        )
        return torch.empty_like(picked).index_copy(0, order, picked), values

    def keep_edits(self) -> "Policy":
        """Refused: ValueError. Soft deletion has no parents to look at."""
        raise ValueError("soft deletion keeps what was deleted in the context, and a deletion head goes back")

    def _extra_modules(self) -> dict[str, nn.Module]:
        return {**super()._extra_modules(), "deletion": self.deletion}


def of_parents(
    hidden: Float[Tensor, "R S d"],
    positions: Int[Tensor, "R S"],
    mask: Bool[Tensor, "R 1 S K"] | BlockMask,
    cache: Any = None,
) -> Float[Tensor, "R S d"]:
    """The hidden vector of the state before each slot's last token; zeros where there is none.

    A state is the slots that its last one sees. Its parent is the one of them whose position is less by one.
    """
    if cache is not None:  # slot = position, and what was read before is there
        beside, _ = cache.beside.update(hidden[:, None], torch.zeros_like(hidden[:, None, :, :1]), 0)
        stored, at, there = beside[:, 0], (positions - 1).clamp(min=0), positions > 0
    else:
        dense = getattr(mask, PACKED).dense() if isinstance(mask, BlockMask) else mask
        parent = dense[:, 0] & (positions[:, None, :] == positions[:, :, None] - 1)
        stored, at, there = hidden, parent.int().argmax(-1), parent.any(-1)
    found = stored.gather(1, at[..., None].expand(-1, -1, hidden.shape[-1]))
    return found * there[..., None].to(found.dtype)

"""The logit of each visit's label and V of each state, all logits at once or in parts: what a policy's forward returns.

chunks of states      `smlib.policies.unembedding`; also for heads that can only be called
tiles of vocabulary   `smlib.policies.vocabulary_tiles`; for heads that are a matrix

They differ in memory and in the last digits. A loss that needs more of a state than these two numbers (unlikelihood)
takes all logits.
"""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smlib.edits.packing import PackedBatch
from smlib.policies.unembedding import is_matrix, picked_and_partition, recomputed, wide
from smlib.policies.vocabulary_tiles import Tiles, chosen_tile, picked_and_partition_by_tiles

if TYPE_CHECKING:
    from smlib.policies.policy import Policy


def labels_and_values(
    policy: "Policy",
    hidden: Float[Tensor, "U d"],
    positions: Int[Tensor, " U"],
    batch: PackedBatch,
    chunk: int | None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " U"]]:
    """l(label | s_i) of each visit and V(s) of each needed state, from the states' hidden vectors and positions.

    Args:
        chunk: states whose logits exist at a time; None for all.

    Raises:
        ValueError: `policy.vocabulary_tile` asks for tiles of a head with adapters or quantised weights.
    """
    head: Any = policy.lm.get_output_embeddings()
    n_tokens = policy.space.vocab_size
    tile = chosen_tile(policy.vocabulary_tile, head, len(hidden), n_tokens, chunk)
    rows = len(hidden) if chunk is None else chunk
    if tile is None and len(hidden) <= rows:
        every = policy.logits(hidden, positions)
        return every[batch.visit_state, batch.label], every.logsumexp(-1)
    order = torch.argsort(batch.visit_state, stable=True)
    state, label = batch.visit_state[order], batch.label[order]
    if tile is not None:
        edit = policy.w_bkspc if policy.config.backspace else None
        tiles = Tiles(n_tokens, tile, chunk, policy.behind)
        picked, values = picked_and_partition_by_tiles(hidden, head, edit, state, label, tiles)
    elif is_matrix(head) and getattr(head, "bias", None) is None and head.weight.is_floating_point():
        picked, values = picked_and_partition(hidden, _rows(policy, head.weight), state, label, rows, policy.behind)
    else:  # a head with adapters or quantised weights is called, chunk by chunk
        picked, values = recomputed(lambda p: policy.logits(hidden[p], positions[p]), len(hidden), state, label, rows)
        return torch.empty_like(picked).index_copy(0, order, picked), values
    if policy.offset is not None:
        offset = policy.offset(hidden.to(policy.w_bkspc.dtype), positions)[:, 0].to(values.dtype)
        picked, values = picked + offset[state], values + offset
    return torch.empty_like(picked).index_copy(0, order, picked), values


def _rows(policy: "Policy", weight: Tensor) -> Tensor:
    """The unembedding with the row of `<bkspc>`, where that is an action."""
    # A slice of all rows would cost another matrix in the backward pass, half a gigabyte for Llama-2.
    rows = wide(weight if len(weight) == policy.space.vocab_size else weight[: policy.space.vocab_size])
    return torch.cat([rows, policy.w_bkspc[None].to(rows.dtype)]) if policy.config.backspace else rows

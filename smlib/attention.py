"""Attention under a packed mask, in pieces: half the work of the dense form, through the same `sdpa` kernels.

A slot never sees a later one, so queries [a, b) need keys [0, b) alone. A kernel that is handed a dense mask cannot
know that and multiplies all S x S pairs; cutting the queries into pieces leaves about half of them. Values and
gradients stay those of `sdpa`.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PIECES = "sdpa_in_pieces"
PIECE = 256  # queries at a time; rows that are not longer are left to the kernel whole


def attention_in_pieces(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Causal attention; transformers' interface.

    Args:
        query, key, value: `[R, heads, S, head_dim]`, or one query and many keys while sampling.
        attention_mask: bool `[R, 1, S, S]`, False above the diagonal; anything else goes to `sdpa` as it is.

    Returns:
        `[R, S, heads, head_dim]`, and no weights.
    """
    length = query.shape[2]
    if length == 1 and attention_mask is not None and not attention_mask.is_cuda and bool(attention_mask.all()):
        attention_mask = None  # while sampling, where all rows are equally deep: the kernel is a third faster without
    if attention_mask is None or length <= PIECE or key.shape[2] != length:
        whole: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return whole
    pieces = []
    for begin in range(0, length, PIECE):
        end = min(begin + PIECE, length)
        mask = attention_mask[:, :, begin:end, :end]
        part = sdpa_attention_forward(
            module, query[:, :, begin:end], key[:, :, :end], value[:, :, :end], mask, **kwargs
        )
        pieces.append(part[0])
    return torch.cat(pieces, dim=1), None


def use_pieces(lm: Any) -> None:
    """Makes a causal language model of transformers that was loaded with `sdpa` attend in pieces. In place."""
    lm.set_attn_implementation(PIECES)


ALL_ATTENTION_FUNCTIONS.register(PIECES, attention_in_pieces)
ALL_MASK_ATTENTION_FUNCTIONS.register(PIECES, sdpa_mask)


def check_attention(lm: Any) -> None:
    """Raises ValueError unless the model uses sdpa: eager *adds* a bool mask, flash-attention ignores 4-D masks."""
    kind = getattr(lm.config, "_attn_implementation", None)
    if kind not in ("sdpa", PIECES):
        raise ValueError(
            f"attn_implementation is {kind!r}, which misreads or ignores the packing's bool 4-D mask; "
            "load the model with attn_implementation='sdpa'"
        )

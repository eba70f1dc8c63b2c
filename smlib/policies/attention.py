"""Attention under a packed mask, in pieces: half the work of the dense form, through the same `sdpa` kernels.

A slot never sees a later one, so queries [a, b) need keys [0, b) alone. A kernel that is handed a dense mask cannot
know that and multiplies all S x S pairs; cutting the queries into pieces leaves about half of them. Of those a rollout
does not see the rest of its data trajectory, nor the other way round, and neither sees another block of the row: runs
of keys that no query of a piece sees are left out too. Values and gradients stay those of `sdpa`.
"""

import itertools
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from smlib.policies.block_masks import attention_by_blocks
from smlib.policies.windows import windowed

PIECES = "sdpa_in_pieces"
BEYOND = (
    "attention_in_pieces"  # the same function, for models that torch's kernel does not do for (by `_supports_sdpa`)
)
PIECE = 256  # queries at a time; rows that are not longer are left to the kernel whole
GAP = 64  # keys in a row that a piece does not see, before they are cut out
KEPT = 0.85  # largest share of the keys that may remain for cutting to pay


def attention_in_pieces(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | BlockMask | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Causal attention; transformers' interface.

    Args:
        query, key, value: `[R, heads, S, head_dim]`, or one query and many keys while sampling.
        attention_mask: bool `[R, 1, S, S]`, False above the diagonal, or a block mask of `smlib.policies.block_masks`;
            anything else goes to `sdpa` as it is.

    Returns:
        `[R, S, heads, head_dim]`, and no weights.
    """
    if isinstance(attention_mask, BlockMask):
        return attention_by_blocks(module, query, key, value, attention_mask, **kwargs)
    length = query.shape[2]
    attention_mask = windowed(attention_mask, kwargs.get("sliding_window"))
    beyond_sdpa = kwargs.get("softcap") is not None or kwargs.get("s_aux") is not None
    attend = plain_attention if beyond_sdpa else sdpa_attention_forward
    readable = attention_mask is not None and attention_mask.dtype == torch.bool and attention_mask.device.type == "cpu"
    if readable and length == 1 and _sees_all(attention_mask):  # type: ignore[arg-type]
        attention_mask = None  # while sampling, where all rows are equally deep: the kernel is a third faster without
    if attention_mask is None or length <= PIECE or key.shape[2] != length:
        whole: tuple[Tensor, None] = attend(module, query, key, value, _added(attention_mask, query.dtype), **kwargs)
        return whole
    plan = _plan(attention_mask) if readable else None  # reading a mask back would stall a GPU
    if plan is None:
        pieces, added = [], _added(attention_mask, query.dtype)
        for begin in range(0, length, PIECE):
            end = min(begin + PIECE, length)
            mask = added[:, :, begin:end, :end]
            queries = query[:, :, begin:end]
            pieces.append(attend(module, queries, key[:, :, :end], value[:, :, :end], mask, **kwargs)[0])
        return torch.cat(pieces, dim=1), None
    rows = []
    cut = _cut(attention_mask, plan, query.dtype)
    for row, (sizes, needed) in enumerate(plan):
        here = slice(row, row + 1)
        # One split and not many slices: the gradient of a slice is a tensor of zeros as large as the whole.
        keys, values = key[here].split(sizes, 2), value[here].split(sizes, 2)
        queries = query[here].split(PIECE, 2)
        rows.append(
            torch.cat(
                [
                    attend(
                        module,
                        queries[piece],
                        torch.cat([keys[i] for i in chosen], 2),
                        torch.cat([values[i] for i in chosen], 2),
                        cut[row][piece],
                        **kwargs,
                    )[0]
                    for piece, chosen in enumerate(needed)
                ],
                dim=1,
            )
        )
    return torch.cat(rows), None


def plain_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention with what torch's kernel has not: scores as cap * tanh(score / cap) (Gemma-2), and sinks (gpt-oss).

    Takes and returns what `attention_in_pieces` does; with no mask it is causal.

    Args:
        s_aux: one score a head, of a sink that takes part in the softmax and has no value.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if attention_mask is None and query.shape[2] > 1:
        attention_mask = torch.ones(scores.shape[2:], dtype=torch.bool, device=scores.device).tril()
    if attention_mask is not None:
        allowed = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
        scores = scores.masked_fill(~allowed, -torch.inf)
    if s_aux is not None:
        sinks = s_aux.reshape(1, -1, 1, 1).expand(len(scores), -1, scores.shape[2], -1).to(scores.dtype)
        scores = torch.cat([scores, sinks], dim=-1)
    weights = torch.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    weights = weights[..., : key.shape[2]]
    weights = nn.functional.dropout(weights, dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), None


T = TypeVar("T")
Cut = tuple[list[int], list[list[int]]]


def visible_segments(mask: Bool[Tensor, "R 1 S S"]) -> list[Cut]:
    """For each row, sizes of segments of its keys, and for each piece of queries the segments that it needs.

    A segment is needed where some query of the piece sees one of its keys. Borders lie between pieces, and around runs
    of more than GAP keys that some piece does not see.
    """
    seen, length = mask[:, 0].numpy(), mask.shape[-1]
    begins = range(0, length, PIECE)
    plan = []
    for row in seen:
        by_piece = [row[begin : begin + PIECE].any(axis=0) for begin in begins]  # [S] each
        borders = {*begins, length}
        for keys in by_piece:
            at = np.flatnonzero(keys)
            for jump in np.flatnonzero(np.diff(at) > GAP):
                borders |= {int(at[jump]) + 1, int(at[jump + 1])}
        edges = sorted(borders)
        spans = list(itertools.pairwise(edges))
        needed = [[i for i, (a, b) in enumerate(spans) if keys[a:b].any()] for keys in by_piece]
        plan.append(([b - a for a, b in spans], needed))
    return plan


def _plan(mask: Tensor) -> list[Cut] | None:
    """`visible_segments`, found once for all layers, which get the same mask; None where too little would be cut."""
    if mask.shape[1] != 1:
        return None

    def made() -> list[Cut] | None:
        plan = visible_segments(mask)
        kept = sum(sizes[i] for sizes, needed in plan for chosen in needed for i in chosen)
        whole = len(plan) * sum(range(PIECE, mask.shape[-1] + PIECE, PIECE))
        return plan if kept < KEPT * whole else None

    return _once(mask, "plan", made)


def _sees_all(mask: Tensor) -> bool:
    return _once(mask, "all", lambda: bool(mask.all()))


def _added(mask: Tensor | None, dtype: torch.dtype) -> Any:
    """A bool mask as what is added to the scores, 0 or -inf, made once for all layers; anything else as it is.

    The kernels make the same of a bool mask, and autograd keeps it: a copy for each layer, if each makes its own.
    """
    if mask is None or mask.dtype != torch.bool:
        return mask
    return _once(mask, dtype, lambda: _scores(mask, dtype))


def _cut(mask: Tensor, plan: list[Cut], dtype: torch.dtype) -> list[list[Tensor]]:
    """For each row and piece of a plan the mask of the keys that it keeps, as `_added` gives it."""

    def made() -> list[list[Tensor]]:
        found = []
        for row, (sizes, needed) in enumerate(plan):
            masks = mask[row : row + 1].split(PIECE, 2)
            found.append(
                [
                    _scores(torch.cat([masks[piece].split(sizes, 3)[i] for i in chosen], 3), dtype)
                    for piece, chosen in enumerate(needed)
                ]
            )
        return found

    return _once(mask, ("cut", dtype), made)


def _scores(mask: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -torch.inf)


def _once(mask: Tensor, name: Hashable, make: Callable[[], T]) -> T:
    """What was made of a mask under this name, kept beside it for the other layers."""
    kept = mask.__dict__.setdefault("_made", {})
    if name not in kept:
        kept[name] = make()
    made: T = kept[name]
    return made


def use_pieces(lm: Any) -> None:
    """Makes a causal language model of transformers that was loaded with `sdpa` attend in pieces. In place."""
    if lm.config._attn_implementation != BEYOND:
        lm.set_attn_implementation(PIECES)


for name in (PIECES, BEYOND):
    ALL_ATTENTION_FUNCTIONS.register(name, attention_in_pieces)
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, sdpa_mask)


def check_attention(lm: Any) -> None:
    """Raises ValueError unless the model uses sdpa: eager *adds* a bool mask, flash-attention ignores 4-D masks."""
    kind = getattr(lm.config, "_attn_implementation", None)
    if kind not in ("sdpa", PIECES, BEYOND):
        raise ValueError(
            f"attn_implementation is {kind!r}, which misreads or ignores the packing's bool 4-D mask; "
            "load the model with attn_implementation='sdpa'"
        )

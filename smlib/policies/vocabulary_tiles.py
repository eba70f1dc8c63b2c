"""The unembedding in tiles of the vocabulary: a label's logit and V(s), and no array of states x vocabulary.

`smlib.policies.unembedding` cuts the states into chunks, and every chunk meets the whole head: its weight is read once
a chunk, and so is its gradient, and a 16-bit weight is widened as a whole. Here the vocabulary is cut. A tile of rows
is widened, meets all states (or a chunk of them), and is done with; V is added up tile by tile,

    V <- log(exp V + sum_{a in tile} exp l(a|s)),        dl(a|s) = exp(l(a|s) - V(s)) dV(s) + the labels' share,

and the backward pass computes each tile again. At most `tile` columns of logits exist at a time. Sums are float32
under 16-bit weights, whatever autocast says. The row of `<bkspc>`, which is not the head's, is a tile of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from smlib.policies.postprocessing import NONE, Postprocessing
from smlib.policies.unembedding import cut_by_state, is_matrix, unrounded, wide

TILE = 8_192  # rows of the head at a time where nobody said how many: 32 MiB of float32 logits for 1,024 states
AT_ONCE = 2**27  # logits (512 MiB in float32) from which a CUDA device tiles by itself


@dataclass(frozen=True)
class Tiles:
    """How the vocabulary and the states are cut.

    Attributes:
        n_tokens: rows of the head that are tokens; a head may have more, which are padding.
        tile: rows of the head at a time. chunk: states at a time; None for all.
        behind: what the model does to its head's output.
    """

    n_tokens: int
    tile: int
    chunk: int | None = None
    behind: Postprocessing = NONE


def chosen_tile(asked: int | None, head: nn.Module, states: int, n_tokens: int, chunk: int | None) -> int | None:
    """Rows of the head at a time, or None where the vocabulary is not cut.

    Args:
        asked: a number of rows; 0 for never. None leaves it to the device: `TILE` on CUDA, where `chunk` bounds
            nothing and all logits would be more than `AT_ONCE`; never on a CPU, whose results keep their last digits.

    Raises:
        ValueError: a number was asked for, and the head has adapters or quantised weights: its rows are not to be had.
    """
    matrix = is_matrix(head) and head.weight.is_floating_point()
    if asked is None:
        alone = matrix and chunk is None and head.weight.device.type == "cuda"
        return TILE if alone and states * n_tokens > AT_ONCE else None
    if asked and not matrix:
        raise ValueError(
            f"vocabulary_tile={asked} cuts a head into its rows, and this one ({type(head).__name__}) has adapters or "
            "quantised weights: set vocabulary_tile=0 and bound the memory of the logits by chunk"
        )
    return asked or None


def picked_and_partition_by_tiles(
    hidden: Float[Tensor, "U d"],
    head: nn.Linear,
    edit: Float[Tensor, " d"] | None,
    state: Int[Tensor, " N"],
    label: Int[Tensor, " N"],
    tiles: Tiles,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " U"]]:
    """`logits[state, label]` and the rows' logsumexp of the logits over the tokens and, last, `<bkspc>`.

    Gradients go to the hidden vectors, and to weight, bias and `edit` where they are trained.

    Args:
        head: its first `tiles.n_tokens` rows are the tokens'.
        edit: the row of `<bkspc>`; None where it is no action.
        state: ascending row of each label.
    """
    picked, partition = _Tiled.apply(hidden, head.weight, head.bias, edit, state, label, tiles)
    return picked, partition


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        edit: Tensor | None,
        state: Tensor,
        label: Tensor,
        tiles: Tiles,
    ) -> tuple[Tensor, Tensor]:
        n, dtype = len(hidden), torch.promote_types(wide(hidden).dtype, wide(weight).dtype)
        plan = cut_by_state(state, n, tiles.chunk or max(n, 1))
        partition = hidden.new_full((n,), -torch.inf, dtype=dtype)
        picked = hidden.new_full((len(state),), -torch.inf, dtype=dtype)  # and stays so where a label is in no tile
        with unrounded(hidden):
            states = hidden.to(dtype)
            for begin, rows, shift in _rows(weight, bias, edit, tiles, dtype):
                for first, lo, hi in plan:
                    part = slice(first, first + (tiles.chunk or n))
                    logits = tiles.behind(_product(states[part], rows, shift))
                    partition[part] = torch.logaddexp(partition[part], logits.logsumexp(-1))
                    # Labels of other tiles are looked up and thrown away: to select them would stall a GPU.
                    inside, at = _place(label[lo:hi], begin, len(rows))
                    picked[lo:hi] = torch.where(inside, logits[state[lo:hi] - first, at], picked[lo:hi])
        ctx.plan, ctx.tiles = plan, tiles
        ctx.save_for_backward(hidden, weight, bias, edit, state, label, partition)
        return picked, partition

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_picked, d_partition = gradients
        hidden, weight, bias, edit, state, label, partition = ctx.saved_tensors
        tiles, dtype, n = ctx.tiles, partition.dtype, len(hidden)
        wanted = ctx.needs_input_grad
        d_hidden = torch.zeros_like(hidden, dtype=dtype) if wanted[0] else None
        d_weight, d_bias, d_edit = (
            torch.zeros_like(given) if asked else None
            for given, asked in zip((weight, bias, edit), wanted[1:4], strict=True)
        )
        with unrounded(hidden):
            states = hidden.to(dtype)
            for begin, rows, shift in _rows(weight, bias, edit, tiles, dtype):
                of_edit = begin == tiles.n_tokens
                asked = d_edit is not None if of_edit else d_weight is not None
                d_rows = torch.zeros_like(rows) if asked else None
                d_shift = None if of_edit or d_bias is None else torch.zeros_like(rows[:, 0])
                for first, lo, hi in ctx.plan:
                    part = slice(first, first + (tiles.chunk or n))
                    logits = tiles.behind(_product(states[part], rows, shift))
                    slope = logits if tiles.behind.nothing else logits.clone()
                    slope.sub_(partition[part, None]).exp_().mul_(d_partition[part, None])
                    inside, at = _place(label[lo:hi], begin, len(rows))
                    # Two visits may share a state and a label: their gradients add up.
                    share = torch.where(inside, d_picked[lo:hi], torch.zeros_like(d_picked[lo:hi]))
                    slope.index_put_((state[lo:hi] - first, at), share, accumulate=True)
                    if not tiles.behind.nothing:
                        tiles.behind.slope_(slope, logits)
                    if d_hidden is not None:
                        d_hidden[part].addmm_(slope, rows)
                    if d_rows is not None:
                        d_rows.addmm_(slope.T, states[part])
                    if d_shift is not None:
                        d_shift += slope.sum(0)
                if d_rows is not None and of_edit:
                    d_edit = d_rows[0].to(edit.dtype)
                elif d_rows is not None and d_weight is not None:
                    d_weight[begin : begin + len(rows)] = d_rows
                if d_shift is not None and d_bias is not None:
                    d_bias[begin : begin + len(rows)] = d_shift
        return None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, d_bias, d_edit, None, None, None


def _rows(
    weight: Tensor, bias: Tensor | None, edit: Tensor | None, tiles: Tiles, dtype: torch.dtype
) -> Iterator[tuple[int, Tensor, Tensor | None]]:
    """First action, rows of the unembedding and their biases of each tile; the last one is `<bkspc>` by itself."""
    for begin in range(0, tiles.n_tokens, tiles.tile):
        part = slice(begin, min(begin + tiles.tile, tiles.n_tokens))
        yield begin, weight[part].to(dtype), None if bias is None else bias[part].to(dtype)
    if edit is not None:
        yield tiles.n_tokens, edit[None].to(dtype), None


def _product(states: Tensor, rows: Tensor, shift: Tensor | None) -> Tensor:
    return states @ rows.T if shift is None else torch.addmm(shift, states, rows.T)


def _place(label: Tensor, begin: int, width: int) -> tuple[Tensor, Tensor]:
    """Whether each label lies in a tile, and the column of those that do."""
    column = label - begin
    return (column >= 0) & (column < width), column.clamp(0, width - 1)

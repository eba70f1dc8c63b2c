"""FlexAttention's `BlockMask` from `expiry`: attention of a packed row on a GPU without an S x S mask.

The kernel skips blocks of 128 x 128 pairs of which none is visible, asks nothing where all are, and evaluates the
predicate of `smlib.edits.masking` in between, which reads one integer a slot. Which blocks are which follows from the
same integers: query q of a block [q0, q1) sees key k iff max(k, q0) <= q < min(expiry[k], q1), so a key is seen from
the block iff that interval is not empty. Windows (`smlib.policies.windows`) cut blocks by their smallest and largest
positions; a block is kept where that is not sure, and the predicate decides.

On first use of a kind of layer the predicate is compared with the dense mask, the blocks with the pairs that they have
to cover, and the layer's output with the dense one; a difference is an error. FlexAttention has no backward pass on a
CPU, so this is for CUDA; the arithmetic is tested on CPUs.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_mask
from transformers.integrations.flex_attention import flex_attention_forward

from smlib.edits.masking import dense_mask, visibility

BLOCK = 128  # FlexAttention's own
DROPOUTS = ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob")  # of attention, in configurations
PACKED = "_smlib_packed"  # attribute of a BlockMask: what it was made from
CHECKED: set[tuple[object, ...]] = set()  # kinds of layers whose first output was compared with the dense one


@dataclass
class PackedBlocks:
    """What a block mask is made from, and its windowed forms, made once for all layers of a W."""

    expiry: Int[Tensor, "R S"]
    positions: Int[Tensor, "R S"]
    by_window: dict[int | None, BlockMask] = field(default_factory=dict)

    def mask(self, window: int | None = None) -> BlockMask:
        """The block mask of layers with this window."""
        if window not in self.by_window:
            self.by_window[window] = block_mask(self.expiry, self.positions, window)
        return self.by_window[window]

    def dense(self, window: int | None = None) -> Bool[Tensor, "R 1 S S"]:
        """The same as a dense mask."""
        mask = dense_mask(self.expiry)
        if window is not None:
            mask &= (self.positions[:, :, None] - self.positions[:, None, :] < window)[:, None]
        return mask


def packed_mask(
    expiry: Int[Tensor, "R S"], positions: Int[Tensor, "R S"], flex_from: int | None
) -> Bool[Tensor, "R 1 S S"] | BlockMask:
    """The mask of a packed batch: dense, or on a CUDA device a block mask from `flex_from` slots a row on.

    Args:
        flex_from: 0 or None for never. None was a length until a GPU tried it and its tests failed (docs/gpu.md).
    """
    if expiry.device.type != "cuda" or not flex_from or expiry.shape[1] < flex_from:
        return dense_mask(expiry)
    return with_packed(expiry, positions)


def with_packed(expiry: Int[Tensor, "R S"], positions: Int[Tensor, "R S"]) -> BlockMask:
    """A block mask that knows what it was made from, so that every layer gets that of its window."""
    packed = PackedBlocks(expiry.int(), positions.int())
    mask = packed.mask()
    setattr(mask, PACKED, packed)
    return mask


def block_mask(
    expiry: Int[Tensor, "R S"], positions: Int[Tensor, "R S"] | None = None, window: int | None = None
) -> BlockMask:
    """The `BlockMask` of `visibility(expiry, positions, window)`, without ever holding S x S pairs."""
    seen, full = _blocks(expiry, positions, window)
    partly = _listed(seen & ~full)
    wholly = _listed(full)
    predicate = visibility(expiry, positions, window)
    length = expiry.shape[1]
    return BlockMask.from_kv_blocks(
        *partly, *wholly, BLOCK_SIZE=BLOCK, mask_mod=predicate, seq_lengths=(length, length)
    )


def attention_by_blocks(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: BlockMask, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention of transformers' FlexAttention under the block mask of the layer's window; transformers' interface.

    Raises:
        ValueError: a block mask of someone else; dropout of attention weights, which FlexAttention does not have.
        RuntimeError: it cannot be run on this device, or its first output differs from that under the dense mask.
    """
    packed: PackedBlocks | None = getattr(attention_mask, PACKED, None)
    if packed is None:
        raise ValueError("attention got a BlockMask that smlib did not make: give a bool 4-D mask")
    if kwargs.get("dropout"):
        raise ValueError(
            f"FlexAttention drops no attention weights, and this model's {'/'.join(DROPOUTS)} is "
            f"{kwargs['dropout']}: set it to 0, or flex_from=0 for dense masks"
        )
    window = kwargs.get("sliding_window")
    mask = packed.mask(window)
    kind = (query.device, query.dtype, query.shape[1::2], key.shape[1], window, kwargs.get("softcap"))
    if kind in CHECKED:
        return flex_attention_forward(module, query, key, value, mask, **kwargs)[0], None
    try:
        found = flex_attention_forward(module, query, key, value, mask, **kwargs)[0]
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise RuntimeError(
            f"FlexAttention failed on its first use on {query.device}: {type(error).__name__}: {error}. "
            "Set flex_from=0 for dense masks"
        ) from error
    _check(module, query, key, value, found, packed, kwargs)
    CHECKED.add(kind)
    return found, None


def _check(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    found: Tensor,
    packed: PackedBlocks,
    options: dict[str, Any],
) -> None:
    """RuntimeError unless predicate, blocks and output are those of the dense mask."""
    from smlib.policies.attention import attention_in_pieces

    window = options.get("sliding_window")
    (rows, length), mask, dense = packed.expiry.shape, packed.mask(window), packed.dense(window)
    said = create_mask(mask.mask_mod, rows, 1, length, length, device=str(packed.expiry.device))
    if not torch.equal(said, dense):
        raise RuntimeError("the block mask's predicate differs from the dense mask: set flex_from=0, and report this")
    seen, full = _blocks(packed.expiry, packed.positions if window is not None else None, window)
    if bool((dense & ~_spread(seen, length)).any()) or bool((~dense & _spread(full, length)).any()):
        raise RuntimeError("blocks of the mask leave out visible pairs: set flex_from=0, and report this")
    with torch.no_grad():
        expected = attention_in_pieces(module, query, key, value, dense, **options)[0]
        error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
    allowed = max(1e-3, 4 * torch.finfo(found.dtype).eps)
    if not error <= allowed:
        raise RuntimeError(
            f"FlexAttention differs from attention under the dense mask by {error:.2g} of its largest output on "
            f"{query.device} in {found.dtype}, where {allowed:.2g} is rounding: set flex_from=0 for dense masks"
        )


Blocks = Bool[Tensor, "R 1 Q K"]


def _blocks(
    expiry: Int[Tensor, "R S"], positions: Int[Tensor, "R S"] | None, window: int | None
) -> tuple[Blocks, Blocks]:
    """Which blocks may hold a visible pair, and which hold nothing else. Blocks beyond the row's end are not full."""
    length = expiry.shape[1]
    n = -(-length // BLOCK)
    padded = nn.functional.pad(expiry, (0, n * BLOCK - length))  # a slot that expires at 0 is seen by none
    slot = torch.arange(n * BLOCK, device=expiry.device)
    begin = torch.arange(n, device=expiry.device) * BLOCK
    # [R, Q, S]: whether some query of a block sees a key; then whether a block of keys has such a key.
    first = torch.maximum(slot, begin[:, None])
    last = torch.minimum(padded[:, None, :], begin[:, None] + BLOCK)
    seen = (first < last).unflatten(2, (n, BLOCK)).any(3)
    below = begin[None, :] + BLOCK - 1 <= begin[:, None]  # every key before every query
    lasting = padded.unflatten(1, (n, BLOCK)).amin(2)[:, None, :] >= begin[None, :, None] + BLOCK
    full = below & lasting & (begin + BLOCK <= length)[:, None]
    if window is not None and positions is not None:
        high = nn.functional.pad(positions, (0, n * BLOCK - length), value=-(2**30)).unflatten(1, (n, BLOCK)).amax(2)
        low = nn.functional.pad(positions, (0, n * BLOCK - length), value=2**30).unflatten(1, (n, BLOCK)).amin(2)
        seen &= low[:, :, None] - high[:, None, :] < window
        full &= high[:, :, None] - low[:, None, :] < window
    return seen[:, None], full[:, None]


def _listed(blocks: Blocks) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each block of queries has, and their indices, those first and in order."""
    count = blocks.sum(-1, dtype=torch.int32)
    return count, torch.argsort(blocks.int(), dim=-1, descending=True, stable=True).int()


def _spread(blocks: Blocks, length: int) -> Bool[Tensor, "R 1 S S"]:
    """Blocks as the pairs that they hold."""
    return blocks.repeat_interleave(BLOCK, 2).repeat_interleave(BLOCK, 3)[:, :, :length, :length]

"""A preallocated key/value cache in which every row rolls back alone (Sec. 4.1, last paragraph).

The slot of a token is its position, so a row's state is the first `depth` slots of its row. Deleting the
last token costs nothing: the row's depth falls by one, the dead slot is hidden by the mask (`slot <=
position`) and overwritten by the next insertion. transformers' `StaticCache` cannot do this (all rows share
one length), and `crop` cuts the whole batch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class _Window:
    """What all layers share: the allocation, where the next tokens go, and what attention reads."""

    rows: int
    slots: int
    index: tuple[Any, ...] = ()
    begin: int | None = None
    n_rows: int = 0
    view: int = 0


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, `[rows, heads, slots, head_dim]`, allocated at the first update."""

    is_sliding = False

    def __init__(self, window: _Window) -> None:
        super().__init__()
        self.window = window

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        for name, like in (("keys", key_states), ("values", value_states)):
            shape = (self.window.rows, like.shape[1], self.window.slots, like.shape[3])
            # Zeros, not empty: a hidden slot gets weight 0, and 0 * NaN would still poison the sum.
            setattr(self, name, torch.zeros(shape, dtype=like.dtype, device=like.device))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Writes `[R, heads, S, head_dim]` where `SlotCache.point` said and returns the visible slots."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self.window
        if window.begin is not None:
            slots = slice(window.begin, window.begin + key_states.shape[2])
            self.keys[: window.n_rows, :, slots] = key_states
            self.values[: window.n_rows, :, slots] = value_states
        else:  # indexing rows and slots around the slice of heads yields [R, S, heads, head_dim]
            self.keys[window.index] = key_states.transpose(1, 2)
            self.values[window.index] = value_states.transpose(1, 2)
        return self.keys[: window.n_rows, :, : window.view], self.values[: window.n_rows, :, : window.view]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.window.view, 0

    def get_seq_length(self) -> int:
        return self.window.view

    def get_max_length(self) -> int:
        return self.window.slots

    def get_max_cache_shape(self) -> int:
        """The same by the name before transformers 5.14: an exported checkpoint is opened by older ones too."""
        return self.window.slots


class SlotCache(Cache):
    """One `SlotLayer` per layer. Call `point` before each forward pass; a pass over R sequences uses rows
    0..R-1.

    Args:
        rows: largest number of sequences held at once.
        slots: largest number of tokens of a sequence.
    """

    def __init__(self, rows: int, slots: int) -> None:
        self.window = _Window(rows, slots)
        self._beside: SlotCache | None = None
        super().__init__(layer_class_to_replicate=lambda: SlotLayer(self.window))

    @property
    def beside(self) -> "SlotCache":
        """The cache of a second network that reads the same tokens at the same time; one that is always the same."""
        if self._beside is None:
            self._beside = SlotCache(self.window.rows, self.window.slots)
            self._beside.window = self.window  # which its layers, made at the first update, then share
        return self._beside

    @property
    def every_layer(self) -> list[Any]:
        """Its own layers and those beside: what goes wherever a row goes."""
        return [*self.layers, *(self._beside.layers if self._beside is not None else ())]

    def point(self, positions: Tensor, view: int, begin: int | None = None) -> None:
        """Says where the next forward pass writes.

        Args:
            positions: slot of every token that is fed, long `[R, S]`.
            view: number of leading slots that attention reads; larger than every position.
            begin: the first slot where every row writes the same run of slots, which is faster; None otherwise.
        """
        rows = torch.arange(positions.shape[0], device=positions.device)[:, None]
        self.window.index = (rows, slice(None), positions)
        self.window.begin, self.window.n_rows, self.window.view = begin, positions.shape[0], view

    def move(self, source: list[int], target: list[int], view: int) -> None:
        """Copies `view` slots of rows `source` over rows `target` (disjoint): closes the gaps of finished rows."""
        here, there = torch.tensor(source), torch.tensor(target)
        for layer in self.every_layer:
            # Once for all layers: a list would be copied to the device by each of them, and waited for.
            device = layer.keys.device
            here, there = (rows.to(device, non_blocking=device.type == "cuda") for rows in (here, there))
            layer.keys[there, :, :view] = layer.keys[here, :, :view]
            layer.values[there, :, :view] = layer.values[here, :, :view]

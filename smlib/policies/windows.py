"""Layers that see the last W tokens alone, under packed masks and in the sampler's cache.

transformers makes the masks of such layers from slots, and takes a 4-D mask as it is. In a packed row and in a cache
with deletions a slot says nothing about distance, so the windows are put into the mask here, where positions are known:
a query sees a key if it did before and `position_q - position_k < W`. Each layer gets the mask of its own W.

That can be had where attention is told its window by its layer. Other kinds of windows (chunks, windows that attention
is not told) bound the context instead: within the smallest of them every layer sees everything, and nothing differs.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from smlib.policies.decoder import decoder, evaluated, last_hidden

SLIDING = "sliding_attention"
CHUNKED = ("chunked_attention", "attention_chunk_size")
PLACES = "_smlib_places"  # attribute of a mask: where its queries and keys stand
SEEN: list[list[tuple[int | None, bool]]] = []  # open records of attention calls: their window, and whether it is had


@dataclass
class Places:
    """Positions of the queries and keys of a mask, and its windowed forms, made once for all layers of a W."""

    query: Int[Tensor, "R S"]
    key: Int[Tensor, "R K"]
    windowed: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Windows:
    """How a model's windows are kept.

    Attributes:
        exact: whether masks have to carry positions, for the windows of the layers.
        bound: the context in which no window matters; None where windows are exact, or where there are none.
    """

    exact: bool = False
    bound: int | None = None


def examine(lm: Any) -> Windows:
    """How the windows that the model's configuration names can be kept; one call with two tokens if it names any."""
    sizes, context = declared(lm.config.get_text_config())
    if not sizes or (context is not None and min(sizes) >= context):
        return Windows()
    device = lm.get_output_embeddings().weight.device
    places = torch.arange(2, device=device)[None]
    mask = torch.ones(2, 2, dtype=torch.bool, device=device).tril()[None, None]
    record: list[tuple[int | None, bool]] = []
    SEEN.append(record)
    try:
        with evaluated(lm):
            last_hidden(decoder(lm), torch.zeros_like(places), places, at_places(mask, places, places))
    finally:
        SEEN.remove(record)
    expected = _by_layer(lm.config.get_text_config())
    told = [window for window, _ in record]
    if expected is not None and told == expected and all(had for window, had in record if window is not None):
        return Windows(exact=True)
    return Windows(bound=min(sizes))


def declared(config: Any) -> tuple[set[int], int | None]:
    """The sizes of all windows that layers of this configuration have, and its context length."""
    context = getattr(config, "max_position_embeddings", None)
    kinds, sizes = getattr(config, "layer_types", None), set()
    window, chunk = getattr(config, "sliding_window", None), getattr(config, CHUNKED[1], None)
    if window and getattr(config, "use_sliding_window", True) and (kinds is None or SLIDING in kinds):
        sizes.add(int(window))
    if chunk and (kinds is None or CHUNKED[0] in kinds):
        sizes.add(int(chunk))
    return sizes, context


def _by_layer(config: Any) -> list[int | None] | None:
    """The window of each layer, in their order; None where some layer is of another kind."""
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if kinds is None:
        return [int(window)] * config.num_hidden_layers if window else None
    if set(kinds) - {SLIDING, "full_attention"}:
        return None
    return [int(window) if kind == SLIDING else None for kind in kinds]


def at_places(
    mask: Bool[Tensor, "R 1 S K"], query: Int[Tensor, "R S"], key: Int[Tensor, "R K"]
) -> Bool[Tensor, "R 1 S K"]:
    """The same mask, which knows now where its queries and keys stand. In place."""
    setattr(mask, PLACES, Places(query, key))
    return mask


def windowed(mask: Tensor | None, window: int | None) -> Tensor | None:
    """The mask of a layer with this window: of `at_places`, every pair that is less than W apart; others as they are."""
    places: Places | None = getattr(mask, PLACES, None)
    for record in SEEN:
        record.append((window, places is not None))
    if mask is None or places is None or window is None:
        return mask
    if window not in places.windowed:
        near = places.query[:, None, :, None] - places.key[:, None, None, :] < window
        inside = bool(near.all())  # the mask as it is: what is kept with it serves all layers
        places.windowed[window] = mask if inside else mask & near
    return places.windowed[window]

"""Layers that see the last W tokens alone, under packed masks and in the sampler's cache.

transformers makes the masks of such layers from slots, and takes a 4-D mask as it is. In a packed row and in a cache
with deletions a slot says nothing about distance, so the windows are put into the mask here, where positions are known:
a query sees a key if it did before and `position_q - position_k < W`. Each layer gets the mask of its own W.
"""

from dataclasses import dataclass, field

from jaxtyping import Bool, Int
from torch import Tensor

PLACES = "_smlib_places"  # attribute of a mask: where its queries and keys stand
SEEN: list[list[tuple[int | None, bool]]] = []  # open records of attention calls: their window, and whether it is had


@dataclass
class Places:
    """Positions of the queries and keys of a mask, and its windowed forms, made once for all layers of a W."""

    query: Int[Tensor, "R S"]
    key: Int[Tensor, "R K"]
    windowed: dict[int, Tensor] = field(default_factory=dict)


def at_places(
    mask: Bool[Tensor, "R 1 S K"], query: Int[Tensor, "R S"], key: Int[Tensor, "R K"]
) -> Bool[Tensor, "R 1 S K"]:
    """The same mask under another name, which knows where its queries and keys stand.

    What layers make of a mask is kept beside it, and so ends with the pass that it was named for.
    """
    named = mask.view_as(mask)
    setattr(named, PLACES, Places(query, key))
    return named


def windowed(mask: Tensor | None, window: int | None) -> Tensor | None:
    """The mask of a layer with this window: of `at_places`, what is less than W apart; others as they are."""
    places: Places | None = getattr(mask, PLACES, None)
    for record in SEEN:
        record.append((window, places is not None))
    if mask is None or places is None or window is None:
        return mask
    if window not in places.windowed:
        near = places.query[:, None, :, None] - places.key[:, None, None, :] < window
        # The mask as it is: what is kept with it serves all layers. A GPU would have to be waited for to know.
        inside = near.device.type == "cpu" and bool(near.all())
        places.windowed[window] = mask if inside else mask & near
    return places.windowed[window]

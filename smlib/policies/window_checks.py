"""Whether the windows that a model's configuration names are kept by packed masks, and which context they leave if not.

`smlib.policies.windows` can keep a window where attention is told it by its layer. Other kinds (chunks, windows that
attention is not told) bound the context instead: within the smallest of them every layer sees everything, and nothing
differs.
"""

from typing import Any

import torch

from smlib.policies.decoder import decoder, evaluated, last_hidden
from smlib.policies.windows import SEEN

SLIDING = "sliding_attention"
CHUNKED = ("chunked_attention", "attention_chunk_size")


def smallest_unkept(lm: Any) -> int | None:
    """The smallest window of a layer if windows are not kept exactly; None if they are, or if no layer has one.

    Costs one call with two tokens if the configuration names windows that are shorter than the context.
    """
    sizes = declared(lm.config.get_text_config())
    if not sizes:
        return None
    device = lm.get_output_embeddings().weight.device
    places = torch.arange(2, device=device)[None]
    mask = torch.ones(2, 2, dtype=torch.bool, device=device).tril()[None, None]
    record: list[tuple[int | None, bool]] = []
    SEEN.append(record)
    try:
        with evaluated(lm):
            last_hidden(decoder(lm), torch.zeros_like(places), places, mask)
    finally:
        SEEN.remove(record)
    told = [window for window, _ in record]
    if told == _by_layer(lm.config.get_text_config()) and all(had for window, had in record if window is not None):
        return None
    return min(sizes)


def declared(config: Any) -> set[int]:
    """The sizes of the windows, shorter than the context, that layers of this configuration have."""
    context = getattr(config, "max_position_embeddings", None)
    kinds, sizes = getattr(config, "layer_types", None), set()
    window, chunk = getattr(config, "sliding_window", None), getattr(config, CHUNKED[1], None)
    if window and getattr(config, "use_sliding_window", True) and (kinds is None or SLIDING in kinds):
        sizes.add(int(window))
    if chunk and (kinds is None or CHUNKED[0] in kinds):
        sizes.add(int(chunk))
    return {size for size in sizes if context is None or size < context}


def _by_layer(config: Any) -> list[int | None] | None:
    """The window of each layer, in their order; None where some layer is of another kind."""
    kinds, window = getattr(config, "layer_types", None), getattr(config, "sliding_window", None)
    if kinds is None:
        return [int(window)] * config.num_hidden_layers if window else None
    if set(kinds) - {SLIDING, "full_attention"}:
        return None
    size = int(window) if window else None
    return [size if kind == SLIDING else None for kind in kinds]

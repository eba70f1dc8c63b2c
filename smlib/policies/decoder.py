"""The network of a causal language model below its head, and the one way in which it is called."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from smlib.policies.windows import at_places


def decoder(lm: Any) -> Any:
    """The network below the head, with its adapters."""
    base = bare(lm)
    body = base.get_decoder()
    if body is base or body is base.get_output_embeddings():
        # Where transformers' search goes astray: Llama-4's text model names its network unlike its family, and
        # ModernBERT calls its head `decoder`.
        others = (base.base_model, getattr(base, "model", None))
        body = next((m for m in others if m is not None and m is not base), body)
    return body


def bare(lm: Any) -> Any:
    """The class of transformers under the adapters."""
    return lm.get_base_model() if hasattr(lm, "peft_config") else lm


def last_hidden(
    body: Any,
    tokens: Int[Tensor, "R S"],
    positions: Int[Tensor, "R S"],
    mask: Bool[Tensor, "R 1 S K"] | BlockMask,
    cache: Any = None,
    embedded: Float[Tensor, "R S d"] | None = None,
) -> Float[Tensor, "R S d"]:
    """Last hidden vectors of a `decoder`, never without its 4-D mask, which layers with windows cut further.

    Args:
        embedded: what is read in place of the tokens' own embeddings.
        cache: where the keys are, slot = position; without one they are the queries' own.
    """
    if not isinstance(mask, BlockMask):  # a block mask knows where its slots stand
        keys = positions if cache is None else torch.arange(mask.shape[-1], device=mask.device).expand(len(mask), -1)
        mask = at_places(mask, positions, keys)
    read = {"input_ids": tokens} if embedded is None else {"inputs_embeds": embedded}
    out = body(
        **read,
        position_ids=positions,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    hidden: Tensor = out.last_hidden_state
    return hidden


@contextmanager
def evaluated(model: torch.nn.Module) -> Iterator[None]:
    """Dropout and gradients off inside, the training mode of every submodule as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    for module in modes:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode

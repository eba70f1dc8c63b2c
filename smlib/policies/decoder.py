"""The network of a causal language model below its head, and the one way in which it is called."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor


def decoder(lm: Any) -> Any:
    """The network below the head, with its adapters."""
    return lm.get_decoder() if not hasattr(lm, "peft_config") else lm.get_base_model().get_decoder()


def last_hidden(
    body: Any,
    tokens: Int[Tensor, "R S"],
    positions: Int[Tensor, "R S"],
    mask: Bool[Tensor, "R 1 S K"],
    cache: Any = None,
) -> Float[Tensor, "R S d"]:
    """Last hidden vectors of a `decoder`, never without its 4-D mask."""
    out = body(
        input_ids=tokens,
        position_ids=positions,
        attention_mask=mask,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    hidden: Tensor = out.last_hidden_state
    return hidden

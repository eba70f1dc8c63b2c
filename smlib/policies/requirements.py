"""What a language model must have to be a policy at all, asked before anything is computed with it."""

from typing import Any

import torch

from smlib.policies.decoder import bare


def check_model(lm: Any) -> Any:
    """The output head of a model that can be a policy, as far as that shows without a call.

    Raises:
        ValueError: no head, or one that is no matrix; no context length; an encoder-decoder.
    """
    kind = type(bare(lm)).__name__
    head = lm.get_output_embeddings()
    if head is None:
        raise ValueError(f"{kind} has no output head: expected a causal language model")
    if not all(hasattr(head, name) for name in ("in_features", "out_features", "weight")):
        raise ValueError(f"the output head of {kind} is a {type(head).__name__}: expected a torch.nn.Linear")
    if getattr(lm.config, "is_encoder_decoder", False):
        raise ValueError(f"{kind} reads its states through an encoder: expected a causal language model alone")
    if not isinstance(getattr(lm.config.get_text_config(), "max_position_embeddings", None), int):
        raise ValueError(
            f"the configuration of {kind} names no context length (max_position_embeddings): its states have no "
            "positions to be told apart by, or no end"
        )
    return head


def check_weights(lm: Any) -> None:
    """Raises ValueError if a weight is NaN or infinite, and names it; looked for where logits are no numbers."""
    for name, p in lm.named_parameters():
        if p.is_floating_point() and not bool(torch.isfinite(p).all()):
            raise ValueError(
                f"the weights hold numbers that are none: {int((~torch.isfinite(p)).sum())} of {name} are NaN or "
                "infinite. The checkpoint is damaged, or its numbers do not fit this dtype"
            )


def max_positions(lm: Any) -> int:
    """Context length of the model, in tokens, as its configuration says."""
    return int(lm.config.get_text_config().max_position_embeddings)


def why_shorter(context: int, own: int, window: int | None) -> str:
    """Why a policy's context is shorter than the model's own; empty if it is not."""
    if context == own:
        return ""
    if context == window:
        return "beyond it some layers of the model see a part of the state alone, which packed masks cannot say"
    return "beyond it the model gives a state other numbers when a longer one is in the batch (as LongRoPE does)"


def fit_experts(lm: Any) -> None:
    """Lets experts in float64 be multiplied one by one: torch's grouped product knows float32 and less. In place."""
    base = bare(lm)
    if getattr(base.config, "_experts_implementation", None) in (None, "eager"):
        return
    if lm.get_input_embeddings().weight.dtype == torch.float64:
        base.set_experts_implementation("eager")

"""The sizes of a Llama as transformers' configuration: what models are made of here that no folder holds."""

from typing import Any

from smlib.edits.actions import ActionSpace


def llama_config(
    space: ActionSpace, *, dim: int, layers: int, heads: int, mlp: int | None, positions: int, **more: Any
) -> Any:
    """A `LlamaConfig` with an untied head and attention that takes masks.

    Args:
        dim, layers, heads, mlp: width, depth, attention heads, width of the gated MLP (8/3 dim for None).
        positions: context length. more: further fields, such as `dtype`.
    """
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=space.vocab_size,
        hidden_size=dim,
        intermediate_size=mlp or 8 * dim // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=positions,
        bos_token_id=space.bos,
        eos_token_id=space.eos,
        pad_token_id=None,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
        **more,
    )

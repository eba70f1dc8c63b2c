"""Tiny random models of the families of causal language models that transformers knows."""

import inspect
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from tests.support.models import words_tokenizer

CONTEXT, WINDOW = 64, 5  # windows are shorter than the trajectories here
SMALL: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "d_model": 32, "n_heads": 4,
    "n_layers": 2, "max_seq_len": CONTEXT, "ffn_dim": 48, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16,
    "shared_expert_intermediate_size": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1, "word_embed_proj_dim": 32,
    "sliding_window": WINDOW, "rotary_dim": 4,
}  # fmt: skip
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
HALVES = [1.0] * 4
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": HALVES, "long_factor": [8.0] * 4,
    "original_max_position_embeddings": 32,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 0.0625, **SLIDING},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "deepseek_v2": {"num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4},
    "doge": {"sliding_window": 32},  # attention is not told the window
    "exaone4": SLIDING,
    "gemma2": {**SLIDING, "final_logit_softcapping": 4.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SLIDING, "query_pre_attn_scalar": 8, "final_logit_softcapping": 4.0},
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 48, "hidden_size_per_layer_input": 8, "laurel_rank": 4, "intermediate_size": 48,
        "final_logit_softcapping": 4.0, "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {
        **SLIDING, "vocab_size_per_layer_input": 48, "hidden_size_per_layer_input": 8, "final_logit_softcapping": 4.0,
        "global_head_dim": 8,
    },
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.35, "residual_multiplier": 0.5},
    "granitemoe": {"logits_scaling": 4.0, "attention_multiplier": 0.35},
    "granitemoeshared": {"logits_scaling": 4.0, "shared_intermediate_size": 16},
    "hyperclovax": {"logits_scaling": 0.25},
    "llama4_text": {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 16},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8, "n_groups": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "minicpm3": {"dim_model_base": 8, "num_key_value_heads": 4},
    "modernbert-decoder": {"global_attn_every_n_layers": 2, "local_attention": 2 * WINDOW},
    "nanochat": {"final_logit_softcapping": 4.0},
    "olmo3": SLIDING,
    "opt": {"word_embed_proj_dim": 16},
    "phimoe": {"sliding_window": 32},  # attention is not told the window
    "phi3 (LongRoPE)": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 32},
    "qwen2": {"use_sliding_window": True, **SLIDING},
    "qwen2_moe": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": True, **SLIDING},
    "smollm3": {**SLIDING, "use_sliding_window": True, "no_rope_layers": [1, 0]},
    "stablelm": {"sliding_window": None},
}  # fmt: skip
NAMES = """
    afmoe apertus arcee bart bert biogpt bitnet bloom codegen cohere cohere2 ctrl cwm dbrx deepseek_v2 deepseek_v3
    diffllama doge dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon flex_olmo gemma gemma2 gemma3_text
    gemma3n_text gemma4_text glm glm4 glm4_moe gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe
    granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hyperclovax jamba jetmoe lfm2 llama llama4_text mamba
    mamba2 minicpm3 minimax_m2 ministral mistral mixtral modernbert-decoder mpt nanochat nemotron olmo olmo2 olmo3
    olmoe openai-gpt opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next recurrent_gemma rwkv
    seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma xglm xlnet
"""
FAMILIES = sorted([*NAMES.split(), "phi3 (LongRoPE)"])


def tiny(family: str, folder: Path) -> Path:
    """A random model of a family and its tokeniser; weights large enough for everything to depend on everything."""
    kind = CONFIG_MAPPING[family.split(" ")[0]]
    known = {
        *inspect.signature(kind.__init__).parameters,
        *getattr(kind, "__dataclass_fields__", {}),
        *kind.attribute_map,
    }
    options = {k: v for k, v in SMALL.items() if k in known} | OWN.get(family, {})
    torch.manual_seed(0)
    lm = transformers.AutoModelForCausalLM.from_config(kind(**options), dtype=torch.float32)
    for name, p in lm.named_parameters():
        if p.ndim >= 2:
            torch.nn.init.normal_(p, std=0.2)
        elif name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.1)
    lm.save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return folder

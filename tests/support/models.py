"""Random models of several families, a tokeniser of words, and texts made of them."""

from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = [f"w{i}" for i in range(40)]
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL |= {"num_key_value_heads": 1, "max_position_embeddings": 64, "vocab_size": 48, "bos_token_id": 1}
SMALL |= {"eos_token_id": 2, "pad_token_id": None}
GPT2 = {"vocab_size": 48, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64, "bos_token_id": 1}
KINDS = {
    "llama": lambda **c: transformers.LlamaConfig(**{**SMALL, **c}),
    "tied": lambda **c: transformers.LlamaConfig(**{**SMALL, "tie_word_embeddings": True, **c}),
    "qwen2": lambda **c: transformers.Qwen2Config(**{**SMALL, **c}),
    "mistral": lambda **c: transformers.MistralConfig(**{**SMALL, "sliding_window": None, **c}),
    "gpt2": lambda **c: transformers.GPT2Config(**{**GPT2, "eos_token_id": 2, **c}),
    "phi": lambda **c: transformers.PhiConfig(**{**SMALL, **c}),  # its head has a bias
}


def words_tokenizer(eos: str | None = "</s>") -> transformers.PreTrainedTokenizerFast:
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{w: 3 + i for i, w in enumerate(WORDS)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token=eos
    )


def saved_model(folder: Path, kind: str = "llama", **changes: object) -> Path:
    """A random model of 48 rows and its tokeniser of 43 tokens."""
    config = KINDS[kind](**changes)
    torch.manual_seed(0)
    lm = transformers.AutoModelForCausalLM.from_config(config)
    for name, p in lm.named_parameters():  # at the usual scale of 0.02 hardly anything depends on anything
        if p.ndim >= 2:
            torch.nn.init.normal_(p, std=0.3)
        elif name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.1)
    lm.save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return folder


def texts(n: int = 6) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, 30)) + "." for _ in range(n)]

"""Random models of several families, a tokeniser of words, and texts made of them."""

from pathlib import Path

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

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


def control_tokenizer(kind: str = "bytes") -> transformers.PreTrainedTokenizerFast:
    """A tokeniser whose control tokens stand in its vocabulary, as those of released models do.

    Args:
        kind: `bytes`, byte-level merges with holes in their numbering and a control token that nothing names;
            `fallback`, SentencePiece's bytes and spaces; `words`, where a control token is a word like any other;
            `lossy`, letters alone, and no token for what is unknown.
    """
    control = ["<|endoftext|>", "<s>", "</s>", "<|backspace|>"]
    letters = [chr(c) for c in range(33, 127)]
    if kind == "bytes":
        table = [*control, *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the"]
        numbers = {t: i if i < 100 else i + 5 for i, t in enumerate(table)}  # no token is 100 to 104
        backend = Tokenizer(models.BPE(numbers, merges=[("t", "h"), ("th", "e")]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
    elif kind == "fallback":
        table = [*control, *(f"<0x{b:02X}>" for b in range(256)), "▁", *letters]
        backend = Tokenizer(models.BPE({t: i for i, t in enumerate(table)}, [], byte_fallback=True, ignore_merges=True))
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    elif kind == "words":
        table = [*control, "<unk>", "<", "s>", "|endoftext|>", "/s>", "|backspace|>", "a", "b", "1"]
        backend = Tokenizer(models.WordLevel({t: i for i, t in enumerate(table)}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        backend = Tokenizer(models.BPE({t: i for i, t in enumerate([*control, " ", *letters])}, []))
        backend.decoder = decoders.Fuse()
    if kind != "words":
        backend.add_special_tokens(control[2:])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="<|endoftext|>",
        **({"unk_token": "<unk>", "pad_token": "</s>"} if kind == "words" else {}),
    )

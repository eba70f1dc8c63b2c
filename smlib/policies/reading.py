"""Reading a language model from a folder or the hub: all of its weights, or an error that says which are missing."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from smlib.chatter import without_bars
from smlib.policies.attention import BEYOND


class MissingWeights(ValueError):
    """A checkpoint without some of its model's weights."""


def read_lm(where: str | Path, **options: Any) -> Any:
    """A causal language model with every weight from its checkpoint, in evaluation mode.

    transformers would draw what is missing at random, and say so in a report on the terminal alone.

    Args:
        where: a folder or a hub name. options: of `from_pretrained`.

    Raises:
        MissingWeights: a weight of the model is not in the checkpoint, or has another shape there.
    """
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report says less than the error below, and is about weights that are not there
    try:
        try:
            lm, info = _read(where, "sdpa", options)
        except ValueError as error:
            # Gemma-2's capped scores and gpt-oss's sinks are not in torch's kernel. They are in ours.
            if "scaled_dot_product_attention" not in str(error) or not _asks_for_its_attention(where, options):
                raise
            lm, info = _read(where, BEYOND, options)
    finally:
        logging.set_verbosity(verbosity)
    missing = sorted(info["missing_keys"])
    resized = sorted(str(key[0] if isinstance(key, tuple) else key) for key in info["mismatched_keys"])
    if missing or resized:
        named = [
            f"{len(keys)} {what} ({_few(keys)})" for keys, what in ((missing, "missing"), (resized, "resized")) if keys
        ]
        raise MissingWeights(
            f"the checkpoint {where} does not hold the weights of the {type(lm).__name__} that its config.json "
            f"describes: {' and '.join(named)}. They would be drawn at random: download or save the model again"
        )
    return lm.eval()


def _read(where: str | Path, attention: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    from transformers import AutoModelForCausalLM

    with without_bars() if options.get("local_files_only", True) else nullcontext():  # a download shows how far it is
        found: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(
            where,
            attn_implementation=attention,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are named by `read_lm`, with the missing ones
            **options,
        )
    return found


def _asks_for_its_attention(where: str | Path, options: dict[str, Any]) -> bool:
    """Whether a model calls the attention that it is given by name; older ones have their own inside."""
    from transformers import AutoConfig, AutoModelForCausalLM

    local = options.get("local_files_only", True)
    config = AutoConfig.from_pretrained(where, local_files_only=local, trust_remote_code=False)
    kind = AutoModelForCausalLM._model_mapping[type(config)]
    return bool(getattr(kind, "_supports_attention_backend", False))


def load_lm(path: Path, dtype: torch.dtype | None = None) -> Any:
    """The language model in a policy's `lm` folder; with the weights' own dtype where none is asked for.

    Raises:
        ValueError: an adapter, a checkpoint with missing weights, a configuration that does not belong to them.
    """
    if not (path / "config.json").is_file():
        raise ValueError(f"{path} has no config.json: an adapter needs its base model, see Policy.load(base=...)")
    try:
        return read_lm(path, dtype=dtype or "auto", local_files_only=True)
    except (OSError, ValueError, ImportError):
        raise
    except Exception as error:  # a configuration that was changed by hand fails anywhere, in any of a dozen ways
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{path} is damaged: its config.json does not describe its weights, or is no configuration ({why})"
        ) from error


def save_lm(lm: Any, path: Path, **options: Any) -> None:
    """Writes a language model, or its adapters; options are those of its `save_pretrained`."""
    with without_bars():
        lm.save_pretrained(path, **options)


def _few(names: list[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")

"""Any causal language model of transformers as a policy, with its tokeniser: full weights, LoRA, or QLoRA (App. E).

Every model is probed before it is returned: packed trajectories must give the logits of the states recomputed one by
one, and so must a cache that is rolled back. What ignores masks or positions, or has no cache, is refused here and not
found out after an hour of training; docs/models.md says what becomes of which family. Nothing is downloaded unless
asked for, and no code comes from a checkpoint.
"""

import json
import os
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from smlib.data.tokenizers import FixedTokenizer, PretrainedTokenizer, TextTokenizer, check_tokenizer
from smlib.edits.actions import ActionSpace
from smlib.files import set_aside, whole_folder
from smlib.policies.adapters import load_adapters, with_adapters
from smlib.policies.bases import (
    absolute,
    as_policy,
    checkpoint_activations,
    configuration,
    dtype_name,
    head_rows,
    location,
    read_base,
    read_tokenizer,
    widen,
)
from smlib.policies.fingerprints import fingerprint
from smlib.policies.policy import SAVED, Policy, PolicyConfig
from smlib.policies.probing import ModelError, probe
from smlib.policies.reading import load_lm
from smlib.policies.sources import WEIGHTS, Lora, Source, check_device, check_dtype, check_lora, check_switch
from smlib.policies.standard_form import BKSPC_ID

__all__ = ["Lora", "ModelError", "Source", "load_policy", "load_tokenizer", "save_policy"]

SOURCE = "source.json"


def load_policy(
    name_or_path: str | os.PathLike[str],
    *,
    lora: Lora | None = None,
    four_bit: bool = False,
    gradient_checkpointing: bool | None = None,
    offset_head: bool = True,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    local_files_only: bool = True,
    vocab_size: int | None = None,
    tokenizer: TextTokenizer | None = None,
    seed: int = 0,
) -> tuple[Policy, TextTokenizer]:
    """A policy, in evaluation mode until it is trained, and its tokeniser.

    A saved policy comes with its own adapters, vocabulary and tokeniser; the other arguments hold for it too.

    Args:
        name_or_path: `smollm2`; a folder of `save_policy` or `export_policy`; a folder or hub name of a causal model.
        lora: train adapters and leave the weights as they are, those of the head too unless it says `unembedding`; all
            weights are trained when omitted.
        four_bit: NF4 weights with double quantisation (bitsandbytes); needs `lora`, since they cannot be trained.
        gradient_checkpointing: recompute activations in the backward pass. Omitted: as a policy was saved, or not.
        offset_head: whether to add the head of App. E; False takes it from a saved policy.
        dtype: of the weights, and of the arithmetic on 4-bit weights. What is trained beside them is float32: adapters,
            added parameters, and the head if it is. Omitted: as a policy was saved, or float32.
        device: where the weights are loaded to.
        local_files_only: False allows the hub to be asked. Code in a repository is never run, pickles never read.
        vocab_size: rows of the head that are tokens, if that is less than all of them.
        tokenizer: instead of the one beside the model.
        seed: of the adapters' and the offset head's initial weights, of which a saved policy has none; the global
            generator is left as it was.

    Raises:
        FileNotFoundError: no such model here. ModuleNotFoundError: the package with the weights is missing.
        ModelError: the model cannot be a policy; the message says why.
        ValueError: a tokeniser without `<eos>`, or with more tokens than the model; a saved policy with an argument
            that cannot hold for it; a device that is not here. TypeError: `lora=16`, `dtype="bf16"` and the like.

    >>> policy, tokenizer = load_policy(save_policy(*smlib.load_shipped("sm-arithmetic"), "mine"))
    """
    check_lora(lora)
    check_dtype(dtype)
    check_device(device)
    switches = {"four_bit": four_bit, "offset_head": offset_head, "local_files_only": local_files_only}
    if gradient_checkpointing is not None:
        switches["gradient_checkpointing"] = gradient_checkpointing
    for name, value in switches.items():
        check_switch(name, value)
    folder = Path(name_or_path)
    if (folder / SAVED).is_file():
        given = {"lora": lora, "four_bit": four_bit or None, "vocab_size": vocab_size, "tokenizer": tokenizer}
        own = ", ".join(name for name, value in given.items() if value is not None)
        if own:
            raise ValueError(
                f"{folder} is a saved policy with adapters, vocabulary and tokeniser of its own: leave out {own}, or "
                "load the model that it was trained from"
            )
        policy, tokens = _load_saved(folder, device, local_files_only, dtype, gradient_checkpointing)
        return (policy if offset_head else policy.remove_offset_head()), tokens
    if not folder.exists() and (set_aside(folder) / SAVED).is_file():
        raise FileNotFoundError(
            f"{folder} was being replaced when its process was killed: rename {set_aside(folder)} to it, or save again"
        )
    if four_bit and lora is None:
        raise ValueError("4-bit weights cannot be trained: give lora=Lora(...) as well")
    source = Source(absolute(str(name_or_path)), lora, four_bit, bool(gradient_checkpointing), dtype_name(dtype))
    lm = read_base(source, device, local_files_only)
    tokens = tokenizer or read_tokenizer(location(source.name), local_files_only, vocab_size or head_rows(lm))
    check_tokenizer(tokens)
    space = ActionSpace(tokens.vocab_size, eos=tokens.eos, bos=tokens.bos)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if lora is not None:
            lm = with_adapters(lm, lora)
        policy = as_policy(lm, PolicyConfig(space, offset_head))
    policy.lm.smlib_source = source
    if lora is not None:
        policy.lm.smlib_weights = fingerprint(location(source.name), local_files_only=local_files_only)
    probe(policy, source.name)
    return policy.eval(), tokens


def load_tokenizer(name_or_path: str | os.PathLike[str], *, local_files_only: bool = True) -> PretrainedTokenizer:
    """The tokeniser beside a pretrained model, as `load_policy` returns it, without the weights.

    Raises:
        FileNotFoundError: no such model here. ModelError: transformers does not know its kind.
    """
    name = str(name_or_path)
    config = configuration(name, local_files_only)
    rows = getattr(config, BKSPC_ID, config.get_text_config().vocab_size)  # an exported model's own tokens
    return read_tokenizer(location(name), local_files_only, rows)


def save_policy(policy: Policy, tokenizer: TextTokenizer, folder: str | os.PathLike[str]) -> Path:
    """Writes a policy (of adapters, the adapters alone), its tokeniser and its source; complete or not at all.

    Args:
        folder: a new or empty one, or one that holds a saved policy, which is replaced.

    Raises:
        FileExistsError: there is something else at `folder`, a run or a model for instance.
        ValueError: a tokeniser that is not of `smlib.data.tokenizers`.

    >>> save_policy(*smlib.load_shipped("sm-arithmetic"), "mine")
    PosixPath('mine')
    """
    if not isinstance(tokenizer, FixedTokenizer | PretrainedTokenizer):
        raise ValueError(f"a {type(tokenizer).__name__} cannot be saved: expected PretrainedTokenizer(tokenizer)")
    with whole_folder(Path(folder), SAVED) as scratch:
        policy.save(scratch)
        if isinstance(tokenizer, FixedTokenizer):
            tokenizer.save(scratch / "tokenizer.smlib.json")
        else:
            tokenizer.backend.save_pretrained(scratch / "tokenizer")
        source = getattr(policy.lm, "smlib_source", None) or Source("")
        frozen = getattr(policy.lm, "smlib_weights", None)
        stored = asdict(source) if frozen is None else {**asdict(source), WEIGHTS: frozen}
        (scratch / SOURCE).write_text(json.dumps(stored, indent=1))
    return Path(folder)


def _load_saved(
    folder: Path,
    device: torch.device | str,
    local_files_only: bool,
    dtype: torch.dtype | None,
    gradient_checkpointing: bool | None,
) -> tuple[Policy, TextTokenizer]:
    source, frozen = Source(""), None
    if (folder / SOURCE).is_file():
        source, frozen = Source.read(folder / SOURCE)
    if gradient_checkpointing is not None:
        source = replace(source, gradient_checkpointing=gradient_checkpointing)
    if dtype is not None:
        source = replace(source, dtype=dtype_name(dtype))

    def base(saved: Path) -> Any:
        if source.lora is None:
            lm = load_lm(saved, dtype)
            if source.gradient_checkpointing:
                checkpoint_activations(lm)
            return lm
        try:
            lm = read_base(source, device, local_files_only)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"the adapters in {folder} belong to the model {source.name!r}, which is not there any more. If it has "
                f'been moved, write its place under "name" in {folder / SOURCE}. ({error})'
            ) from error
        now = _same_weights(folder, source, frozen, local_files_only)
        lm = load_adapters(lm, source.lora, saved)
        lm.smlib_weights = now
        return lm

    policy = Policy.load(folder, base)
    widen(policy)
    policy.load_extra_state(load_file(folder / "policy.safetensors"), folder)  # again, now that there is room for it
    policy.lm.smlib_source = source
    if source.lora is None:
        policy.to(device)
    if (folder / "tokenizer.smlib.json").is_file():
        return policy, FixedTokenizer.load(folder / "tokenizer.smlib.json")
    if not (folder / "tokenizer").is_dir():
        raise FileNotFoundError(
            f"{folder} holds a policy without its tokeniser: save it with smlib.policies.loading.save_policy"
        )
    return policy, read_tokenizer(folder / "tokenizer", True, policy.space.vocab_size)


def _same_weights(folder: Path, source: Source, frozen: str | None, local_files_only: bool) -> str | None:
    """The fingerprint of the weights under the adapters in `folder`; ModelError if they were trained over others."""
    now = fingerprint(location(source.name), local_files_only=local_files_only)
    if frozen is None:
        warnings.warn(
            f"{folder} was saved without a fingerprint of the model under its adapters: whether {source.name} is still "
            "that model cannot be told. Save the policy again to keep one",
            stacklevel=4,
        )
    elif now != frozen:
        raise ModelError(
            f"the adapters in {folder} were trained over other weights than those that are in {source.name} now "
            f'({now}, not {frozen}): put the former model back, or write its place under "name" in '
            f"{folder / SOURCE}"
        )
    return now

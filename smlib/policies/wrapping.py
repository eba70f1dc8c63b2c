"""A policy from whatever people have in hand: a name, a folder, a model of transformers or peft, a policy.

This is `load_policy` in the conventions of transformers' trainers, where `model` may be any of these, the tokeniser is
transformers' own (`processing_class`), and adapters are described by peft (`peft_config`).
"""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smlib.data.tokenizers import PretrainedTokenizer, TextTokenizer
from smlib.edits.actions import ActionSpace
from smlib.policies.adapters import with_adapters
from smlib.policies.loading import ModelError, load_policy
from smlib.policies.policy import Policy, PolicyConfig
from smlib.policies.probing import probe
from smlib.policies.smollm2 import smollm2_folder
from smlib.policies.sources import Lora, Source


def as_policy(
    model: Any,
    tokenizer: Any = None,
    *,
    lora: Lora | None = None,
    offset_head: bool = True,
    eos_token: str | None = None,
    seed: int = 0,
    **loading: Any,
) -> tuple[Policy, TextTokenizer]:
    """The policy and its tokeniser.

    Args:
        model: a name or folder, as `load_policy` takes it; a causal language model of transformers, with adapters of
            peft or without; a `Policy`.
        tokenizer: of transformers or of smlib. Left out: the one beside the model.
        lora: fresh adapters; the weights below them are frozen.
        eos_token: the token that ends a text, for tokenisers that name none.
        loading: `dtype`, `four_bit`, `local_files_only` of `load_policy`, for a name or folder.

    Raises:
        TypeError: a model of another kind; a policy without its tokeniser.
        ValueError: a tokeniser without `<eos>`, an `eos_token` that it does not have, adapters on adapters; what
            `load_policy` says. ModelError, FileNotFoundError: as there.
    """
    if isinstance(model, str | os.PathLike):
        given = _prepared(tokenizer, eos_token)
        if given is None and eos_token is not None:
            given = _prepared(_beside(str(model), bool(loading.get("local_files_only"))), eos_token)
        given = None if given is None else _smlibs(given, _rows(str(model), bool(loading.get("local_files_only"))))
        return load_policy(model, lora=lora, offset_head=offset_head, seed=seed, tokenizer=given, **loading)
    if isinstance(model, Policy):
        if lora is not None:
            raise ValueError("a Policy has its adapters already, or none: load it with load_policy(lora=...)")
        if tokenizer is None:
            raise TypeError("a Policy comes with its tokeniser: give processing_class, the second of the two that "
                            "load_policy returns")  # fmt: skip
        return model, _smlibs(_prepared(tokenizer, eos_token), model.space.vocab_size)
    if not isinstance(model, nn.Module) or not hasattr(model, "get_output_embeddings"):
        raise TypeError(
            f"the model is a {type(model).__name__}: expected a name, a folder, a causal language model of "
            "transformers, or a Policy"
        )
    return _around(model, tokenizer, lora, offset_head, eos_token, seed)


def _around(
    lm: Any, tokenizer: Any, lora: Lora | None, offset_head: bool, eos_token: str | None, seed: int
) -> tuple[Policy, TextTokenizer]:
    name = str(getattr(lm.config, "_name_or_path", "") or "")
    if hasattr(lm, "peft_config"):
        if lora is not None:
            raise ValueError("the model has adapters of peft already: leave out peft_config, or give the model alone")
        lora = lora_of(lm.peft_config["default"])
        adapted = True
    else:
        adapted = False
    if lora is not None and not name:
        raise ValueError("adapters are saved without the weights below them, and this model does not say where it was "
                         "loaded from: give its name or folder in place of the model")  # fmt: skip
    given = _prepared(_beside(name, True) if tokenizer is None else tokenizer, eos_token)
    head = lm.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(lm).__name__} has no output head: expected a causal language model")
    tokens = _smlibs(given, int(head.out_features))
    space = ActionSpace(tokens.vocab_size, eos=tokens.eos, bos=tokens.bos)
    dtype = str(next(lm.parameters()).dtype).removeprefix("torch.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if lora is not None and not adapted:
            lm.requires_grad_(False)
            lm = with_adapters(lm, lora)
        try:
            policy = Policy(lm, PolicyConfig(space, offset_head))
        except (ValueError, AttributeError) as error:
            raise ModelError(
                f"{type(lm).__name__} cannot be a policy: {error} (from_pretrained takes attn_implementation='sdpa')"
            ) from error
    policy.w_bkspc.data = policy.w_bkspc.data.float()  # as `load_policy`: half precision would swallow its updates
    four_bit = bool(getattr(lm, "is_loaded_in_4bit", False))
    where = str(Path(name).resolve()) if name and Path(name).is_dir() else name
    policy.lm.smlib_source = Source(where, lora, four_bit, False, dtype)
    probe(policy, name or type(lm).__name__)
    return policy, tokens


def lora_of(config: Any) -> Lora | None:
    """Adapters as smlib describes them, from a `Lora`, a `LoraConfig` of peft, or None.

    Raises:
        TypeError: another kind of adapter. ValueError: options of `LoraConfig` that have no counterpart here.
    """
    if config is None or isinstance(config, Lora):
        return config
    if type(config).__name__ != "LoraConfig":
        raise TypeError(
            f"peft_config is a {type(config).__name__}: expected a LoraConfig of peft, or Lora(r=16, alpha=16)"
        )
    from peft import LoraConfig

    targets = config.target_modules
    linear = targets is None or targets == "all-linear"
    made = Lora(
        config.r,
        int(config.lora_alpha),
        float(config.lora_dropout),
        unembedding=list(config.modules_to_save or ()) == ["lm_head"],
        target_modules=None if linear else tuple(sorted([targets] if isinstance(targets, str) else targets)),
    )
    known = {"r", "lora_alpha", "lora_dropout", "target_modules", "task_type", "base_model_name_or_path", "peft_type",
             "fan_in_fan_out", "inference_mode", "revision", "auto_mapping", "peft_version"}  # fmt: skip
    if made.unembedding:
        known.add("modules_to_save")
    usual = LoraConfig().to_dict()
    other = [n for n, v in config.to_dict().items() if n not in known and v != usual.get(n) and (v or usual.get(n))]
    if other:
        raise ValueError(
            f"peft_config sets {', '.join(f'{n}={getattr(config, n)!r}' for n in sorted(other))}, which has no "
            "counterpart here: known are r, lora_alpha, lora_dropout, target_modules, and modules_to_save=['lm_head']. "
            "Or wrap the model with get_peft_model and give that"
        )
    return made


def check_backspace_name(tokenizer: TextTokenizer, name: str) -> None:
    """Raises ValueError where a token is spelt like `<bkspc>`: data and logs could not tell the two apart."""
    backend = getattr(tokenizer, "backend", None)
    vocabulary = {} if backend is None or not hasattr(backend, "get_vocab") else backend.get_vocab()
    if not name.strip():
        raise ValueError(f"backspace_token={name!r} is blank: choose a spelling such as '<bkspc>'")
    if name in vocabulary:
        raise ValueError(
            f"the model has a token {name!r} already (id {vocabulary[name]}), and deletion is an action beside its "
            "tokens: choose another spelling with backspace_token, such as backspace_token='<|delete|>'"
        )


def _rows(name: str, local_files_only: bool) -> int:
    """Rows of the head of the model called so, which are the actions that are tokens."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(_location(name), local_files_only=local_files_only, trust_remote_code=False)
    return int(config.get_text_config().vocab_size)


def _location(name: str) -> str:
    return str(smollm2_folder()) if name == "smollm2" else name


def _beside(name: str, local_files_only: bool) -> Any:
    from transformers import AutoTokenizer

    if not name:
        raise TypeError("the model does not say where it was loaded from: give processing_class, its tokeniser")
    try:
        return AutoTokenizer.from_pretrained(
            _location(name), local_files_only=local_files_only, trust_remote_code=False
        )
    except OSError as error:
        raise FileNotFoundError(
            f"no tokeniser beside {name!r}: give processing_class. transformers says: {error}"
        ) from error


def _prepared(tokenizer: Any, eos_token: str | None) -> Any:
    """The tokeniser with the `<eos>` that was asked for."""
    if tokenizer is None or eos_token is None:
        return tokenizer
    wrapped = isinstance(tokenizer, PretrainedTokenizer)
    backend = tokenizer.backend if wrapped else tokenizer
    if eos_token not in backend.get_vocab():
        raise ValueError(f"eos_token={eos_token!r} is no token of the model: name one of its vocabulary")
    backend.eos_token = eos_token
    return PretrainedTokenizer(backend, tokenizer.vocab_size) if wrapped else backend


def _smlibs(tokenizer: Any, vocab_size: int | None) -> Any:
    """smlib's form of a tokeniser; None stays None."""
    if tokenizer is None or not hasattr(tokenizer, "eos_token_id"):
        return tokenizer
    return PretrainedTokenizer(tokenizer, vocab_size)

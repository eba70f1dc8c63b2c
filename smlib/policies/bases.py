"""The parts of a policy that come from elsewhere: the language model that a `Source` names, and its tokeniser."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from smlib.data.tokenizers import PretrainedTokenizer
from smlib.policies import shipped
from smlib.policies.decoder import bare
from smlib.policies.exported_tokenizer import without_bkspc
from smlib.policies.four_bit import with_gradients
from smlib.policies.policy import Policy, PolicyConfig
from smlib.policies.probing import ModelError
from smlib.policies.reading import MissingWeights, read_lm
from smlib.policies.requirements import check_model
from smlib.policies.smollm2 import smollm2_folder
from smlib.policies.sources import Source
from smlib.policies.standard_form import row_of_bkspc, take_in


def location(name: str) -> str:
    """Where the weights called `name` are: a folder or a hub name."""
    return str(smollm2_folder()) if name == "smollm2" else name


def absolute(name: str) -> str:
    """A folder's absolute path; other names as they are."""
    return str(Path(name).resolve()) if name != "smollm2" and Path(name).is_dir() else name


def dtype_name(dtype: torch.dtype | None) -> str:
    """As a `Source` stores it; float32 where none is asked for."""
    return str(dtype or torch.float32).removeprefix("torch.")


def configuration(name: str, local_files_only: bool) -> Any:
    """Of the model called `name`: what is asked for first, since a name that nobody has fails at it once."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(location(name), local_files_only=local_files_only, trust_remote_code=False)
    except OSError as error:
        raise FileNotFoundError(_missing(name, local_files_only, error)) from error
    except ImportError:
        raise  # a package that holds the weights is not installed: its own message names the command
    except Exception as error:  # a configuration that was changed by hand fails in any of a dozen ways
        raise ModelError(f"{name} is no model that transformers can load: {_said(error)}") from error


def read_base(source: Source, device: torch.device | str, local_files_only: bool) -> Any:
    """The language model that `source` names, frozen if adapters are to come."""
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
    configuration(source.name, local_files_only)
    try:
        lm = read_lm(location(source.name), local_files_only=local_files_only, **options)
    except OSError as error:
        raise FileNotFoundError(_missing(source.name, local_files_only, error)) from error
    except MissingWeights as error:
        raise ModelError(str(error)) from error
    except SafetensorError as error:
        raise ModelError(f"the weights of {source.name} are corrupt: {error}") from error
    except (ModuleNotFoundError, torch.OutOfMemoryError, MemoryError):
        raise  # a package that holds the weights is not installed: its own message names the command
    except Exception as error:
        if "scaled_dot_product_attention" in str(error) or "sdpa" in str(error):
            raise ModelError(
                f"{source.name} has no attention through torch's scaled_dot_product_attention, which the packed masks "
                f"need: {error}"
            ) from error
        told = f"{source.name} is no causal language model that transformers can load: {_said(error)}"
        raise ModelError(told) from error
    with_gradients(lm)
    if source.lora is not None:
        lm.requires_grad_(False)
    if source.gradient_checkpointing:
        checkpoint_activations(lm)
    return take_in(lm, location(source.name))


def checkpoint_activations(lm: Any) -> None:
    """Recomputes activations in the backward pass. In place."""
    kwargs = {"use_reentrant": False}  # the other form needs inputs with gradients, which frozen embeddings lack
    if hasattr(lm, "activation_checkpointing_enable"):
        lm.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs)
    else:  # its name in earlier releases of transformers
        lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs=kwargs)
    lm.config.use_cache = False  # of the training pass; sampling brings its own cache


def as_policy(lm: Any, config: PolicyConfig) -> Policy:
    """The policy of a language model; ModelError with the reason if it can be none."""
    try:
        policy = Policy(lm, config)
    except ValueError as error:
        raise ModelError(f"{type(bare(lm)).__name__} cannot be a policy: {error}") from error
    except Exception as error:  # whatever a foreign model makes of a call that it does not know
        raise ModelError(
            f"{type(bare(lm)).__name__} cannot be a policy: it does not run on bool 4-D masks and position ids "
            f"({type(error).__name__}: {error})"
        ) from error
    policy.w_bkspc.data = row_of_bkspc(lm, policy.w_bkspc)  # of an exported model, its own
    widen(policy)
    return policy


def widen(policy: Policy) -> None:
    """What is trained beside the weights in float32 or better: half precision would swallow its updates."""
    dtype = torch.promote_types(policy.w_bkspc.dtype, torch.float32)
    policy.w_bkspc.data = policy.w_bkspc.data.to(dtype)
    if policy.offset is not None:
        policy.offset.to(dtype)


def head_rows(lm: Any) -> int:
    """Rows of the output head; ModelError if the model lacks it, or something else that a policy needs."""
    try:
        return int(check_model(lm).out_features)
    except ValueError as error:
        raise ModelError(f"{type(lm).__name__} cannot be a policy: {error}") from error


def read_tokenizer(name: str | Path, local_files_only: bool, vocab_size: int) -> PretrainedTokenizer:
    """The tokeniser in a folder or beside a model, for a head of so many rows."""
    from transformers import AutoTokenizer

    try:
        backend = AutoTokenizer.from_pretrained(name, local_files_only=local_files_only, trust_remote_code=False)
    except OSError as error:
        raise FileNotFoundError(_missing(str(name), local_files_only, error)) from error
    except ImportError:
        raise
    except Exception as error:  # a damaged file is a plain Exception to the package that reads it
        raise ModelError(f"the tokeniser in {name} cannot be read: {_said(error)}") from error
    return PretrainedTokenizer(without_bkspc(backend), vocab_size)


def _said(error: Exception) -> str:
    """An error's words, with its kind where they say nothing by themselves, as "'rope'" or "float division by zero"."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _missing(name: str, local_files_only: bool, error: Exception) -> str:
    if name in shipped.names():
        return (
            f"{name} is a policy that comes with smlib and no language model of a folder or of the hub: in Python it "
            f"is loaded by smlib.load_shipped({name!r}); `smlib generate {name}`, `smlib train --init {name}` and "
            f"`smlib export {name} OUT` take it by this name"
        )
    cure = (
        "a hub name needs local_files_only=False (or a download beforehand)." if local_files_only else "is it spelt so?"
    )
    return f"no model {name!r} with a config, safetensors weights and a tokeniser: {cure} transformers says: {error}"

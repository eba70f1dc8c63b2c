"""Low-rank adapters on a frozen language model (peft), and the unembedding that the paper trains beside them (Sec. 6).

peft has a way to train a layer as a whole, `modules_to_save`. It wraps the head, keeps the frozen one beside the copy,
and leaves the copy in 16 bits; a wrapped head would cost every loss its chunked unembedding. So the head is replaced
here by one of its own, which `Policy` saves, and peft sees a model with a head that no adapter is for.

peft's "all-linear" is not every linear layer: experts are parameters and no layers today, and where it translates
their former names it loses the dense layers that are called alike. So every matrix is named here.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from smlib.policies.decoder import evaluated
from smlib.policies.probing import ModelError
from smlib.policies.sources import Lora
from smlib.policies.unembedding import TrainedHead

NOT_LINEAR = (nn.Embedding, nn.Conv1d, nn.Conv2d, nn.LayerNorm)


@dataclass(frozen=True)
class Matrices:
    """The matrices of a model but its head and embeddings, by their full names.

    Attributes:
        layers: linear layers. experts: parameters that hold the matrices of experts.
        routers: parameters that choose experts. They stay as they are: which expert reads a token is the base's choice.
        out_of_reach: parameters that other modules than their own multiply by, where peft can put nothing (DBRX).
    """

    layers: list[str]
    experts: list[str]
    routers: list[str]
    out_of_reach: list[str]


def matrices(lm: nn.Module) -> Matrices:
    """Every matrix that a model multiplies by."""
    from transformers.pytorch_utils import Conv1D

    head = lm.get_output_embeddings()  # type: ignore[operator]
    found = Matrices([], [], [], [])
    holders: dict[nn.Module, list[str]] = {}
    for name, module in lm.named_modules():
        if module is head or isinstance(module, NOT_LINEAR):
            continue
        kind = type(module).__name__.lower()
        router = "router" in kind or "gate" in kind  # some are linear layers whose forward returns their choice as well
        if isinstance(module, Conv1D | nn.Linear) and not router:
            found.layers.append(name)
            continue
        for part, p in module.named_parameters(recurse=False):
            if p.ndim in (2, 3) and min(p.shape[-2:]) > 1 and p.is_floating_point():
                if router and p.ndim == 2:
                    found.routers.append(f"{name}.{part}")
                else:
                    holders.setdefault(module, []).append(f"{name}.{part}")
    own = _read_by_themselves(lm, list(holders)) if holders else set()
    for module, names in holders.items():
        (found.experts if module in own else found.out_of_reach).extend(names)
    return found


def _read_by_themselves(lm: Any, modules: list[nn.Module]) -> set[nn.Module]:
    """Those of the modules whose parameters are read in their own calls alone, seen in one call of the model."""
    inside: set[nn.Module] = set()
    called: set[nn.Module] = set()
    outside: set[nn.Module] = set()

    def watched(kind: Any) -> Any:
        def read(self: nn.Module, name: str) -> Any:
            if name in self.__dict__["_parameters"] and self not in inside:
                outside.add(self)
            return kind.__getattr__(self, name)

        return type(kind.__name__, (kind,), {"__getattr__": read})

    def enter(module: nn.Module, args: Any) -> None:
        inside.add(module)
        called.add(module)

    kinds = [type(m) for m in modules]
    hooks = [m.register_forward_pre_hook(enter) for m in modules]
    hooks += [m.register_forward_hook(lambda module, args, out: inside.discard(module)) for m in modules]
    tokens = torch.tensor([[0, 1]], device=lm.get_input_embeddings().weight.device)
    try:
        for module, kind in zip(modules, kinds, strict=True):
            module.__class__ = watched(kind)
        with evaluated(lm):
            lm(input_ids=tokens, use_cache=False)
    finally:
        for module, kind in zip(modules, kinds, strict=True):
            module.__class__ = kind
        for hook in hooks:
            hook.remove()
    return called - outside


def with_adapters(lm: Any, lora: Lora) -> Any:
    """The language model, frozen, with fresh adapters that add nothing yet.

    Raises:
        ModelError: a head that cannot be trained, for `lora.unembedding`; dropout where there are experts.
    """
    from peft import LoraConfig, get_peft_model

    found = matrices(lm)
    if found.experts and lora.dropout:
        raise ModelError(
            f"the experts of this {type(lm).__name__} are parameters ({found.experts[0]} is one of "
            f"{len(found.experts)}), whose adapters have no inputs to drop: leave out dropout={lora.dropout}"
        )
    if found.out_of_reach:
        warnings.warn(
            f"adapters are on every matrix of this {type(lm).__name__} but {len(found.out_of_reach)} of its experts, "
            f"which are read by other modules than their own: {', '.join(found.out_of_reach[:4])} …",
            stacklevel=4,
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules or ()) or found.layers,
        target_parameters=None if lora.target_modules else found.experts or None,
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in lm.modules()),  # GPT-2 keeps its weights transposed
        task_type="CAUSAL_LM",
    )
    return _wrapped(lm, lora, lambda: get_peft_model(lm, config))


def load_adapters(lm: Any, lora: Lora, folder: Path) -> Any:
    """The language model, frozen, with the adapters in `folder`; its head is trained as `lora` says, see `Policy.load`.

    Raises:
        ModelError: as `with_adapters`; adapters that are not all in the file, or not for this model.
    """
    from peft import PeftModel, get_peft_model_state_dict

    wrapped = _wrapped(lm, lora, lambda: PeftModel.from_pretrained(lm, folder, is_trainable=True))
    file = folder / "adapter_model.safetensors"
    with safe_open(file, framework="pt") as stored:
        held = set(stored.keys())
    needed = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    if held != needed:
        odd = sorted(held ^ needed)
        raise ModelError(
            f"{file} does not hold the adapters that adapter_config.json beside it describes for this "
            f"{type(lm).__name__}: {len(needed - held)} missing, {len(held - needed)} not known, {odd[0]} for instance"
        )
    return wrapped


def _wrapped(lm: Any, lora: Lora, wrap: Callable[[], Any]) -> Any:
    head = _replace_head(lm) if lora.unembedding else None
    with _without_pefts_warning(), _names_as_they_are(lm):
        try:
            wrapped = wrap()
        except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
            linear = sorted({name.rsplit(".", 1)[-1] for name in matrices(lm).layers})
            known = f". Its linear layers are called {', '.join(linear)}" if lora.target_modules else ""
            raise ModelError(f"peft cannot put adapters on this {type(lm).__name__}: {error}{known}") from error
    if head is not None:
        head.requires_grad_(True)  # peft has frozen all that is no adapter
    return wrapped


@contextlib.contextmanager
def _names_as_they_are(lm: Any) -> Iterator[None]:
    """peft translates names of earlier releases for the model types that it knows; ours are those of the model."""
    config = lm.config
    own = config.__dict__.get("model_type")
    config.__dict__["model_type"] = "named by smlib"
    try:
        yield
    finally:
        if own is None:
            del config.__dict__["model_type"]
        else:
            config.__dict__["model_type"] = own


def _replace_head(lm: Any) -> TrainedHead:
    """Gives a model a head of its own, untied for good: neither peft nor transformers is to tie it again."""
    old = lm.get_output_embeddings()
    if type(old) is not nn.Linear or not old.weight.is_floating_point():
        raise ModelError(
            f"the head of this {type(lm).__name__} is a {type(old).__name__} and no plain torch.nn.Linear, which alone "
            "can be trained beside adapters: leave out unembedding=True"
        )
    head = TrainedHead(old)
    lm.set_output_embeddings(head)
    if lm.get_output_embeddings() is not head:
        raise ModelError(f"{type(lm).__name__} does not let its head be replaced: leave out unembedding=True")
    for config in (lm.config, lm.config.get_text_config()):
        config.tie_word_embeddings = False
    lm.all_tied_weights_keys = lm.get_expanded_tied_weights_keys(all_submodels=True)  # follows the configuration
    return head


@contextlib.contextmanager
def _without_pefts_warning() -> Iterator[None]:
    """peft asks for an attribute by the name that transformers has deprecated; the user can do nothing about it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        yield

"""Low-rank adapters on a frozen language model (peft), and the unembedding that the paper trains beside them (Sec. 6).

peft has a way to train a layer as a whole, `modules_to_save`. It wraps the head, keeps the frozen one beside the copy,
and leaves the copy in 16 bits; a wrapped head would cost every loss its chunked unembedding. So the head is replaced
here by one of its own, which `Policy` saves, and peft sees a model with a head that no adapter is for.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

from smlib.policies.probing import ModelError
from smlib.policies.sources import Lora
from smlib.policies.unembedding import TrainedHead


def with_adapters(lm: Any, lora: Lora) -> Any:
    """The language model, frozen, with fresh adapters that add nothing yet.

    Raises:
        ModelError: a head that cannot be trained, for `lora.unembedding`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules="all-linear",  # peft leaves the head out
        fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in lm.modules()),  # GPT-2 keeps its weights transposed
        task_type="CAUSAL_LM",
    )
    return _wrapped(lm, lora, lambda: get_peft_model(lm, config))


def load_adapters(lm: Any, lora: Lora, folder: Path) -> Any:
    """The language model, frozen, with the adapters in `folder`; its head is trained as `lora` says, see `Policy.load`.

    Raises:
        ModelError: as `with_adapters`.
    """
    from peft import PeftModel

    return _wrapped(lm, lora, lambda: PeftModel.from_pretrained(lm, folder, is_trainable=True))


def _wrapped(lm: Any, lora: Lora, wrap: Callable[[], Any]) -> Any:
    head = _replace_head(lm) if lora.unembedding else None
    with _without_pefts_warning():
        wrapped = wrap()
    if head is not None:
        head.requires_grad_(True)  # peft has frozen all that is no adapter
    return wrapped


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

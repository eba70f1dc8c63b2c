"""A policy's language model as a plain one, `<bkspc>` the last row of its embeddings and of an untied head; and back.

The offset head of App. E has no place there and needs none: it adds one number to all logits of a state, and
`softmax(l + c) = softmax(l)`. What is lost with it is V(s), which training uses and generation does not.

Adapters are merged (or left out, to be kept beside the model) and quantised weights are written out: `x W` with the
dequantised W is what a 4-bit layer computes, and an 8-bit one up to its rounding of x. Nothing happens to the policy
itself, of which a copy is made.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smlib.policies.policy import Policy
from smlib.policies.probing import ModelError

BKSPC_ID = "bkspc_token_id"  # in the configuration of a model that holds `<bkspc>`
ADAPTERS = "adapter"  # folder of adapters that were kept
TAKEN = "smlib_bkspc"  # attribute of a model whose last row was taken out: that row


def standard_model(policy: Policy, *, merge: bool, dtype: torch.dtype | None = None) -> Any:
    """A copy of the policy's language model with one more row: its logits are the policy's action logits.

    Args:
        merge: whether adapters are added to the weights, or left out.
        dtype: of all weights; that of the model's embeddings when omitted.

    Raises:
        ValueError: a policy without `<bkspc>`. ModelError: weights that cannot be written densely.
    """
    if not policy.config.backspace:
        raise ValueError(
            "the policy has no <bkspc>, so there is nothing that a plain checkpoint lacks: save it with "
            "policy.lm.save_pretrained, or switch <bkspc> on with policy.allow_backspace() first"
        )
    if policy.config.keep_edits:
        raise ValueError(
            "the policy reads what was deleted (soft deletion), and the decoding loop of a plain checkpoint takes it "
            "back: save it with smlib.save_policy, and sample it with smlib.sample"
        )
    if hasattr(policy, "deletion"):
        raise ValueError(
            "the <bkspc> of this policy is a head of its own and no row beside the tokens', which is all that a plain "
            "checkpoint can hold: save it with policy.save"
        )
    lm, vocab = policy.lm, policy.space.vocab_size
    plain = copy.deepcopy(lm.get_base_model() if hasattr(lm, "peft_config") else lm)
    plain.requires_grad_(False)
    _write_out(plain, merge)
    embeddings, head = plain.get_input_embeddings(), plain.get_output_embeddings()
    dtype = dtype or embeddings.weight.dtype
    bias = getattr(head, "bias", None)
    rows = torch.cat([head.weight[:vocab], policy.w_bkspc.detach()[None].to(head.weight)])
    inputs = embeddings.weight[:vocab]
    # <bkspc> is never read: its embedding is the mean, so that nothing stands out to whoever looks at the matrix.
    inputs = torch.cat([inputs, inputs.float().mean(0, keepdim=True).to(inputs)])
    _set_rows(plain, inputs, rows, None if bias is None else torch.cat([bias[:vocab], bias.new_zeros(1)]))
    setattr(plain.config, BKSPC_ID, vocab)
    return plain.to(dtype).eval()


def take_in(lm: Any, name: str) -> Any:
    """A model as it was loaded, `<bkspc>` taken out if it has one (see `row_of_bkspc`), kept adapters merged.

    Args:
        name: the folder or hub name that it comes from.

    Raises:
        ModelError: a head whose last row is not `<bkspc>`'s, or adapters beside 4-bit weights.
    """
    vocab = getattr(lm.config, BKSPC_ID, None)
    if vocab is None:
        return lm
    if (Path(name) / ADAPTERS).is_dir():
        from peft import PeftModel

        if getattr(lm, "is_quantized", False):
            raise ModelError(f"{name} has adapters beside it, which 4-bit weights cannot take in: leave out four_bit")
        lm = PeftModel.from_pretrained(lm, Path(name) / ADAPTERS).merge_and_unload()
    head, embeddings = lm.get_output_embeddings(), lm.get_input_embeddings()
    if head is None or head.out_features != vocab + 1:
        found = "no head" if head is None else f"a head of {head.out_features} rows"
        raise ModelError(f"{name} says that <bkspc> is row {vocab} and has {found}: expected it to be the last one")
    row = head.weight[vocab].detach().clone()
    bias = getattr(head, "bias", None)
    if bias is not None:  # a policy has no bias for <bkspc>; taken off all logits of a state it changes no probability
        bias = (bias - bias[vocab])[:vocab].detach()
    _set_rows(lm, embeddings.weight[:vocab].detach(), head.weight[:vocab].detach(), bias)
    delattr(lm.config, BKSPC_ID)
    setattr(lm, TAKEN, row)
    return lm


def row_of_bkspc(lm: Any, otherwise: Float[Tensor, " d"]) -> Float[Tensor, " d"]:
    """The row that `take_in` took out, or `otherwise` where the model never had one; in float32 or better."""
    row: Tensor = getattr(lm, TAKEN, otherwise).detach()
    return row.to(torch.promote_types(otherwise.dtype, torch.float32)).clone()


def _set_rows(lm: Any, inputs: Tensor, rows: Tensor, bias: Tensor | None) -> None:
    """Gives a model these embeddings and this head of its own, untied for good."""
    embedding = nn.Embedding(inputs.shape[0], inputs.shape[1], device="meta")
    embedding.weight = nn.Parameter(inputs.clone())
    head = nn.Linear(rows.shape[1], rows.shape[0], bias=bias is not None, device="meta")
    head.weight = nn.Parameter(rows.clone())
    if bias is not None:
        head.bias = nn.Parameter(bias.clone())
    old = lm.get_input_embeddings()
    if type(old) is nn.Embedding:
        lm.set_input_embeddings(embedding)
    else:  # embeddings that do more than look up (Gemma-3 scales them): the class stays
        old.weight, old.num_embeddings = embedding.weight, len(inputs)
    lm.set_output_embeddings(head)
    if lm.get_output_embeddings() is not head:
        raise ModelError(f"{type(lm).__name__} does not let its head be replaced")
    for config in (lm.config, lm.config.get_text_config()):
        config.tie_word_embeddings = False
        config.vocab_size = len(rows)
    if hasattr(lm, "vocab_size"):
        lm.vocab_size = len(rows)
    lm.all_tied_weights_keys = lm.get_expanded_tied_weights_keys(all_submodels=True)  # follows the configuration


def _write_out(lm: Any, merge: bool) -> None:
    """Replaces adapters and quantised layers by plain ones, in place."""
    for name, module in list(lm.named_modules()):
        if hasattr(module, "base_layer"):
            dense = _dense(name, module.base_layer)
            for adapter in module.active_adapters if merge else ():
                if adapter in module.lora_A:
                    delta = module.get_delta_weight(adapter).float()
                    dense.weight = nn.Parameter((dense.weight.float() + delta).to(dense.weight), requires_grad=False)
        elif not any(part == "base_layer" for part in name.split(".")):
            dense = _dense(name, module)
        else:
            continue
        if dense is not module:
            parent, _, last = name.rpartition(".")
            setattr(lm.get_submodule(parent), last, dense)
    if getattr(lm, "is_quantized", False) or getattr(lm.config, "quantization_config", None) is not None:
        lm.is_quantized, lm.hf_quantizer, lm.quantization_method = False, None, None
        lm.is_loaded_in_4bit = lm.is_loaded_in_8bit = False
        if hasattr(lm.config, "quantization_config"):
            del lm.config.quantization_config


def rounds_inputs(lm: Any) -> bool:
    """Whether layers round what they multiply beside their weights, as 8-bit ones do (LLM.int8())."""
    return any(type(getattr(module, "weight", None)).__name__ == "Int8Params" for module in lm.modules())


def _dense(name: str, module: nn.Module) -> Any:
    """The same layer with weights of real numbers; ModelError for a kind of weights that this cannot read."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.is_floating_point():
        return module
    if type(weight).__name__ not in ("Params4bit", "Int8Params"):
        raise ModelError(
            f"{name} has weights of the type {type(weight).__name__} ({weight.dtype}), which cannot be written out: "
            "export knows dense ones and those of bitsandbytes"
        )
    from transformers.integrations.bitsandbytes import dequantize_bnb_weight

    values = dequantize_bnb_weight(weight, getattr(module, "state", None))
    bias = getattr(module, "bias", None)
    dense = nn.Linear(values.shape[1], values.shape[0], bias=bias is not None, device="meta")
    dense.weight = nn.Parameter(values, requires_grad=False)
    if bias is not None:
        dense.bias = nn.Parameter(bias.detach().to(values), requires_grad=False)
    return dense

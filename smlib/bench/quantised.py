"""A Llama of any size with random NF4 weights and adapters, made where it will run: no checkpoint, no copy in float32.

The arithmetic of QLoRA costs the same whatever the weights are, so the paper's shape can be timed on a machine that has
no model: the layers are made one by one on the device and quantised at once.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from smlib.edits.actions import ActionSpace
from smlib.policies.adapters import with_adapters
from smlib.policies.bases import as_policy, checkpoint_activations
from smlib.policies.four_bit import with_gradients
from smlib.policies.llama import llama_config
from smlib.policies.policy import Policy, PolicyConfig
from smlib.policies.sources import Lora


def quantised_policy(
    space: ActionSpace,
    *,
    sizes: Mapping[str, int | None],
    positions: int,
    rank: int,
    device: str,
    dtype: torch.dtype,
    seed: int = 0,
) -> Policy:
    """Frozen NF4 weights with double quantisation, adapters on every linear layer, and a head that is trained.

    Args:
        sizes: `dim`, `layers`, `heads` and `mlp` as in `smlib.policies.policy.tiny_policy`.
        positions: context length. rank: of the adapters; they are scaled by 16 / rank as in the paper.
        dtype: of the arithmetic. Adapters, head and the row of `<bkspc>` are float32.
    """
    from transformers import LlamaForCausalLM

    dim, layers, heads = (int(sizes[name] or 0) for name in ("dim", "layers", "heads"))
    config = llama_config(
        space, dim=dim, layers=layers, heads=heads, mlp=sizes["mlp"], positions=positions, dtype=dtype
    )
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        with torch.device("meta"):
            lm: Any = LlamaForCausalLM(config)
        _materialise(lm, config, torch.device(device), dtype)
        lm.requires_grad_(False)
        checkpoint_activations(lm)
        lm = with_adapters(lm, Lora(r=rank, alpha=16, unembedding=True))
        policy = as_policy(lm, PolicyConfig(space))
    return policy.to(device)


def _materialise(lm: Any, config: Any, device: torch.device, dtype: torch.dtype) -> None:
    """Gives a model that has no memory yet random weights on the device, quantised layer by layer but for the head."""
    scale, head = config.initializer_range, lm.get_output_embeddings()
    for name, module in list(lm.named_modules()):
        if isinstance(module, nn.Linear) and module is not head:
            parent, _, own = name.rpartition(".")
            setattr(lm.get_submodule(parent), own, _nf4(module, scale, device, dtype))
        elif isinstance(module, nn.Embedding) or module is head:
            weight = torch.empty(module.weight.shape, device=device, dtype=dtype).normal_(0.0, scale)
            module.weight = nn.Parameter(weight)
        else:
            for part, p in list(module.named_parameters(recurse=False)):  # norms
                setattr(module, part, nn.Parameter(torch.ones(p.shape, device=device, dtype=dtype)))
    rotary = lm.model.rotary_emb
    lm.model.rotary_emb = type(rotary)(config).to(device)  # its frequencies are computed, not stored


def _nf4(layer: nn.Linear, scale: float, device: torch.device, dtype: torch.dtype) -> nn.Module:
    from bitsandbytes.nn import Linear4bit, Params4bit

    made = Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=False,
        compute_dtype=dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight = torch.empty(layer.out_features, layer.in_features, device=device, dtype=dtype).normal_(0.0, scale)
    options = {"quant_type": "nf4", "compress_statistics": True, "module": made}
    made.weight = Params4bit(weight, requires_grad=False, **options).to(device)
    with_gradients(made)
    return made

"""Random policies that delete often, exported, and opened by transformers alone."""

from pathlib import Path
from typing import Any

import torch
import transformers

from smlib.data.tokenizers import TextTokenizer
from smlib.policies.export import export_policy
from smlib.policies.loading import load_policy
from smlib.policies.policy import Policy
from tests.support.models import saved_model


def deleting_policy(folder: Path, kind: str = "llama", **options: Any) -> tuple[Policy, TextTokenizer]:
    """A random model of 48 rows over 43 tokens; about every third action of its policy is `<bkspc>`."""
    policy, tokenizer = load_policy(saved_model(folder, kind), **options)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for p in policy.parameters():
            if p.requires_grad and p.ndim >= 1 and options.get("lora") is not None:
                p += 0.05 * torch.randn(p.shape, generator=generator).to(p)
        policy.w_bkspc += 1.2 * torch.randn(policy.w_bkspc.shape, generator=generator)
        if policy.offset is not None:  # in the middle of training: it has to be dropped and not to be zero
            policy.offset.outer.bias.fill_(0.7)
            policy.offset.outer.weight.fill_(0.3)
    return policy.eval(), tokenizer


def opened(folder: Path, **options: Any) -> tuple[Any, Any]:
    """Model and tokeniser as anybody opens them."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def exported(folder: Path, kind: str = "llama", **options: Any) -> tuple[Policy, Any, Any]:
    """A policy, and the model and the tokeniser of its export in `folder / "out"`."""
    policy, tokenizer = deleting_policy(folder / "base", kind)
    return policy, *opened(export_policy(policy, tokenizer, folder / "out", **options))

"""Attention in pieces is attention."""

import numpy as np
import pytest
import torch
import transformers

from smlib import attention
from smlib.actions import ActionSpace, Trajectory
from smlib.packing import pack

SPACE = ActionSpace(vocab_size=11, eos=1, bos=0)
FAMILIES = {
    "llama": (transformers.LlamaConfig, {"num_key_value_heads": 2, "intermediate_size": 24, "hidden_size": 16}),
    "gpt2": (transformers.GPT2Config, {"n_embd": 16}),
}


@pytest.fixture
def batch():
    """A trunk with runs of backspaces and a branch, in one row longer than several pieces."""
    rng = np.random.default_rng(0)
    actions = rng.choice([2, 3, 4, SPACE.bkspc], p=[0.3, 0.3, 0.2, 0.2], size=90)
    trunk = Trajectory.make([0, 5], [*actions, SPACE.eos], space=SPACE)
    branch = Trajectory.make([0, 5], [*actions[::-1], SPACE.eos], space=SPACE)
    return pack([[trunk, branch], [branch]], SPACE, model=[[False, True], [True]])


@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_those_of_sdpa(family, batch, monkeypatch):
    monkeypatch.setattr(attention, "PIECE", 32)
    kind, sizes = FAMILIES[family]
    torch.manual_seed(0)
    config = kind(vocab_size=11, num_hidden_layers=2, num_attention_heads=4, pad_token_id=None, **sizes)
    config.bos_token_id, config.eos_token_id = 0, 1
    lm = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").double().eval()
    assert batch.tokens.shape[1] > 3 * attention.PIECE

    def logits_and_gradients():
        lm.zero_grad()
        logits = lm(
            input_ids=batch.tokens, position_ids=batch.positions, attention_mask=batch.mask(), use_cache=False
        ).logits
        logits.square().mean().backward()
        return logits.detach(), [p.grad.clone() for p in lm.parameters()]

    whole = logits_and_gradients()
    attention.use_pieces(lm)
    pieces = logits_and_gradients()
    # the kernel sums in another order: float64 rounding only
    torch.testing.assert_close(pieces[0], whole[0], rtol=0, atol=1e-12)
    for a, b in zip(pieces[1], whole[1], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_generation_and_saving_work_as_before(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=11, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=0, eos_token_id=1, pad_token_id=None,
    )  # fmt: skip
    lm = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
    prompt = torch.tensor([[0, 4, 5]])
    before = lm.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    attention.use_pieces(lm)
    after = lm.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=5, do_sample=False)
    assert torch.equal(before, after)
    lm.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="sdpa")
    assert loaded.config._attn_implementation == "sdpa"

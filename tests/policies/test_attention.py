"""Attention in pieces is attention."""

import numpy as np
import pytest
import torch
import transformers

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.packing import pack
from smlib.policies import attention
from smlib.policies.policy import tiny_policy

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


def test_keys_that_no_query_of_a_piece_sees_are_left_out(monkeypatch):
    monkeypatch.setattr(attention, "PIECE", 8)
    monkeypatch.setattr(attention, "GAP", 4)
    # One row: a prompt of 4, a rollout of 12 from it, then the data's other 16 slots, which see the prompt alone.
    rollout = Trajectory.make([0, 2, 3, 4], [5] * 12 + [SPACE.eos], space=SPACE)
    data = Trajectory.make([0], [2, 3, 4, *[6] * 16, SPACE.eos], space=SPACE)
    batch = pack([[data, rollout]], SPACE, model=[[False, True]])
    mask = batch.mask()
    ((sizes, needed),) = attention.visible_segments(mask)
    length = mask.shape[-1]
    assert sum(sizes) == length
    edges = np.cumsum([0, *sizes])
    for piece, chosen in enumerate(needed):
        seen = np.zeros(length, bool)
        for i in chosen:
            seen[edges[i] : edges[i + 1]] = True
        visible = mask[0, 0, 8 * piece : 8 * piece + 8].any(0).numpy()
        assert not (visible & ~seen).any()  # nothing visible is lost
    assert sum(sizes[i] for i in needed[-1]) <= length - 12  # the last piece: prompt and data, without the rollout


def test_a_row_with_branches_is_cut_and_stays_attention(monkeypatch):
    monkeypatch.setattr(attention, "PIECE", 8)
    monkeypatch.setattr(attention, "GAP", 4)
    rollout = Trajectory.make([0, 2, 3, 4], [5] * 12 + [SPACE.eos], space=SPACE)
    data = Trajectory.make([0], [2, 3, 4, *[6] * 16, SPACE.eos], space=SPACE)
    mask = pack([[data, rollout], [rollout]], SPACE, model=[[False, True], [True]]).mask()
    assert attention._plan(mask) is not None
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(mask.shape[0], 2, mask.shape[-1], 4, dtype=torch.float64, requires_grad=True) for _ in range(3)
    )
    module = torch.nn.Module()
    cut, _ = attention.attention_in_pieces(module, q, k, v, mask)
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-12)
    slope = torch.randn_like(whole)
    for a, b in zip(*(torch.autograd.grad((o * slope).sum(), (q, k, v)) for o in (cut, whole)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("cut", [False, True])
def test_all_layers_share_one_mask_of_scores_and_get_the_same_bits(cut, batch, monkeypatch):
    monkeypatch.setattr(attention, "PIECE", 32)
    monkeypatch.setattr(attention, "KEPT", 1.1 if cut else 0.0)
    mask = batch.mask()
    torch.manual_seed(0)
    q, k, v = (torch.randn(mask.shape[0], 2, mask.shape[-1], 8, requires_grad=True) for _ in range(3))
    module, given = torch.nn.Module(), []
    kernel = attention.sdpa_attention_forward

    def attend(module, query, key, value, attention_mask, **options):
        given.append(attention_mask)
        # What the kernel was handed before: bools, of each call its own.
        allowed = attention_mask == 0
        assert torch.equal(attention_mask, torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf))
        found = kernel(module, query, key, value, attention_mask, **options)[0]
        assert torch.equal(found, kernel(module, query, key, value, allowed, **options)[0])
        return found, None

    monkeypatch.setattr(attention, "sdpa_attention_forward", attend)
    layers = []
    for _ in range(2):
        before = len(given)
        attention.attention_in_pieces(module, q, k, v, mask)
        layers.append([m.data_ptr() for m in given[before:]])
    assert layers[0] == layers[1]
    assert len(layers[0]) >= 4


def test_what_layers_make_of_a_mask_ends_with_the_pass(batch):
    policy = tiny_policy(SPACE, dim=16, layers=2, heads=2, positions=512)
    mask = batch.mask()
    one, same = (policy.hidden(batch.tokens, batch.positions, mask) for _ in range(2))
    assert torch.equal(one, same)
    mask[:] = torch.eye(mask.shape[-1], dtype=torch.bool)  # every slot sees itself alone
    assert not torch.equal(one, policy.hidden(batch.tokens, batch.positions, mask))

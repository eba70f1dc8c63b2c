"""Contexts in which a state is what it is by itself: sliding windows, chunks, LongRoPE."""

import warnings

import numpy as np
import pytest
import torch
import transformers

from smlib.edits.actions import replay
from smlib.edits.packing import pack
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies import window_checks, windows
from smlib.policies.attention import plain_attention
from smlib.policies.independence import independent_context
from smlib.policies.loading import load_policy, save_policy
from smlib.policies.probing import cached_logits, packed_logits, probe_trajectory
from tests.support.models import saved_model
from tests.support.tiny_models import LONGROPE, OWN, tiny


def clean(folder, states):
    """Each state by itself through transformers' own attention, which has the windows."""
    lm = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").double().eval()
    with torch.no_grad():
        return torch.stack([lm(torch.tensor([state])).logits[0, -1] for state in states])


def test_windows_are_exact_in_packed_masks_in_caches_and_in_saved_policies(tmp_path):
    folder = saved_model(tmp_path / "base", "mistral", sliding_window=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy, tokenizer = load_policy(folder)
        save_policy(policy, tokenizer, tmp_path / "saved")
        loaded = load_policy(tmp_path / "saved")[0]
    for each in (policy.double(), loaded.double()):
        trajectory = probe_trajectory(each.space, list(range(3, 20)))
        expected = clean(folder, list(dict.fromkeys(replay(trajectory, each.space)[:-1])))
        for fast in (packed_logits, cached_logits):
            with torch.no_grad():
                torch.testing.assert_close(fast(each, trajectory), expected, rtol=0, atol=1e-5)
        assert each.context == 64
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, sliding_window=None).double().eval()
    assert (
        whole(torch.tensor([list(range(3, 15))])).logits[0, -1] - clean(folder, [range(3, 15)])[0]
    ).abs().max() > 0.1


def test_a_window_cuts_pairs_that_are_as_far_apart_as_it_is_wide():
    places = torch.tensor([[0, 1, 2, 1, 2, 3]])  # a branch from the first token
    mask = torch.tensor([[[[j <= i and not (j in (1, 2) and i > 2) for j in range(6)] for i in range(6)]]])
    cut = windows.windowed(windows.at_places(mask, places, places), 2)
    expected = [[bool(mask[0, 0, i, j]) and int(places[0, i] - places[0, j]) < 2 for j in range(6)] for i in range(6)]
    assert cut[0, 0].tolist() == expected
    assert windows.windowed(mask, None) is mask
    assert windows.windowed(mask, 4) is mask  # nothing is as far apart


def test_windows_that_attention_is_not_told_bound_the_context(tmp_path, monkeypatch):
    monkeypatch.setattr(window_checks, "_by_layer", lambda config: None)
    policy = load_policy(saved_model(tmp_path, "mistral", sliding_window=24))[0]
    assert policy.max_positions == 24
    with pytest.raises(ValueError, match=r"context is 24.*layers of the model see a part of the state"):
        sample(policy, [[1, 5]], SamplingConfig(max_new_tokens=30), [0])
    tokens = torch.zeros(1, 25, dtype=torch.long)
    with pytest.raises(ValueError, match="a state of 25 tokens, and this policy's context is 24 of the model's 64"):
        policy.hidden(tokens, torch.arange(25)[None], torch.ones(1, 1, 25, 25, dtype=torch.bool).tril())


def test_where_no_layer_slides_nothing_is_said_and_nothing_bounded(tmp_path):
    folder = saved_model(tmp_path, "qwen2", sliding_window=8, use_sliding_window=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_policy(folder)[0].context == 64


def test_longrope_ends_the_context_where_a_state_would_depend_on_its_neighbours(tmp_path):
    folder = tiny("phi3 (LongRoPE)", tmp_path / "base")
    policy, tokenizer = load_policy(folder)
    assert policy.context == LONGROPE["original_max_position_embeddings"] == 32
    save_policy(policy, tokenizer, tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved")[0]
    assert loaded.context == 32
    short, long = [1, 5, 9], [1, *range(5, 25)]
    config = SamplingConfig(max_new_tokens=8, greedy=True)
    alone = sample(loaded, [short], config, [0]).trajectories[0]
    beside = sample(loaded, [short, long], config, [0, 1]).trajectories[0]
    assert np.array_equal(alone.labels, beside.labels)
    with pytest.raises(ValueError, match=r"context is 32.*when a longer one is in the batch"):
        sample(loaded, [short, long], SamplingConfig(max_new_tokens=20), [0, 1])
    lm = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    assert independent_context(lm, 33) == 32  # found by halving, to the token


def test_scores_with_a_cap_and_sinks_are_those_of_the_formula():
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, h, 5, 4, dtype=torch.float64) for h in (4, 2, 2))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool).tril()
    sinks = torch.randn(4, dtype=torch.float64)
    found = plain_attention(torch.nn.Module().eval(), q, k, v, mask, scaling=0.7, softcap=2.0, s_aux=sinks)[0]
    for row in range(2):
        for head in range(4):
            for i in range(5):
                scores = 2.0 * torch.tanh(0.7 * (k[row, head // 2, : i + 1] @ q[row, head, i]) / 2.0)
                weights = torch.softmax(torch.cat([scores, sinks[head : head + 1]]), 0)[:-1]
                torch.testing.assert_close(found[row, i, head], weights @ v[row, head // 2, : i + 1])


def test_gemma_2_has_its_windows_and_both_of_its_caps(tmp_path):
    folder = tiny("gemma2", tmp_path)
    policy = load_policy(folder)[0].double()
    assert policy.behind.cap == OWN["gemma2"]["final_logit_softcapping"]
    batch = pack([[probe_trajectory(policy.space, list(range(3, 20)))]], policy.space)
    picked, values = policy(batch, 3)
    every = policy.state_logits(batch)
    torch.testing.assert_close(picked, every[batch.visit_state, batch.label])
    torch.testing.assert_close(values, every.logsumexp(-1))
    assert every.abs().max() <= 4.0

"""The unembedding trained beside adapters (Sec. 6): equal logits at the start, exact gradients, nothing tied again."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from smlib.data.continuations import Continuations
from smlib.edits.actions import ActionSpace
from smlib.edits.packing import PackedBatch, pack
from smlib.files import plain
from smlib.objectives.losses import sizes
from smlib.objectives.methods import ObjectiveConfig, objective
from smlib.policies.loading import Lora, load_policy, save_policy
from smlib.policies.policy import Policy
from smlib.policies.probing import ModelError, probe_trajectory
from smlib.policies.unembedding import TrainedHead
from smlib.training import algorithm_1 as training
from smlib.training.algorithm_1 import TrainConfig, train
from smlib.training.checkpoints import trainable
from tests.support.models import KINDS, saved_model, texts

WHOLE = Lora(2, 4, unembedding=True)
GOAL = ObjectiveConfig(alpha=0.1, gamma=0.9, bc_steps=0, anneal_steps=0)


def batch_for(space: ActionSpace) -> PackedBatch:
    """A data trajectory and a rollout, with deletions."""
    data, rollout = (probe_trajectory(space, list(range(begin, begin + 20))) for begin in (3, 15))
    return pack([[data], [rollout]], space, model=[[False], [True]])


def shaken(policy: Policy) -> Policy:
    """In the middle of training: nothing is zero, and the head is no longer the embeddings' copy."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in trainable(policy).values():
            p += 0.1 * torch.randn(p.shape, generator=generator).to(p)
    return policy.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_the_policy_is_the_one_with_the_head_frozen(kind, tmp_path):
    folder = saved_model(tmp_path, kind)
    frozen, ours = (load_policy(folder, lora=lora)[0].eval() for lora in (Lora(2, 4), WHOLE))  # GPT-2 has dropout
    batch = batch_for(ours.space)
    assert torch.equal(ours.state_logits(batch), frozen.state_logits(batch))
    for chunk in (None, 4):
        for a, b in zip(ours(batch, chunk), frozen(batch, chunk), strict=True):
            assert torch.equal(a, b)
    was, now = trainable(frozen), trainable(ours)
    assert all(torch.equal(now[name], p) for name, p in was.items())  # adapters drawn from the same seed
    assert {name.split(".")[-2] for name in now.keys() - was.keys()} <= {"lm_head", "embed_out"}
    embeddings = ours.lm.get_input_embeddings().weight
    assert torch.equal(embeddings, frozen.lm.get_input_embeddings().weight)
    assert not embeddings.requires_grad


@pytest.mark.parametrize("kind", ["tied", "gpt2"])
def test_nothing_ties_the_head_again(kind, tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base", kind), lora=WHOLE)
    assert load_policy(tmp_path / "base")[0].lm.config.tie_word_embeddings
    embeddings = policy.lm.get_input_embeddings().weight.clone()
    logits = shaken(policy).eval().state_logits(batch_for(policy.space))
    for recompute in (True, False):  # from the configuration, and from what the model remembers of it
        policy.lm.get_base_model().tie_weights(recompute_mapping=recompute)
    assert torch.equal(policy.state_logits(batch_for(policy.space)), logits)
    save_policy(policy, tokenizer, tmp_path / "mine")
    again = load_policy(tmp_path / "mine")[0].eval()
    again.lm.get_base_model().tie_weights()
    assert torch.equal(again.state_logits(batch_for(policy.space)), logits)
    assert torch.equal(again.lm.get_input_embeddings().weight, embeddings)
    tokens = torch.tensor([[1, 5, 9, 13, 7]])
    ours = policy.lm(tokens).logits
    policy.lm.merge_and_unload().save_pretrained(tmp_path / "merged")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged")(tokens).logits
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)  # merging adds the adapters' product to the weights


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("chunk", [None, 1, 5])
def test_the_heads_gradient_is_that_of_the_dense_formula(kind, chunk, tmp_path):
    policy = shaken(load_policy(saved_model(tmp_path, kind), lora=WHOLE)[0].double())
    batch, head = batch_for(policy.space), policy.lm.get_output_embeddings()
    picked, values = policy(batch, chunk)
    a, b = (torch.randn(x.shape, dtype=x.dtype) for x in (picked, values))
    (a @ picked + b @ values).backward()
    with torch.no_grad():
        hidden = policy.state_hidden(batch)[0]
        rows = torch.cat([head.weight, policy.w_bkspc[None]])
        bias = torch.zeros(len(rows)).double() if head.bias is None else torch.cat([head.bias, torch.zeros(1)])
        slope = b[:, None] * torch.softmax(hidden @ rows.T + bias, -1)  # of V; the offset is added to all alike
        slope.index_put_((batch.visit_state, batch.label), a, accumulate=True)
    expected = slope.T @ hidden
    torch.testing.assert_close(head.weight.grad, expected[:-1], rtol=0, atol=1e-10)  # float64 sums of 30 terms
    torch.testing.assert_close(policy.w_bkspc.grad, expected[-1], rtol=0, atol=1e-10)
    if head.bias is not None:
        torch.testing.assert_close(head.bias.grad, slope.sum(0)[:-1], rtol=0, atol=1e-10)
    assert all(p.grad is not None for p in trainable(policy).values())


def gradients(policy: Policy, chunk: int | None = 5, parts: int = 1) -> dict[str, torch.Tensor]:
    """Of SequenceMatch's loss, the batch processed in one part or two."""
    policy.zero_grad()
    space = policy.space
    group = [[probe_trajectory(space, list(range(begin, begin + 20)))] for begin in (3, 9, 15, 20)]
    flags = [[False], [True]] * 2
    cuts = [slice(None)] if parts == 1 else [slice(0, 2), slice(2, 4)]
    batches = [pack(group[cut], space, model=flags[cut]) for cut in cuts]
    for batch in batches:
        objective(policy, batch, GOAL, 0, chunk, sizes(batches)).total.backward()
    return {name: p.grad.clone() for name, p in trainable(policy).items() if p.grad is not None}


def test_the_heads_gradient_is_the_slope_of_the_loss(tmp_path):
    policy = shaken(load_policy(saved_model(tmp_path, "tied"), lora=WHOLE)[0].double())
    batch, weight = batch_for(policy.space), policy.lm.get_output_embeddings().weight
    found = objective(policy, batch, GOAL, 0, 5).total
    found.backward()
    direction, step = torch.randn(weight.shape, dtype=weight.dtype), 1e-5
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            weight += sign * step * direction
            ends.append(float(objective(policy, batch, GOAL, 0, 5).total))
            weight -= sign * step * direction
    slope = float((weight.grad * direction).sum())
    assert abs(slope) > 0.01
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(slope, rel=1e-6)  # the error of a central difference


def test_gradient_checkpointing_and_accumulation_change_no_gradient(tmp_path):
    folder = saved_model(tmp_path, "tied")
    plainly, recomputed = (  # activations are recomputed in training mode alone
        shaken(load_policy(folder, lora=WHOLE, gradient_checkpointing=c)[0].double()).train() for c in (False, True)
    )
    assert recomputed.lm.is_gradient_checkpointing
    expected = gradients(plainly)
    assert expected["lm.base_model.model.lm_head.weight"].abs().max() > 0
    for found in (gradients(plainly, None), gradients(plainly, 5, parts=2), gradients(recomputed, 5, parts=2)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            # transformers' RMSNorm computes in float32, so another layout differs by its rounding
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_head_of_a_16_bit_model_is_trained_in_float32(dtype, tmp_path):
    folder = saved_model(tmp_path, "tied")
    frozen, policy = (load_policy(folder, lora=lora, dtype=dtype)[0] for lora in (Lora(2, 4), WHOLE))
    batch, head = batch_for(policy.space), policy.lm.get_output_embeddings()
    hidden = policy.state_hidden(batch)[0]
    assert hidden.dtype == policy.lm.get_input_embeddings().weight.dtype == dtype
    assert all(p.dtype == torch.float32 for p in trainable(policy).values())
    assert torch.equal(policy.state_logits(batch)[:, :48], frozen.state_logits(batch)[:, :48])
    assert policy.lm(batch.tokens).logits.dtype == torch.float32  # the model itself can be called as before

    def gradient(chunk):
        policy.zero_grad()
        picked, values = policy(batch, chunk)
        (picked.sum() - values.sum()).backward()
        return head.weight.grad.double()

    with torch.no_grad():
        rows = torch.cat([head.weight, policy.w_bkspc[None]]).double()
        slope = -torch.softmax(hidden.double() @ rows.T, -1)
        slope.index_put_((batch.visit_state, batch.label), torch.ones(len(batch.label)).double(), accumulate=True)
    exact = (slope.T @ hidden.double())[:-1]
    for chunk in (None, 4):
        error = (gradient(chunk) - exact).abs().max() / exact.abs().max()
        assert error < 1e-5  # bfloat16 would be off by 4e-3
    before = head.weight.detach().clone()
    torch.optim.AdamW([head.weight], lr=1e-5, weight_decay=0.0).step()
    after = head.weight.detach()
    assert float((after - before).abs().median()) == pytest.approx(1e-5, rel=0.1)
    large = before.abs() > 0.1
    assert torch.equal(after.to(dtype)[large], before.to(dtype)[large])  # in 16 bits nothing would have moved


@pytest.mark.parametrize("kind", ["llama", "tied", "gpt2", "phi"])
def test_adapters_and_the_head_save_and_load_bit_for_bit(kind, tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base", kind), lora=WHOLE)
    shaken(policy).requires_grad_(False)  # as somebody may have done who is finished with training
    for _ in range(2):
        save_policy(policy, tokenizer, tmp_path / "mine")
    loaded, _ = load_policy(tmp_path / "mine")
    batch, head = batch_for(policy.space), loaded.lm.get_output_embeddings()
    assert torch.equal(policy.eval().state_logits(batch), loaded.eval().state_logits(batch))
    assert all(p.requires_grad for p in head.parameters())
    assert {f.suffix for f in (tmp_path / "mine").rglob("*") if f.is_file()} <= {".json", ".safetensors", ".md"}
    stored = load_file(tmp_path / "mine" / "policy.safetensors")
    assert torch.equal(stored["unembedding.weight"], head.weight)
    adapters = load_file(tmp_path / "mine" / "lm" / "adapter_model.safetensors")
    assert all("lora_" in name for name in adapters)
    half = load_policy(tmp_path / "mine", dtype=torch.bfloat16)[0]
    assert torch.equal(half.lm.get_output_embeddings().weight, head.weight)
    assert half.lm.get_input_embeddings().weight.dtype == torch.bfloat16
    save_file({k: v for k, v in stored.items() if "unembedding" not in k}, tmp_path / "mine" / "policy.safetensors")
    with pytest.raises(ValueError, match=r"expected the tensors .*unembedding\.weight"):
        load_policy(tmp_path / "mine")


def test_a_head_that_is_not_trained_is_not_stored(tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base"), lora=Lora(2, 4))
    save_policy(policy, tokenizer, tmp_path / "mine")
    assert not any("unembedding" in name for name in load_file(tmp_path / "mine" / "policy.safetensors"))
    source = tmp_path / "mine" / "source.json"
    stored = json.loads(source.read_text())
    del stored["lora"]["unembedding"]  # as policies were saved before there was the option
    source.write_text(json.dumps(stored))
    batch = batch_for(policy.space)
    assert torch.equal(policy.state_logits(batch), load_policy(tmp_path / "mine")[0].state_logits(batch))


def test_a_merged_model_is_saved_as_any_other(tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base", "tied"), lora=WHOLE)
    merged = Policy(shaken(policy).lm.merge_and_unload(), policy.config)
    save_policy(merged, tokenizer, tmp_path / "merged")
    loaded = load_policy(tmp_path / "merged")[0]
    batch = batch_for(policy.space)
    assert torch.equal(loaded.state_logits(batch), merged.state_logits(batch))
    assert not isinstance(loaded.lm.get_output_embeddings(), TrainedHead)


def test_a_run_that_was_stopped_goes_on_with_its_head(tmp_path, monkeypatch):
    folder = saved_model(tmp_path / "base", "tied")

    def run(where: Path) -> Policy:
        policy, tokenizer = load_policy(folder, lora=WHOLE, gradient_checkpointing=True)
        data = Continuations.from_texts(texts(), tokenizer, context=40, max_prompt=8)
        config = TrainConfig(
            GOAL, steps=4, batch_size=4, accumulation=2, learning_rate=1e-2, warmup_steps=0, rollout_tokens=8, refill=4,
            chunk=16, buffer_size=4, checkpoint_every=2, log_every=1, eta=0.1,
        )  # fmt: skip
        return train(policy, data, config, where, progress=False).policy

    whole = run(tmp_path / "whole")

    def stop(*given: object, **named: object) -> None:
        save(*given, **named)
        raise KeyboardInterrupt

    save = training.save_checkpoint
    monkeypatch.setattr(training, "save_checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped")
    monkeypatch.setattr(training, "save_checkpoint", save)
    name = "lm.base_model.model.lm_head.weight"
    half = load_file(tmp_path / "stopped" / "checkpoint" / "trainable.safetensors")
    resumed = run(tmp_path / "stopped")
    assert not torch.equal(half[name], whole.get_parameter(name))
    for key, p in trainable(whole).items():
        assert torch.equal(resumed.get_parameter(key), p), key
    fresh = load_policy(folder)[0].lm.get_output_embeddings().weight
    assert float((whole.get_parameter(name) - fresh).detach().abs().median()) > 1e-3


def test_what_was_computed_before_the_option_keeps_its_identity():
    assert plain(Lora(2, 4)) == {"r": 2, "alpha": 4, "dropout": 0.0}
    assert plain(WHOLE) == {"r": 2, "alpha": 4, "dropout": 0.0, "unembedding": True}


def test_a_head_that_is_no_plain_matrix_is_refused(tmp_path, monkeypatch):
    class Head(torch.nn.Linear):
        pass

    folder, real = saved_model(tmp_path), transformers.AutoModelForCausalLM.from_pretrained

    def other(*given: object, **options: object) -> object:
        lm, info = real(*given, **options)
        lm.lm_head.__class__ = Head
        return lm, info

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", other)
    with pytest.raises(ModelError, match=r"is a Head and no plain torch\.nn\.Linear.*leave out unembedding=True"):
        load_policy(folder, lora=WHOLE)

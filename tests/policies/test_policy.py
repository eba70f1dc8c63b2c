import json

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.packing import pack
from smlib.policies.policy import Policy, PolicyConfig, tiny_policy
from tests.support.oracles import SPACE, float64_policy

TRAJECTORY = Trajectory.make([0, 2], [3, SPACE.bkspc, 4, 5, 1], space=SPACE)


def small():
    return tiny_policy(SPACE, dim=16, layers=2, heads=2, positions=32, seed=3)


def test_vocabulary_logits_are_those_of_the_model_itself():
    policy = small()
    tokens = torch.tensor([[0, 2, 3, 4]])
    plain = policy.lm(tokens).logits[0]
    mask = torch.ones(4, 4, dtype=torch.bool).tril()[None, None]
    hidden = policy.hidden(tokens, torch.arange(4)[None], mask)[0]
    ours = policy.logits(hidden, torch.arange(4))
    assert torch.equal(ours[:, : SPACE.vocab_size], plain)  # the offset head starts at zero
    assert ours.shape[1] == SPACE.n_actions


def test_backspace_row_starts_as_the_mean_row():
    policy = small()
    torch.testing.assert_close(policy.w_bkspc, policy.lm.lm_head.weight.mean(0))


def test_offset_head_moves_values_and_not_the_policy():
    policy = float64_policy()
    hidden, positions = torch.randn(6, 16, dtype=torch.float64), torch.arange(6)
    with_offset = policy.logits(hidden, positions)
    head, policy.offset = policy.offset, None
    without = policy.logits(hidden, positions)
    offset = head(hidden, positions)
    assert offset.shape == (6, 1)
    assert offset.std() > 0.01  # a head of zeros would pass this test
    torch.testing.assert_close(with_offset, without + offset)
    torch.testing.assert_close(with_offset.softmax(-1), without.softmax(-1))
    torch.testing.assert_close(with_offset.logsumexp(-1), without.logsumexp(-1) + offset[:, 0])


def test_a_shift_moves_every_value_and_no_probability():
    policy = float64_policy()
    hidden, positions = torch.randn(6, 16, dtype=torch.float64), torch.arange(6)
    before = policy.logits(hidden, positions).detach()
    after = policy.shift_value(-3.0).logits(hidden, positions)
    torch.testing.assert_close(after.logsumexp(-1), before.logsumexp(-1) - 3.0)
    torch.testing.assert_close(after.softmax(-1), before.softmax(-1))
    with pytest.raises(ValueError, match="offset head"):
        policy.remove_offset_head().shift_value(1.0)


def test_offset_head_knows_the_position():
    head = float64_policy().offset
    hidden = torch.randn(1, 16, dtype=torch.float64).expand(2, -1)
    a, b = head(hidden, torch.tensor([0, 20]))
    assert a != b


def test_forbidden_backspace_has_no_probability_and_no_gradient():
    policy = float64_policy().forbid_backspace()
    batch = pack([[TRAJECTORY]], SPACE)
    logits = policy.state_logits(batch)
    assert torch.all(logits[:, SPACE.bkspc] == -torch.inf)
    logits.logsumexp(-1).sum().backward()
    assert policy.w_bkspc.grad is None or torch.all(policy.w_bkspc.grad == 0)


def test_backspace_is_switched_on_again_as_it_was():
    policy, batch = float64_policy(), pack([[TRAJECTORY]], SPACE)
    before = policy.state_logits(batch)
    assert torch.equal(policy.forbid_backspace().allow_backspace().state_logits(batch), before)


def test_saved_and_loaded_policies_agree_bit_for_bit(tmp_path):
    policy = small()
    with torch.no_grad():
        policy.w_bkspc.normal_()
        policy.offset.outer.weight.normal_()
    policy.save(tmp_path / "p")
    policy.save(tmp_path / "p")  # saving over an older one leaves one complete checkpoint
    loaded = Policy.load(tmp_path / "p")
    batch = pack([[TRAJECTORY]], SPACE)
    assert torch.equal(policy.state_logits(batch), loaded.state_logits(batch))
    assert loaded.config == policy.config
    assert sorted(f.name for f in tmp_path.iterdir()) == ["p"]
    assert not list(tmp_path.rglob("*.bin")) + list(tmp_path.rglob("*.pt")) + list(tmp_path.rglob("*.pkl"))


def test_foreign_and_corrupt_checkpoints_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no smlib policy"):
        Policy.load(tmp_path)
    policy = small()
    policy.save(tmp_path / "p")
    meta = tmp_path / "p" / "policy.json"
    good = meta.read_text()
    meta.write_text(json.dumps({**json.loads(good), "format": "other"}))
    with pytest.raises(ValueError, match="not of the format"):
        Policy.load(tmp_path / "p")
    meta.write_text(good[:20])
    with pytest.raises(ValueError, match="corrupt or foreign"):
        Policy.load(tmp_path / "p")
    meta.write_text(good)
    save_file({"w_bkspc": torch.zeros(3)}, tmp_path / "p" / "policy.safetensors")
    with pytest.raises(ValueError, match="expected the tensors"):
        Policy.load(tmp_path / "p")
    (tmp_path / "p" / "policy.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError, match="corrupt or foreign"):
        Policy.load(tmp_path / "p")


@pytest.mark.parametrize("kind", ["eager", "flash_attention_2"])
def test_attention_that_misreads_masks_is_refused(kind):
    config = LlamaConfig(vocab_size=7, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    lm = LlamaForCausalLM(config)
    lm.config._attn_implementation = kind
    with pytest.raises(ValueError, match=f"attn_implementation is '{kind}'.*load the model with"):
        Policy(lm, PolicyConfig(SPACE))


def test_a_vocabulary_larger_than_the_head_is_refused():
    lm = small().lm
    with pytest.raises(ValueError, match="head has 7 rows but the vocabulary has 9"):
        Policy(lm, PolicyConfig(ActionSpace(9, eos=1)))


def test_initial_weights_follow_from_the_seed_and_leave_the_global_generator():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a, b = small(), small()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))

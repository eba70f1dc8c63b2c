"""A head of its own for `<bkspc>`: packed and cached as recomputed, apart from the language model in every gradient."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from smlib.edits.packing import pack
from smlib.generation.decoding import SamplingConfig
from smlib.generation.sampling import sample
from smlib.objectives.losses import visit_values
from smlib.objectives.methods import ObjectiveConfig, objective
from smlib.policies.deletion_head import DeletionHeadPolicy
from smlib.policies.policy import Policy
from smlib.policies.standard_form import standard_model
from smlib.training.algorithm_1 import train
from tests.support.copying import Copying, config
from tests.support.copying import policy as small_policy
from tests.support.oracles import SPACE, float64_policy, groups, replayed_values
from tests.support.oracles_sampling import slow_sample

PROMPTS = [[0, 2], [0, 3, 4], [0], [0, 5, 5], [0, 2], [0, 6]]


def looking(policy: Policy | None = None) -> DeletionHeadPolicy:
    """With a head that has not the probability of an average token everywhere, as a fresh one has."""
    made = DeletionHeadPolicy.of(policy or float64_policy()).double()
    with torch.no_grad():
        made.deletion.outer.weight.normal_(0.0, 1.5, generator=torch.Generator().manual_seed(1))
        made.deletion.outer.bias.fill_(-0.5)
    return made


def demonstrations(eta: float):
    rng, data = np.random.default_rng(0), Copying()
    return [data.demonstration(i, rng, eta, 1) for i in range(5)]


@given(groups())
@settings(max_examples=20, deadline=None)
def test_every_packed_state_finds_its_parent(group):
    policy = looking()
    batch = pack([group], SPACE, model=[[False] + [True] * (len(group) - 1)])
    with torch.no_grad():
        fast = visit_values(*policy(batch), batch)
        slow = replayed_values(policy, group, [False] + [True] * (len(group) - 1))
    for name in ("logit", "value", "next_value"):
        torch.testing.assert_close(getattr(fast, name), getattr(slow, name), atol=1e-10, rtol=0)


@pytest.mark.parametrize("greedy", [False, True])
def test_the_cache_gives_what_recomputing_every_state_gives(greedy):
    policy, how = looking(), SamplingConfig(max_new_tokens=8, greedy=greedy, exclude_deleted=True)
    seeds = list(range(24))
    prompts = [PROMPTS[i % len(PROMPTS)] for i in seeds]
    found = sample(policy, prompts, how, seeds)
    assert found.stats.backspaces > 5
    assert found.stats.forward_tokens == found.stats.insertions  # one pass a token, and none for a deletion
    for prompt, seed, trajectory in zip(prompts, seeds, found.trajectories, strict=True):
        assert trajectory.realised.tolist() == slow_sample(policy, np.array(prompt), how, seed).realised.tolist()


def test_without_backspace_it_writes_as_its_language_model_to_the_last_bit():
    alone, ours = float64_policy().forbid_backspace(), looking()
    how, seeds = SamplingConfig(max_new_tokens=8, allow_backspace=False), [4, 5, 6, 7, 8, 9]
    written = [sample(policy, PROMPTS, how, seeds).trajectories for policy in (ours, alone)]
    assert [t.realised.tolist() for t in written[0]] == [t.realised.tolist() for t in written[1]]
    batch = pack([[t] for t in demonstrations(0.4)], SPACE)
    with torch.no_grad():
        assert torch.equal(ours.state_logits(batch)[:, :-1], alone.state_logits(batch)[:, :-1])
        assert torch.equal(ours.forbid_backspace().state_logits(batch), alone.state_logits(batch))


def test_cloning_is_two_losses_that_share_no_gradient():
    policy = looking()
    batch = pack([[t] for t in demonstrations(0.6)], SPACE)
    loss = objective(policy, batch, ObjectiveConfig(method="bc"), 0, None).total
    every = policy.state_logits(batch)[batch.visit_state]
    edit = batch.label == SPACE.bkspc
    assert 3 < int(edit.sum()) < len(edit) - 3
    written = every[:, :-1].log_softmax(-1).gather(1, batch.label.clamp(max=SPACE.bkspc - 1)[:, None])[:, 0]
    tokens = -written[~edit].sum() / len(edit)
    log_odds = every[:, -1] - every[:, :-1].logsumexp(-1)
    choice = torch.nn.functional.binary_cross_entropy_with_logits(log_odds, edit.double())
    torch.testing.assert_close(loss, tokens + choice, atol=1e-12, rtol=0)
    of = {"lm": list(policy.lm.parameters()), "head": list(policy.deletion.parameters())}
    for part, whose in ((tokens, "lm"), (choice, "head")):
        ours, theirs = (torch.autograd.grad(x, of[whose], retain_graph=True) for x in (loss, part))
        assert max(g.abs().max() for g in ours) > 1e-4
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one, other, atol=1e-10, rtol=0)
    reached = torch.autograd.grad(choice, of["lm"], allow_unused=True, retain_graph=True)
    assert all(g is None or g.abs().max() < 1e-12 for g in reached)
    unreached = torch.autograd.grad(tokens, of["head"], allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-12 for g in unreached)


@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_in_chunks_it_is_the_same(chunk):
    policy = looking()
    batch = pack([[t] for t in demonstrations(0.4)], SPACE)
    for ours, whole in zip(policy(batch, chunk), policy(batch), strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", ["bc", "sm", "dagger"])
def test_every_objective_trains_it(method, tmp_path):
    made = DeletionHeadPolicy.of(small_policy())
    before = [p.detach().clone() for p in made.deletion.parameters()]
    result = train(made, Copying(), config(method), tmp_path, progress=False)
    assert all(not torch.equal(one, other) for one, other in zip(before, made.deletion.parameters(), strict=True))
    assert result.history[-1]["loss"] < result.history[0]["loss"]


def test_with_the_writing_held_only_the_head_is_trained(tmp_path):
    made = DeletionHeadPolicy.of(small_policy()).hold_writing()
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    train(made, Copying(), config("bc", steps=60, eta=0.5), tmp_path, progress=False)
    changed = {name for name, p in made.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {f"deletion.{name}" for name, _ in made.deletion.named_parameters()}
    batch = pack([[t] for t in demonstrations(0.5)], SPACE)
    with torch.no_grad():
        q = made.state_logits(batch).softmax(-1)[batch.visit_state, SPACE.bkspc]
    edit = batch.label == SPACE.bkspc
    assert q[edit].mean() > 2 * q[~edit].mean()  # though the trunk is random: a wrong token stands beside the prompt


def test_saved_and_loaded_it_is_the_same_and_no_plain_policy(tmp_path):
    policy = looking(small_policy()).float()
    policy.save(tmp_path / "kept")
    again = DeletionHeadPolicy.load(tmp_path / "kept")
    batch = pack([[t] for t in demonstrations(0.4)], SPACE)
    with torch.no_grad():
        assert torch.equal(again.state_logits(batch), policy.state_logits(batch))
    with pytest.raises(ValueError, match="is not of the format 'smlib-policy-1'"):
        Policy.load(tmp_path / "kept")
    small_policy().save(tmp_path / "plain")
    with pytest.raises(ValueError, match="is not of the format 'smlib-deletion-head-1'"):
        DeletionHeadPolicy.load(tmp_path / "plain")


def test_what_it_cannot_be_is_refused():
    policy = looking(small_policy()).float()
    with pytest.raises(ValueError, match="a deletion head goes back"):
        policy.keep_edits()
    with pytest.raises(ValueError, match="a deletion head goes back"):
        DeletionHeadPolicy.of(small_policy().keep_edits())
    with pytest.raises(ValueError, match="a head of its own and no row beside the tokens'"):
        standard_model(policy, merge=True)
    policy.vocabulary_tile = 4
    batch = pack([[t] for t in demonstrations(0.4)], SPACE)
    with pytest.raises(ValueError, match="vocabulary_tile=4 cuts rows"):
        policy(batch)

"""Soft deletion: one clean pass over each history against the packed loss and the sampler, all in float64."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from smlib.edits.actions import Trajectory, step
from smlib.edits.packing import pack
from smlib.generation.sampling import SamplingConfig, sample
from smlib.generation.steps import Stepper
from smlib.objectives.losses import visit_values
from smlib.objectives.methods import ObjectiveConfig, objective
from smlib.policies.decoupled import DecoupledPolicy
from smlib.policies.policy import Policy
from smlib.training.algorithm_1 import train
from smlib.training.evaluation import held_out
from tests.support.copying import Copying, config
from tests.support.oracles import SPACE, float64_policy, groups
from tests.support.oracles_sampling import inverse_cdf, slow_distribution


def soft_policy():
    policy = float64_policy(positions=64).keep_edits()
    torch.nn.init.normal_(policy.edit_token.row, std=0.5, generator=torch.Generator().manual_seed(1))
    return policy


def history_logits(policy, history):
    """The prompt and every action so far, read as a plain text with `<bkspc>` a token of it."""
    n = len(history)
    mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
    hidden = policy.hidden(torch.tensor([history]), torch.arange(n)[None], mask)[0, -1:]
    return policy.logits(hidden, torch.tensor([n - 1]))[0]


def slow_values(policy, trajectories):
    label, value, following = [], [], []
    for t in trajectories:
        history = [*t.prompt.tolist()]
        rows = [history_logits(policy, history)]
        for action in t.realised.tolist():
            history.append(action)
            rows.append(history_logits(policy, history))
        label += [rows[i][a] for i, a in enumerate(t.labels.tolist())]
        value += [r.logsumexp(0) for r in rows[:-1]]
        following += [r.logsumexp(0) for r in rows[1:]]
    return torch.stack(label), torch.stack(value), torch.stack(following)


@given(groups())
@settings(max_examples=20, deadline=None)
def test_packed_histories_are_clean_passes(group):
    """A rollout from the trunk's prompt shares its slots; whatever was deleted is seen by all that follows it."""
    policy = soft_policy()
    batch = pack([group], SPACE, keep_edits=True, model=[[False] + [True] * (len(group) - 1)])
    with torch.no_grad():
        visits = visit_values(*policy(batch), batch)
        label, value, following = slow_values(policy, group)
    for ours, slow in ((visits.logit, label), (visits.value, value), (visits.next_value, following)):
        torch.testing.assert_close(ours, slow, atol=1e-10, rtol=0)


def test_the_loss_is_cloning_on_histories_and_its_gradient_too():
    policy = soft_policy()
    rng, data = np.random.default_rng(0), Copying()
    members = [data.demonstration(i, rng, 0.5, 1) for i in range(5)]
    batch = pack([[t] for t in members], SPACE, keep_edits=True)
    found = objective(policy, batch, ObjectiveConfig(method="soft"), 0, 3).total
    label, value, _ = slow_values(policy, members)
    slow = -(label - value).mean()
    torch.testing.assert_close(found, slow, atol=1e-12, rtol=0)
    ours, theirs = (torch.autograd.grad(loss, policy.edit_token.row)[0] for loss in (found, slow))
    assert ours.abs().max() > 1e-6  # <bkspc> is read, and learned as an input
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    hard = objective(policy, pack([[t] for t in members], SPACE), ObjectiveConfig(method="bc"), 0, None).total
    assert (hard - found).abs() > 1e-4  # what was deleted is seen


@torch.no_grad()
def slow_sample(policy, prompt, config, seed, prefix):
    space = policy.space
    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(config.action_limit)
    state, history, root = (*prompt, *prefix), [*prompt, *prefix], len(prompt)
    labels, realised = list(prefix), list(prefix)
    for t in range(config.action_limit):
        p = slow_distribution(history_logits(policy, history).double().numpy(), config, space)
        chosen = int(np.argmax(p)) if config.greedy else inverse_cdf(p, uniforms[t])
        executed = chosen
        if (len(state) - root == config.max_new_tokens and chosen != space.bkspc) or t == config.action_limit - 1:
            executed = space.eos
        labels.append(chosen)
        realised.append(executed)
        if executed == space.eos:
            return Trajectory.make(prompt, labels, realised, space=space)
        state = step(state, executed, space, root)
        history.append(executed)
    raise AssertionError("the last action ends")


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_nothing_is_rolled_back_in_sampling(batch_size):
    policy = soft_policy()
    with torch.no_grad():
        policy.w_bkspc.zero_()
    how = SamplingConfig(max_new_tokens=4, max_actions=14, temperature=1.5)
    prompts = [[0, 2], [0, 3, 4], [0], [0, 5, 5], [0, 2], [0, 6]]
    prefixes = [[], [3], [2, 2, 6], [], [4, 5], []]
    found = sample(policy, prompts, how, list(range(6)), prefixes=prefixes, batch_size=batch_size)
    for trajectory, prompt, seed, prefix in zip(found.trajectories, prompts, range(6), prefixes, strict=True):
        slow = slow_sample(policy, prompt, how, seed, prefix)
        assert np.array_equal(trajectory.labels, slow.labels)
        assert np.array_equal(trajectory.realised, slow.realised)
    assert found.stats.backspaces > 0
    assert found.stats.forward_tokens == found.stats.insertions + found.stats.backspaces


def test_a_history_that_does_not_fit_is_refused(tmp_path):
    policy = soft_policy()
    needs = (
        "a prompt of 2 tokens and max_actions=81, all kept in soft deletion, take 83 tokens, and the model's context"
    )
    with pytest.raises(ValueError, match=needs):
        sample(policy, [[0, 2]], SamplingConfig(max_new_tokens=20), [0])
    long = Trajectory.make([0], [2, SPACE.bkspc] * 40 + [1], space=SPACE)

    class Long(Copying):
        def demonstration(self, index, rng, eta, burst):
            return long

    with pytest.raises(ValueError, match="the trajectories of a batch take 82 tokens, and the model's context is 64"):
        train(float64_policy(positions=64), Long(), config("soft"), tmp_path, progress=False)


def test_what_goes_back_is_refused(tmp_path):
    policy = soft_policy()
    with pytest.raises(ValueError, match="keeps what was deleted in its context"):
        Stepper(policy, [0, 2], SamplingConfig(max_new_tokens=4), 0)
    operated = SamplingConfig(max_new_tokens=4, allow_backspace=False, delete_below=0.1)
    with pytest.raises(ValueError, match="delete_below goes back to an earlier state"):
        sample(policy, [[0, 2]], operated, [0])
    with pytest.raises(ValueError, match="soft deletion keeps what was deleted in the context"):
        DecoupledPolicy(float64_policy(), policy)
    with pytest.raises(ValueError, match="and bc goes back to the state before: build the policy anew"):
        train(policy, Copying(), config("bc"), tmp_path, progress=False)


def test_tokens_are_read_as_before_and_a_saved_policy_is_itself(tmp_path):
    plain, policy = float64_policy(positions=64), soft_policy()
    batch = pack([[Trajectory.make([0, 3], [4, 5, 1], space=SPACE)]], SPACE)
    with torch.no_grad():
        assert torch.equal(plain(batch)[0], policy(batch)[0])
    policy.float().save(tmp_path / "soft")
    again = Policy.load(tmp_path / "soft")
    assert again.config.keep_edits
    assert torch.equal(again.edit_token.row, policy.edit_token.row)
    plain.float().save(tmp_path / "plain")
    assert "keep_edits" not in json.loads((tmp_path / "plain" / "policy.json").read_text())
    assert not Policy.load(tmp_path / "plain").config.keep_edits


def test_it_is_trained_evaluated_and_resumed_like_the_others(tmp_path):
    asked = config("soft", steps=12)
    whole = train(float64_policy(positions=64), Copying(), asked, tmp_path / "whole", progress=False)
    loss = held_out(whole.policy, Copying(), asked, 2, "cpu")
    assert loss["loss"] < 3.0

    def die(_):
        raise KeyboardInterrupt

    stopped = dataclasses.replace(asked, eval_every=6)
    with pytest.raises(KeyboardInterrupt):
        train(float64_policy(positions=64), Copying(), stopped, tmp_path / "b", evaluate=die, progress=False)
    again = train(
        float64_policy(positions=64), Copying(), stopped, tmp_path / "b", evaluate=lambda _: {}, progress=False
    )
    assert torch.equal(again.policy.edit_token.row, whole.policy.edit_token.row)

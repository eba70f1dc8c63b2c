"""Steps against the sampler they slow down, and against one clean forward pass a state."""

import dataclasses

import numpy as np
import pytest
import torch

from smlib.edits.actions import ActionSpace, Trajectory, replay
from smlib.edits.noise import NoiseLaw
from smlib.generation.decoding import action_distribution
from smlib.generation.sampling import SamplingConfig, sample
from smlib.generation.steps import Stepper, steps
from smlib.policies.policy import tiny_policy

SPACE = ActionSpace(12, eos=1, bos=0)
PROMPT = [0, 5, 6]
CONFIGS = {
    "t1": {},
    "cold": {"temperature": 0.6, "top_p": 0.9},
    "greedy": {"greedy": True, "exclude_deleted": True},
    "no backspace": {"allow_backspace": False},
    "short": {"max_actions": 5},
    "noise": {"execution_noise": 0.4},
}


@pytest.fixture(scope="module")
def policy():
    policy = tiny_policy(SPACE, dim=16, layers=2, heads=2, positions=32, seed=3, dtype=torch.float64)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.ndim == 2:
                parameter.mul_(20)  # the library's start is so flat that every action looks alike
        policy.w_bkspc.normal_(0, 0.7)
        policy.offset.outer.bias.fill_(0.8)  # V(s) is not the language model's own
    return policy


def clean(policy, state):
    """Logits of one state, by one forward pass without a cache."""
    n = len(state)
    tokens, positions = torch.tensor([state]), torch.arange(n)[None]
    mask = torch.ones((1, 1, n, n), dtype=torch.bool).tril()
    with torch.no_grad():
        return policy.logits(policy.hidden(tokens, positions, mask)[0, -1:], torch.tensor([n - 1]))[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_seed_takes_the_samplers_actions(policy, name):
    config = SamplingConfig(max_new_tokens=8, **CONFIGS[name])
    law = NoiseLaw.uniform([3, 4, 5])
    for seed in range(6):
        seen = list(steps(policy, PROMPT, config, seed, noise_law=law, prefix=[7]))
        result = sample(policy, [PROMPT], config, [seed], noise_laws=law, prefixes=[[7]])
        want = result.trajectories[0]
        assert [s.chosen for s in seen] == want.labels[1:].tolist()  # the prefix comes first
        assert [s.executed for s in seen] == want.realised[1:].tolist()
        assert seen[-1].forward_tokens == result.stats.forward_tokens
        assert [s.ended for s in seen] == [False] * (len(seen) - 1) + [True]


def test_each_step_says_what_a_clean_forward_pass_says(policy):
    gamma, config = 0.9, SamplingConfig(max_new_tokens=8, temperature=0.8)
    edits = 0
    for seed in range(6):
        seen = list(steps(policy, PROMPT, config, seed, gamma=gamma))
        edits += sum(s.executed == SPACE.bkspc for s in seen)
        states = replay(
            Trajectory.make(PROMPT, [s.chosen for s in seen], [s.executed for s in seen], space=SPACE), SPACE
        )
        for s, before, after in zip(seen, states[:-1], states[1:], strict=True):
            assert (*PROMPT, *s.before.state) == before
            logits = clean(policy, before)
            law = action_distribution(logits[None], config, SPACE)[0]
            assert s.probability == pytest.approx(float(law[s.chosen]), rel=1e-9)
            assert s.before.backspace == pytest.approx(float(law[SPACE.bkspc]), rel=1e-9)
            assert s.before.value == pytest.approx(float(logits.logsumexp(-1)), rel=1e-9)
            following = float(clean(policy, after).logsumexp(-1))
            assert s.next_value == pytest.approx(following, rel=1e-9)
            assert s.reward == pytest.approx(float(logits[s.chosen]) - gamma * following, rel=1e-9)
            assert dict(s.before.top)[SPACE.bkspc] == pytest.approx(s.before.backspace)
            ranked = sorted(law.tolist(), reverse=True)
            assert [p for a, p in s.before.top[:3]] == pytest.approx(ranked[:3])
    assert edits > 2  # rollback was tried


def test_a_wrong_token_typed_by_hand_changes_what_follows_and_nothing_before(policy):
    config = SamplingConfig(max_new_tokens=8)
    own = list(steps(policy, PROMPT, config, 4))
    typed = list(steps(policy, PROMPT, config, 4, forced={1: 9}))
    assert typed[0] == own[0]
    assert (typed[1].chosen, typed[1].executed, typed[1].forced) == (9, 9, True)
    assert typed[1].before.state == own[1].before.state
    assert typed[1].probability == pytest.approx(
        float(torch.softmax(clean(policy, [*PROMPT, *typed[1].before.state]), -1)[9])
    )


def test_a_trajectory_is_resumed_from_its_actions(policy):
    config = SamplingConfig(max_new_tokens=8)
    own = list(steps(policy, PROMPT, config, 2))
    for taken in range(len(own) + 1):
        again = list(steps(policy, PROMPT, config, 2, forced=[s.chosen for s in own[:taken]]))
        assert [dataclasses.replace(s, forced=False) for s in again] == own


@pytest.mark.parametrize(
    ("action", "message"), [(13, "13 is no action: expected a token id in \\[0, 12\\)"), (-1, "-1 is no action")]
)
def test_what_is_no_action_is_named_and_the_stepper_stays_usable(policy, action, message):
    stepper = Stepper(policy, PROMPT, SamplingConfig(max_new_tokens=3), 0)
    with pytest.raises(ValueError, match=message):
        stepper.step(action)
    assert stepper.step(SPACE.eos).ended
    with pytest.raises(ValueError, match="has ended"):
        stepper.step()


def test_a_policy_without_backspace_lists_none_and_takes_none():
    policy = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=32, backspace=False)
    stepper = Stepper(policy, PROMPT, SamplingConfig(max_new_tokens=3), 0)
    with pytest.raises(ValueError, match="has no <bkspc>"):
        stepper.step(SPACE.bkspc)
    step = stepper.step()
    assert step.before.backspace == 0.0
    assert SPACE.bkspc not in dict(step.before.top)


def test_a_full_context_has_no_place_for_the_end(policy):
    seen = list(steps(policy, [0] * 30, SamplingConfig(max_new_tokens=2), 0, forced=[4, 4, 4]))
    assert seen[-1].executed == SPACE.eos
    assert np.isnan(seen[-1].next_value)
    with pytest.raises(ValueError, match="gamma=2"):
        next(steps(policy, PROMPT, SamplingConfig(max_new_tokens=3), 0, gamma=2))

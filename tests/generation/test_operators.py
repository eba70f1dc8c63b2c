"""Decision operators: the law of what stays by running the sampler over every draw, and a slow sampler beside it."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from smlib.edits.actions import ActionSpace, Trajectory, final_state, step
from smlib.files import plain
from smlib.generation.edit_batch import EditBatch
from smlib.generation.operators import operator_law
from smlib.generation.sampling import SamplingConfig, sample
from tests.generation.test_sampling import SPACE, CausalPolicy, Law
from tests.support.oracles_sampling import inverse_cdf, state_logits

FOUR = ActionSpace(vocab_size=5, eos=1, bos=0)


class OneLaw(nn.Module):
    """The same law over tokens in every state, `<bkspc>` never."""

    device = torch.device("cpu")

    def __init__(self, law):
        super().__init__()
        self.space, self.law = FOUR, torch.tensor([*law, 0.0], dtype=torch.float64)

    def hidden(self, tokens, positions, mask, cache=None):
        return torch.zeros(*tokens.shape, 1, dtype=torch.float64)

    def logits(self, hidden, positions):
        return self.law.log().expand(len(hidden), -1)


def stays(law, tau, deletions, cells, exclude=False):
    """The law of the token that stays at the root, by the sampler itself, for every combination of draws.

    A uniform is the middle of one of `cells` equal parts; laws of multiples of 1 / cells are then enumerated exactly.
    """
    config = SamplingConfig(
        max_new_tokens=1, max_actions=2 * deletions + 3, allow_backspace=False, delete_below=tau, deletions=deletions,
        exclude_deleted=exclude,
    )  # fmt: skip
    draws = np.array(list(itertools.product((np.arange(cells) + 0.5) / cells, repeat=deletions + 1)))
    n = len(draws)
    nothing = [np.empty(0, np.int32)] * n
    root = [np.array([0], np.int32)] * n
    batch = EditBatch(OneLaw(law), config, prompts=root, seeds=[0] * n, laws=[None] * n, prefixes=nothing)
    batch.uniforms[:, : 2 * deletions + 1 : 2] = draws  # the visits between them execute <bkspc>
    batch.run()
    found = np.zeros(FOUR.vocab_size)
    for trajectory in batch.trajectories():
        kept = final_state(trajectory, FOUR)
        found[int(kept[0]) if kept.size else FOUR.eos] += 1 / n
    return found, batch.stats


@pytest.mark.parametrize("deletions", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.2, 0.3, 0.6])
def test_the_law_of_what_stays_is_the_closed_form(tau, deletions):
    law = [0.0, 0.125, 0.5, 0.25, 0.125]
    found, stats = stays(law, tau, deletions, 8)
    expected = operator_law(torch.tensor([law], dtype=torch.float64), FOUR.eos, tau, deletions)[0]
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-12)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    assert stats.backspaces > 0


def test_many_deletions_are_the_law_cut_off_below_tau():
    law = torch.tensor([[0.0, 0.1, 0.5, 0.35, 0.05]], dtype=torch.float64)
    cut = torch.tensor([[0.0, 0.1, 0.5, 0.35, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(operator_law(law, 1, 0.2, 200), cut / cut.sum(), atol=1e-9, rtol=0)
    # where nothing is likely enough and nothing ends, the bound decides, and the law is the model's own
    flat = torch.tensor([[0.25, 0.0, 0.25, 0.25, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(operator_law(flat, 1, 0.9, 5), flat, atol=1e-12, rtol=0)


def test_resampling_leaves_out_what_was_deleted():
    law = [0.0, 0.0, 0.5, 0.25, 0.25]
    found, _ = stays(law, 0.3, 2, 12, exclude=True)  # two tokens below: after two deletions only the likely one is left
    np.testing.assert_allclose(found, [0, 0, 1, 0, 0], atol=1e-12)
    found, _ = stays(law, 0.3, 1, 12, exclude=True)
    # one deletion: 1/2, or 1/4 + 1/4 and then 2/3; the other unlikely token stays otherwise
    np.testing.assert_allclose(found, [0, 0, 1 / 2 + 1 / 2 * 2 / 3, 1 / 4 * 1 / 3, 1 / 4 * 1 / 3], atol=1e-12)


def slow(policy, prompt, config, seed, prefix=()):
    """One trajectory, every state read from scratch: is the last token one that the model gave less than tau?"""
    space = policy.space
    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(config.action_limit)

    def law(state):
        logits = state_logits(policy, state)[: space.bkspc]
        p = np.exp(logits - logits.max())
        return p / p.sum()

    root, state, count = len(prompt), (*prompt, *prefix), {}
    labels = list(prefix)
    deleted = {}
    for t in range(config.action_limit):
        before = state[:-1]
        due = len(state) > root and law(before)[state[-1]] < config.delete_below
        if due and count.get(before, 0) < config.deletions:
            chosen = space.bkspc
        else:
            p = law(state)
            if config.exclude_deleted:
                p[list(deleted.get(state, ()))] = 0.0
            chosen = inverse_cdf([*p, 0.0], uniforms[t])
        executed = chosen
        if (len(state) - root == config.max_new_tokens and executed != space.bkspc) or t == config.action_limit - 1:
            executed = space.eos
        labels.append(chosen)
        if executed == space.eos:
            return labels, executed
        if executed == space.bkspc:
            count[before] = count.get(before, 0) + 1
            deleted.setdefault(before, set()).add(state[-1])
            for memory in (count, deleted):  # what was remembered of the state ends with it
                memory.pop(state, None)
        state = step(state, executed, space, root)
    raise AssertionError("the last action ends")


@pytest.mark.parametrize("exclude", [False, True])
@pytest.mark.parametrize("tau", [0.1, 0.3, 0.9])
def test_the_sampler_is_the_slow_one(tau, exclude):
    policy = CausalPolicy(SPACE, seed=2)
    config = SamplingConfig(
        max_new_tokens=5, allow_backspace=False, delete_below=tau, deletions=3, exclude_deleted=exclude
    )
    prompts = [[0, 2], [0, 3, 4], [0], [0, 5, 5], [0, 2], [0, 6]]
    prefixes = [[], [3], [2, 2, 6], [], [4, 5], []]
    seeds = list(range(6))
    found = sample(policy, prompts, config, seeds, prefixes=prefixes)
    for trajectory, prompt, seed, prefix in zip(found.trajectories, prompts, seeds, prefixes, strict=True):
        with torch.no_grad():
            labels, _ = slow(policy, prompt, config, seed, prefix)
        assert trajectory.labels.tolist() == labels
    deleted_prefixes = sum((t.realised[len(p) :] == SPACE.bkspc).sum() for t, p in zip(found.trajectories, prefixes))  # noqa: B905
    assert deleted_prefixes == found.stats.backspaces
    assert found.stats.backspaces > 0


def test_a_deletion_and_the_token_that_it_deletes_cost_no_pass():
    policy = CausalPolicy(SPACE, seed=2)
    config = SamplingConfig(max_new_tokens=6, allow_backspace=False, delete_below=0.4, deletions=2)
    stats = sample(policy, [[0, 2]] * 20, config, list(range(20))).stats
    assert stats.backspaces > 0
    assert stats.forward_tokens == stats.insertions - stats.backspaces


def test_a_slip_of_the_environment_is_judged_like_any_token():
    policy, law = CausalPolicy(SPACE, seed=2), Law(np.array([3, 4, 5]), np.array([0.2, 0.5, 0.3]))
    config = SamplingConfig(
        max_new_tokens=4, allow_backspace=False, delete_below=0.05, deletions=50, max_actions=200, execution_noise=0.4
    )
    found = sample(policy, [[0, 2]] * 20, config, list(range(20)), noise_laws=law)
    policy.requires_grad_(False)
    for trajectory in found.trajectories:
        kept = final_state(trajectory, SPACE).tolist()
        for i, token in enumerate(kept):
            logits = state_logits(policy, (0, 2, *kept[:i]))[: SPACE.bkspc]
            assert np.exp(logits[token] - np.logaddexp.reduce(logits)) >= 0.05


def test_settings_are_checked_and_new_ones_change_no_identity():
    with pytest.raises(ValueError, match="delete_below deletes in the policy's place: set allow_backspace=False"):
        SamplingConfig(max_new_tokens=4, delete_below=0.1)
    with pytest.raises(ValueError, match=r"delete_below=1.5: expected in \[0, 1\)"):
        SamplingConfig(max_new_tokens=4, delete_below=1.5, allow_backspace=False)
    with pytest.raises(ValueError, match="deletions=0: expected >= 1"):
        SamplingConfig(max_new_tokens=4, deletions=0)
    assert {"delete_below", "deletions"}.isdisjoint(plain(SamplingConfig(max_new_tokens=4)))


def test_without_an_operator_nothing_is_judged():
    policy = CausalPolicy(SPACE, seed=2)
    plainly = SamplingConfig(max_new_tokens=6, allow_backspace=False)
    operated = SamplingConfig(max_new_tokens=6, allow_backspace=False, delete_below=1e-12)
    one, other = (sample(policy, [[0, 2]] * 8, c, list(range(8))).trajectories for c in (plainly, operated))
    assert all(np.array_equal(a.realised, b.realised) for a, b in zip(one, other, strict=True))
    assert isinstance(one[0], Trajectory)

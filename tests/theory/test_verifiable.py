"""The theorem that ties occupancy matching to verifiable rewards: both sides exact, on the tabular MDP in float64."""

import itertools

import numpy as np
import pytest
import torch

from smlib.theory.estimator import enumerate_walks
from smlib.theory.flow import flow
from smlib.theory.matching import occupancy_divergence
from smlib.theory.mdp import EditMDP
from smlib.theory.verifiable import (
    critic_reward,
    enumerated_gradient,
    on_path,
    path_flow,
    policy_gradient,
    verifiable_reward,
)

APPEND, EDIT = EditMDP(2, 3, backspace=False), EditMDP(2, 3)
STRINGS = [(), (1,), (0, 1), (1, 1)]
CRITICS = {"tv": ("tv", False), "chi2_mixture": ("chi2", True)}


def logits_of(mdp: EditMDP, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(mdp.n_strings, mdp.n_actions, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.3, 0.9, 0.999])
@pytest.mark.parametrize("string", STRINGS)
def test_total_variation_is_one_less_the_expected_reward(string: tuple[int, ...], gamma: float) -> None:
    for seed, scale in itertools.product(range(3), (0.5, 3.0)):
        policy = logits_of(APPEND, seed, scale).softmax(-1)
        walks = list(enumerate_walks(APPEND, policy.numpy()))
        assert sum(w.probability for w in walks) == pytest.approx(1.0, abs=1e-12)
        expected = sum(w.probability * verifiable_reward(APPEND, w, string, gamma) for w in walks)
        rho, reference = flow(APPEND, policy, gamma), path_flow(APPEND, string, gamma)
        assert float(occupancy_divergence("tv")(rho, reference)) == pytest.approx(1.0 - expected, abs=1e-12)
        assert float(on_path(rho, reference)) == pytest.approx(expected, abs=1e-12)


def test_without_discount_the_reward_is_a_right_answer() -> None:
    """1 - gamma^K vanishes: what is left is the share of right answers."""
    policy, string = logits_of(APPEND, 0, 2.0).softmax(-1), (0, 1)
    right = float(policy[0, 0] * policy[APPEND.index[0,], 1] * policy[APPEND.index[string], APPEND.eos])
    gaps = []
    for gamma in (0.9, 0.99, 0.999, 0.9999):
        rho = flow(APPEND, policy, gamma)
        gaps.append(abs(1.0 - float(occupancy_divergence("tv")(rho, path_flow(APPEND, string, gamma))) - right))
    assert all(b < 0.2 * a for a, b in itertools.pairwise(gaps))
    assert gaps[-1] < 1e-3


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_with_backspace_or_noise_it_is_a_bound_that_the_path_attains(noise: float) -> None:
    gamma, string, loose = 0.9, (0, 1), 0
    reference = path_flow(EDIT, string, gamma)
    tv = occupancy_divergence("tv")
    on = reference.flat() > 0.0
    for seed, scale in itertools.product(range(6), (0.5, 3.0)):
        rho = flow(EDIT, logits_of(EDIT, seed, scale).softmax(-1), gamma, noise)
        bound = 1.0 - on_path(rho, reference)
        below = bool((rho.flat()[on] <= reference.flat()[on] + 1e-15).all())
        gap = float(tv(rho, reference) - bound)
        assert gap >= -1e-12
        assert (gap < 1e-12) == below
        loose += not below
    # A policy that deletes what is right and writes it again meets a pair of the path more often than the path does.
    loop = torch.full((EDIT.n_strings, EDIT.n_actions), -30.0, dtype=torch.float64)
    loop[0, 0] = loop[EDIT.index[0,], EDIT.bkspc] = 30.0
    rho = flow(EDIT, loop.softmax(-1), gamma, 0.0)
    assert tv(rho, reference) - (1.0 - on_path(rho, reference)) > 0.1
    sure = torch.full((EDIT.n_strings, EDIT.n_actions), -60.0, dtype=torch.float64)
    for i, action in enumerate((*string, EDIT.eos)):
        sure[EDIT.index[string[:i]], action] = 0.0
    rho = flow(EDIT, sure.softmax(-1), gamma, 0.0)
    assert float(tv(rho, reference)) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("string", STRINGS)
def test_the_divergences_gradient_is_the_expected_policy_gradient(string: tuple[int, ...], name: str) -> None:
    """Autograd through the linear solve, the policy gradient by another solve, and the estimator walk by walk."""
    gamma = 0.8
    logits = logits_of(APPEND, 4).requires_grad_()
    rho, reference = flow(APPEND, logits.softmax(-1), gamma), path_flow(APPEND, string, gamma)
    (exact,) = torch.autograd.grad(occupancy_divergence(name)(rho, reference), logits)
    reward = critic_reward(rho, reference, *CRITICS[name])
    with torch.no_grad():
        solved = policy_gradient(APPEND, logits, reward, gamma)
        walks = list(enumerate_walks(APPEND, logits.softmax(-1).numpy()))
        summed = enumerated_gradient(logits, walks, reward, gamma)
    assert exact.abs().max() > 1e-3
    torch.testing.assert_close(-exact, solved, atol=1e-12, rtol=0)
    torch.testing.assert_close(-exact, summed, atol=1e-12, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_with_backspace_and_noise_too(noise: float) -> None:
    """chi^2-mixture: its own derivative at the exact ratio. Total variation: that of the share of steps on the path."""
    gamma, string = 0.8, (0, 1)
    logits = logits_of(EDIT, 5).requires_grad_()
    rho, reference = flow(EDIT, logits.softmax(-1), gamma, noise), path_flow(EDIT, string, gamma)
    for name, value in (("chi2_mixture", occupancy_divergence("chi2_mixture")(rho, reference)),
                        ("tv", 1.0 - on_path(rho, reference))):  # fmt: skip
        (exact,) = torch.autograd.grad(value, logits, retain_graph=True)
        reward = critic_reward(rho, reference, *CRITICS[name])
        with torch.no_grad():
            solved = policy_gradient(EDIT, logits, reward, gamma, noise)
        torch.testing.assert_close(-exact, solved, atol=1e-12, rtol=0)
    short = EditMDP(1, 2)
    logits = logits_of(short, 6)
    logits[:, short.eos] += 3.0  # short walks, so that few of them are nearly all
    walks = list(enumerate_walks(short, logits.softmax(-1).numpy(), noise=noise, floor=1e-5))
    missing = 1.0 - sum(w.probability for w in walks)
    rho, reference = flow(short, logits.softmax(-1), 0.5, noise), path_flow(short, (0,), 0.5)
    reward = critic_reward(rho, reference, "tv", False)
    summed = enumerated_gradient(logits, walks, reward, 0.5)
    assert missing < 0.02
    torch.testing.assert_close(
        summed, policy_gradient(short, logits, reward, 0.5, noise), atol=2 * missing + 1e-9, rtol=0
    )


def test_a_reference_at_the_limit_is_refused() -> None:
    with pytest.raises(ValueError, match="the reference has 3 tokens, and its limit 3 must be beyond it"):
        path_flow(APPEND, (0, 1, 0), 0.9)
    assert np.isclose(float(path_flow(APPEND, (0, 1), 0.9).flat().sum()), 1.0)

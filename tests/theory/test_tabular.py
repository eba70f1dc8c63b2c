"""The tabular edit MDP: transitions as in `smlib.edits.actions`, solves as sums over time, gradients numerically."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smlib.theory import occupancy as exact
from smlib.theory.cloning import (
    cloned_policy,
    rejection,
    simulate,
    string_probabilities,
    survivors,
    truncate,
)
from smlib.theory.critics import last_k
from smlib.theory.datasets import data_occupancy, prefix_mass, random_strings, support
from smlib.theory.editing import LLAMA_2_7B, kind, passes
from smlib.theory.flow import causal_entropy, final_strings, flow, values
from smlib.theory.matching import soft_q
from smlib.theory.mdp import EditMDP
from smlib.theory.optimise import minimise
from smlib.theory.policies import POLICY_CLASSES, policy_class
from tests.support.oracles_theory import occupancy_by_time, successor

MDPS = st.builds(EditMDP, st.integers(1, 3), st.integers(1, 3), st.booleans(), st.sampled_from([0.0, 0.2]))
GAMMAS = st.sampled_from([0.5, 0.9, 0.99])


def random_policy(mdp: EditMDP, seed: int) -> np.ndarray:
    return exact.softmax(np.random.default_rng(seed).normal(size=(mdp.n_strings, mdp.n_actions)))


@given(MDPS)
def test_transitions_are_those_of_actions_step(mdp: EditMDP) -> None:
    for state in range(mdp.n_strings):
        for action in range(mdp.n_actions):
            assert mdp.next_state[state, action] == successor(mdp, state, action)
    rows = mdp.transition().sum(axis=1)
    np.testing.assert_allclose(rows, 1.0, atol=1e-15)


def test_execution_noise_replaces_insertions_only() -> None:
    mdp = EditMDP(2, 2, noise=0.3, noise_law=(0.9, 0.1))
    expected = np.eye(4)
    expected[:3] *= 0.7
    expected[:3, 0] += 0.27
    expected[:3, 1] += 0.03
    np.testing.assert_allclose(mdp.execution(), expected, atol=1e-15)


@settings(max_examples=8)
@given(MDPS, st.integers(0, 99))
def test_occupancy_is_the_discounted_sum_over_time(mdp: EditMDP, seed: int) -> None:
    policy, gamma = random_policy(mdp, seed), 0.6
    pairs, ends = occupancy_by_time(mdp, policy, gamma, steps=60)
    rho = exact.occupancy(mdp, policy, gamma)
    # the sum stops at t = 60: 0.6^60 = 5e-14 of the mass is missing
    np.testing.assert_allclose(rho.pairs, pairs, atol=1e-13)
    np.testing.assert_allclose(rho.terminal, ends, atol=1e-13)


@given(MDPS, GAMMAS, st.integers(0, 99))
def test_tree_elimination_is_the_sparse_solve(mdp: EditMDP, gamma: float, seed: int) -> None:
    policy = random_policy(mdp, seed)
    rho = exact.occupancy(mdp, policy, gamma)
    # both are backward stable, the condition number is at most 2 / (1 - gamma) = 200
    np.testing.assert_allclose(flow(mdp, torch.from_numpy(policy), gamma).flat(), rho.flat(), atol=1e-13)
    assert rho.mass == pytest.approx(1.0, abs=1e-12)
    assert exact.flow_residual(mdp, rho, gamma) < 1e-13
    np.testing.assert_allclose(exact.policy_of(rho), policy, atol=1e-12)
    entropy = float(causal_entropy(flow(mdp, torch.from_numpy(policy), gamma)))
    assert entropy == pytest.approx(exact.causal_entropy(rho), abs=1e-12)


@given(MDPS, GAMMAS, st.integers(0, 99))
def test_bellman_and_its_inverse(mdp: EditMDP, gamma: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    policy, reward, end = (
        random_policy(mdp, seed),
        rng.normal(size=(mdp.n_strings, mdp.n_actions)),
        rng.normal(size=mdp.n_strings),
    )
    q, q_end = exact.bellman_fixed_point(mdp, reward, end, policy, gamma)
    back, back_end = exact.inverse_bellman(mdp, q, q_end, policy, gamma)
    # Q is of the order of |r| / (1 - gamma) = 100 times the rewards: 1e-11 is 100 eps times a condition of 200
    np.testing.assert_allclose(back, reward, atol=1e-11)
    np.testing.assert_allclose(back_end, end, atol=1e-11)
    tree, tree_end = soft_q(
        mdp, torch.from_numpy(np.log(policy)), torch.from_numpy(reward), torch.from_numpy(end), gamma
    )
    np.testing.assert_allclose(tree, q, atol=1e-11)
    np.testing.assert_allclose(tree_end, q_end, atol=1e-11)


def test_soft_optimal_policy_beats_its_neighbours() -> None:
    mdp, rng = EditMDP(2, 2, noise=0.1), np.random.default_rng(0)
    reward, end = rng.normal(size=(mdp.n_strings, mdp.n_actions)), rng.normal(size=mdp.n_strings)
    q, _ = exact.soft_optimal(mdp, reward, end, 0.9)
    again = exact.bellman_fixed_point(mdp, reward, end, exact.softmax(q), 0.9)[0]
    np.testing.assert_allclose(again, q, atol=1e-11)

    def gain(logits: np.ndarray) -> float:
        rho = exact.occupancy(mdp, exact.softmax(logits), 0.9)
        return float((rho.pairs * reward).sum() + (rho.terminal * end).sum() + exact.causal_entropy(rho))

    best = gain(q)
    assert best == pytest.approx(0.1 * np.log(np.exp(q[0]).sum()), abs=1e-12), "the optimum is (1 - gamma) V(s_0)"
    assert all(gain(q + 0.1 * rng.normal(size=q.shape)) < best for _ in range(20))


@settings(max_examples=3)
@given(st.integers(0, 20))
def test_occupancy_gradient_against_finite_differences(seed: int) -> None:
    mdp = EditMDP(2, 2, noise=0.1)
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(mdp.n_strings, mdp.n_actions, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: flow(mdp, torch.softmax(x, -1), 0.9).flat(), logits)


@given(MDPS, st.integers(0, 20))
def test_values_are_adjoint_to_visits(mdp: EditMDP, seed: int) -> None:
    rng = np.random.default_rng(seed)
    policy = torch.from_numpy(random_policy(mdp, seed))
    gain, end = torch.from_numpy(rng.normal(size=mdp.n_strings)), torch.from_numpy(rng.normal(size=mdp.n_strings))
    v = values(mdp, policy, gain, end, 0.9)
    rho = flow(mdp, policy, 0.9)
    total = (rho.pairs.sum(-1) * gain).sum() + 0.1 * (rho.terminal * end).sum()
    torch.testing.assert_close(0.1 * v[0], total, atol=1e-13, rtol=1e-12)


def test_five_thousand_states_in_under_a_second() -> None:
    mdp = EditMDP(2, 11, noise=0.1)
    assert 2 * mdp.n_strings > 5000
    policy = random_policy(mdp, 0)
    exact.occupancy(mdp, policy, 0.9)  # builds the tables
    begin = time.process_time()
    exact.occupancy(mdp, policy, 0.9)
    assert time.process_time() - begin < 1.0


@given(st.integers(0, 50), st.sampled_from([0.0, 0.15]))
def test_demonstrations_form_an_occupancy_of_the_noisy_dynamics(seed: int, eta: float) -> None:
    mdp = EditMDP(2, 5)
    strings = random_strings(mdp, 4, seed, shortest=1, longest=4)
    rho = data_occupancy(mdp, strings, 0.9, eta)
    assert rho.mass == pytest.approx(1.0, abs=1e-12)
    assert exact.flow_residual(mdp, rho, 0.9, noise=eta) < 1e-14
    again = exact.occupancy(mdp, np.nan_to_num(exact.policy_of(rho), nan=0.25), 0.9, noise=eta)
    np.testing.assert_allclose(again.flat(), rho.flat(), atol=1e-13)
    assert (rho.pairs[:, mdp.bkspc].sum() > 0.0) == (eta > 0.0)


def test_clean_data_finishes_as_the_strings_do() -> None:
    mdp = EditMDP(3, 4)
    strings = random_strings(mdp, 6, 0, shortest=1, longest=4)
    policy = torch.from_numpy(np.nan_to_num(exact.policy_of(data_occupancy(mdp, strings, 0.9)), nan=0.2))
    finished = final_strings(mdp, policy)
    for string, weight in strings.items():
        assert float(finished[mdp.index[string]]) == pytest.approx(weight, abs=1e-14)
    assert support(mdp, strings).sum() == 6


def test_final_strings_sum_to_one() -> None:
    mdp = EditMDP(2, 4, noise=0.2)
    total = final_strings(mdp, torch.from_numpy(random_policy(mdp, 3))).sum()
    assert float(total) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", POLICY_CLASSES)
def test_policy_classes(name: str) -> None:
    mdp = EditMDP(2, 3)
    family = policy_class(name, mdp)
    theta = family.start(2, 1.0, 0)
    logits, ends = family.logits(theta)
    assert logits.shape == (2, mdp.n_strings, mdp.n_actions)
    assert ends.shape == (2, mdp.n_strings)
    if name == "position_last":
        assert torch.equal(logits[0, mdp.index[(0, 1, 1)]], logits[0, mdp.index[(1, 0, 1)]])
    if name == "last_two":
        assert torch.equal(logits[0, mdp.index[(0, 1, 1)]], logits[0, mdp.index[(1, 1)]])
    if name == "position":
        assert torch.equal(logits[0, mdp.index[(0, 1)]], logits[0, mdp.index[(1, 0)]])
        assert not torch.equal(logits[0, mdp.index[(0,)]], logits[0, mdp.index[(0, 1)]])


def test_bucketed_occupancies_keep_their_mass() -> None:
    mdp = EditMDP(2, 4)
    rho = flow(mdp, torch.from_numpy(random_policy(mdp, 0))[None], 0.9)
    for k in (1, 2, 4):
        assert float(last_k(mdp, k).push(rho).flat().sum()) == pytest.approx(1.0, abs=1e-12)
    assert last_k(mdp, 4).states.unique().numel() == mdp.n_strings


def test_minimise_leaves_a_problem_with_an_infinite_gradient_where_it_is() -> None:
    start = torch.tensor([[0.0], [4.0]], dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match="1 of 2 starts"):
        found = minimise(lambda x: torch.where(x < 1.0, x.clamp(min=0.0).sqrt(), (x - 2.0).square()).sum(-1), start)
    assert found.x[0].item() == 0.0
    assert found.x[1].item() == pytest.approx(2.0, abs=1e-6)


def test_minimise_solves_problems_apart() -> None:
    scale = torch.tensor([[1.0, 10.0], [100.0, 1.0], [1e-3, 1e3]], dtype=torch.float64)
    centre = torch.tensor([[1.0, 2.0], [-3.0, 0.5], [4.0, -1.0]], dtype=torch.float64)
    found = minimise(lambda x: (scale * (x - centre).square()).sum(-1), torch.zeros(3, 2, dtype=torch.float64))
    torch.testing.assert_close(found.x, centre, atol=1e-6, rtol=0.0)
    together = minimise(
        lambda x: (1 - x[:, 0]).square() + 100 * (x[:, 1] - x[:, 0].square()).square(),
        torch.tensor([[-1.2, 1.0]], dtype=torch.float64),
    )
    torch.testing.assert_close(together.x, torch.ones(1, 2, dtype=torch.float64), atol=1e-5, rtol=0.0)


def smoothed(mdp: EditMDP, seed: int, share: float = 0.2) -> np.ndarray:
    mass, joint = prefix_mass(mdp, random_strings(mdp, 4, seed, shortest=1, longest=mdp.max_len - 1))
    width = mdp.tokens + 1
    uniform = np.full((mdp.n_strings, width), 1.0 / width)
    known = np.divide(joint[:, :width], mass[:, None], out=uniform.copy(), where=mass[:, None] > 0.0)
    return (1.0 - share) * known + share * uniform


@given(st.integers(0, 30), st.sampled_from([0.01, 0.1, 0.5]))
def test_cloned_policy_is_the_bc_optimum(seed: int, eta: float) -> None:
    mdp = EditMDP(2, 4)
    strings = random_strings(mdp, 4, seed, shortest=1, longest=3)
    gamma = 1.0 - 1e-8  # the formula is undiscounted: gamma enters beta at order 1 - gamma
    optimum = exact.policy_of(data_occupancy(mdp, strings, gamma, eta))
    mass, joint = prefix_mass(mdp, strings)
    known = np.divide(joint[:, :3], mass[:, None], out=np.full((mdp.n_strings, 3), 1 / 3), where=mass[:, None] > 0.0)
    cloned = cloned_policy(mdp, known, np.full(2, 0.5), eta)
    np.testing.assert_allclose(optimum[mass > 0.0], cloned[mass > 0.0], atol=1e-7)


@given(st.integers(0, 30), st.sampled_from([0.01, 0.1, 0.5]))
def test_survivors_are_the_final_strings(seed: int, eta: float) -> None:
    mdp = EditMDP(3, 4)
    policy = cloned_policy(mdp, smoothed(mdp, seed), np.full(3, 1 / 3), eta)
    finished = final_strings(mdp, torch.from_numpy(policy)).numpy()
    np.testing.assert_allclose(string_probabilities(mdp, survivors(mdp, policy)), finished, atol=1e-13)


def test_simulated_cloning_agrees() -> None:
    mdp, samples = EditMDP(3, 4), 20_000
    policy = cloned_policy(mdp, smoothed(mdp, 0), np.full(3, 1 / 3), 0.3)
    finished = final_strings(mdp, torch.from_numpy(policy)).numpy()
    drawn = simulate(mdp, policy, samples, seed=0)
    # five standard errors over 40 outcomes: a false alarm once in 10^5 seeds
    assert (abs(drawn - finished) <= 5 * np.sqrt(finished / samples) + 1e-9).all()


def test_noise_over_a_large_vocabulary_truncates_nothing() -> None:
    p = np.array([0.8, 0.15, 0.05])
    assert rejection(p, np.full(3, 1 / 10), 0.2).tolist() == pytest.approx([0.02 / 0.82, 0.02 / 0.17, 0.02 / 0.07])
    assert rejection(p, np.full(3, 1 / 32_000), 0.2).max() < 2e-4


def test_truncations() -> None:
    p = np.array([[0.5, 0.3, 0.15, 0.05]])
    np.testing.assert_allclose(truncate(p, greedy=True), [[1, 0, 0, 0]])
    np.testing.assert_allclose(truncate(p, top_p=0.75), [[0.625, 0.375, 0, 0]])
    np.testing.assert_allclose(truncate(p, min_p=0.3), np.array([[0.5, 0.3, 0.15, 0]]) / 0.95)
    np.testing.assert_allclose(truncate(p), p)


def test_edits_of_one_pass_are_append_and_replace() -> None:
    mdp = EditMDP(2, 3)
    for before in mdp.strings:
        for after in mdp.strings:
            cheap = passes(before, after) <= 1
            longest = max(len(before), len(after))
            # one pass at most: s' without its last token is a prefix of s, or s' is one itself
            assert cheap == (before[: len(after)] == after or before[: len(after) - 1] == after[:-1]), (
                before,
                after,
                longest,
            )
            assert (kind(before, after) == "general") == (not cheap)
    assert LLAMA_2_7B.edit_flops((1, 2, 3), (1, 2)) == 0.0
    assert LLAMA_2_7B.edit_flops((1, 2), (1, 2, 3)) == LLAMA_2_7B.token_flops(2)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="max_len"):
        EditMDP(2, 0)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        EditMDP(2, 2, noise=1.0)
    with pytest.raises(ValueError, match="noise_law"):
        EditMDP(2, 2, noise_law=(1.0, 1.0))
    with pytest.raises(ValueError, match="no <bkspc>"):
        _ = EditMDP(2, 2, backspace=False).bkspc
    mdp = EditMDP(2, 2)
    with pytest.raises(ValueError, match="gamma"):
        exact.occupancy(mdp, random_policy(mdp, 0), 1.0)
    with pytest.raises(ValueError, match="only 2 strings"):
        random_strings(mdp, 3, 0, shortest=1, longest=1)
    with pytest.raises(ValueError, match="needs room"):
        data_occupancy(mdp, {(0, 1): 1.0}, 0.9, 0.1)
    with pytest.raises(ValueError, match="eta"):
        data_occupancy(mdp, {(0,): 1.0}, 0.9, 1.0)
    with pytest.raises(KeyError, match="position_last"):
        policy_class("transformer", mdp)
    with pytest.raises(ValueError, match="k=0"):
        last_k(mdp, 0)

"""The exact critic: its gradient over every group of rollouts against the divergence, its parts against loops.

All in float64. Where groups of two are enumerated, each pair of walks is one group, as likely as both.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smlib.edits.actions import Trajectory, replay
from smlib.edits.packing import pack
from smlib.edits.path import along, judged
from smlib.files import plain
from smlib.objectives.exact import _ratios, exact, leave_one_out
from smlib.objectives.losses import sizes, visit_values
from smlib.objectives.methods import ObjectiveConfig, objective
from smlib.theory.datasets import data_occupancy
from smlib.theory.estimator import enumerate_walks, sample_walks
from smlib.theory.flow import flow
from smlib.theory.matching import occupancy_divergence
from smlib.theory.mdp import EditMDP
from smlib.theory.verifiable import path_flow
from smlib.training.algorithm_1 import train
from smlib.training.batches import Batches
from smlib.training.configuration import TrainConfig
from tests.support.copying import Copying, config, policy
from tests.support.oracles import SPACE, float64_policy, trajectories
from tests.support.oracles_theory import neural_visits, space_of, trajectory_of

GAMMA = 0.8
MDP = EditMDP(2, 2, backspace=False)
CRITICS = {"tv": ("tv", False), "chi2_mixture": ("chi2", True)}
REFERENCE = (2, 5, 1)


# --- beside the reference ------------------------------------------------------------------------------------------


@given(trajectories(), st.lists(st.integers(2, 6), max_size=4))
@settings(max_examples=150, deadline=None)
def test_beside_the_reference_is_read_off_the_states(trajectory, reference):
    target = [*reference, SPACE.eos]
    found = along(trajectory, target, SPACE)
    states = [s[trajectory.prompt.size :] for s in replay(trajectory, SPACE)]
    for i, state in enumerate(states[:-1]):
        agree = 0
        while agree < min(len(state), len(target)) and state[agree] == target[agree]:
            agree += 1
        assert (found.matched[i], found.beyond[i]) == (agree, len(state) - agree)
        assert found.right[i] == (agree == len(state) and trajectory.labels[i] == target[agree])
    assert found.finished == (list(states[-1]) == target)


@pytest.mark.parametrize("reference", [[], [2, 3], [2, 1, 1]])
def test_a_reference_ends_in_its_only_eos(reference):
    with pytest.raises(ValueError, match="the reference must end in its only <eos>"):
        along(Trajectory.make([0], [1], space=SPACE), reference, SPACE)


# --- the gradient --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CRITICS)
@pytest.mark.parametrize("string", [(1,)])
def test_the_expected_gradient_is_the_divergences(string, name):
    """Over all pairs of rollouts, with the leave-one-out baseline: unbiased, and that of D through the linear solve."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(MDP.n_strings, MDP.n_actions, generator=generator, dtype=torch.float64).requires_grad_()
    ends = torch.zeros(MDP.n_strings, dtype=torch.float64)
    walks = list(enumerate_walks(MDP, logits.detach().softmax(-1).numpy()))
    target, space = (*string, MDP.eos), space_of(MDP)
    data = Trajectory.make((0,), target, space=space)
    divergence, mixture = CRITICS[name]
    expected = torch.zeros((), dtype=torch.float64)
    shares, moved = 0.0, 0.0
    for one in walks:
        for other in walks:
            pair = [trajectory_of(MDP, w) for w in (one, other)]
            visits = neural_visits(MDP, [data], pair, logits, ends)
            where = judged([data, *pair], [None, target, target], [0, 7, 7], space, closed=True)
            loss = exact(visits, where, divergence=divergence, mixture=mixture, alpha=1e-12, gamma=GAMMA)
            probability = one.probability * other.probability
            expected = expected + probability * loss.total
            shares += probability * float(loss.parts["on_path"])
            owner = torch.repeat_interleave(torch.arange(3), visits.end - visits.start)
            moved += float(leave_one_out(visits.logit.detach(), visits, where, owner).abs().sum())
    assert moved > 0.1  # there is a baseline to speak of
    (ours,) = torch.autograd.grad(expected, logits)
    now, reference = flow(MDP, logits.softmax(-1), GAMMA), path_flow(MDP, string, GAMMA)
    rho = data_occupancy(MDP, {string: 1.0}, GAMMA)
    value = occupancy_divergence(name)(now, reference) / (rho.pairs.sum() / (1.0 - GAMMA))
    (theirs,) = torch.autograd.grad(value, logits)
    assert theirs.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    if name == "tv":
        assert shares == pytest.approx(1.0 - float(occupancy_divergence("tv")(now, reference).detach()), abs=1e-12)


# --- its parts against loops ---------------------------------------------------------------------------------------


def rollouts_beside(members, groups, closed=False):
    """Visits of one demonstration and some rollouts, and where they are."""
    learner = float64_policy()
    data = Trajectory.make([0, 2], REFERENCE, space=SPACE)
    batch = pack([[data], *([t] for t in members)], SPACE, model=[[False], *([True] for _ in members)])
    where = judged([data, *members], [None, *[REFERENCE] * len(members)], [0, *groups], SPACE, closed=closed)
    return visit_values(*learner(batch), batch), where


@given(st.lists(trajectories(prompt=[0, 2], max_actions=8), min_size=2, max_size=5), st.integers(0, 1_000))
@settings(max_examples=40, deadline=None)
def test_baseline_and_ratio_are_those_of_loops(members, seed):
    groups = [i % 2 for i in range(len(members))] if len(members) > 3 else [0] * len(members)
    with torch.no_grad():
        visits, where = rollouts_beside(members, groups)
    length = visits.end - visits.start
    owner = torch.repeat_interleave(torch.arange(length.numel()), length)
    returns = torch.from_numpy(np.random.default_rng(seed).normal(size=visits.logit.numel()))
    found = leave_one_out(returns, visits, where, owner)
    ratio, ratio_end = _ratios(visits, where, owner, GAMMA, needed=True)
    n, first = visits.logit.numel(), int(length[0])
    place = [(int(where.group[owner[i]]), int(where.matched[i]), int(where.beyond[i])) for i in range(n)]
    for i in range(first, n):
        others = [float(returns[j]) for j in range(first, n) if place[j] == place[i] and owner[j] != owner[i]]
        assert float(found[i]) == pytest.approx(np.mean(others) if others else 0.0, abs=1e-12)
        mates = [g for g in range(1, len(members) + 1) if where.group[g] == where.group[owner[i]] and g != owner[i]]
        if where.right[i]:
            seen = sum(
                GAMMA ** (int(visits.step[j]) - int(where.matched[i]))
                for j in range(first, n)
                if int(owner[j]) in mates and where.right[j] and where.matched[j] == where.matched[i]
            )
            assert float(ratio[i]) == pytest.approx(seen / len(mates), abs=1e-12)
    for b in range(1, len(members) + 1):
        mates = [g for g in range(1, len(members) + 1) if where.group[g] == where.group[b] and g != b]
        seen = sum(GAMMA ** (int(length[g]) - len(REFERENCE)) for g in mates if where.finished[g])
        if where.finished[b]:
            assert float(ratio_end[b]) == pytest.approx(seen / len(mates), abs=1e-12)
    mine = int(owner[-1])
    changed = torch.where(owner == mine, returns + 5.0, returns)
    again = leave_one_out(changed, visits, where, owner)
    torch.testing.assert_close(again[owner == mine], found[owner == mine], atol=1e-12, rtol=0)


def test_the_counted_ratio_tends_to_the_exact_one():
    mdp, string = EditMDP(2, 2), (1,)
    policy_of = torch.randn(mdp.n_strings, mdp.n_actions, generator=torch.Generator().manual_seed(3)).double()
    policy_of = policy_of.softmax(-1)
    rho, reference = flow(mdp, policy_of, GAMMA), path_flow(mdp, string, GAMMA)
    walks = [trajectory_of(mdp, w) for w in sample_walks(mdp, policy_of.numpy(), 3_000, 0)]
    space, target = space_of(mdp), (*string, mdp.eos)
    data = Trajectory.make((0,), target, space=space)
    ends = torch.zeros(mdp.n_strings, dtype=torch.float64)
    visits = neural_visits(mdp, [data], walks, policy_of.log(), ends)
    where = judged([data, *walks], [None, *[target] * len(walks)], [0] * (1 + len(walks)), space, closed=False)
    owner = torch.repeat_interleave(torch.arange(1 + len(walks)), visits.end - visits.start)
    ratio, ratio_end = _ratios(visits, where, owner, GAMMA, needed=True)
    for i, (state, action) in enumerate(((0, 1), (mdp.index[string], mdp.eos))):
        at = (where.right & (where.matched == i)).nonzero()[0]
        exact_t = float(rho.pairs[state, action] / reference.pairs[state, action])
        assert float(ratio[at]) == pytest.approx(exact_t, abs=0.05)
    exact_t = float(rho.terminal[mdp.index[string]] / reference.terminal[mdp.index[string]])
    assert float(ratio_end[where.finished.nonzero()[0]]) == pytest.approx(exact_t, abs=0.05)


def test_a_batch_in_parts_has_the_whole_loss():
    learner = float64_policy()
    asked = config("exact", batch_size=8, refill=8, buffer_size=8, accumulation=2).on_policy(2)
    goal = dataclasses.replace(asked.objective, bc_steps=0, anneal_steps=0, beta_floor=0.0)
    batches = [Batches(learner, Copying(), dataclasses.replace(asked, objective=goal, accumulation=a)) for a in (1, 2)]
    totals = []
    for one in batches:
        one.begin()
        one.populate(0)
        drawn = one.draw(0, "cpu")
        parts = [objective(learner, p, goal, 0, None, sizes(drawn.packed)).total for p in drawn.packed]
        totals.append(float(sum(parts).detach()))
        for part in drawn.packed:  # a group stays in one part, and its rollouts are of one prompt
            of = part.judged.group[part.model]
            assert torch.bincount(of).unique().tolist() in ([2], [0, 2])
    assert totals[0] == pytest.approx(totals[1], abs=1e-10)


# --- runs ----------------------------------------------------------------------------------------------------------


def run(folder, divergence="tv", mixture=False, group=4, without=False, **changes):
    asked = dataclasses.replace(config("exact", batch_size=8, refill=8, buffer_size=8, steps=30), **changes)
    goal = dataclasses.replace(
        asked.objective, divergence=divergence, mixture=mixture, bc_steps=4, anneal_steps=0, beta_floor=0.0, alpha=1e-3
    )
    asked = dataclasses.replace(asked, objective=goal).on_policy(group)
    return train(policy(), Copying(), asked, folder, progress=False, without_backspace=without).history


@pytest.mark.parametrize(
    ("divergence", "mixture", "without", "eta"),
    [("tv", False, False, 0.2), ("chi2", True, False, 0.2), ("tv", False, True, 0.0), ("chi2", True, True, 0.0)],
)
def test_more_and_more_steps_are_on_the_path(divergence, mixture, without, eta, tmp_path):
    history = run(tmp_path, divergence, mixture, without=without, eta=eta)
    shares = [row["on_path"] for row in history if "on_path" in row]
    assert np.mean(shares[-3:]) > np.mean(shares[:3])


def test_what_is_missing_is_named(tmp_path):
    class Text(Copying):
        def reference(self, index):
            raise ValueError("a prompt of running text has no single right continuation")

    asked = config("exact").on_policy(2)
    with pytest.raises(ValueError, match="exact cannot be trained on these data: a prompt of running text has no"):
        train(policy(), Text(), asked, tmp_path / "a", progress=False)

    with pytest.raises(ValueError, match="exact needs rollouts of the present policy"):
        train(policy(), Copying(), config("exact"), tmp_path / "c", progress=False)
    with pytest.raises(ValueError, match="compares rollouts from one prompt, and group=1"):
        train(policy(), Copying(), config("exact").on_policy(), tmp_path / "d", progress=False)
    with pytest.raises(ValueError, match="exact knows the critics of total variation"):
        ObjectiveConfig(method="exact", divergence="js")
    with pytest.raises(ValueError, match="group=3 rollouts from each prompt do not divide a part of a batch, 4"):
        config("exact").on_policy(3)
    visits, _ = rollouts_beside([Trajectory.make([0, 2], [3, 1], space=SPACE)], [0])
    assert visits.judged is None
    assert not (tmp_path / "a").exists()


def test_a_group_of_one_is_no_part_of_a_runs_identity():
    assert "group" not in plain(TrainConfig(steps=2, warmup_steps=1))
    assert plain(TrainConfig(steps=2, warmup_steps=1, group=8))["group"] == 8

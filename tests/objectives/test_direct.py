"""Direct matching of one path: against exact occupancies of the edit MDP, and against maximum likelihood."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smlib.objectives.direct import direct, path_divergence, path_log_probs
from smlib.objectives.divergences import get
from smlib.objectives.losses import likelihood
from smlib.objectives.methods import ObjectiveConfig, objective_of_visits
from smlib.theory.estimator import Walk
from smlib.theory.flow import f_divergence, flow
from smlib.theory.matching import occupancy_divergence
from smlib.theory.mdp import EditMDP
from tests.support.oracles_theory import neural_visits, occupancy_of_walks, trajectory_of

# No path reaches the length limit, where other tokens are executed as <eos> and lead to the path's own end.
MDP = EditMDP(2, 4, backspace=False)
FINITE = ["forward_kl", "js", "hellinger", "tv"]


def walk(*labels: int) -> Walk:
    states = [0]
    for label in labels:
        states.append(int(MDP.next_state[states[-1], label]))
    return Walk(tuple(states), labels, 1.0)


PATHS = [walk(MDP.eos), walk(1, MDP.eos), walk(0, 1, MDP.eos), walk(1, 1, 0, MDP.eos)]


@st.composite
def problems(draw):
    """Tabular logits of any confidence, one answer, a discount."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    scale = draw(st.sampled_from([0.1, 1.0, 4.0]))
    logits = scale * torch.randn(MDP.n_strings, MDP.n_actions, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), draw(st.sampled_from(PATHS)), draw(st.sampled_from([0.3, 0.9, 0.99]))


def both(logits: torch.Tensor, path: Walk, gamma: float, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The closed form and the divergence of the exact occupancies, in the losses' normalisation."""
    ends = torch.zeros(MDP.n_strings, dtype=torch.float64)
    visits = neural_visits(MDP, [trajectory_of(MDP, path)], [], logits, ends)
    mixture = name == "chi2_mixture"
    closed = direct(visits, divergence="chi2" if mixture else name, mixture=mixture, gamma=gamma)
    rho = occupancy_of_walks(MDP, [path], gamma)
    now = flow(MDP, logits.softmax(-1), gamma)
    exact = occupancy_divergence(name)(now, rho) / (rho.pairs.sum() / (1.0 - gamma))
    return closed.total, exact


@pytest.mark.parametrize("name", [*FINITE, "chi2_mixture"])
@given(problems())
@settings(max_examples=25, deadline=None)
def test_closed_form_is_the_divergence_of_the_occupancies(name: str, problem: tuple) -> None:
    logits, path, gamma = problem
    closed, exact = both(logits, path, gamma, name)
    torch.testing.assert_close(closed, exact, atol=1e-10, rtol=1e-10)
    ours, theirs = (torch.autograd.grad(x, logits)[0] for x in (closed, exact))
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_several_paths_are_averaged() -> None:
    """Each prompt's divergence, averaged: not that of the mixture of their paths."""
    torch.manual_seed(0)
    logits = torch.randn(MDP.n_strings, MDP.n_actions, dtype=torch.float64)
    ends, gamma = torch.zeros(MDP.n_strings, dtype=torch.float64), 0.9
    visits = neural_visits(MDP, [trajectory_of(MDP, p) for p in PATHS], [], logits, ends)
    found = direct(visits, divergence="js", mixture=False, gamma=gamma)
    now = flow(MDP, logits.softmax(-1), gamma)
    rhos = [occupancy_of_walks(MDP, [p], gamma) for p in PATHS]
    each = torch.stack([f_divergence(get("js"), now, rho) for rho in rhos])
    visited = torch.stack([rho.pairs.sum() for rho in rhos]).mean() / (1.0 - gamma)
    torch.testing.assert_close(found.total, each.mean() / visited, atol=1e-12, rtol=0)
    right = [
        math.prod(float(logits[s].softmax(0)[a]) for s, a in zip(p.states[:-1], p.labels, strict=True)) for p in PATHS
    ]
    assert float(found.parts["path"]) == pytest.approx(sum(right) / len(right), abs=1e-12)


@given(problems())
@settings(max_examples=25, deadline=None)
def test_forward_kl_is_discounted_likelihood(problem: tuple) -> None:
    logits, path, gamma = problem
    ends = torch.zeros(MDP.n_strings, dtype=torch.float64)
    visits = neural_visits(MDP, [trajectory_of(MDP, path)], [], logits, ends)
    found = direct(visits, divergence="forward_kl", mixture=False, gamma=gamma).total
    torch.testing.assert_close(found, likelihood(visits, gamma=gamma).total, atol=1e-10, rtol=1e-10)


def test_who_believes_in_two_answers_writes_the_better_one() -> None:
    """The module's example: of answers believed in with 0.8 and 0.2 the chi^2-mixture's optimum has P_1 = 1."""
    h = path_divergence("chi2", True)
    p = torch.linspace(0.0, 1.0, 10_001, dtype=torch.float64)
    expected = 0.8 * h(p) + 0.2 * h(1.0 - p)
    assert float(p[expected.argmin()]) == 1.0
    nearly = 0.7 * h(p) + 0.3 * h(
        1.0 - p
    )  # (1 + P_1)/(1 + P_2) = sqrt(7/3) has P_1 = (2 sqrt(7/3) - 1)/(1 + sqrt(7/3))
    root = math.sqrt(7 / 3)
    assert float(p[nearly.argmin()]) == pytest.approx((2 * root - 1) / (1 + root), abs=1e-4)
    likely = path_divergence("forward_kl", False)
    assert float(p[(0.8 * likely(p) + 0.2 * likely(1.0 - p)).nan_to_num(posinf=9.0).argmin()]) == pytest.approx(0.8)


def test_short_answers_do_not_carry_the_rounding_of_a_long_batch() -> None:
    log_prob = torch.cat([torch.full((20_000,), -9.0), torch.tensor([-1e-4, -1e-4])])
    found = path_log_probs(log_prob, torch.tensor([20_000, 2]))
    torch.testing.assert_close(found[-2:], torch.tensor([-1e-4, -2e-4]), atol=1e-9, rtol=0)


@pytest.mark.parametrize(("name", "mixture", "why"), [
    ("reverse_kl", False, "infinite for any policy"),
    ("chi2", False, "choose chi2 with mixture=True"),
    ("js", True, "closed form with chi2 alone"),
])  # fmt: skip
def test_what_has_no_finite_value_is_refused(name: str, mixture: bool, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ObjectiveConfig(method="direct", divergence=name, mixture=mixture)


def test_beta_blends_it_with_likelihood() -> None:
    torch.manual_seed(0)
    logits = torch.randn(MDP.n_strings, MDP.n_actions, dtype=torch.float64)
    visits = neural_visits(
        MDP, [trajectory_of(MDP, p) for p in PATHS], [], logits, torch.zeros(MDP.n_strings, dtype=torch.float64)
    )
    goal = ObjectiveConfig(method="direct", gamma=0.9, bc_steps=0, anneal_steps=0, beta_floor=0.2)
    alone = direct(visits, divergence="chi2", mixture=True, gamma=0.9).total
    expected = 0.2 * likelihood(visits).total + 0.8 * alone
    torch.testing.assert_close(objective_of_visits(visits, goal, 1).total, expected, atol=1e-12, rtol=0)

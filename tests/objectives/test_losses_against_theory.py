"""The neural losses, fed tabular logits and every trajectory with its weight, reproduce the tabular J and its gradient.

Trajectories go through the whole pipeline: `Trajectory`, `pack`, its mask (each state is read off it), `visit_values`,
`sequencematch`. Their weights are dyadic, so that repeating each as often as its probability says is exact. Tolerances
are 1e-9, against sums of some hundred terms below 10^3 in float64.
"""

import pytest
import torch

from smlib.objectives import losses
from smlib.objectives.divergences import DIVERGENCES, get
from smlib.theory.estimator import Walk, data_part, enumerate_walks, model_part
from smlib.theory.flow import Flow
from smlib.theory.mdp import EditMDP
from smlib.theory.objective import behaviour_cloning, sequencematch
from tests.support.oracles_theory import copies, neural_visits, occupancy_of_walks, trajectory_of

GAMMA = 0.8
ALPHA = 0.6


def tabular_logits(mdp: EditMDP, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(mdp.n_strings, mdp.n_actions, generator=generator, dtype=torch.float64)
    terminal = torch.randn(mdp.n_strings, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), terminal.requires_grad_()


def dyadic_policy(mdp: EditMDP, seed: int) -> torch.Tensor:
    """Rows that are permutations of (1/2, 1/4, 1/4): every walk's probability is a power of two."""
    generator = torch.Generator().manual_seed(seed)
    law = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    return torch.stack([law[torch.randperm(3, generator=generator)] for _ in range(mdp.n_strings)])


def clean_walks() -> tuple[EditMDP, list[Walk], list[Walk]]:
    """Append-only, all walks of two policies."""
    mdp = EditMDP(2, 2, backspace=False)
    data, model = (list(enumerate_walks(mdp, dyadic_policy(mdp, seed).numpy())) for seed in (0, 1))
    return mdp, data, model


def noisy_walks() -> tuple[EditMDP, list[Walk], list[Walk]]:
    """Append-only with execution noise: label and realised action differ in up to half of the steps."""
    mdp = EditMDP(2, 1, backspace=False, noise=0.5)
    data, model = (list(enumerate_walks(mdp, dyadic_policy(mdp, seed).numpy())) for seed in (2, 3))
    return mdp, data, model


def backspace_walks() -> tuple[EditMDP, list[Walk], list[Walk]]:
    """Equally likely walks with `<bkspc>`, at the root, after one token and twice in a row; no noise."""
    mdp = EditMDP(2, 3)
    b, end = mdp.bkspc, mdp.eos

    def walk(*labels: int) -> Walk:
        states = [0]
        for label in labels:
            states.append(int(mdp.next_state[states[-1], label]))
        return Walk(tuple(states), labels, 0.25)

    data = [walk(0, 1, b, 0, end), walk(1, 0, b, b, 0, end), walk(end), walk(0, 0, end)]
    model = [walk(b, 1, end), walk(0, b, 0, b, 1, 1, end), walk(1, 1, 0, end), walk(1, b, end)]
    return mdp, data, model


CASES = {"clean": clean_walks, "noisy": noisy_walks, "backspace": backspace_walks}
CASE = pytest.mark.parametrize("case", CASES)


def tabular_j(
    mdp: EditMDP, data: Flow, model: Flow, logits: torch.Tensor, terminal: torch.Tensor, name: str, mixture: bool
) -> torch.Tensor:
    """J from occupancies, with the normalisation of `smlib.objectives.losses`: per discounted data visit."""
    total = sequencematch(
        mdp, logits, terminal, data=data, model=model, divergence=get(name), alpha=ALPHA, gamma=GAMMA,
        data_noise=mdp.noise, model_noise=mdp.noise, mixture=mixture,
    ).total  # fmt: skip
    return total / data.pairs.sum()


def both(case: str, name: str, mixture: bool) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    mdp, data, model = CASES[case]()
    logits, terminal = tabular_logits(mdp)
    visits = neural_visits(
        mdp,
        [trajectory_of(mdp, w) for w in copies(data)],
        [trajectory_of(mdp, w) for w in copies(model)],
        logits,
        terminal,
    )
    neural = losses.sequencematch(visits, divergence=get(name), alpha=ALPHA, gamma=GAMMA, mixture=mixture).total
    rho, rho_model = (occupancy_of_walks(mdp, walks, GAMMA) for walks in (data, model))
    exact = tabular_j(mdp, rho, rho_model, logits, terminal, name, mixture)
    return neural, exact, (logits, terminal)


@CASE
@pytest.mark.parametrize("name", DIVERGENCES)
def test_neural_loss_is_minus_the_tabular_j(case: str, name: str) -> None:
    neural, exact, leaves = both(case, name, mixture=False)
    torch.testing.assert_close(-neural, exact, atol=1e-9, rtol=1e-12)
    ours, theirs = (torch.autograd.grad(x, leaves, retain_graph=True) for x in (-neural, exact))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-12)


@CASE
def test_neural_loss_with_the_mixture_is_minus_the_tabular_j(case: str) -> None:
    neural, exact, leaves = both(case, "chi2", mixture=True)
    torch.testing.assert_close(-neural, exact, atol=1e-9, rtol=1e-12)
    ours, theirs = (torch.autograd.grad(x, leaves, retain_graph=True) for x in (-neural, exact))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-12)


@CASE
def test_reduced_neural_loss_is_minus_the_tabular_j(case: str) -> None:
    mdp, data, model = CASES[case]()
    logits, terminal = tabular_logits(mdp)
    trajectories = [[trajectory_of(mdp, w) for w in copies(walks)] for walks in (data, model)]
    visits = neural_visits(mdp, *trajectories, logits, terminal)
    neural = losses.sequencematch_chi2(visits, alpha=ALPHA, gamma=GAMMA, mixture=True).total
    rho, rho_model = (occupancy_of_walks(mdp, walks, GAMMA) for walks in (data, model))
    torch.testing.assert_close(
        -neural, tabular_j(mdp, rho, rho_model, logits, terminal, "chi2", True), atol=1e-9, rtol=1e-12
    )


@CASE
def test_neural_likelihood_is_the_tabular_one(case: str) -> None:
    mdp, data, _ = CASES[case]()
    logits, terminal = tabular_logits(mdp)
    visits = neural_visits(mdp, [trajectory_of(mdp, w) for w in copies(data)], [], logits, terminal)
    rho = occupancy_of_walks(mdp, data, GAMMA)
    torch.testing.assert_close(
        -losses.likelihood(visits, gamma=GAMMA).total,
        behaviour_cloning(logits, rho) / rho.pairs.sum(),
        atol=1e-9,
        rtol=1e-12,
    )


@CASE
@pytest.mark.parametrize("mixture", [False, True])
def test_walk_by_walk_estimator_averages_to_j(case: str, mixture: bool) -> None:
    mdp, data, model = CASES[case]()
    logits, terminal = tabular_logits(mdp)
    mean = sum(w.probability * data_part(w, logits, terminal, get("chi2"), ALPHA, GAMMA) for w in data) + sum(
        w.probability * model_part(w, logits, terminal, ALPHA, GAMMA, mixture=mixture) for w in model
    )
    rho, rho_model = (occupancy_of_walks(mdp, walks, GAMMA) for walks in (data, model))
    exact = tabular_j(mdp, rho, rho_model, logits, terminal, "chi2", mixture) * rho.pairs.sum()
    torch.testing.assert_close((1.0 - GAMMA) * mean, exact, atol=1e-12, rtol=1e-12)

"""Properties of J and of its optima, on tabular cases; the claims of notebook 02 as tests."""

from pathlib import Path

import numpy as np
import pytest
import torch

from smlib.objectives.divergences import get
from smlib.paper.experiments.theory import identities as claims
from smlib.paper.experiments.theory import occupancies as experiment
from smlib.paper.results import read_item
from smlib.theory import occupancy as exact
from smlib.theory.critics import last_k, seen_divergence
from smlib.theory.datasets import data_occupancy, random_strings
from smlib.theory.estimator import Walk, model_part
from smlib.theory.flow import Flow, as_flow, causal_entropy, f_divergence, flow, kl_to_mixture
from smlib.theory.matching import match
from smlib.theory.mdp import EditMDP
from smlib.theory.objective import sequencematch
from smlib.theory.policies import policy_class
from smlib.theory.restricted import fit_direct, fit_j, fit_mle

GAMMA = 0.9


@pytest.mark.parametrize(
    ("check", "bound"),
    [(check, bound) for _, _, check, bound in claims.CLAIMS],
    ids=[f"{where}: {claim}" for claim, where, _, _ in claims.CLAIMS],
)
def test_claim(check, bound: float) -> None:
    """Each bound is stated where the claim is: rounding, the optimisers' tolerance, or the next order in alpha."""
    assert check() <= bound


def batch_of(mdp: EditMDP, count: int, **options: int) -> Flow:
    rhos = [as_flow(data_occupancy(mdp, random_strings(mdp, 3, seed, **options), GAMMA)) for seed in range(count)]
    return Flow(torch.stack([r.pairs for r in rhos]), torch.stack([r.terminal for r in rhos]))


def some_parts(mixture: bool = False) -> tuple:
    mdp, policy, other, q, end = claims._setting()
    data, model = (as_flow(exact.occupancy(mdp, p, GAMMA)) for p in (policy, other))
    logits, ends = torch.from_numpy(q), torch.from_numpy(end)
    parts = sequencematch(
        mdp, logits, ends, data=data, model=model, divergence=get("js"), alpha=0.5, gamma=GAMMA,
        data_noise=mdp.noise, model_noise=mdp.noise, mixture=mixture,
    )  # fmt: skip
    return parts, logits, ends


def test_value_terms_telescope_to_the_start() -> None:
    parts, logits, _ = some_parts()
    half = -0.5 * (1 - GAMMA) * torch.logsumexp(logits[0], 0)
    # two sums of 60 terms of order 1
    torch.testing.assert_close(parts.data_values, half, atol=1e-13, rtol=1e-12)
    torch.testing.assert_close(parts.model_values, half, atol=1e-13, rtol=1e-12)


def test_a_rollout_of_any_length_contributes_half_the_first_value() -> None:
    mdp, *_ = claims._setting(noise=0.0)
    logits = torch.randn(mdp.n_strings, mdp.n_actions, dtype=torch.float64)
    ends = torch.randn(mdp.n_strings, dtype=torch.float64)
    b = mdp.bkspc
    for labels in ((mdp.eos,), (0, 1, b, b, b, 1, mdp.eos), (b, b, 1, mdp.eos)):
        states = [0]
        for label in labels:
            states.append(int(mdp.next_state[states[-1], label]))
        value = model_part(Walk(tuple(states), labels, 1.0), logits, ends, 0.3, GAMMA)
        torch.testing.assert_close(value, -0.5 * torch.logsumexp(logits[0], 0), atol=1e-13, rtol=1e-12)


def test_sampled_next_state_lowers_j_under_noise() -> None:
    mdp, policy, _, q, end = claims._setting(noise=0.2)
    data = as_flow(exact.occupancy(mdp, policy, GAMMA))
    args = (mdp, torch.from_numpy(q), torch.from_numpy(end), data, "chi2", 0.5, 0.2)
    sampled, expected = (float(claims.j_parts(*args, flag).total) for flag in (True, False))
    assert sampled < expected - 1e-3, "Jensen: E phi(r) < phi(E r)"
    # for chi^2 the gap is alpha/4 gamma^2 Var[V(s')]
    values = np.concatenate([exact.soft_value(q, exact.softmax(q)), end])[mdp.next_state]
    law = mdp.execution()
    variance = (values**2) @ law.T - (values @ law.T) ** 2
    gap = 0.5 / 4 * GAMMA**2 * float((data.pairs.numpy() * variance).sum())
    assert expected - sampled == pytest.approx(gap, abs=1e-12)


def test_optimal_reward_is_minus_two_over_alpha_off_the_data() -> None:
    found = claims.off_data(alpha=1.0)
    rewards = found["rewards"]
    assert rewards["off_min"] == pytest.approx(-2.0, abs=1e-12)
    assert rewards["off_max"] == pytest.approx(-2.0, abs=1e-12)
    assert rewards["on"] > -0.5


def test_eq_4_does_not_enforce_the_domain_of_js_off_the_data() -> None:
    found = claims.off_data(alpha=1.0)
    values = [row["alpha_j"] for row in found["lowered"]]
    assert values[0] == pytest.approx(found["minimum"], abs=1e-9)
    assert values == sorted(values)
    assert values[-1] > values[0] + 0.05, "J exceeds min D - alpha H: off the data it is no Jensen-Shannon divergence"


def test_gradient_of_direct_minimisation_is_a_policy_gradient_of_the_critic() -> None:
    mdp = EditMDP(2, 3, noise=0.1)
    data = as_flow(exact.occupancy(mdp, claims._setting()[1], GAMMA))
    logits = torch.randn(mdp.n_strings, mdp.n_actions, dtype=torch.float64).requires_grad_()
    rho = flow(mdp, torch.softmax(logits, -1), GAMMA)
    for name in ("forward_kl", "js", "chi2", "hellinger"):
        record = get(name)
        (direct,) = torch.autograd.grad(f_divergence(record, rho, data), logits, retain_graph=True)
        critic = record.reward(rho.flat() / data.flat()).detach()
        (envelope,) = torch.autograd.grad(-(rho.flat() * critic).sum(), logits, retain_graph=True)
        torch.testing.assert_close(direct, envelope, atol=1e-12, rtol=1e-10)


def test_match_beats_its_neighbours() -> None:
    mdp = EditMDP(2, 3, noise=0.1)
    data = batch_of(mdp, 2, shortest=1, longest=2)
    found = match(mdp, data, "kl_to_mixture", 0.3, GAMMA)
    assert float(found.residual.max()) < 1e-8
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        noise = 0.1 * torch.randn(found.log_policy.shape, generator=generator, dtype=torch.float64)
        rho = flow(mdp, torch.softmax(found.log_policy + noise, -1), GAMMA)
        assert bool((kl_to_mixture(rho, data) - 0.3 * causal_entropy(rho) > found.value).all())


def test_match_refuses_what_it_cannot_minimise() -> None:
    mdp = EditMDP(2, 3)
    data = batch_of(mdp, 1, shortest=1, longest=2)
    with pytest.raises(ValueError, match="infinite for every policy"):
        match(mdp, data, "chi2", 0.1, GAMMA)
    with pytest.raises(ValueError, match="alpha"):
        match(mdp, data, "js", 0.0, GAMMA)


def restricted_case() -> tuple:
    mdp = EditMDP(2, 4, backspace=False)
    data = batch_of(mdp, 3, shortest=2, longest=3)
    family = policy_class("position_last", mdp)
    return mdp, data, family, fit_mle(family, data, starts=2)


def test_a_critic_with_the_policys_features_sees_nothing_at_mle() -> None:
    mdp, data, _, mle = restricted_case()
    rho = flow(mdp, mle.policy, GAMMA)
    # MLE stops at gradient 1e-7. Where the data has an action the divergence is quadratic in what is left; where
    # it has none, the logit runs to minus infinity and the divergence is linear in the mass left: some 1e-7 in all.
    assert float(seen_divergence("chi2_mixture", last_k(mdp, 1), rho, data).max()) < 1e-6
    sights = [float(seen_divergence("chi2_mixture", last_k(mdp, k), rho, data).sum()) for k in (1, 2, 3, 4)]
    assert sights == sorted(sights), "a finer critic sees more (data processing)"
    assert sights[-1] > 1e-4  # two orders above the bound for the policy's own features


def test_direct_forward_kl_is_mle_and_j_tends_to_it() -> None:
    mdp, data, family, mle = restricted_case()
    direct = fit_direct(family, mdp, data, "forward_kl", GAMMA, mle.theta + 0.3)
    j = fit_j(family, mdp, data, "chi2", GAMMA, mle.theta, alpha=1e-4)
    rho = [flow(mdp, fit.policy, GAMMA).flat() for fit in (mle, direct, j)]
    # gradients of 1e-7 against curvatures above 1e-3, where the data determines the policy at all
    torch.testing.assert_close(rho[1], rho[0], atol=1e-4, rtol=0.0)
    torch.testing.assert_close(rho[2], rho[0], atol=5e-3, rtol=0.0)


def test_bad_input() -> None:
    mdp, _, _, q, end = claims._setting()
    data = as_flow(exact.occupancy(mdp, exact.softmax(q), GAMMA))
    args = {"data": data, "model": data, "divergence": get("chi2")}
    for alpha, gamma, said in ((0.0, 0.9, "alpha"), (0.1, 1.0, "gamma")):
        with pytest.raises(ValueError, match=said):
            sequencematch(mdp, torch.from_numpy(q), torch.from_numpy(end), alpha=alpha, gamma=gamma, **args)


def made_up_rows(j: float, direct: float, *, solved: bool = True) -> list[dict[str, object]]:
    """One class, MLE at 0.5, J at two alphas (the smaller one 0.001 below MLE), two divergences directly."""
    fits = {("mle", None): 0.5, ("direct forward_kl", 0.0): 0.5, ("direct js", 0.0): direct}
    fits |= {("J js", 0.01): 0.499, ("J js", 1.0): j}
    return [{"family": "f", "method": m, "alpha": a, "stay": s, "solved": solved} for (m, a), s in fits.items()]


def test_what_restricted_policies_show_is_read_off_the_numbers() -> None:
    finding = experiment.restricted_finding
    usual = finding(made_up_rows(0.4, 0.8))
    assert "J at α = 0.01 the same, J at α = 1 up to 0.10 below, direct forward KL the same" in usual
    assert usual.endswith("other direct minima 0.30 above")
    other = finding(made_up_rows(0.9, 0.3))
    assert "J at α = 1 0.40 above" in other
    assert "other direct minima up to 0.20 below" in other
    second = [{**row, "family": "g"} for row in made_up_rows(0.7, 0.6)]
    assert "J at α = 1 -0.10 to +0.20 from it" in finding(made_up_rows(0.4, 0.8) + second)
    without_j = [{**row, "solved": row["method"] != "J js"} for row in second]
    assert "J at α = 1 up to 0.10 below" in finding(made_up_rows(0.4, 0.8) + without_j)
    assert finding(without_j).endswith("beside MLE's: direct forward KL the same, other direct minima 0.10 above")
    without_mle = [{**row, "solved": row["method"] != "mle"} for row in second]
    assert finding(made_up_rows(0.4, 0.8) + without_mle) == usual
    assert finding(without_mle).endswith("no class was solved")


def test_the_committed_line_says_what_its_rows_say(repository: Path) -> None:
    item = read_item("theory", "full", repository / "results")
    rows = item["details"]["restricted"]  # type: ignore[index]
    assert str(item["ours"]).endswith(experiment.restricted_finding(rows))

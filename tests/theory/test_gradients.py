"""Gradients of every occupancy divergence where probabilities underflow, and what a search does without one."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smlib.objectives.direct import path_divergence
from smlib.objectives.divergences import DIVERGENCES, get, underflow
from smlib.paper.experiments.theory import occupancies as theory
from smlib.paper.experiments.theory import restricted as study
from smlib.paper.figures import theory as figures
from smlib.paper.results import Run
from smlib.theory.datasets import data_occupancy, random_strings
from smlib.theory.flow import MIXTURES, Flow, as_flow, causal_entropy, f_divergence, flow
from smlib.theory.matching import match, occupancy_divergence
from smlib.theory.mdp import EditMDP
from smlib.theory.objective import sequencematch
from smlib.theory.optimise import Minimum, NoFiniteStartError, minimise
from smlib.theory.policies import policy_class
from smlib.theory.restricted import Fit, best_start, fit_direct

GAMMA = 0.9
NAMES = (*DIVERGENCES, *MIXTURES)
CASE = json.loads(Path(__file__).parents[1].joinpath("support", "nan_gradient.json").read_text(encoding="utf-8"))
"""Parameters that the search met on one kind of processor alone: logits of the network up to 250."""


def batch_of(rho: Flow) -> Flow:
    return Flow(rho.pairs[None], rho.terminal[None])


def example(seed: int, scale: float, backspace: bool) -> tuple[EditMDP, torch.Tensor, Flow]:
    """A small MDP, logits that reach +-scale, and data that visits a part of it."""
    mdp = EditMDP(2, 3, backspace=backspace, noise=0.1 if seed % 3 == 0 else 0.0)
    generator = torch.Generator().manual_seed(seed)
    logits = scale * (2.0 * torch.rand(mdp.n_strings, mdp.n_actions, generator=generator, dtype=torch.float64) - 1.0)
    return mdp, logits, as_flow(data_occupancy(mdp, random_strings(mdp, 3, seed, shortest=1, longest=2), GAMMA))


def by_differences(function, x: torch.Tensor, step: float) -> torch.Tensor:
    """The slow oracle: one central difference an entry, all of them as one batch; `function` keeps the batch axis."""
    shift = step * torch.eye(x.numel(), dtype=x.dtype).reshape(-1, *x.shape)
    return ((function(x + shift) - function(x - shift)) / (2.0 * step)).reshape(x.shape)


@settings(max_examples=80)
@given(
    st.integers(0, 10_000), st.sampled_from([1.0, 30.0, 250.0, 400.0, 700.0, 1000.0]), st.booleans(),
    st.sampled_from([*NAMES, "entropy"]),
)  # fmt: skip
def test_gradients_are_finite_and_right_wherever_the_value_is(
    seed: int, scale: float, backspace: bool, name: str
) -> None:
    mdp, logits, data = example(seed, scale, backspace)

    def value(x: torch.Tensor) -> torch.Tensor:
        rho = flow(mdp, torch.softmax(x, -1), GAMMA)
        return causal_entropy(rho) if name == "entropy" else occupancy_divergence(name)(rho, data)

    leaf = logits.clone().requires_grad_()
    found = value(leaf)
    assert not bool(found.isnan())
    if not bool(found.isfinite()):
        assert name in ("forward_kl", "reverse_kl", "chi2")  # the others are bounded
        return
    (gradient,) = torch.autograd.grad(found, leaf)
    assert bool(gradient.isfinite().all()), f"{name}: {gradient}"
    numerical = by_differences(value, logits, 1e-5)
    if bool(numerical.isfinite().all()) and (name != "tv" or scale == 1.0):  # total variation has kinks
        # rounding: eps / 1e-5 of a value; its third derivative times 1e-10 is smaller
        bound = 1e-9 * (1.0 + float(found.detach().abs()))
        torch.testing.assert_close(gradient, numerical, atol=bound, rtol=1e-6)


@given(st.sampled_from(NAMES), st.integers(0, 50), st.floats(-330.0, 0.0), st.booleans())
def test_divergences_of_tiny_masses(name: str, seed: int, exponent: float, whole: bool) -> None:
    """Entries down to the smallest float and 0, on and off the data."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    p = q.clone().index_fill_(-1, torch.tensor([1, 4]), 0.0)
    q[0, [0, 1] if whole else [0, 1, 2, 3]] *= 10.0**exponent  # 10^-330 is 0
    ordinary = q.clone()
    q = q.requires_grad_()

    def distance(x: torch.Tensor) -> torch.Tensor:
        return occupancy_divergence(name)(Flow(x[:, None, :5], x[:, 5:]), Flow(p[:, None, :5], p[:, 5:]))

    value = distance(q)
    assert not bool(value.isnan().any())
    (gradient,) = torch.autograd.grad(value.sum(), q)
    assert bool(gradient[value.isfinite()].isfinite().all())
    if name == "chi2_mixture":  # (q - p)^2 / (q + p) has the slope 1 - 4 p^2 / (p + q)^2, 1 without data
        expected = torch.where(p + ordinary > 0.0, 1.0 - 4.0 * (p / (p + ordinary)).square(), 1.0)
        torch.testing.assert_close(gradient, expected, atol=1e-12, rtol=0.0)


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_f_at_zero(name: str, dtype: torch.dtype) -> None:
    record, smallest = get(name), underflow(dtype)
    t = torch.tensor([0.0, smallest / 2.0**30, 4.0 * smallest, 0.3, 1.0, 7.0], dtype=dtype).requires_grad_()
    value = record.at(t)
    plain = t.detach()[2:].requires_grad_()
    assert torch.equal(value[2:], record.f(plain)), "above underflow nothing changes, not a bit"
    assert torch.equal(value[:2].detach(), record.f(torch.zeros(2, dtype=dtype)))
    (slope,) = torch.autograd.grad(value.sum(), t)
    assert torch.equal(slope[2:], torch.autograd.grad(record.f(plain).sum(), plain)[0])
    assert bool(slope.isfinite().all())
    if record.off_data < float("inf"):
        path = path_divergence(name, False)(t)
        (slope,) = torch.autograd.grad(path.sum(), t)
        assert bool(slope.isfinite().all()), "the closed form of one path has the same f"


def case() -> tuple[study.Problems, Flow, torch.Tensor]:
    task = study.problems(theory.PRESETS["quick"].network, [CASE["dataset"]])
    return task, task.data, torch.tensor([CASE["theta"]], dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_the_parameters_that_another_processor_found(name: str) -> None:
    task, data, theta = case()
    family = policy_class("mlp", task.mdp)

    def value(x: torch.Tensor) -> torch.Tensor:
        return occupancy_divergence(name)(flow(task.mdp, torch.softmax(family.logits(x)[0], -1), GAMMA), data)

    leaf = theta.clone().requires_grad_()
    found = value(leaf)
    if name == CASE["divergence"]:
        assert found.item() == pytest.approx(CASE["value"], abs=1e-12)
    if name in ("reverse_kl", "chi2"):
        assert found.item() == float("inf"), "mass off the data"
        return
    (gradient,) = torch.autograd.grad(found.sum(), leaf)
    assert bool(gradient.isfinite().all())
    if name != "tv":
        # logits of 250 move the value by far more than the parameters do: a short step, and its rounding
        numerical = by_differences(value, theta[0], 1e-6)
        torch.testing.assert_close(gradient[0], numerical, atol=1e-7, rtol=1e-5)


def test_a_search_from_there_goes_on() -> None:
    task, data, theta = case()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fit_direct(policy_class("mlp", task.mdp), task.mdp, data, "chi2_mixture", GAMMA, theta, max_iterations=20)
    assert bool(fit.finite.all())
    assert float(fit.value) < CASE["value"]
    assert float(fit.gradient) < float("inf")


def test_a_match_takes_no_step_to_what_is_no_number() -> None:
    mdp, _, data = example(0, 1.0, True)
    found = match(mdp, batch_of(data), "js", 0.001, GAMMA, max_iterations=300)
    for part in (found.q, found.reward, found.log_policy, found.residual):
        assert bool(part.isfinite().all())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_j_does_not_see_what_never_happens(name: str) -> None:
    """phi at a reward of -2000 off the data is -inf for the reverse KL; there the data's weight is 0."""
    mdp, logits, data = example(1, 1.0, True)
    off = (data.pairs.sum(-1) == 0.0) | (torch.arange(mdp.n_strings) > 2)
    wide = logits.clone()
    wide[off] += 2000.0
    wide = wide.requires_grad_()
    seen = Flow(torch.where(off[:, None], 0.0, data.pairs), torch.zeros_like(data.terminal))
    inner = sequencematch(
        mdp, wide, torch.full_like(data.terminal, -9e4), data=seen, model=seen, divergence=get(name), alpha=1.0,
        gamma=GAMMA, mixture=True,
    )  # fmt: skip
    assert bool(inner.phi_terminal.isfinite())
    if bool(inner.total.isfinite()):
        assert bool(torch.autograd.grad(inner.total, wide)[0].isfinite().all())


def half_infinite(x: torch.Tensor) -> torch.Tensor:
    """(x - 2)^2 above 1; below 0 no number, and between them a root, whose slope at 0 is infinite."""
    low = torch.where(x < 0.0, torch.nan, x.clamp(min=0.0).sqrt() - 9.0)
    return torch.where(x < 1.0, low, (x - 2.0).square()).sum(-1)


def test_minimise_drops_a_start_without_a_finite_gradient_and_says_so() -> None:
    start = torch.tensor([[0.0], [4.0], [-1.0], [5.0]], dtype=torch.float64)
    with pytest.warns(RuntimeWarning, match=r"2 of 4 starts are dropped.*: 0, 2 \(start 0 has the value -9\.0"):
        found = minimise(half_infinite, start)
    assert found.finite.tolist() == [False, True, False, True]
    torch.testing.assert_close(found.x[[1, 3]], torch.full((2, 1), 2.0, dtype=torch.float64), atol=1e-6, rtol=0.0)
    assert torch.equal(found.x[[0, 2]], start[[0, 2]])
    best = best_start(found, 2)  # data set 0 has the starts 0 and -1, data set 1 has 4 and 5
    assert best.finite.tolist() == [False, True]
    assert float(best.value[1]) == pytest.approx(0.0, abs=1e-10)
    best = best_start(Minimum(found.x, found.value, found.gradient, 1, found.finite), 1)
    assert bool(best.finite[0])
    assert float(best.value[0]) == pytest.approx(0.0, abs=1e-10), "-9 is lower and has no gradient"


def test_minimise_without_any_start_is_an_error() -> None:
    with pytest.raises(NoFiniteStartError, match=r"none of the 2 starts .*value nan.*smaller parameters"):
        minimise(half_infinite, torch.tensor([[-1.0], [-2.0]], dtype=torch.float64))


def test_a_search_among_lost_starts_ends() -> None:
    calls = []

    def counted(x: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return half_infinite(x)

    with pytest.warns(RuntimeWarning, match="1 of 2"):
        minimise(counted, torch.tensor([[-1.0], [4.0]], dtype=torch.float64), max_iterations=500)
    assert len(calls) < 60


def test_the_study_writes_none_and_counts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    preset = theory.PRESETS["smoke"].restricted
    found = study.fit_direct

    def lossy(*args: object, **options: object) -> Fit:
        fit = found(*args, **options)  # type: ignore[arg-type]
        lost = torch.tensor([True, False])
        return Fit(fit.theta, fit.policy, fit.value, torch.where(lost, torch.nan, fit.gradient), ~lost)

    monkeypatch.setattr(study, "fit_direct", lossy)
    result = study.study_family(preset, "position_last")
    critic = study.study_critic(preset)

    def nowhere(*args: object, **options: object) -> Fit:
        raise NoFiniteStartError("none of the 4 starts")

    monkeypatch.setattr(study, "fit_j", nowhere)
    lost = study.study_family(preset, "position_last")
    direct = next(row for row in result["rows"] if row["method"] == "direct chi2_mixture")  # type: ignore[attr-defined]
    assert [direct[key][0] for key in ("stay", "tv", "chi2_mixture", "gradient")] == [None] * 4
    assert all(direct[key][1] is not None for key in ("stay", "tv", "chi2_mixture", "gradient"))
    run = Run({"result": lost, "provenance": {}, "seeds": []}, Path("restricted-position_last.json"))
    rows = theory.restricted_rows({"restricted-position_last": run})
    by_method = {row["method"]: row for row in rows}
    assert by_method["direct chi2_mixture"]["missing"] == 1
    assert by_method["direct chi2_mixture"]["stay"] == direct["stay"][1]
    assert "missing" not in by_method["mle"]
    assert (
        by_method["J chi2_mixture"] | {"stay": None, "tv": None, "missing": 2, "solved": False}
        == (by_method["J chi2_mixture"])
    )
    assert theory.restricted_finding(rows)
    made = figures.restricted([lost])
    assert "no search for J found a fit" in " ".join(made.get_suptitle().split())
    axis = made.axes[0]
    assert "no fit" in [text.get_text() for text in axis.texts]
    figures.critics(critic)


def test_the_network_at_quick_has_a_number_for_every_fit() -> None:
    """What `smlib reproduce --preset quick --only theory` computes for the network, on four of its twenty data sets."""
    preset = theory.PRESETS["quick"].network
    result = study.study_family(preset, "mlp", [CASE["dataset"], 0, 5])
    assert json.dumps(result, allow_nan=False)
    for row in result["rows"]:  # type: ignore[attr-defined]
        assert None not in row["gradient"], row["method"]
    stay = {(row["method"], row["alpha"]): row["stay"] for row in result["rows"]}  # type: ignore[attr-defined]
    assert sum(stay["direct chi2_mixture", 0.0]) > sum(stay["mle", None])


def test_an_infinite_divergence_stays_infinite() -> None:
    mdp, _, data = example(2, 1.0, False)
    certain = torch.full((mdp.n_strings, mdp.n_actions), -2000.0, dtype=torch.float64)
    certain[:, 0] = 0.0
    rho = flow(mdp, torch.softmax(certain, -1), GAMMA)
    assert float(f_divergence(get("forward_kl"), rho, data)) == float("inf"), "the policy misses data"
    assert float(f_divergence(get("chi2"), rho, data)) == float("inf"), "and goes where there is none"

"""A small part of what is exact or optimised, as JSON: run by `test_processors` in processes of several kinds.

    python -m tests.support.processor_probe [network data set ...]

`exact` should agree to rounding, `optimised` as far as the searches' tolerance goes, `network` not at all.
"""

import json
import sys
from pathlib import Path

import torch

from smlib.paper.experiments.theory import identities as theory_identities
from smlib.paper.experiments.theory import occupancies as theory
from smlib.paper.experiments.theory.restricted import measure, problems, starts, study_family
from smlib.theory.chain import CHAIN_DIVERGENCES, Chain, data_outcomes, divergence
from smlib.theory.flow import flow
from smlib.theory.matching import match, occupancy_divergence
from smlib.theory.policies import policy_class
from smlib.theory.restricted import fit_direct, fit_mle

CLAIMS = {
    "an occupancy determines its policy",
    "r and Q are in bijection",
    "E_θ[TQ] + H = (1−γ)V(s₀)",
    "E_ρ[V(s) − γV(s′)] = (1−γ)V(s₀) for any ρ",
    "χ² in the reduced form",
    "χ² with the mixture in the reduced form",
    "forward KL of occupancies = γ-weighted MLE",
}
BOUNDED = ("chi2_mixture", "kl_to_mixture", "js", "hellinger")


def chain() -> dict[str, float]:
    """Figure 1's example, from the transition matrix."""
    outcomes = Chain(10, 0.1, 0.5).outcomes()
    found = {name: float(divergence(name, data_outcomes(10), outcomes)) for name in CHAIN_DIVERGENCES}
    return {name: value for name, value in found.items() if value < float("inf")}


def gradients() -> dict[str, object]:
    """Values and gradients at the parameters of `nan_gradient.json`, where probabilities underflow."""
    case = json.loads(Path(__file__).with_name("nan_gradient.json").read_text(encoding="utf-8"))
    task = problems(theory.PRESETS["quick"].network, [case["dataset"]])
    family, found = policy_class("mlp", task.mdp), {}
    for name in BOUNDED:
        theta = torch.tensor([case["theta"]], dtype=torch.float64, requires_grad=True)
        value = occupancy_divergence(name)(flow(task.mdp, torch.softmax(family.logits(theta)[0], -1), 0.9), task.data)
        (gradient,) = torch.autograd.grad(value.sum(), theta)
        found[name] = [value.item(), *gradient[0].tolist()]
    return found


def table() -> dict[str, object]:
    """Likelihood, a direct minimum and the unrestricted optimum for a policy of position and last token."""
    preset = theory.PRESETS["smoke"].restricted
    task = problems(preset)
    family = policy_class("position_last", task.mdp)
    mle = fit_mle(family, task.data, starts=1, max_iterations=300)
    begin = starts(family, mle, 1)
    options = {"max_iterations": 300, "tolerance": 1e-8}
    direct = fit_direct(family, task.mdp, task.data, "chi2_mixture", preset.gamma, begin, **options)  # type: ignore[arg-type]
    best = match(task.mdp, task.data, "kl_to_mixture", 0.1, preset.gamma, tolerance=1e-8)
    return {
        "mle": measure(task, mle, preset.gamma)["tv"],
        "direct": direct.value.tolist(),
        "match": best.value.tolist(),
    }


def probe(seeds: list[int]) -> dict[str, object]:
    """All parts; the network's only for the data sets asked for."""
    claims = {claim: [check(), bound] for claim, _, check, bound in theory_identities.CLAIMS if claim in CLAIMS}
    found: dict[str, object] = {
        "exact": {"chain": chain(), "gradients": gradients()},
        "claims": claims,
        "optimised": table(),
        "capability": torch.backends.cpu.get_cpu_capability(),
    }
    if seeds:
        found["network"] = study_family(theory.PRESETS["quick"].network, "mlp", seeds)["rows"]
    return found


if __name__ == "__main__":
    print(json.dumps(probe([int(seed) for seed in sys.argv[1:]]), allow_nan=False))

"""Where the methods differ (a): restricted policies. And (c): what a critic of its own changes.

Random data sets of weighted strings without `<bkspc>`; every fit is exact, nothing is sampled. The yardstick is the
probability that a generated string is one of the data's; beside it, the total variation between the two
distributions of finished strings, which a policy cannot lower by dropping modes.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from smlib.theory.critics import last_k, seen_divergence
from smlib.theory.datasets import data_occupancy, random_strings, support
from smlib.theory.flow import Flow, final_strings, flow
from smlib.theory.matching import occupancy_divergence
from smlib.theory.mdp import EditMDP
from smlib.theory.optimise import NoFiniteStartError
from smlib.theory.policies import PolicyClass, policy_class
from smlib.theory.restricted import Fit, fit_direct, fit_j, fit_mle

J_OBJECTIVES = {
    "chi2_mixture": ("chi2", True),
    "chi2": ("chi2", False),
    "js": ("js", False),
    "hellinger": ("hellinger", False),
    "forward_kl": ("forward_kl", False),
    "reverse_kl": ("reverse_kl", False),
}
"""J's variants: divergence record, mixture regulariser. Total variation has no smooth phi to search with."""


@dataclass(frozen=True)
class RestrictedPreset:
    """Sizes of study (a) and (c)."""

    tokens: int = 2
    max_len: int = 6
    strings: int = 5
    shortest: int = 2
    longest: int = 5
    gamma: float = 0.9
    datasets: int = 20
    families: tuple[str, ...] = ("position_last", "last_two", "position", "mlp")
    directs: tuple[str, ...] = ("forward_kl", "kl_to_mixture", "chi2_mixture", "js", "hellinger")
    objectives: tuple[str, ...] = tuple(J_OBJECTIVES)
    alphas: tuple[float, ...] = (0.01, 0.1, 1.0)
    critics: tuple[int, ...] = (1, 2, 3, 4, 6)
    critic_divergences: tuple[str, ...] = ("chi2_mixture", "js")
    starts: int = 2
    iterations: int = 150
    tolerance: float = 1e-6


@dataclass(frozen=True, eq=False)
class Problems:
    """A batch of data sets on one MDP: occupancies, which strings are data, distribution of finished strings [B, S]."""

    mdp: EditMDP
    data: Flow
    support: Tensor
    finished: Tensor


def problems(preset: RestrictedPreset, seeds: Sequence[int] | None = None) -> Problems:
    """Data sets 0..datasets-1, or those of the given seeds."""
    mdp = EditMDP(preset.tokens, preset.max_len, backspace=False)
    pairs, ends, masks, finished = [], [], [], []
    for seed in range(preset.datasets) if seeds is None else seeds:
        strings = random_strings(mdp, preset.strings, seed, shortest=preset.shortest, longest=preset.longest)
        rho = data_occupancy(mdp, strings, preset.gamma)
        pairs.append(torch.from_numpy(rho.pairs))
        ends.append(torch.from_numpy(rho.terminal))
        masks.append(torch.from_numpy(support(mdp, strings)))
        law = torch.zeros(mdp.n_strings, dtype=torch.float64)
        for string, weight in strings.items():
            law[mdp.index[string]] = weight
        finished.append(law)
    return Problems(mdp, Flow(torch.stack(pairs), torch.stack(ends)), torch.stack(masks), torch.stack(finished))


def measure(task: Problems, fit: Fit, gamma: float) -> dict[str, object]:
    """Lists over data sets: `stay`, `tv` of finished strings, the chi2-mixture divergence, the last gradient.

    None stands where no start could be searched from, and for a number that is not finite.
    """
    ends = final_strings(task.mdp, fit.policy)
    rho = flow(task.mdp, fit.policy, gamma)
    return {
        "stay": numbers((ends * task.support).sum(-1), fit.finite),
        "tv": numbers((ends - task.finished).abs().sum(-1) / 2.0, fit.finite),
        "chi2_mixture": numbers(occupancy_divergence("chi2_mixture")(rho, task.data), fit.finite),
        "gradient": numbers(fit.gradient, fit.finite),
    }


def numbers(values: Tensor, known: Tensor) -> list[float | None]:
    """The entries [B] as a result holds them: None where not `known` [B] or not finite."""
    kept = (known & values.isfinite()).tolist()
    return [value if keep else None for value, keep in zip(values.tolist(), kept, strict=True)]


def attempt(search: Callable[[], Fit], begin: Fit) -> Fit:
    """The fit that a search finds, or `begin` marked as no fit if not one data set has a start to search from."""
    try:
        return search()
    except NoFiniteStartError:
        return replace(begin, finite=torch.zeros_like(begin.finite))


def starts(family: PolicyClass, mle: Fit, count: int) -> Tensor:
    """MLE first, then Gaussian parameters of growing scale, in blocks of the batch."""
    batch = mle.theta.shape[0]
    return torch.cat([mle.theta, *(family.start(batch, 0.5 * i, i) for i in range(1, count))])


def _direct(
    family: PolicyClass,
    task: Problems,
    preset: RestrictedPreset,
    divergence: str,
    begin: Tensor,
    seen: Callable[[Flow], Flow] = lambda rho: rho,
) -> Fit:
    budget = {"max_iterations": preset.iterations, "tolerance": preset.tolerance}
    return fit_direct(family, task.mdp, task.data, divergence, preset.gamma, begin, seen=seen, **budget)  # type: ignore[arg-type]


def study_family(preset: RestrictedPreset, name: str, seeds: Sequence[int] | None = None) -> dict[str, object]:
    """MLE, direct minimisation of each divergence, and J for each phi and alpha, for one policy class.

    `seeds` chooses data sets, as in `problems`.
    """
    task = problems(preset, seeds)
    family = policy_class(name, task.mdp)
    options = {"max_iterations": preset.iterations, "tolerance": preset.tolerance}
    mle = fit_mle(family, task.data, starts=preset.starts, max_iterations=2 * preset.iterations)
    begin = starts(family, mle, preset.starts)
    rows: list[dict[str, object]] = [{"method": "mle", "alpha": None, **measure(task, mle, preset.gamma)}]
    for divergence in preset.directs:
        fit = attempt(functools.partial(_direct, family, task, preset, divergence, begin), mle)
        rows.append({"method": f"direct {divergence}", "alpha": 0.0, **measure(task, fit, preset.gamma)})
    for objective in preset.objectives:
        record, mixture = J_OBJECTIVES[objective]
        for alpha in preset.alphas:
            search = functools.partial(
                fit_j,
                family,
                task.mdp,
                task.data,
                record,
                preset.gamma,
                mle.theta,
                alpha=alpha,
                mixture=mixture,
                **options,  # type: ignore[arg-type]
            )
            fit = attempt(search, mle)
            rows.append({"method": f"J {objective}", "alpha": alpha, **measure(task, fit, preset.gamma)})
    return {"family": name, "title": family.title, "parameters": family.size, "rows": rows}


def study_critic(preset: RestrictedPreset, name: str = "position_last") -> dict[str, object]:
    """min over the policy, max over a critic that sees position and the last k tokens, for each k."""
    task = problems(preset)
    family = policy_class(name, task.mdp)
    mle = fit_mle(family, task.data, starts=preset.starts, max_iterations=2 * preset.iterations)
    begin = starts(family, mle, preset.starts)
    at_mle = flow(task.mdp, mle.policy, preset.gamma)
    rows: list[dict[str, object]] = [{"critic": 0, "divergence": "mle", **measure(task, mle, preset.gamma)}]
    for divergence in preset.critic_divergences:
        for k in preset.critics:
            buckets = last_k(task.mdp, k)
            fit = attempt(functools.partial(_direct, family, task, preset, divergence, begin, buckets.push), mle)
            rows.append(
                {
                    "critic": k,
                    "divergence": divergence,
                    "seen_at_mle": numbers(seen_divergence(divergence, buckets, at_mle, task.data), mle.finite),
                    "seen": numbers(fit.value, fit.finite),
                    **measure(task, fit, preset.gamma),
                }
            )
        fit = attempt(functools.partial(_direct, family, task, preset, divergence, begin), mle)
        rows.append({"critic": None, "divergence": divergence, **measure(task, fit, preset.gamma)})
    return {"family": name, "title": family.title, "rows": rows}

"""Where the methods differ (b): coming back after a mistake. Unrestricted policies, `<bkspc>`, execution noise; exact.

Three policies for each data set. BC clones the data, and is uniform where the data never goes. `SequenceMatch` is the
stationary point of eq. 4 with the mixture regulariser and rollouts under the noise (min 4 KL(data || M) - alpha H, see
`smlib.theory.objective`). `direct` minimises 2 chi^2(data || M) - alpha H. All are judged under the same noise.
`as_trained` is eq. 4 as it would be optimised: a sampled s', clean transitions in the data, noise in the rollouts, a
finite number of iterations from BC.
"""

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smlib.paper.experiments.theory.restricted import Problems, attempt, numbers
from smlib.theory.datasets import data_occupancy, prefix_mass, random_strings, support
from smlib.theory.flow import Flow, final_strings, values
from smlib.theory.matching import match, start_near
from smlib.theory.mdp import EditMDP
from smlib.theory.policies import full
from smlib.theory.restricted import Fit, fit_j

METHODS = {"bc": None, "sm": "kl_to_mixture", "direct": "chi2_mixture"}


@dataclass(frozen=True)
class RecoveryPreset:
    """A centre (epsilon, alpha, gamma) and the values of each that are tried around it."""

    tokens: int = 2
    max_len: int = 6
    strings: int = 5
    shortest: int = 2
    longest: int = 4
    datasets: int = 10
    epsilon: float = 0.1
    alpha: float = 0.1
    gamma: float = 0.9
    epsilons: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3)
    alphas: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0)
    gammas: tuple[float, ...] = (0.8, 0.9, 0.95)
    etas: tuple[float, ...] = (0.0, 0.1)
    depths: tuple[int, ...] = (1, 2, 3)
    iterations: int = 150
    trained_alphas: tuple[float, ...] = (0.01, 1.0)
    trained_iterations: int = 150
    tolerance: float = 1e-6


def problems(preset: RecoveryPreset, epsilon: float, gamma: float, eta: float) -> tuple[Problems, Tensor]:
    """The batch of data sets, and per data set and depth where a mistake of that depth leaves the model [B, D, S]."""
    mdp = EditMDP(preset.tokens, preset.max_len, noise=epsilon)
    pairs, ends, masks, laws, mistakes = [], [], [], [], []
    for seed in range(preset.datasets):
        strings = random_strings(mdp, preset.strings, seed, shortest=preset.shortest, longest=preset.longest)
        rho = data_occupancy(mdp, strings, gamma, eta)
        pairs.append(torch.from_numpy(rho.pairs))
        ends.append(torch.from_numpy(rho.terminal))
        masks.append(torch.from_numpy(support(mdp, strings)))
        laws.append(torch.zeros(mdp.n_strings, dtype=torch.float64))
        mistakes.append(_mistakes(mdp, prefix_mass(mdp, strings)[0], preset.depths))
    data = Flow(torch.stack(pairs), torch.stack(ends))
    return Problems(mdp, data, torch.stack(masks), torch.stack(laws)), torch.stack(mistakes)


def _mistakes(mdp: EditMDP, mass: np.ndarray, depths: tuple[int, ...]) -> Tensor:
    """Start distributions [D, S]: a data prefix, in proportion to how often the data passes it, and k tokens after it
    of which the first leaves the data and the others are anything. Prefixes without room for all depths are left out.
    """
    fits = mdp.depth + max(depths) <= mdp.max_len
    start = np.where(fits, mass, 0.0)
    law = np.zeros(mdp.n_strings)
    for state in np.flatnonzero(start):
        children = mdp.next_state[state, : mdp.tokens]
        wrong = children[mass[children] == 0.0]
        law[wrong] += start[state] / max(len(wrong), 1)
    found = {1: law}
    for k in range(2, max(depths) + 1):
        grown = np.zeros(mdp.n_strings)
        inner = np.flatnonzero(found[k - 1])
        np.add.at(grown, mdp.next_state[inner, : mdp.tokens], found[k - 1][inner, None] / mdp.tokens)
        found[k] = grown
    return torch.from_numpy(np.stack([found[k] / found[k].sum() for k in depths]))


def finish_probability(task: Problems, policy: Tensor) -> Tensor:
    """P(the final string is one of the data's | start in s) [B, S], under the MDP's noise."""
    reach = values(task.mdp, policy, torch.zeros_like(policy[..., 0]), task.support.to(policy.dtype), 1.0)
    return reach


def policies(preset: RecoveryPreset, task: Problems, alpha: float, gamma: float) -> dict[str, tuple[Tensor, Tensor]]:
    """Each method's policy [B, S, A] and how far from stationary it is [B]."""
    cloned = start_near(task.data, 1.0 - 1e-12).exp()
    made = {"bc": (cloned, torch.zeros_like(cloned[:, 0, 0]))}
    for method, divergence in METHODS.items():
        if divergence is not None:
            found = match(
                task.mdp,
                task.data,
                divergence,
                alpha,
                gamma,
                tolerance=preset.tolerance,
                max_iterations=preset.iterations,
            )
            made[method] = (found.policy, found.residual)
    return made


def by_depth(preset: RecoveryPreset, mistakes: Tensor, values: Tensor, known: Tensor) -> dict[str, list[float | None]]:
    """The mean of state values [B, S] after mistakes of each depth [B, D, S]; None where not `known` [B]."""
    return {str(k): numbers((mistakes[:, i] * values).sum(-1), known) for i, k in enumerate(preset.depths)}


def largest(values: Tensor) -> float | None:
    """The largest entry, None if one is not finite."""
    return float(values.max()) if bool(values.isfinite().all()) else None


def setting(preset: RecoveryPreset, epsilon: float, alpha: float, gamma: float, eta: float) -> list[dict[str, object]]:
    """One row a method: P(end in the data) from the start and after mistakes of each depth, lists over data sets."""
    task, mistakes = problems(preset, epsilon, gamma, eta)
    off = task.data.pairs.sum(-1) == 0.0
    rows = []
    for method, (policy, residual) in policies(preset, task, alpha, gamma).items():
        reach, known = finish_probability(task, policy), residual.isfinite()
        deleted = policy[..., task.mdp.bkspc]
        rows.append(
            {
                "method": method,
                "epsilon": epsilon,
                "alpha": alpha,
                "gamma": gamma,
                "eta": eta,
                "stay": numbers(reach[:, 0], known),
                "check": largest((final_strings(task.mdp, policy) * task.support).sum(-1).sub(reach[:, 0]).abs()),
                "after_mistake": by_depth(preset, mistakes, reach, known),
                "deletes": by_depth(preset, mistakes, deleted, known),
                "backspace_off_data": numbers((deleted * off).sum(-1) / off.sum(-1), known),
                "residual": largest(residual),
            }
        )
    return rows


def study(preset: RecoveryPreset) -> dict[str, object]:
    """All settings: the centre with one of epsilon, alpha, gamma changed at a time, with and without demonstrations."""
    centre = (preset.epsilon, preset.alpha, preset.gamma)
    grid = {(e, centre[1], centre[2]) for e in preset.epsilons}
    grid |= {(centre[0], a, centre[2]) for a in preset.alphas}
    grid |= {(centre[0], centre[1], g) for g in preset.gammas}
    rows = [row for point in sorted(grid) for eta in preset.etas for row in setting(preset, *point, eta)]
    trained = [row for eta in preset.etas for row in as_trained(preset, eta)]
    return {
        "centre": {"epsilon": centre[0], "alpha": centre[1], "gamma": centre[2]},
        "rows": rows,
        "as_trained": trained,
    }


def as_trained(preset: RecoveryPreset, eta: float) -> list[dict[str, object]]:
    """Eq. 4 with the mixture over unrestricted logits, rollouts held fixed and renewed, from BC, at the centre."""
    task, mistakes = problems(preset, preset.epsilon, preset.gamma, eta)
    family = full(task.mdp)
    logits = start_near(task.data, 0.99)
    begin = torch.cat([logits.flatten(-2), torch.zeros_like(logits[..., 0])], dim=-1)
    cloned = torch.softmax(logits, dim=-1)
    unsolved = torch.full_like(begin[:, 0], torch.inf)
    start = Fit(begin, cloned, unsolved, unsolved, unsolved > 0.0)
    rows = []
    for alpha in preset.trained_alphas:
        search = functools.partial(
            fit_j,
            family,
            task.mdp,
            task.data,
            "chi2",
            preset.gamma,
            begin,
            alpha=alpha,
            mixture=True,
            data_noise=eta,
            noise=preset.epsilon,
            rounds=10,
            max_iterations=preset.trained_iterations,
        )
        fit = attempt(search, start)
        reach = finish_probability(task, fit.policy)
        rows.append(
            {
                "method": "as_trained",
                "alpha": alpha,
                "eta": eta,
                "stay": numbers(reach[:, 0], fit.finite),
                "after_mistake": by_depth(preset, mistakes, reach, fit.finite),
                "gradient": largest(fit.gradient),
            }
        )
    return rows

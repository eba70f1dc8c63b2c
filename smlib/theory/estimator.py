"""The plug-in estimator of eq. 4, one trajectory at a time, exactly as printed; trajectories sampled or enumerated.

Slow and literal on purpose. `E[J^] (1 - gamma) = J` of `smlib.theory.objective` (App. C.6) where the dynamics are
deterministic, or phi is taken at the sampled next state.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smlib.objectives.divergences import Divergence
from smlib.theory.mdp import EditMDP

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Walk:
    """States s_0..s_N (the last one terminal), chosen actions a_0..a_{N-1}, and the walk's probability."""

    states: tuple[int, ...]
    labels: tuple[int, ...]
    probability: float


def enumerate_walks(mdp: EditMDP, policy: Array, *, noise: float | None = None, floor: float = 0.0) -> Iterator[Walk]:
    """Every walk from the root to a terminal state with probability above `floor`, depth first.

    With `<bkspc>` there are infinitely many; `floor` > 0 makes the enumeration finite, and the missing probability
    bounds the error of any bounded expectation.
    """
    execution = mdp.execution(noise)
    stack = [Walk((0,), (), 1.0)]
    while stack:
        walk = stack.pop()
        state = walk.states[-1]
        if state >= mdp.n_strings:
            yield walk
            continue
        for label in range(mdp.n_actions):
            for realised in np.flatnonzero(execution[label]):
                probability = walk.probability * policy[state, label] * execution[label, realised]
                if probability > floor:
                    after = int(mdp.next_state[state, realised])
                    stack.append(Walk((*walk.states, after), (*walk.labels, label), float(probability)))


def sample_walks(
    mdp: EditMDP, policy: Array, count: int, seed: int, *, noise: float | None = None, max_steps: int = 10_000
) -> list[Walk]:
    """`count` walks with their probability set to 1 / count.

    Raises:
        RuntimeError: a walk of more than `max_steps` actions.
    """
    rng = np.random.default_rng(seed)
    execution = mdp.execution(noise).cumsum(axis=1)
    chosen = policy.cumsum(axis=1)
    walks = []
    for _ in range(count):
        states, labels = [0], list[int]()
        while states[-1] < mdp.n_strings:
            if len(labels) >= max_steps:
                raise RuntimeError(f"no <eos> after {max_steps} actions")
            label = min(int(np.searchsorted(chosen[states[-1]], rng.random(), side="right")), mdp.n_actions - 1)
            realised = min(int(np.searchsorted(execution[label], rng.random(), side="right")), mdp.n_actions - 1)
            labels.append(label)
            states.append(int(mdp.next_state[states[-1], realised]))
        walks.append(Walk(tuple(states), tuple(labels), 1.0 / count))
    return walks


def _value(logits: Tensor, terminal: Tensor, state: int) -> Tensor:
    n = logits.shape[0]
    return torch.logsumexp(logits[state], dim=0) if state < n else terminal[state - n]


def data_part(
    walk: Walk, logits: Tensor, terminal: Tensor, divergence: Divergence, alpha: float, gamma: float
) -> Tensor:
    """The terms of eq. 4 that come from one data trajectory: phi, half of the values, and what completes them."""
    total = torch.zeros((), dtype=logits.dtype)
    end = len(walk.labels)
    for i, label in enumerate(walk.labels):
        here = _value(logits, terminal, walk.states[i])
        after = _value(logits, terminal, walk.states[i + 1])
        reward = logits[walk.states[i], label] - gamma * after
        total = total + gamma**i * (divergence.phi(alpha * reward) / alpha - (here - gamma * after) / 2.0)
    last = _value(logits, terminal, walk.states[-1])
    completed = divergence.phi(alpha * (1.0 - gamma) * last) / (alpha * (1.0 - gamma))
    return total + gamma**end * (completed - last / 2.0)


def model_part(
    walk: Walk, logits: Tensor, terminal: Tensor, alpha: float, gamma: float, *, mixture: bool = False
) -> Tensor:
    """The terms of eq. 4 that come from one rollout; its values telescope to -V(u_0)/2 whatever the rollout did."""
    total = torch.zeros((), dtype=logits.dtype)
    for i, label in enumerate(walk.labels):
        here = _value(logits, terminal, walk.states[i])
        after = _value(logits, terminal, walk.states[i + 1])
        total = total - gamma**i * (here - gamma * after) / 2.0
        if mixture:
            total = total - gamma**i * alpha / 4.0 * (logits[walk.states[i], label] - gamma * after).square()
    last = _value(logits, terminal, walk.states[-1])
    end = gamma ** len(walk.labels)
    total = total - end * last / 2.0
    if mixture:
        total = total - end / (1.0 - gamma) * alpha / 4.0 * ((1.0 - gamma) * last).square()
    return total

"""Occupancies, values and the soft Bellman operator on an explicit edit MDP, by sparse linear solves (Sec. 3.1-3.2).

An `Occupancy` has mass on (state, action) pairs of decision states and on the terminal states, which absorb:

    rho(s, a) = (1 - gamma) p(a|s) sum_t gamma^t P(s_t = s),     total mass 1.                                (eq. 1)

Values and rewards of decision pairs are [S, A]; a terminal state has one action, so its reward and value are [S] too.
This module is numpy and exact; `smlib.theory.flow` computes the same occupancies differentiably.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import linalg

from smlib.theory.mdp import EditMDP

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Occupancy:
    """Discounted visit frequencies: `pairs` [S, A] of decision states, `terminal` [S] of the terminal twins."""

    pairs: Array
    terminal: Array

    @property
    def mass(self) -> float:
        """Total mass, 1 for a normalised occupancy."""
        return float(self.pairs.sum() + self.terminal.sum())

    def flat(self) -> Array:
        """All entries [S A + S], pairs first."""
        return np.concatenate([self.pairs.ravel(), self.terminal])


def check_discount(gamma: float) -> None:
    """Raises ValueError unless 0 < gamma < 1."""
    if not 0.0 < gamma < 1.0:
        raise ValueError(f"gamma must lie in (0, 1), got {gamma}")


def _decision_block(mdp: EditMDP, policy: Array, noise: float | None) -> tuple[sparse.csr_array, sparse.csr_array]:
    transition = mdp.policy_transition(policy, noise)
    return transition[:, : mdp.n_strings], transition[:, mdp.n_strings :]


def _solve(matrix: sparse.csr_array, right: Array) -> Array:
    return np.asarray(linalg.spsolve(sparse.csc_array(matrix), right))


def occupancy(mdp: EditMDP, policy: Array, gamma: float, noise: float | None = None) -> Occupancy:
    """rho of a policy [S, A] by solving d = (1 - gamma) delta_root + gamma P_pi^T d (eq. 1)."""
    check_discount(gamma)
    inside, ends = _decision_block(mdp, policy, noise)
    start = np.zeros(mdp.n_strings)
    start[0] = 1.0 - gamma
    visits = _solve(sparse.eye_array(mdp.n_strings) - gamma * inside.T, start)
    terminal = gamma / (1.0 - gamma) * (ends.T @ visits)  # d_T = gamma inflow + gamma d_T
    return Occupancy(visits[:, None] * policy, np.asarray(terminal))


def policy_of(rho: Occupancy) -> Array:
    """p(a|s) = rho(s, a) / sum_a rho(s, a), nan at states that are never visited (Syed et al. 2008)."""
    with np.errstate(invalid="ignore"):
        return rho.pairs / rho.pairs.sum(axis=1, keepdims=True)


def flow_residual(mdp: EditMDP, rho: Occupancy, gamma: float, noise: float | None = None) -> float:
    """Largest violation of sum_a rho(s, a) = (1 - gamma) P_0(s) + gamma sum_{s', a'} P(s|s', a') rho(s', a')."""
    inflow = gamma * (mdp.transition(noise).T @ rho.pairs.ravel())
    inflow[0] += 1.0 - gamma
    decision, terminal = inflow[: mdp.n_strings], inflow[mdp.n_strings :] + gamma * rho.terminal
    return float(max(abs(decision - rho.pairs.sum(axis=1)).max(), abs(terminal - rho.terminal).max()))


def causal_entropy(rho: Occupancy) -> float:
    """H = -E_rho[log p(a|s)] (nats), with p recovered from rho; terminal states have one action and no entropy."""
    visits = rho.pairs.sum(axis=1, keepdims=True)
    ratio = np.divide(rho.pairs, visits, out=np.ones_like(rho.pairs), where=rho.pairs > 0.0)
    return float(-(rho.pairs * np.log(ratio)).sum())


def expected_next(mdp: EditMDP, values: Array, terminal: Array, noise: float | None = None) -> Array:
    """E_{s'~P(.|s,a)} V(s') as [S, A], from V on decision states [S] and terminal states [S]."""
    executed = np.concatenate([values, terminal])[mdp.next_state]  # V after each executed action
    return np.asarray(executed @ mdp.execution(noise).T)


def soft_value(q: Array, policy: Array) -> Array:
    """V^theta(s) = E_{a~p}[Q(s, a) - log p(a|s)] [S]; logsumexp Q when p is the softmax of Q."""
    log_policy = np.log(np.where(policy > 0.0, policy, 1.0))
    return np.asarray((policy * (q - log_policy)).sum(axis=1))


def inverse_bellman(
    mdp: EditMDP, q: Array, q_terminal: Array, policy: Array, gamma: float, noise: float | None = None
) -> tuple[Array, Array]:
    """T^theta Q = Q - gamma E_{s'} V^theta(s') (Sec. 3.2.1). Returns rewards [S, A] and [S]."""
    check_discount(gamma)
    after = expected_next(mdp, soft_value(q, policy), q_terminal, noise)
    return q - gamma * after, (1.0 - gamma) * q_terminal


def bellman_fixed_point(
    mdp: EditMDP, reward: Array, reward_terminal: Array, policy: Array, gamma: float, noise: float | None = None
) -> tuple[Array, Array]:
    """(T^theta)^-1 r: the unique Q with Q = r + gamma E_{s'} V^theta(s') (Thm C.1), by one sparse solve for V."""
    check_discount(gamma)
    q_terminal = reward_terminal / (1.0 - gamma)
    inside, ends = _decision_block(mdp, policy, noise)
    gain = soft_value(reward, policy) + gamma * (ends @ q_terminal)
    values = _solve(sparse.eye_array(mdp.n_strings) - gamma * inside, gain)
    return reward + gamma * expected_next(mdp, values, q_terminal, noise), q_terminal


def soft_optimal(
    mdp: EditMDP,
    reward: Array,
    reward_terminal: Array,
    gamma: float,
    *,
    noise: float | None = None,
    tolerance: float = 1e-13,
    max_iterations: int = 1000,
) -> tuple[Array, Array]:
    """Q* of max_pi E_rho[r] + H[rho]: soft policy iteration, each step an exact solve. Returns Q [S, A], [S].

    Raises:
        RuntimeError: no convergence, with the last change.
    """
    policy = np.full((mdp.n_strings, mdp.n_actions), 1.0 / mdp.n_actions)
    previous, change = np.full_like(policy, np.inf), np.inf
    for _ in range(max_iterations):
        q, q_terminal = bellman_fixed_point(mdp, reward, reward_terminal, policy, gamma, noise)
        change = float(abs(q - previous).max())
        if change <= tolerance * (1.0 + abs(q).max()):
            return q, q_terminal
        previous, policy = q, softmax(q)
    raise RuntimeError(f"soft policy iteration still moves by {change:.1e} after {max_iterations} steps")


def softmax(logits: Array) -> Array:
    """p(a|s) = exp l(a|s) / sum exp l, [S, A]."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))

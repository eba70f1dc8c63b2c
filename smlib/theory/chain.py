"""The toy model of Figure 1 and App. B: a chain that the data follows and the model leaves with probability epsilon.

The data always takes the n steps of the chain. At each node the model takes the right step with probability 1 - epsilon
and a wrong one, to a node that the data never visits, with probability epsilon. From there it deletes its mistake with
probability b and tries again, or is lost. A generation is therefore one of n + 1 outcomes: finished in distribution, or
lost at node k. With b = 0 this is the paper's example.

Everything is computed twice: in closed form from q = P(finish), and from the transition matrix.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from smlib.objectives.divergences import get

Array = NDArray[np.float64]

CHAIN_DIVERGENCES: dict[str, str] = {
    "forward_kl": "KL(P‖Q)",
    "reverse_kl": "KL(Q‖P)",
    "chi2": "E_P[(Q/P − 1)²]",
    "chi2_q": "E_Q[(P/Q − 1)²]",
    "chi2_mixture": "E_M[(P/M − 1)²]",
    "js": "2·JS(P, Q)",
    "hellinger": "Hellinger²(P, Q)",
    "tv": "TV(P, Q)",
}
"""The divergences of a chain: P the data, Q the model, M = (P + Q)/2. `chi2_q` is App. B.3, `chi2` is Sec. 2.1.1."""


@dataclass(frozen=True)
class Edge:
    """One arrow of Figure 1: kind is 'data', 'error', 'backspace' or 'lost'."""

    source: int
    target: int
    probability: float
    kind: str


@dataclass(frozen=True)
class Chain:
    """A chain of n steps with error rate epsilon and backspace probability b.

    Nodes: 0..n on the chain, n+1+k the wrong node next to node k (k = 0..n-1), 2n+1 lost.
    """

    n: int
    epsilon: float
    backspace: float = 0.0

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"a chain needs at least one step, got n={self.n}")
        if not 0.0 <= self.epsilon < 1.0:
            raise ValueError(f"epsilon must lie in [0, 1), got {self.epsilon}")
        if not 0.0 <= self.backspace <= 1.0:
            raise ValueError(f"the backspace probability must lie in [0, 1], got {self.backspace}")

    @property
    def n_nodes(self) -> int:
        """n + 1 nodes on the chain, n wrong ones, and the lost one."""
        return 2 * self.n + 2

    def wrong(self, k: int) -> int:
        """The node that an error at node k leads to."""
        return self.n + 1 + k

    @property
    def lost(self) -> int:
        """The node of generations that never come back."""
        return 2 * self.n + 1

    def transition(self) -> Array:
        """Row-stochastic matrix [nodes, nodes] of the model; the end of the chain and the lost node absorb."""
        matrix = np.zeros((self.n_nodes, self.n_nodes))
        for k in range(self.n):
            matrix[k, k + 1] = 1.0 - self.epsilon
            matrix[k, self.wrong(k)] = self.epsilon
            matrix[self.wrong(k), k] = self.backspace
            matrix[self.wrong(k), self.lost] = 1.0 - self.backspace
        matrix[self.n, self.n] = matrix[self.lost, self.lost] = 1.0
        return matrix

    def edges(self) -> list[Edge]:
        """The arrows with positive probability, read off the transition matrix (self-loops left out)."""
        found = []
        for source, target in np.argwhere(self.transition() > 0.0):
            if source != target:
                probability = float(self.transition()[source, target])
                found.append(Edge(int(source), int(target), probability, self._kind(int(source), int(target))))
        return found

    def _kind(self, source: int, target: int) -> str:
        if target == self.lost:
            return "lost"
        if source <= self.n:
            return "data" if target <= self.n else "error"
        return "backspace"

    def finish(self) -> float:
        """q: probability of finishing in distribution, ((1 - eps) / (1 - eps b))^n; (1 - eps)^n without backspace.

        One step succeeds at once (1 - eps), or fails, is deleted and starts again (eps b): a geometric series.
        """
        return ((1.0 - self.epsilon) / (1.0 - self.epsilon * self.backspace)) ** self.n

    def outcomes(self) -> Array:
        """Distribution [n + 1] of outcomes from the transition matrix: lost at node 0..n-1, then finished.

        Absorption probabilities: the row of the start node in (I - T)^-1 R, T among the transient nodes.
        """
        matrix = self.transition()
        transient = [*range(self.n), *range(self.n + 1, 2 * self.n + 1)]
        system = np.eye(2 * self.n) - matrix[np.ix_(transient, transient)]
        visits = np.linalg.solve(system.T, np.eye(2 * self.n)[0])  # expected visits of each transient node
        lost_at = visits[self.n :] * matrix[transient[self.n :], self.lost]
        finished = visits[self.n - 1] * matrix[self.n - 1, self.n]
        return np.append(lost_at, finished)

    def simulate(self, samples: int, seed: int) -> Array:
        """Empirical distribution [n + 1] of outcomes of `samples` walks along the transition matrix."""
        rng = np.random.default_rng(seed)
        cumulative = np.cumsum(self.transition(), axis=1)
        node = np.zeros(samples, dtype=np.int64)
        previous = node.copy()
        active = np.ones(samples, dtype=bool)
        while active.any():
            draws = rng.random(int(active.sum()))
            previous[active] = node[active]
            node[active] = (draws[:, None] > cumulative[node[active]]).sum(axis=1)
            active = (node != self.n) & (node != self.lost)
        outcome = np.where(node == self.n, self.n, previous - (self.n + 1))
        return np.bincount(outcome, minlength=self.n + 1) / samples


def data_outcomes(n: int) -> Array:
    """P [n + 1]: the data always finishes."""
    return np.append(np.zeros(n), 1.0)


def divergence(name: str, p: Array, q: Array) -> float:
    """The divergence `name` of `CHAIN_DIVERGENCES` between two outcome distributions [K], summed term by term, in nats.

    Raises:
        KeyError: unknown name, listing the known ones.
    """
    _known(name)
    if name == "chi2_q":
        return f_divergence("chi2", q, p)
    if name == "chi2_mixture":
        return f_divergence("chi2", (p + q) / 2.0, p)
    return f_divergence(name, p, q)


def f_divergence(name: str, p: Array, q: Array) -> float:
    """sum_x p f(q / p), with f'(inf) per unit of q where p = 0 and f(0) where q = 0 < p."""
    record = get(name)
    support = p > 0.0
    ratio = torch.from_numpy(q[support] / p[support])
    inside = float((torch.from_numpy(p[support]) * record.f(ratio)).sum())
    outside = float(q[~support].sum())
    return inside + (record.off_data * outside if outside > 0.0 else 0.0)


def closed_form(name: str, q: float) -> float:
    """The same divergence when P is a point mass to which the model gives probability q: the algebra of App. B.

    Raises:
        KeyError: unknown name, listing the known ones.
    """
    _known(name)
    lost = 1.0 - q
    if name == "forward_kl":
        return -math.log(q)
    if name in ("reverse_kl", "chi2"):
        return math.inf if lost > 0.0 else 0.0
    if name == "chi2_q":
        return lost / q
    if name == "chi2_mixture":
        return lost / (1.0 + q)
    if name == "js":
        return q * math.log(2.0 * q / (1.0 + q)) + math.log(2.0 / (1.0 + q)) + lost * math.log(2.0)
    if name == "hellinger":
        return 2.0 - 2.0 * math.sqrt(q)
    return lost  # total variation, the last of the known names


def _known(name: str) -> None:
    if name not in CHAIN_DIVERGENCES:
        raise KeyError(f"unknown divergence {name!r} of a chain; known: {', '.join(CHAIN_DIVERGENCES)}")

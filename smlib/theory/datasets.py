"""Data occupancies: weighted strings, and the demonstrations of `<bkspc>` that Sec. 4.2 adds to them."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from smlib.theory.mdp import EditMDP
from smlib.theory.occupancy import Occupancy, check_discount

Array = NDArray[np.float64]
Strings = Mapping[tuple[int, ...], float]


def random_strings(mdp: EditMDP, count: int, seed: int, *, shortest: int, longest: int) -> dict[tuple[int, ...], float]:
    """`count` different strings of the given lengths with Dirichlet(1) weights.

    Raises:
        ValueError: the MDP has fewer such strings, or none shorter than its limit.
    """
    if longest > mdp.max_len:
        raise ValueError(f"longest={longest} exceeds the MDP's max_len={mdp.max_len}")
    pool = [string for string in mdp.strings if shortest <= len(string) <= longest]
    if len(pool) < count:
        raise ValueError(f"only {len(pool)} strings of length {shortest}..{longest}, asked for {count}")
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(pool), size=count, replace=False)
    return dict(zip((pool[i] for i in chosen), rng.dirichlet(np.ones(count)).tolist(), strict=True))


def support(mdp: EditMDP, strings: Strings) -> NDArray[np.bool_]:
    """Which states are data strings, bool [S]."""
    mask = np.zeros(mdp.n_strings, dtype=bool)
    mask[[mdp.index[string] for string in strings]] = True
    return mask


def prefix_mass(mdp: EditMDP, strings: Strings) -> tuple[Array, Array]:
    """P(a data string starts with s) [S], and P(next token or `<eos>` = a, starts with s) [S, A]."""
    total = sum(strings.values())
    mass, joint = np.zeros(mdp.n_strings), np.zeros((mdp.n_strings, mdp.n_actions))
    for string, weight in strings.items():
        for i in range(len(string) + 1):
            state = mdp.index[string[:i]]
            mass[state] += weight / total
            joint[state, string[i] if i < len(string) else mdp.eos] += weight / total
    return mass, joint


def data_occupancy(mdp: EditMDP, strings: Strings, gamma: float, eta: float = 0.0) -> Occupancy:
    """rho_data of strings written by an expert whose insertions are replaced with probability eta (Sec. 4.2).

    The label stays what the expert chose; after a replacement, by a token of the MDP's noise law and possibly the right
    one, the expert's next action is `<bkspc>`, and the insertion is tried again under the same noise. From a prefix
    visited n times in discount, a share eta n of the insertions costs two steps: n (1 - gamma^2 eta) = arrivals.

    Raises:
        ValueError: eta > 0 without `<bkspc>` in the MDP, or with a data string at the length limit, where a
            replacement cannot be executed.
    """
    check_discount(gamma)
    if not 0.0 <= eta < 1.0:
        raise ValueError(f"eta must lie in [0, 1), got {eta}")
    longest = max(len(string) for string in strings)
    if eta > 0.0 and longest >= mdp.max_len:
        raise ValueError(f"noise needs room: longest data string {longest}, max_len {mdp.max_len}")
    law = np.full(mdp.tokens, 1.0 / mdp.tokens) if mdp.noise_law is None else np.asarray(mdp.noise_law)
    mass, joint = prefix_mass(mdp, strings)
    decay = gamma * (1.0 - eta) / (1.0 - gamma**2 * eta)  # discount per accepted insertion
    visits = (1.0 - gamma) * decay**mdp.depth / (1.0 - gamma**2 * eta)
    pairs = visits[:, None] * joint
    if eta > 0.0:
        wrong = gamma * eta * (visits * mass)[:, None] * law  # arrivals at s + d, left by <bkspc>
        inner = mdp.depth < mdp.max_len
        np.add.at(pairs[:, mdp.bkspc], mdp.next_state[inner, : mdp.tokens], wrong[inner])
    terminal = gamma * (1.0 - eta) / (1.0 - gamma) * visits * joint[:, mdp.eos]
    return Occupancy(pairs, terminal)

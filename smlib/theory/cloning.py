"""What cloning demonstrations of `<bkspc>` does to the tokens that survive.

With noise of rate eta and token law u (repeats allowed, Sec. 4.2), the state s+d is visited because the expert chose d,
in proportion p(d|s), or because noise put it there, in proportion eta u(d). The behaviour-cloning optimum therefore has

    beta(d|s) = P(<bkspc> | s+d) = eta u(d) / (eta u(d) + p(d|s)),

and sampling with it rejects d with that probability and draws again from the same p(.|s), remembering nothing:

    p_eff(d|s) ∝ p(d|s) (1 - beta(d|s)) = p(d|s)^2 / (p(d|s) + eta u(d)).

A soft truncation of tokens with p < eta u(d): noise over b digits cuts at a few per cent, noise over 32,000 tokens
nowhere. `<eos>` cannot be deleted and keeps its p. Exactly, d may also be deleted later, after its children were: with
w(s) the chance that s is ever left upwards, p_eff(d|s) ∝ p(d|s) (1 - w(s+d)), the first-order formula with w for beta.
"""

import numpy as np
from numpy.typing import NDArray

from smlib.theory.mdp import EditMDP

Array = NDArray[np.float64]


def rejection(p: Array, law: Array, eta: float) -> Array:
    """beta = eta u / (eta u + p), elementwise; 0 where both vanish."""
    noise = eta * np.broadcast_to(law, np.shape(p))
    return np.divide(noise, noise + p, out=np.zeros(np.shape(p)), where=(noise + p) > 0.0)


def effective(p: Array, law: Array, eta: float) -> Array:
    """p_eff of token probabilities p [..., k], renormalised over the last axis."""
    kept = p * (1.0 - rejection(p, law, eta))
    return np.asarray(kept / kept.sum(axis=-1, keepdims=True))


def cloned_policy(mdp: EditMDP, model: Array, law: Array, eta: float) -> Array:
    """The cloned policy [S, A] over a model of the clean data [S, k + 1] (tokens, then `<eos>`).

    In s+d it deletes with beta(d|s), else acts as the model does. The root cannot be deleted.
    """
    beta = np.zeros(mdp.n_strings)
    inner = mdp.depth < mdp.max_len
    children = mdp.next_state[inner, : mdp.tokens]
    beta[children] = rejection(model[inner, : mdp.tokens], law, eta)
    return np.concatenate([(1.0 - beta)[:, None] * model, beta[:, None]], axis=1)


def deletion_chance(mdp: EditMDP, policy: Array) -> Array:
    """w(s): probability that a policy [S, A] in s ever steps up to the parent; 0 at the root. From the leaves up,

    w(s) = p(<bkspc>|s) / (1 - sum_c p(c|s) w(sc)).
    """
    w = np.zeros(mdp.n_strings)
    for level in reversed(mdp.levels[1:]):
        returned = np.zeros(level.stop - level.start)
        if level.stop < mdp.n_strings:
            children = mdp.next_state[level, : mdp.tokens]
            returned = (policy[level, : mdp.tokens] * w[children]).sum(axis=1)
        w[level] = policy[level, mdp.bkspc] / (1.0 - returned)
    return w


def survivors(mdp: EditMDP, policy: Array) -> Array:
    """The exact p_eff(d|s) [S, k + 1], tokens then `<eos>`: which child of s the final string continues with."""
    w = deletion_chance(mdp, policy)
    stays = np.ones((mdp.n_strings, mdp.tokens + 1))
    inner = mdp.depth < mdp.max_len
    stays[inner, : mdp.tokens] = 1.0 - w[mdp.next_state[inner, : mdp.tokens]]
    kept = policy[:, : mdp.tokens + 1] * stays
    total = kept.sum(axis=1, keepdims=True)
    return np.divide(kept, total, out=np.zeros_like(kept), where=total > 0.0)


def string_probabilities(mdp: EditMDP, conditionals: Array) -> Array:
    """P(final string = s) [S] of append-only conditionals [S, k + 1]; at the length limit everything ends."""
    reach = np.ones(mdp.n_strings)
    for level in mdp.levels[:-1]:
        reach[mdp.next_state[level, : mdp.tokens]] = reach[level, None] * conditionals[level, : mdp.tokens]
    ending = conditionals[:, mdp.eos].copy()
    ending[mdp.levels[-1]] = 1.0
    return np.asarray(reach * ending)


def truncate(p: Array, *, top_p: float = 1.0, min_p: float = 0.0, greedy: bool = False) -> Array:
    """Decoding rules on probabilities [..., k]: nucleus, min-p (a share of the largest), or the argmax alone."""
    order = np.argsort(-p, axis=-1, kind="stable")
    ranked = np.take_along_axis(p, order, axis=-1)
    before = np.cumsum(ranked, axis=-1) - ranked
    keep_ranked = (before < top_p) & (ranked >= min_p * ranked[..., :1])
    if greedy:
        keep_ranked[..., 1:] = False
    keep = np.empty_like(keep_ranked)
    np.put_along_axis(keep, order, keep_ranked, axis=-1)
    kept = np.where(keep, p, 0.0)
    return np.asarray(kept / kept.sum(axis=-1, keepdims=True))


def simulate(mdp: EditMDP, policy: Array, samples: int, seed: int) -> Array:
    """Empirical distribution [S] of final strings over `samples` generations without execution noise."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(policy, axis=1)
    cumulative[:, -1] = 1.0
    state = np.zeros(samples, dtype=np.int64)
    active = np.arange(samples)
    while active.size:
        here = state[active]
        action = (rng.random(active.size)[:, None] > cumulative[here]).sum(axis=1)
        state[active] = mdp.next_state[here, action]
        active = active[state[active] < mdp.n_strings]
    return np.bincount(state - mdp.n_strings, minlength=mdp.n_strings) / samples

"""Slow sampling without a cache, a batch or vectorised filters: what `smlib.generation.sampling` must agree with."""

import numpy as np
import torch

from smlib.edits.actions import ActionSpace, Trajectory, step


def slow_distribution(logits, config, space, forbidden=(), law=None):
    """Probabilities of the actions, one filter after another, on plain lists."""
    scores = [float(x) for x in logits]
    for action in forbidden:
        scores[action] = -np.inf
    if not config.allow_backspace:
        scores[space.bkspc] = -np.inf
    top = max(scores)
    p = np.array([np.exp((x - top) / config.temperature) for x in scores])
    p /= p.sum()
    if config.truncation_eta > 0:
        u = np.zeros(space.n_actions)
        for token, weight in zip(law.tokens, law.probs, strict=True):
            u[token] += weight / np.sum(law.probs)
        # Drawing until nothing is deleted: accept d with probability 1 - P(<bkspc> | s + d).
        accept = np.array([1 - config.truncation_eta * u[d] / (config.truncation_eta * u[d] + p[d]) if p[d] else 0
                           for d in range(space.n_actions)])  # fmt: skip
        p = p * accept / (p * accept).sum()
    ranked = sorted(range(len(p)), key=lambda a: (-p[a], a))
    if config.top_k:
        kth = p[ranked[min(config.top_k, len(p)) - 1]]
        p = np.where(p >= kth, p, 0)
        p /= p.sum()
    if config.top_p < 1:
        mass, kept = 0.0, []
        for a in ranked:
            if mass < config.top_p:
                kept.append(a)
            mass += p[a]
        p = np.array([p[a] if a in kept else 0 for a in range(len(p))])
    if config.min_p:
        p = np.where(p >= config.min_p * p.max(), p, 0)
    return p / p.sum()


def inverse_cdf(p, uniform):
    mass, target = 0.0, uniform * sum(p)
    for a, weight in enumerate(p):
        mass += weight
        if weight > 0 and mass > target:
            return a
    return int(np.flatnonzero(p)[-1])


def state_logits(policy, state):
    """Logits after a whole forward pass over the state, no cache; float64 `[n_actions]`."""
    n = len(state)
    tokens = torch.tensor([state])
    mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
    hidden = policy.hidden(tokens, torch.arange(n)[None], mask)[0, -1:]
    return policy.logits(hidden, torch.tensor([n - 1]))[0].double().numpy()


@torch.no_grad()
def slow_sample(policy, prompt, config, seed, law=None, prefix=()) -> Trajectory:
    """One trajectory, every state recomputed from scratch."""
    space: ActionSpace = policy.space
    uniforms = np.random.Generator(np.random.Philox(key=seed)).random(config.action_limit)
    key = np.array([seed, 1], dtype=np.uint64)
    noise_uniforms = np.random.Generator(np.random.Philox(key=key)).random((config.action_limit, 2))
    prefix = [int(t) for t in prefix]
    state, root, burst = (*(int(t) for t in prompt), *prefix), len(prompt), 0
    deleted: dict[tuple, set] = {}  # by state; forgotten with the state
    labels, realised = list(prefix), list(prefix)
    for t in range(config.action_limit):
        forbidden = deleted.get(state, set()) if config.exclude_deleted else ()
        p = slow_distribution(state_logits(policy, state), config, space, forbidden, law)
        chosen = int(np.argmax(p)) if config.greedy else inverse_cdf(p, uniforms[t])
        executed = chosen
        if config.execution_noise > 0:
            if burst == 0 and chosen != space.bkspc and noise_uniforms[t, 0] < config.execution_noise:
                burst = config.noise_burst
            if burst > 0:
                burst -= 1
                executed = int(law.tokens[inverse_cdf(law.probs, noise_uniforms[t, 1])])
        if (len(state) - root == config.max_new_tokens and executed != space.bkspc) or t == config.action_limit - 1:
            executed = space.eos
        labels.append(chosen)
        realised.append(executed)
        if executed == space.eos:
            break
        after = step(state, executed, space, root)
        if executed == space.bkspc:
            deleted.setdefault(after, set()).add(space.bkspc if after == state else state[-1])
            if after != state:
                deleted.pop(state, None)
        state = after
    return Trajectory.make(prompt, labels, realised, space=space)

"""Occupancy matching as reinforcement learning with a verifiable reward, exact on the tabular MDP.

The theorem and its proof are in `smlib.objectives.exact`; here are its two sides. The reference is one string, of N
actions with `<eos>` the last. Left, D(rho_theta, rho_ref) by the linear solve; right, the expectation of a reward that
is read off a finished answer, by enumeration, and the policy gradient that the exact critic's reward gives.
"""

import torch
from torch import Tensor

from smlib.objectives.exact import exact_rewards
from smlib.theory.datasets import data_occupancy
from smlib.theory.estimator import Walk
from smlib.theory.flow import Flow, as_flow, flow, values
from smlib.theory.mdp import EditMDP


def path_flow(mdp: EditMDP, string: tuple[int, ...], gamma: float) -> Flow:
    """rho_ref of writing one string, which is shorter than the limit: there a token would be executed as `<eos>`.

    Raises:
        ValueError: a string at the MDP's length limit.
    """
    if len(string) >= mdp.max_len:
        raise ValueError(f"the reference has {len(string)} tokens, and its limit {mdp.max_len} must be beyond it")
    return as_flow(data_occupancy(mdp, {string: 1.0}, gamma))


def on_path(rho: Flow, reference: Flow) -> Tensor:
    """rho_theta(path), the discounted share of the steps on the reference."""
    return rho.flat()[reference.flat() > 0.0].sum()


def verifiable_reward(mdp: EditMDP, walk: Walk, string: tuple[int, ...], gamma: float) -> float:
    """R of the theorem: 1 where all actions are right, else 1 - gamma^K with K of them right before the first wrong."""
    right = (*string, mdp.eos)
    k = next((i for i, (a, b) in enumerate(zip(walk.labels, right, strict=False)) if a != b), len(right))
    return 1.0 if k == len(right) else 1.0 - gamma**k


def critic_reward(rho: Flow, reference: Flow, divergence: str, mixture: bool) -> Flow:
    """r = -dD/drho_theta: -f'(t) on the path and -f'(inf) off it, with t the exact ratio of the occupancies."""
    reward, off = exact_rewards(divergence, mixture)

    def of(q: Tensor, p: Tensor) -> Tensor:
        on = p > 0.0
        return torch.where(on, reward(q / torch.where(on, p, torch.ones_like(p))), off)

    return Flow(of(rho.pairs, reference.pairs), of(rho.terminal, reference.terminal)).detach()


def policy_gradient(mdp: EditMDP, logits: Tensor, reward: Flow, gamma: float, noise: float | None = None) -> Tensor:
    """Expected policy-gradient estimator [S, A] of E_theta[r] over occupancies, for unrestricted logits [S, A]:

    sum_a rho(s) p(a|s) (Q(s, a) - V(s)), by the linear solve. No baseline changes it.
    """
    policy = torch.softmax(logits, dim=-1)
    rho = flow(mdp, policy, gamma, noise)
    ends = reward.terminal / (1.0 - gamma)
    v = values(mdp, policy, (policy * reward.pairs).sum(-1), ends, gamma, noise)
    after = torch.cat([v, ends])[torch.from_numpy(mdp.next_state)]
    q = reward.pairs + gamma * after @ torch.from_numpy(mdp.execution(noise)).T
    return rho.pairs * (q - v[:, None])


def enumerated_gradient(logits: Tensor, walks: list[Walk], reward: Flow, gamma: float) -> Tensor:
    """The same, one walk after another: the expectation of (1 - gamma) sum_i gamma^i G_i d log p(a_i|s_i).

    Args:
        walks: all of them, with their probabilities.
    """
    policy, n = torch.softmax(logits, dim=-1), logits.shape[0]
    found = torch.zeros_like(logits)
    for walk in walks:
        to_go = reward.terminal[walk.states[-1] - n] / (1.0 - gamma)
        for i in reversed(range(len(walk.labels))):
            state, label = walk.states[i], walk.labels[i]
            to_go = reward.pairs[state, label] + gamma * to_go
            score = -policy[state]
            score[label] = score[label] + 1.0
            found[state] += walk.probability * (1.0 - gamma) * gamma**i * to_go * score
    return found

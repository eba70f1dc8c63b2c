"""Slow references for the theory: sums over time and over walks instead of linear solves, loops instead of tensors."""

import itertools

import numpy as np
import torch

from smlib.edits.actions import ActionSpace, Trajectory, step
from smlib.edits.packing import pack
from smlib.objectives.losses import VisitValues, visit_values
from smlib.theory.estimator import Walk
from smlib.theory.flow import Flow
from smlib.theory.mdp import EditMDP

PROMPT = (0,)
"""The root of the edit MDP as `smlib.edits.actions` sees it: a prompt of one token, which no edit reaches."""


def space_of(mdp: EditMDP) -> ActionSpace:
    """The same action ids: tokens, `<eos>`, `<bkspc>`."""
    return ActionSpace(vocab_size=mdp.tokens + 1, eos=mdp.eos)


def successor(mdp: EditMDP, state: int, action: int) -> int:
    """`smlib.edits.actions.step`, with a token at the length limit executed as `<eos>`."""
    space = space_of(mdp)
    string = (*PROMPT, *mdp.strings[state])
    if action < mdp.tokens and len(mdp.strings[state]) == mdp.max_len:
        action = mdp.eos
    after = step(string, action, space, len(PROMPT))[len(PROMPT) :]
    if after and after[-1] == mdp.eos:
        return mdp.index[after[:-1]] + mdp.n_strings
    return mdp.index[after]


def occupancy_by_time(mdp: EditMDP, policy: np.ndarray, gamma: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """(1 - gamma) sum_{t < steps} gamma^t P(s_t), term by term, with loops over states, actions and executions."""
    execution = mdp.execution()
    law, terminal = np.zeros(mdp.n_strings), np.zeros(mdp.n_strings)
    law[0] = 1.0
    pairs, ends = np.zeros_like(policy), np.zeros(mdp.n_strings)
    for t in range(steps):
        weight = (1.0 - gamma) * gamma**t
        pairs += weight * law[:, None] * policy
        ends += weight * terminal
        after = np.zeros(mdp.n_strings)
        for s, a, b in itertools.product(range(mdp.n_strings), range(mdp.n_actions), range(mdp.n_actions)):
            mass = law[s] * policy[s, a] * execution[a, b]
            if mass > 0.0:
                target = successor(mdp, s, b)
                if target < mdp.n_strings:
                    after[target] += mass
                else:
                    terminal[target - mdp.n_strings] += mass
        law = after
    return pairs, ends


def occupancy_of_walks(mdp: EditMDP, walks: list[Walk], gamma: float) -> Flow:
    """rho of a weighted list of walks: visits of chosen actions, and the infinite stay in the terminal state."""
    pairs = torch.zeros(mdp.n_strings, mdp.n_actions, dtype=torch.float64)
    ends = torch.zeros(mdp.n_strings, dtype=torch.float64)
    total = sum(walk.probability for walk in walks)
    for walk in walks:
        weight = walk.probability / total
        for i, label in enumerate(walk.labels):
            pairs[walk.states[i], label] += weight * (1.0 - gamma) * gamma**i
        ends[walk.states[-1] - mdp.n_strings] += weight * gamma ** len(walk.labels)
    return Flow(pairs, ends)


def realised_actions(mdp: EditMDP, walk: Walk) -> list[int]:
    """What was executed, read off the states."""
    actions = []
    for before, after in itertools.pairwise(walk.states):
        if after >= mdp.n_strings:
            actions.append(mdp.eos)
        elif mdp.depth[after] > mdp.depth[before]:
            actions.append(mdp.strings[after][-1])
        else:
            actions.append(mdp.bkspc)
    return actions


def trajectory_of(mdp: EditMDP, walk: Walk) -> Trajectory:
    """The walk as the neural code sees it."""
    return Trajectory.make(PROMPT, list(walk.labels), realised_actions(mdp, walk), space=space_of(mdp))


def neural_visits(
    mdp: EditMDP, data: list[Trajectory], rollouts: list[Trajectory], logits: torch.Tensor, terminal: torch.Tensor
) -> VisitValues:
    """Packs the trajectories, reads each needed state off its mask, and looks the tabular logits up there."""
    space = space_of(mdp)
    groups = [[trajectory] for trajectory in (*data, *rollouts)]
    batch = pack(groups, space, model=[[False]] * len(data) + [[True]] * len(rollouts))
    length, mask = batch.tokens.shape[1], batch.mask()
    values, rows = [], []
    for slot in batch.slots.tolist():
        row, column = divmod(slot, length)
        visible = mask[row, 0, column]
        string = tuple(batch.tokens[row][visible].tolist())[len(PROMPT) :]
        if string and string[-1] == mdp.eos:
            values.append(terminal[mdp.index[string[:-1]]])
            rows.append(torch.full((mdp.n_actions,), torch.nan, dtype=torch.float64))
        else:
            rows.append(logits[mdp.index[string]])
            values.append(torch.logsumexp(rows[-1], dim=0))
    label_logit = torch.stack(rows)[batch.visit_state, batch.label]
    return visit_values(label_logit, torch.stack(values), batch)


def copies(walks: list[Walk]) -> list[Walk]:
    """Each walk as often as its (dyadic) probability says, so that equal weights reproduce the law exactly."""
    smallest = min(walk.probability for walk in walks)
    repeated = []
    for walk in walks:
        count = walk.probability / smallest
        assert abs(count - round(count)) < 1e-9, "not a multiple of the rarest walk"
        repeated += [walk] * round(count)
    return repeated

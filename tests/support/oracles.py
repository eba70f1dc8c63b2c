"""Slow, obvious versions of what the library does fast. Nothing here is clever; that is the point."""

import numpy as np
import torch
from hypothesis import strategies as st

from smlib.edits.actions import ActionSpace, Trajectory, replay
from smlib.edits.algorithm_a import algorithm_a
from smlib.objectives.losses import VisitValues
from smlib.policies.policy import tiny_policy

SPACE = ActionSpace(vocab_size=7, eos=1, bos=0)


@st.composite
def trajectories(draw, space=SPACE, prompt=None, max_actions=12):
    """Any trajectory: runs of backspaces, backspaces at the root, labels that differ from what was executed."""
    tokens = st.integers(2, space.vocab_size - 1)
    if prompt is None:
        prompt = [space.bos, *draw(st.lists(tokens, max_size=3))]
    action = st.one_of(tokens, st.just(space.bkspc))
    realised = [*draw(st.lists(action, max_size=max_actions)), space.eos]
    labels = [draw(st.one_of(st.just(a), tokens)) for a in realised]
    return Trajectory.make(prompt, labels, realised, space=space)


@st.composite
def groups(draw, space=SPACE):
    """A data trajectory and rollouts from prefixes of what survives of it, or from elsewhere."""
    trunk = draw(trajectories(space))
    path = [int(t) for t in replay(trunk, space)[-1][:-1]]
    group = [trunk]
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            prompt = path[: draw(st.integers(trunk.prompt.size, len(path)))]
        else:
            prompt = [space.bos, *draw(st.lists(st.integers(2, space.vocab_size - 1), max_size=3))]
        group.append(draw(trajectories(space, prompt=prompt, max_actions=6)))
    return group


def float64_policy(space=SPACE, **shape):
    """A tiny Llama in float64 throughout, with a `<bkspc>` row and an offset head that are not trivial.

    transformers' RMSNorm computes in float32 whatever it is given, which hides errors below 1e-7; torch's does not.
    """
    policy = tiny_policy(space, **{"dim": 16, "layers": 2, "heads": 2, "positions": 32, "seed": 3, **shape})
    policy = policy.to(torch.float64)
    for module in list(policy.lm.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "LlamaRMSNorm":
                norm = torch.nn.RMSNorm(child.weight.numel(), eps=child.variance_epsilon, dtype=torch.float64)
                setattr(module, name, norm)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in [*policy.offset.parameters(), policy.w_bkspc]:
            parameter.normal_(0.0, 0.3, generator=generator)
    return policy


def replayed_values(policy, trajectories, model, *, gamma_from_root=False):
    """VisitValues by recomputing every state from scratch with a plain causal mask, one at a time."""
    logits_of, rows = {}, []

    def logits(state):
        if state not in logits_of:
            n = len(state)
            tokens, positions = torch.tensor([state]), torch.arange(n)[None]
            mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
            hidden = policy.hidden(tokens, positions, mask)[0, -1:]
            logits_of[state] = policy.logits(hidden, torch.tensor([n - 1]))[0]
        return logits_of[state]

    for trajectory in trajectories:
        states = replay(trajectory, policy.space)
        # The terminal state has one state string only, so its absorbing visits need no entry of their own.
        rows.append([logits(s) for s in states])
    return _assemble(rows, trajectories, model, gamma_from_root)


def algorithm_a_values(policy, trajectories, model):
    """VisitValues through Algorithm A's stack form: copied tokens and one dense mask per trajectory."""
    rows = []
    for trajectory in trajectories:
        masked = algorithm_a(trajectory, policy.space)
        hidden = policy.hidden(
            torch.from_numpy(masked.inputs)[None],
            torch.from_numpy(masked.positions)[None],
            torch.from_numpy(masked.mask)[None, None],
        )[0]
        first = trajectory.prompt.size - 1
        every = policy.logits(hidden[first:], torch.from_numpy(masked.positions[first:]))
        rows.append(list(every))
    return _assemble(rows, trajectories, model, False)


def _assemble(rows, trajectories, model, gamma_from_root):
    logit, value, following, step, flags, initial, terminal, start = [], [], [], [], [], [], [], []
    for states, trajectory, flag in zip(rows, trajectories, model, strict=True):
        begin = trajectory.prompt.size if gamma_from_root else 0
        for i, label in enumerate(trajectory.labels.tolist()):
            logit.append(states[i][label])
            value.append(states[i].logsumexp(0))
            following.append(states[i + 1].logsumexp(0))
            step.append(begin + i)
            flags.append(flag)
        initial.append(states[0].logsumexp(0))
        terminal.append(states[-1].logsumexp(0))
        start.append(begin)
    lengths = [len(t) for t in trajectories]
    return VisitValues(
        logit=torch.stack(logit),
        value=torch.stack(value),
        next_value=torch.stack(following),
        initial_value=torch.stack(initial),
        terminal_value=torch.stack(terminal),
        step=torch.tensor(step),
        start=torch.tensor(start),
        end=torch.tensor(np.add(start, lengths)),
        model=torch.tensor(flags),
        trajectory_model=torch.tensor(model),
    )

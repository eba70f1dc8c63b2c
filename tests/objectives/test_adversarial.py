"""The critic and the actor against exact occupancies, by enumeration of every walk; all in float64.

Walks have dyadic probabilities, so that repeating each as often as its probability says is exact, and a policy gradient
over all of them is an expectation. Tolerances: 1e-9, against sums of some hundred terms below 10.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smlib.edits.actions import Trajectory, replay
from smlib.edits.packing import pack
from smlib.objectives.adversarial import Critic, CriticValues, actor_loss, critic_loss, returns_to_go
from smlib.objectives.losses import VisitValues, sizes, visit_values
from smlib.objectives.methods import ObjectiveConfig, objective
from smlib.policies.adapters import with_adapters
from smlib.policies.policy import Policy
from smlib.policies.sources import Lora
from smlib.theory.estimator import Walk, enumerate_walks
from smlib.theory.flow import Flow, causal_entropy, chi2_mixture, flow
from smlib.theory.mdp import EditMDP
from smlib.training.algorithm_1 import train
from tests.support.copying import Copying, config, policy, weights
from tests.support.oracles import SPACE, float64_policy, groups
from tests.support.oracles_theory import copies, neural_visits, occupancy_of_walks, trajectory_of

GAMMA, ALPHA = 0.8, 0.3
MDP = EditMDP(2, 2, backspace=False)


def dyadic_logits(seed: int) -> torch.Tensor:
    """Logits of a policy whose rows are permutations of (1/2, 1/4, 1/4): every walk's probability is a power of two."""
    generator = torch.Generator().manual_seed(seed)
    law = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    return torch.stack([law[torch.randperm(3, generator=generator)] for _ in range(MDP.n_strings)]).log()


def walks_of(logits: torch.Tensor) -> list[Walk]:
    return list(enumerate_walks(MDP, logits.softmax(-1).numpy()))


def best_critic(data: Flow, model: Flow) -> Flow:
    """r* = 2 (rho_data - rho_theta) / (rho_data + rho_theta) per (state, action) and terminal state."""
    pairs, ends = data.pairs + model.pairs, data.terminal + model.terminal
    return Flow(
        2.0 * (data.pairs - model.pairs) / torch.where(pairs > 0, pairs, 1.0),
        2.0 * (data.terminal - model.terminal) / torch.where(ends > 0, ends, 1.0),
    )


def said_of(walks: list[Walk], critic: Flow, baseline: torch.Tensor) -> CriticValues:
    """What a tabular critic says at the visits of some walks; without noise the action tells the transition."""
    return CriticValues(
        torch.stack([critic.pairs[s, a] for w in walks for s, a in zip(w.states[:-1], w.labels, strict=True)]),
        torch.stack([critic.terminal[w.states[-1] - MDP.n_strings] for w in walks]),
        torch.stack([baseline[s] for w in walks for s in w.states[:-1]]),
    )


def both(logits: torch.Tensor) -> tuple[list[Walk], list[Walk], VisitValues, Flow, Flow]:
    laws = walks_of(dyadic_logits(0)), walks_of(dyadic_logits(1))
    data, model = (copies(walks) for walks in laws)
    trajectories = [[trajectory_of(MDP, w) for w in walks] for walks in (data, model)]
    ends = torch.zeros(MDP.n_strings, dtype=torch.float64)
    visits = neural_visits(MDP, *trajectories, logits, ends)
    return data, model, visits, *(occupancy_of_walks(MDP, w, GAMMA) for w in laws)


def test_the_best_critic_attains_the_divergence() -> None:
    data, model, visits, rho, rho_model = both(dyadic_logits(1))
    best = best_critic(rho, rho_model)
    leaves = Flow(best.pairs.clone().requires_grad_(), best.terminal.clone().requires_grad_())
    loss = critic_loss(visits, said_of(data + model, leaves, torch.zeros(MDP.n_strings).double()), gamma=GAMMA)
    expected = chi2_mixture(rho_model, rho)
    assert expected > 0.05
    torch.testing.assert_close(loss.parts["chi2_mixture"], expected, atol=1e-12, rtol=0)
    slopes = torch.autograd.grad(loss.total, (leaves.pairs, leaves.terminal))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-12  # stationary: no critic does better
    other = Flow(best.pairs + 0.1, best.terminal - 0.1)
    worse = critic_loss(visits, said_of(data + model, other, torch.zeros(MDP.n_strings).double()), gamma=GAMMA)
    assert worse.parts["chi2_mixture"] < expected


@pytest.mark.parametrize("alpha", [1e-9, ALPHA])
def test_actor_gradient_is_that_of_the_divergence(alpha: float) -> None:
    """With the best critic held fixed, over every walk: the gradient of D - alpha H through the linear solve."""
    logits = dyadic_logits(1).requires_grad_()
    data, model, visits, rho, rho_model = both(logits)
    baseline = torch.randn(MDP.n_strings, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    said = said_of(data + model, best_critic(rho, rho_model), baseline)
    loss = actor_loss(visits, said, alpha=alpha, gamma=GAMMA)
    (ours,) = torch.autograd.grad(loss.total, logits)
    now = flow(MDP, logits.softmax(-1), GAMMA)
    exact = (chi2_mixture(now, rho) - alpha * causal_entropy(now)) / (rho.pairs.sum() / (1.0 - GAMMA))
    (theirs,) = torch.autograd.grad(exact, logits)
    assert theirs.abs().max() > 1e-3
    torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=0)


@given(st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.sampled_from([0.3, 0.95]))
@settings(max_examples=30, deadline=None)
def test_returns_are_sums(seed: int, lengths: list[int], gamma: float) -> None:
    rng = np.random.default_rng(seed)
    rewards, ends = [rng.normal(size=n) for n in lengths], rng.normal(size=len(lengths))
    found = returns_to_go(
        torch.from_numpy(np.concatenate(rewards)), torch.from_numpy(ends), torch.tensor(lengths), gamma
    )
    slow = [
        sum(gamma ** (k - i) * r[k] for k in range(i, len(r))) + gamma ** (len(r) - i) * end
        for r, end in zip(rewards, ends, strict=True)
        for i in range(len(r))
    ]
    torch.testing.assert_close(found, torch.tensor(slow, dtype=torch.float64), atol=1e-12, rtol=1e-12)


@given(groups())
@settings(max_examples=20, deadline=None)
def test_critic_reads_the_state_that_an_action_led_to(group: list) -> None:
    """Packed, against every state read alone: an insertion is judged where its token stands, a deletion where the
    deleted one stood (the root, where there was none)."""
    learner = float64_policy()
    critic = Critic(learner).double()
    torch.nn.init.normal_(critic.heads.weight, generator=torch.Generator().manual_seed(4))
    batch = pack([group], SPACE, model=[[False] + [True] * (len(group) - 1)])
    with torch.no_grad():
        said = critic(batch)

        def heads(state: tuple[int, ...]) -> torch.Tensor:
            n = len(state)
            mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
            hidden = learner.hidden(torch.tensor([state]), torch.arange(n)[None], mask)[0, -1]
            return critic.heads(hidden)

        rewards, ends, baselines = [], [], []
        for trajectory in group:
            states = replay(trajectory, SPACE)
            for before, after, action in zip(states, states[1:], trajectory.realised.tolist(), strict=False):
                rewards.append(heads(before)[1] if action == SPACE.bkspc else heads(after)[0])
                baselines.append(heads(before)[3])
            ends.append(heads(states[-1])[2])
    for ours, slow in ((said.reward, rewards), (said.end_reward, ends), (said.baseline, baselines)):
        torch.testing.assert_close(ours, torch.stack(slow), atol=1e-9, rtol=0)


def judged_pairs(n: int) -> tuple[Policy, list[list[Trajectory]]]:
    """A policy with a critic that says something, and n demonstrations, each with another in the place of a rollout."""
    learner = float64_policy()
    learner.critic = Critic(learner).double()
    torch.nn.init.normal_(learner.critic.heads.weight, generator=torch.Generator().manual_seed(4))
    rng, data = np.random.default_rng(0), Copying()
    return learner, [[data.demonstration(i, rng, 0.2, 1), data.demonstration(i, rng, 0.5, 1)] for i in range(n)]


def test_who_is_trained_by_what() -> None:
    """The critic's network by its own loss alone, its baseline by the baseline's, the policy by the actor's."""
    learner, pairs = judged_pairs(3)
    batch = pack(pairs, SPACE, model=[[False, True]] * 3)
    visits, said = visit_values(*learner(batch), batch), learner.critic(batch)

    def touched(loss: torch.Tensor) -> dict[str, bool]:
        learner.zero_grad()
        loss.backward(retain_graph=True)
        network = [p.grad for n, p in learner.critic.named_parameters() if n.startswith("body.")]
        heads = learner.critic.heads.weight.grad
        lm = [p.grad for p in learner.lm.parameters()]
        return {
            "critic": any(g is not None and bool(g.abs().max() > 0) for g in network),
            "scores": heads is not None and bool(heads[:3].abs().max() > 0),
            "baseline": heads is not None and bool(heads[3].abs().max() > 0),
            "policy": any(g is not None and bool(g.abs().max() > 0) for g in lm),
        }

    judged = touched(critic_loss(visits, said, gamma=GAMMA).total)
    assert judged == {"critic": True, "scores": True, "baseline": False, "policy": False}
    acted = touched(actor_loss(visits, said, alpha=ALPHA, gamma=GAMMA).total)
    assert acted == {"critic": False, "scores": False, "baseline": True, "policy": True}


def test_a_batch_in_parts_has_the_whole_loss() -> None:
    learner, pairs = judged_pairs(4)
    goal = ObjectiveConfig(method="gail", alpha=ALPHA, gamma=GAMMA, bc_steps=0, anneal_steps=0)

    def loss(parts: list[list], whole: bool) -> tuple[float, dict[str, float]]:
        batches = [pack(p, SPACE, model=[[False, True]] * len(p)) for p in parts]
        found = [objective(learner, b, goal, 1, None, sizes(batches) if whole else None) for b in batches]
        return sum(f.total.item() for f in found), {
            name: sum(float(f.parts[name]) for f in found) for name in found[0].parts
        }

    total, names = loss([pairs], False)
    in_parts, names_in_parts = loss([pairs[:1], pairs[1:]], True)
    assert in_parts == pytest.approx(total, abs=1e-10)
    assert names_in_parts == pytest.approx(names, abs=1e-10)


def gail(**changes):
    return dataclasses.replace(config("gail").on_policy(), **changes)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path) -> None:
    """Killed at step 12 of 16, a checkpoint each 4: the same weights to the bit, critic and baseline with them."""
    whole = train(policy(), Copying(), gail(), tmp_path / "whole")
    assert whole.policy.critic is None
    assert not any("critic" in name for name in whole.policy.state_dict())

    class Killed(Exception):
        pass

    def die(_):
        raise Killed

    with pytest.raises(Killed):
        train(policy(), Copying(), gail(eval_every=12), tmp_path / "killed", evaluate=die)
    # An evaluation is no part of the configuration's effect, but of its identity: so it stays for the second half.
    resumed = train(policy(), Copying(), gail(eval_every=12), tmp_path / "killed", evaluate=lambda _: {})
    assert torch.equal(weights(resumed), weights(whole))
    assert [r["critic"] for r in resumed.history if "critic" in r] == [
        r["critic"] for r in whole.history if "critic" in r
    ]


def test_the_critic_learns_to_tell(tmp_path) -> None:
    """An untrained policy is far from the data, and the critic, which starts at 0, comes to see it."""
    goal = dataclasses.replace(gail().objective, bc_steps=0, anneal_steps=0, beta_floor=0.0)
    changes = {"steps": 60, "batch_size": 16, "refill": 16, "buffer_size": 16, "eta": 0.0, "rollout_noise": 0.0}
    history = train(policy(), Copying(), gail(objective=goal, **changes), tmp_path).history
    seen = [row["chi2_mixture"] for row in history]
    assert abs(seen[0]) < 0.2
    assert max(seen) > 0.5


def test_rollouts_are_used_once(tmp_path) -> None:
    with pytest.raises(ValueError, match="times_seen=1"):
        train(policy(), Copying(), gail(times_seen=2.0), tmp_path)
    with pytest.raises(ValueError, match="buffer_size to refill, 4"):
        train(policy(), Copying(), gail(buffer_size=5), tmp_path)


def test_other_divergences_are_refused() -> None:
    with pytest.raises(ValueError, match="chi\\^2-mixture"):
        ObjectiveConfig(method="gail", divergence="js")


def test_with_adapters_the_critic_has_adapters_of_its_own(tmp_path) -> None:
    """What is frozen in the policy is frozen in the critic, and neither moves; both sets of adapters do."""
    learner = policy()
    learner.lm.requires_grad_(False)
    learner.lm = with_adapters(learner.lm, Lora(r=2, alpha=2))
    critic = Critic(learner)
    trained = {name for name, p in critic.named_parameters() if p.requires_grad}
    assert all("lora" in name or name.startswith("heads.") for name in trained)
    assert any("lora" in name for name in trained)
    assert not {id(p) for p in critic.parameters()} & {id(p) for p in learner.parameters()}
    before = {name: p.detach().clone() for name, p in learner.lm.named_parameters()}
    train(learner, Copying(), gail(), tmp_path)
    moved = {name for name, p in learner.lm.named_parameters() if not torch.equal(p, before[name])}
    assert moved
    assert all("lora" in name for name in moved)

"""16 bits, by weights or by autocast: logits, V, divergence and loss are float32 from the last hidden vector on.

What is lost is what the network rounds; from the hidden vectors on, every number is that of float64 to 1e-5, where
8 bits would leave 4e-3. The loss as a whole stays within 2 % of the one in float32.
"""

import contextlib
import copy

import pytest
import torch

from smlib.objectives.adversarial import Critic
from smlib.objectives.losses import visit_values
from smlib.objectives.methods import METHODS, ObjectiveConfig, objective, objective_of_visits
from smlib.policies.policy import tiny_policy
from tests.support.oracles import SPACE
from tests.test_gpu import batch_of

NEAR, WHOLE = 1e-5, 0.02  # of float64 from the hidden vectors on; of the whole in float32
WAYS = ["weights", "autocast"]


def policy_with_values(seed=0):
    """Logits of some size, and an offset that says something different at every position."""
    policy = tiny_policy(SPACE, dim=32, layers=2, heads=2, positions=32, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight.mul_(30.0)
        policy.w_bkspc.copy_(torch.randn_like(policy.w_bkspc))
        policy.offset.inner.weight[:, -1] += 3.0
        torch.nn.init.normal_(policy.offset.outer.weight)
    return policy


def in_sixteen_bits(policy, way):
    """A policy, and the context in which it is called."""
    if way == "weights":
        return copy.deepcopy(policy).bfloat16(), contextlib.nullcontext()
    return policy, torch.autocast("cpu", torch.bfloat16)


def exact_values(policy, batch, hidden):
    """Labels' logits and V in float64, from these hidden vectors and the policy's own numbers, by the formulas."""
    high = copy.deepcopy(policy).double()
    positions = batch.positions.flatten()[batch.slots]
    rows = torch.cat([high.lm.get_output_embeddings().weight, high.w_bkspc[None]])
    place = (positions.double() / high.offset.max_positions)[:, None]
    x = torch.cat([hidden.double(), place], dim=1)
    logits = hidden.double() @ rows.T + high.offset.outer(torch.nn.functional.gelu(high.offset.inner(x)))
    return logits[batch.visit_state, batch.label], logits.logsumexp(-1)


@pytest.mark.parametrize(("chunk", "tile"), [(None, 0), (4, 0), (None, 3)])
@pytest.mark.parametrize("way", WAYS)
def test_logits_and_values_are_exact_from_the_hidden_vectors_on(way, chunk, tile):
    policy, context = in_sixteen_bits(policy_with_values(), way)
    policy.vocabulary_tile, batch = tile, batch_of()
    with torch.no_grad(), context:
        hidden, _ = policy.state_hidden(batch)
        picked, values = policy(batch, chunk)
        expected = exact_values(policy, batch, hidden)
    assert picked.dtype == values.dtype == torch.float32
    assert float(values.abs().max()) > 5  # large enough for 8 bits to lose a hundredth
    for found, exact in zip((picked, values), expected, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=NEAR, atol=NEAR)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("divergence", ["chi2", "js"])
@pytest.mark.parametrize("method", ["bc", "sm", "iqlearn", "dagger"])
def test_a_loss_is_that_of_float64_from_the_hidden_vectors_on(method, divergence, way):
    policy, context = in_sixteen_bits(policy_with_values(), way)
    goal = ObjectiveConfig(method=method, divergence=divergence, alpha=0.01, gamma=0.9, bc_steps=0, anneal_steps=0)
    batch = batch_of()
    with torch.no_grad(), context:
        hidden, _ = policy.state_hidden(batch)
        found = objective(policy, batch, goal, 1, None)
    exact = objective_of_visits(visit_values(*exact_values(policy, batch, hidden), batch), goal, 1)
    assert found.total.dtype == torch.float32
    assert float(found.total) == pytest.approx(float(exact.total.detach()), rel=NEAR)
    for name, part in exact.parts.items():
        assert float(found.parts[name]) == pytest.approx(float(part), rel=10 * NEAR, abs=10 * NEAR), name


@pytest.mark.parametrize("way", WAYS)
# `exact` compares rollouts with references, which these batches have not; its numbers are in tests/objectives.
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"exact"}))
def test_the_whole_stays_near_float32_and_learns(method, way):
    plain = policy_with_values()
    policy, context = in_sixteen_bits(copy.deepcopy(plain), way)
    goal = ObjectiveConfig(method=method, alpha=0.01, gamma=0.9, bc_steps=0, anneal_steps=0)
    losses, slopes = [], []
    for one, where in ((plain, contextlib.nullcontext()), (policy, context)):
        one.critic = Critic(one) if METHODS[method].critic else None
        with where:
            loss = objective(one, batch_of(), goal, 1, None).total
        loss.backward()
        losses.append(float(loss.detach()))
        slopes.append(one.w_bkspc.grad.float())
    assert losses[1] == pytest.approx(losses[0], rel=WHOLE)
    assert torch.cosine_similarity(*slopes, dim=0) > 0.98


def test_a_critics_rewards_are_float32_under_autocast():
    policy = policy_with_values()
    critic = Critic(policy)
    torch.nn.init.normal_(critic.heads.weight)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        said = critic(batch_of())
    assert said.reward.dtype == said.end_reward.dtype == said.baseline.dtype == torch.float32

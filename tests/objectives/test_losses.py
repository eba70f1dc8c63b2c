"""Eq. 4 against its telescoped form, its limits, and plain loops; all in float64."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.packing import pack
from smlib.files import plain
from smlib.objectives.divergences import DIVERGENCES, get
from smlib.objectives.losses import (
    VisitValues,
    iqlearn,
    likelihood,
    sequencematch,
    sequencematch_chi2,
    unlikelihood,
    visit_values,
)
from smlib.objectives.methods import ObjectiveConfig, objective
from tests.support.oracles import SPACE, float64_policy, replayed_values

GAMMAS = st.sampled_from([0.3, 0.9, 0.998])
ALPHAS = st.sampled_from([1e-3, 0.1, 2.0])


def visits_of(table, labels, model, starts=None):
    """VisitValues from a list of logit rows per trajectory: rows s_0..s_N, labels for all but the last."""
    logit, value, following, step, flags = [], [], [], [], []
    starts = starts or [0] * len(table)
    for rows, chosen, flag, start in zip(table, labels, model, starts, strict=True):
        v = rows.logsumexp(-1)
        logit += [rows[i, a] for i, a in enumerate(chosen)]
        value += list(v[:-1])
        following += list(v[1:])
        step += range(start, start + len(chosen))
        flags += [flag] * len(chosen)
    lengths = torch.tensor([len(c) for c in labels])
    return VisitValues(
        logit=torch.stack(logit),
        value=torch.stack(value),
        next_value=torch.stack(following),
        initial_value=torch.stack([rows[0].logsumexp(-1) for rows in table]),
        terminal_value=torch.stack([rows[-1].logsumexp(-1) for rows in table]),
        step=torch.tensor(step),
        start=torch.tensor(starts),
        end=torch.tensor(starts) + lengths,
        model=torch.tensor(flags),
        trajectory_model=torch.tensor(model),
    )


@st.composite
def tables(draw, rollouts=True):
    """Logits of up to three data trajectories and up to two rollouts over four actions."""
    n_data, n_model = draw(st.integers(1, 3)), draw(st.integers(1, 2)) if rollouts else 0
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    lengths = [draw(st.integers(1, 5)) for _ in range(n_data + n_model)]
    table = [(2 * torch.randn(n + 1, 4, generator=generator, dtype=torch.float64)).requires_grad_() for n in lengths]
    labels = [torch.randint(4, (n,), generator=generator).tolist() for n in lengths]
    starts = [draw(st.integers(0, 2)) for _ in lengths]
    return table, labels, [False] * n_data + [True] * n_model, starts


def literal_j(table, labels, model, starts, phi, alpha, gamma, mixture):
    """Eq. 4 with Python loops, one trajectory and one term at a time."""
    n_data, n_model = model.count(False), max(model.count(True), 1)
    total = 0.0
    for rows, chosen, rollout, start in zip(table, labels, model, starts, strict=True):
        v = rows.logsumexp(-1)
        share = 1.0 / (n_model if rollout else n_data)
        for i, a in enumerate(chosen):
            g = gamma ** (start + i)
            reward = rows[i, a] - gamma * v[i + 1]
            if not rollout:
                total = total + share * g * phi(alpha * reward) / alpha
            elif mixture:
                total = total - share * g * alpha / 4 * reward**2
            total = total - share * g / 2 * (v[i] - gamma * v[i + 1])
        g = gamma ** (start + len(chosen))
        end_reward = (1 - gamma) * v[-1]
        if not rollout:
            total = total + share * g / (alpha * (1 - gamma)) * phi(alpha * end_reward)
        elif mixture:
            total = total - share * g / (1 - gamma) * alpha / 4 * end_reward**2
        total = total - share * g / 2 * v[-1]
    visits = sum(
        gamma ** (start + i)
        for chosen, rollout, start in zip(labels, model, starts, strict=True)
        if not rollout
        for i in range(len(chosen))
    )
    return total / (visits / n_data)


def gradients(loss, table):
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, table, retain_graph=True, allow_unused=True)])


@settings(max_examples=30)
@given(tables(), ALPHAS, GAMMAS, st.sampled_from(sorted(DIVERGENCES)), st.booleans())
def test_eq_4_is_the_literal_sum(case, alpha, gamma, name, mixture):
    table, labels, model, starts = case
    divergence = get(name)
    fast = sequencematch(
        visits_of(table, labels, model, starts), divergence=divergence, alpha=alpha, gamma=gamma, mixture=mixture
    ).total
    slow = -literal_j(table, labels, model, starts, divergence.phi, alpha, gamma, mixture)
    # Relative 1e-10: sums of up to 20 terms; total variation's edge has slope 1e2 and V is of order 10.
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(fast, table), gradients(slow, table), rtol=1e-9, atol=1e-9)


@given(tables(), ALPHAS, GAMMAS, st.booleans())
def test_telescoped_chi2_equals_eq_4(case, alpha, gamma, mixture):
    visits = visits_of(*case)
    whole = sequencematch(visits, divergence=get("chi2"), alpha=alpha, gamma=gamma, mixture=mixture)
    short = sequencematch_chi2(visits, alpha=alpha, gamma=gamma, mixture=mixture)
    torch.testing.assert_close(whole.total, short.total, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients(whole.total, case[0]), gradients(short.total, case[0]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["chi2", "js"])
@pytest.mark.parametrize("mixture", [True, False])
def test_branches_are_whole_rollouts_whose_prompts_squares_are_masked(name, mixture):
    # Two texts from <bos> and a rollout from inside each. The slow way visits every state of the rollouts from <bos>
    # on, the data's tokens among them, and leaves out these visits in the squares alone.
    alpha, gamma, phi, bkspc = 0.3, 0.9, get(name).phi, SPACE.bkspc
    texts = [[2, 3, 4, 5, 1], [6, 5, 4, 1]]
    prefixes, own = [2, 1], [[5, bkspc, 6, 1], [2, 2, 1]]

    def path(actions):
        return Trajectory.make([0], actions, actions, space=SPACE)

    def gradient(loss, policy):
        loss.backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters() if p.grad is not None])

    policy = float64_policy()
    groups = [
        [path(text), Trajectory.make([0, *text[:p]], actions, actions, space=SPACE)]
        for text, p, actions in zip(texts, prefixes, own, strict=True)
    ]
    batch = pack(groups, SPACE, model=[[False, True]] * 2)
    visits = visit_values(*policy(batch), batch, branches=True)
    settings_ = {"alpha": alpha, "gamma": gamma, "mixture": mixture}
    fast = sequencematch(visits, divergence=get(name), **settings_).total
    if name == "chi2":
        torch.testing.assert_close(sequencematch_chi2(visits, **settings_).total, fast, rtol=1e-10, atol=1e-10)

    again = float64_policy()
    data = [replayed_values(again, [path(text)], [False]) for text in texts]
    whole = [
        replayed_values(again, [path([*text[:p], *actions])], [True])
        for text, p, actions in zip(texts, prefixes, own, strict=True)
    ]
    j = 0.0
    for v in data:
        n, end = len(v.step), (1 - gamma) * v.terminal_value[0]
        for i in range(n):
            j = j + gamma**i * phi(alpha * (v.logit[i] - gamma * v.next_value[i])) / alpha
            j = j - gamma**i / 2 * (v.value[i] - gamma * v.next_value[i])
        j = j + gamma**n * (phi(alpha * end) / (alpha * (1 - gamma)) - v.terminal_value[0] / 2)
    for v, p in zip(whole, prefixes, strict=True):
        n, end = len(v.step), (1 - gamma) * v.terminal_value[0]
        for i in range(n):
            j = j - gamma**i / 2 * (v.value[i] - gamma * v.next_value[i])
            if mixture and i >= p:
                j = j - gamma ** (i - p) * alpha / 4 * (v.logit[i] - gamma * v.next_value[i]) ** 2
        j = j - gamma**n / 2 * v.terminal_value[0]
        if mixture:
            j = j - gamma ** (n - p) / (1 - gamma) * alpha / 4 * end**2
    slow = -j / sum(gamma**i for text in texts for i in range(len(text)))
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradient(fast, policy), gradient(slow, again), rtol=1e-7, atol=1e-9)
    alone = visit_values(*policy(batch), batch)  # as if they started at their prompts: V(<bos>) does not cancel
    assert abs(sequencematch(alone, divergence=get(name), **settings_).total - slow) > 1e-3


@given(tables(), GAMMAS)
def test_value_terms_of_rollouts_telescope_to_their_start(case, gamma):
    # The sum over a rollout plus its last term is V(u_0)/2, whatever it did: design of eq. 4.
    table, labels, model, starts = case
    loss = sequencematch(visits_of(*case), divergence=get("chi2"), alpha=0.1, gamma=gamma)
    n_data, n_model = model.count(False), model.count(True)
    expected = sum(
        gamma**s * rows[0].logsumexp(-1) / 2 / n_model for rows, r, s in zip(table, model, starts, strict=True) if r
    )
    scale = sum(gamma ** (s + i) for c, r, s in zip(labels, model, starts, strict=True) if not r for i in range(len(c)))
    torch.testing.assert_close(loss.parts["value_model"], (expected / (scale / n_data)).detach())


@settings(max_examples=20)
@given(tables(rollouts=False), GAMMAS, st.sampled_from(sorted(DIVERGENCES)))
def test_alpha_to_zero_is_weighted_likelihood_for_every_divergence(case, gamma, name):
    table, labels, model, _ = case
    visits = visits_of(table, labels, model)
    nll = likelihood(visits, gamma=gamma).total
    # What is left of the values is -V(s_0)/2 of the data, which rollouts from the same prompts cancel.
    scale = sum(gamma**i for c in labels for i in range(len(c))) / len(labels)
    offset = -visits.initial_value.mean() / 2 / scale
    errors = []
    for alpha in (1e-4, 1e-5):
        loss = sequencematch(visits, divergence=get(name), alpha=alpha, gamma=gamma).total
        errors.append(float((loss - offset - nll).abs().detach()))
    # phi(x) = x + O(x^2), so the error is O(alpha): ten times smaller alpha, ten times smaller error (TV has none).
    assert errors[1] <= 0.11 * errors[0] + 1e-9


@given(tables(rollouts=False), ALPHAS, GAMMAS)
def test_iqlearn_is_chi2_without_rollouts(case, alpha, gamma):
    table, labels, model, _ = case
    visits = visits_of(table, labels, model)
    whole = sequencematch_chi2(visits, alpha=alpha, gamma=gamma)
    loss = iqlearn(visits, alpha=alpha, gamma=gamma)
    torch.testing.assert_close(loss.total, whole.total - whole.parts["initial"], rtol=1e-10, atol=1e-10)


@given(tables())
def test_a_constant_per_state_moves_values_and_not_the_policy(case):
    # What the offset head does: log-probabilities stay, V moves by the constant.
    table, labels, model, starts = case
    moved = [rows + torch.arange(rows.shape[0], dtype=rows.dtype)[:, None] for rows in table]
    a, b = visits_of(table, labels, model, starts), visits_of(moved, labels, model, starts)
    torch.testing.assert_close(a.log_prob, b.log_prob)
    torch.testing.assert_close(likelihood(a).total, likelihood(b).total)
    torch.testing.assert_close(b.terminal_value - a.terminal_value, (b.end - b.start).to(torch.float64))


def test_one_visit_by_hand():
    # One visit with logits (log 2, log 1, log 1) at s_0 and zeros at s_1 (3 actions), label 0, gamma = 1/2, alpha = 1:
    # V_0 = log 4, V_1 = log 3, r = log 2 - log(3)/2, end reward log(3)/2, phi(x) = x - x^2/4.
    table = [torch.tensor([[math.log(2.0), 0.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)]
    visits = visits_of(table, [[0]], [False])
    r, end = math.log(2) - math.log(3) / 2, math.log(3) / 2
    j = r - r**2 / 4 - (math.log(4) - math.log(3) / 2) / 2 + (end - end**2 / 4) - math.log(3) / 4
    loss = sequencematch(visits, divergence=get("chi2"), alpha=1.0, gamma=0.5)
    assert float(loss.total) == pytest.approx(-j, abs=1e-14)


def test_unlikelihood_is_the_literal_sum():
    policy = float64_policy()
    trajectory = Trajectory.make([0, 2], [3, 2, 4, 3, 3, 1], space=SPACE)
    batch = pack([[trajectory]], SPACE)
    logits = policy.state_logits(batch)
    p = logits.softmax(-1)
    expected, state = 0.0, [0, 2]
    for i, label in enumerate(trajectory.labels.tolist()):
        row = p[batch.visit_state[i]]
        expected -= sum(torch.log1p(-row[c]) for c in set(state) - {label})
        state.append(label)
    torch.testing.assert_close(unlikelihood(logits, batch).total, expected / 6, rtol=1e-12, atol=1e-12)


def test_eos_is_no_negative_candidate_where_it_is_bos_too():
    # SmolLM2 and Qwen2 begin a text with the token that ends it: it is in every state, and yet must not be unlearnt.
    space = ActionSpace(vocab_size=7, eos=1, bos=1)
    policy = float64_policy(space)
    trajectory = Trajectory.make([1, 2], [3, 2, 4, 3, 3, 1], space=space)
    batch = pack([[trajectory], [Trajectory.make([1], [5, 5, 1], space=space)]], space)
    logits = policy.state_logits(batch)
    p = logits.softmax(-1)
    expected, visit = 0.0, 0
    for begin, labels in (([1, 2], trajectory.labels.tolist()), ([1], [5, 5, 1])):
        state = list(begin)
        for label in labels:
            row = p[batch.visit_state[visit]]
            expected -= sum(torch.log1p(-row[c]) for c in set(state) - {label, space.eos})
            state.append(label)
            visit += 1
    torch.testing.assert_close(unlikelihood(logits, batch).total, expected / 9, rtol=1e-12, atol=1e-12)


def test_relabelled_rollouts_count_apart_from_data():
    table = [torch.zeros(3, 4, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)]
    table[1][0, 1] = 2.0
    visits = visits_of(table, [[0, 1], [1]], [False, True])
    assert float(likelihood(visits).total) == pytest.approx(math.log(4))
    assert float(likelihood(visits, model=True).total) == pytest.approx(math.log(3 + math.exp(2)) - 2)


@pytest.mark.parametrize("gamma", [0.0, 1.0, -0.5, 1.5])
def test_gamma_must_lie_inside_the_unit_interval(gamma):
    visits = visits_of([torch.zeros(2, 3, dtype=torch.float64)], [[0]], [False])
    with pytest.raises(ValueError, match="gamma must lie strictly between 0 and 1"):
        sequencematch(visits, divergence=get("chi2"), alpha=0.1, gamma=gamma)


@pytest.mark.parametrize("alpha", [0.0, -1.0, math.nan])
def test_alpha_must_be_positive(alpha):
    visits = visits_of([torch.zeros(2, 3, dtype=torch.float64)], [[0]], [False])
    with pytest.raises(ValueError, match="alpha must be positive"):
        iqlearn(visits, alpha=alpha, gamma=0.9)


def test_noise_keeps_the_label_and_follows_the_realised_action():
    # Label 3 at <bos>, but 5 was inserted: the likelihood is taken at 3, the next state is (0, 5).
    policy = float64_policy()
    noisy = Trajectory.make([0], [3, SPACE.bkspc, 3, 1], [5, SPACE.bkspc, 3, 1], space=SPACE)
    batch = pack([[noisy]], SPACE)
    visits = visit_values(*policy(batch), batch)
    logits = policy.state_logits(batch)
    assert batch.visit_state[0] == batch.visit_state[2]  # the root is revisited
    torch.testing.assert_close(visits.logit[0], logits[batch.visit_state[0], 3])
    slot = int(batch.slots[batch.visit_next[0]])
    assert int(batch.tokens.flatten()[slot]) == 5


@pytest.mark.parametrize("edit_weight", [0.0, 0.25, 3.0])
def test_labels_that_delete_can_be_weighed_or_left_out(edit_weight):
    # 5 was inserted in the place of 3 and is deleted: one of the four labels is <bkspc>.
    policy = float64_policy()
    noisy = Trajectory.make([0], [3, SPACE.bkspc, 3, 1], [5, SPACE.bkspc, 3, 1], space=SPACE)
    batch = pack([[noisy]], SPACE)
    visits = visit_values(*policy(batch), batch, bkspc=SPACE.bkspc)
    own = -visits.log_prob
    expected = (own[0] + edit_weight * own[1] + own[2] + own[3]) / 4
    torch.testing.assert_close(likelihood(visits, edit_weight=edit_weight).total, expected, rtol=1e-12, atol=1e-12)
    config = ObjectiveConfig(method="bc", edit_weight=edit_weight)
    torch.testing.assert_close(objective(policy, batch, config, 0, None).total, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(likelihood(visits, edit_weight=1.0).total, likelihood(visit_values(*policy(batch), batch)).total)
    with pytest.raises(ValueError, match="edit_weight needs to know which labels"):
        likelihood(visit_values(*policy(batch), batch), edit_weight=edit_weight)
    with pytest.raises(ValueError, match=r"edit_weight must not be negative, got -0\.5"):
        ObjectiveConfig(edit_weight=-0.5)


def test_an_edit_weight_of_one_is_no_part_of_a_runs_identity():
    assert "edit_weight" not in plain(ObjectiveConfig())
    assert plain(ObjectiveConfig(edit_weight=0.0))["edit_weight"] == 0.0

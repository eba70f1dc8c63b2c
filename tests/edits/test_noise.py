"""Noise demonstrations and the edit expert against literal readings of Sec. 4.2."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from smlib.edits.actions import ActionSpace, Trajectory, final_state, replay, step
from smlib.edits.noise import NoiseLaw, edit_expert_label, edit_expert_labels, expert_trajectory

SPACE = ActionSpace(12, eos=2, bos=1)
DIGITS = NoiseLaw.uniform(range(4, 9))


def literal(prompt, answer, strikes, noise, burst, max_len):
    """Sec. 4.2, one environment step at a time; `strikes[i]` mistakes before answer[i] goes through."""
    labels, realised = [], []
    state, root = tuple(prompt), len(prompt)
    noise = iter(noise)

    def visit(label, executed):
        nonlocal state
        ended = len(state) > root and state[-1] == SPACE.eos
        if ended:
            return
        if max_len is not None and executed != SPACE.bkspc and len(state) == max_len - 1:
            executed = SPACE.eos  # over-long: the label is kept, <eos> is executed
        labels.append(label)
        realised.append(executed)
        state = step(state, executed, SPACE, root)

    for correct, times in zip(answer, strikes, strict=True):
        for _ in range(times):
            visit(correct, next(noise))
            for _ in range(burst - 1):
                visit(SPACE.bkspc, next(noise))
            for _ in range(burst):
                visit(SPACE.bkspc, SPACE.bkspc)
        visit(correct, correct)
    return labels, realised


answers = st.lists(st.integers(3, 11), max_size=8).map(lambda tokens: [*tokens, SPACE.eos])


@settings(deadline=None)
@given(
    prompt=st.lists(st.integers(1, 11), min_size=1, max_size=4),
    answer=answers,
    eta=st.sampled_from([0.0, 0.1, 0.5, 0.9]),
    burst=st.integers(1, 3),
    repeats=st.booleans(),
    room=st.none() | st.integers(1, 12),
    seed=st.integers(0, 2**32 - 1),
)
def test_equals_the_literal_reading(prompt, answer, eta, burst, repeats, room, seed):
    max_len = None if room is None else len(prompt) + room
    got = expert_trajectory(
        prompt, answer, DIGITS, eta, np.random.default_rng(seed), SPACE, burst=burst, repeats=repeats, max_len=max_len
    )
    rng = np.random.default_rng(seed)  # the documented order of draws
    if eta == 0:
        strikes = [0] * len(answer)
    elif repeats:
        strikes = (rng.geometric(1 - eta, len(answer)) - 1).tolist()
    else:
        strikes = (rng.random(len(answer)) < eta).astype(int).tolist()
    noise = DIGITS.sample(rng, sum(strikes) * burst).tolist() if sum(strikes) else []
    labels, realised = literal(prompt, answer, strikes, noise, burst, max_len)
    assert got.labels.tolist() == labels
    assert got.realised.tolist() == realised
    # What was built without Trajectory.make's checks passes them.
    Trajectory.make(got.prompt, got.labels, got.realised, space=SPACE)
    if max_len is None:
        assert final_state(got, SPACE).tolist() == answer[:-1]
    else:
        assert max(map(len, replay(got, SPACE))) <= max_len


@given(answer=answers, eta=st.sampled_from([0.3, 0.8]), burst=st.integers(1, 3), seed=st.integers(0, 2**32 - 1))
def test_labels_are_the_edit_experts(answer, eta, burst, seed):
    """Where no noise token equals the correct one, Sec. 4.2 demonstrates exactly the edit expert of DAgger."""
    law = NoiseLaw.uniform([t for t in range(3, 12) if t not in answer] or [])
    if law.tokens.size == 0:
        return
    trajectory = expert_trajectory([1], answer, law, eta, np.random.default_rng(seed), SPACE, burst=burst)
    np.testing.assert_array_equal(edit_expert_labels(trajectory, answer, SPACE), trajectory.labels)


@settings(max_examples=200)
@given(
    answer=answers,
    actions=st.lists(st.integers(3, 12), max_size=15),
    follow=st.lists(st.booleans(), min_size=15, max_size=15),
)
def test_expert_labels_equal_the_slow_expert_at_every_visited_state(answer, actions, follow):
    mixed, state = [], (1,)
    for action, on in zip(actions, follow, strict=False):  # half of the actions follow the reference
        label = edit_expert_label(state[1:], answer, SPACE)
        action = label if on and label != SPACE.eos else action
        mixed.append(action)
        state = step(state, action, SPACE, 1)
    rollout = Trajectory.make([1], [*mixed, SPACE.eos], space=SPACE)
    slow = [edit_expert_label(s[1:], answer, SPACE) for s in replay(rollout, SPACE)[:-1]]
    np.testing.assert_array_equal(edit_expert_labels(rollout, answer, SPACE), slow)


@pytest.mark.parametrize("repeats", [True, False])
@pytest.mark.parametrize("eta", [0.02, 0.2, 0.7])
def test_noise_strikes_with_probability_eta_at_each_visit(eta, repeats):
    """Binomial test at 1e-6 over some 8,000 visits; fixed seed, so the outcome is fixed."""
    rng = np.random.default_rng(0)
    answer, struck, visits = [9, 10, 11, 9, SPACE.eos], 0, 0
    for _ in range(1500):
        t = expert_trajectory([1], answer, DIGITS, eta, rng, SPACE, repeats=repeats)
        mistakes = int((t.labels != t.realised).sum())
        struck += mistakes
        visits += len(answer) + (mistakes if repeats else 0)
    assert stats.binomtest(struck, visits, eta).pvalue > 1e-6


def test_noise_tokens_follow_the_law():
    law = NoiseLaw(np.array([5, 3, 7], np.int32), np.array([0.6, 0.3, 0.1]))
    drawn = law.sample(np.random.default_rng(0), 30_000)
    counts = [int((drawn == t).sum()) for t in (5, 3, 7)]
    assert stats.chisquare(counts, 30_000 * law.probs).pvalue > 1e-6
    assert (law.prob(3), law.prob(4), law.prob(5)) == (0.3, 0.0, 0.6)
    assert NoiseLaw.uniform([4, 8]).prob(8) == 0.5


def test_excluding_the_correct_token_conditions_the_law():
    law = NoiseLaw(np.array([9, 4, 5], np.int32), np.array([0.5, 0.4, 0.1]))
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        t = expert_trajectory([1], [9, SPACE.eos], law, 0.5, rng, SPACE, exclude_correct=True)
        drawn += t.realised[(t.labels == 9) & (t.realised != 9)].tolist()
        assert not ((t.labels[1:] == SPACE.bkspc) & (t.realised[:-1] == 9) & (t.labels[:-1] == 9)).any()
    counts = [drawn.count(4), drawn.count(5)]
    assert stats.chisquare(counts, np.array([0.8, 0.2]) * sum(counts)).pvalue > 1e-6


def test_a_wrong_draw_may_be_the_correct_token_by_default():
    """The paper draws from the whole set: then the correct token is inserted as noise and deleted like any other."""
    t = expert_trajectory([1], [9, 2], NoiseLaw.uniform([9]), 0.9, np.random.default_rng(0), SPACE)
    assert t.realised.tolist()[:3] == [9, SPACE.bkspc, 9]
    assert t.labels.tolist()[:3] == [9, SPACE.bkspc, 9]


def test_bad_input_is_named():
    rng = np.random.default_rng(0)

    def build(answer=(9, 2), law=DIGITS, eta=0.1, prompt=(1,), **kwargs):
        return expert_trajectory(prompt, answer, law, eta, rng, SPACE, **kwargs)

    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"η must lie in \[0, 1\]"):
            build(eta=eta)
    with pytest.raises(ValueError, match="never reaches the answer"):
        build(eta=1.0)
    assert len(build(eta=1.0, repeats=False)) == 6
    for answer in ([], [9], [2, 9, 2], [2, 9]):
        with pytest.raises(ValueError, match="must end in its only <eos>"):
            build(answer=answer)
        with pytest.raises(ValueError, match="must end in its only <eos>"):
            edit_expert_labels(build(), answer, SPACE)
    with pytest.raises(ValueError, match="burst"):
        build(burst=0)
    with pytest.raises(ValueError, match="prompt must not be empty"):
        build(prompt=())
    with pytest.raises(ValueError, match="tokens other than <eos>"):
        build(law=NoiseLaw.uniform([2, 3]))
    with pytest.raises(ValueError, match="tokens other than <eos>"):
        build(law=NoiseLaw.uniform([12]))
    with pytest.raises(ValueError, match="no tokens"):
        build(law=NoiseLaw.none(), eta=0.9, answer=[9] * 30 + [2])
    assert len(build(law=NoiseLaw.none(), eta=0.0)) == 2
    with pytest.raises(ValueError, match="nothing is left"):
        build(law=NoiseLaw.uniform([9]), eta=0.9, answer=[9] * 30 + [2], exclude_correct=True)
    with pytest.raises(ValueError, match="distinct"):
        NoiseLaw.uniform([3, 3])
    with pytest.raises(ValueError, match="sum to 1"):
        NoiseLaw(np.array([3, 4], np.int32), np.array([0.3, 0.3]))

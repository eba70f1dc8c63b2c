"""Masked errors: the loss against one clean pass a state, the demonstrations against what they say, and not the same
thing as leaving out the labels `<bkspc>`."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smlib.edits.actions import Trajectory
from smlib.edits.noise import NoiseLaw
from smlib.edits.packing import pack
from smlib.edits.standing import standing_mistakes
from smlib.objectives.losses import sizes
from smlib.objectives.methods import ObjectiveConfig, objective
from smlib.training.batches import demonstration
from tests.support.copying import Copying, config
from tests.support.oracles import SPACE, float64_policy, replayed_values

LAW = NoiseLaw.uniform([2, 3, 4, 5, 6])
MASKED = ObjectiveConfig(method="masked")


def some(n=6, eta=0.5, seed=0):
    rng = np.random.default_rng(seed)
    clean = [Trajectory.make([0, 2 + i % 4], [3, 4, 2 + i % 5, 6, 1], space=SPACE) for i in range(n)]
    return [standing_mistakes(t, LAW, eta, rng) for t in clean]


def test_the_loss_is_one_clean_pass_a_state_without_the_mistakes():
    policy, members = float64_policy().forbid_backspace(), some()
    batch = pack([[t] for t in members], SPACE)
    found = objective(policy, batch, MASKED, 0, 2).total
    slow = replayed_values(policy, members, [False] * len(members))
    wrong = torch.tensor(np.concatenate([t.labels != t.realised for t in members]))
    assert 0 < int(wrong.sum()) < wrong.numel() / 2
    torch.testing.assert_close(found, -slow.log_prob[~wrong].sum() / wrong.numel(), atol=1e-12, rtol=0)
    parts = [pack([[t] for t in members[a:b]], SPACE) for a, b in ((0, 2), (2, 6))]
    added = sum(objective(policy, part, MASKED, 0, None, sizes(parts)).total for part in parts)
    torch.testing.assert_close(added, found, atol=1e-12, rtol=0)


@given(st.integers(0, 1_000), st.sampled_from([0.0, 0.2, 0.7, 1.0]), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_mistakes_stand_and_the_text_goes_on(seed, eta, burst):
    clean = Trajectory.make([0, 2], [3, 4, 5, 6, 2, 3, 1], space=SPACE)
    found = standing_mistakes(clean, LAW, eta, np.random.default_rng(seed), burst=burst)
    assert np.array_equal(found.labels, clean.labels)
    assert found.realised[-1] == SPACE.eos
    assert len(found) == len(clean)
    Trajectory.make(found.prompt, found.labels, found.realised, space=SPACE)  # it is one
    rng = np.random.default_rng(seed)
    begins = rng.random(6) < eta
    struck = [any(begins[max(0, i - burst + 1) : i + 1]) for i in range(6)]
    tokens = LAW.sample(rng, 6)
    expected = [tokens[i] if struck[i] else clean.realised[i] for i in range(6)]
    assert found.realised[:-1].tolist() == [int(t) for t in expected]


def test_a_run_has_such_demonstrations():
    rngs = [np.random.default_rng(5) for _ in range(2)]
    asked = config("masked", eta=0.6)
    made = demonstration(0, Copying(), asked, rngs[0])
    assert np.array_equal(made.labels, [2, 2, 1])
    expected = standing_mistakes(Copying().demonstration(0, rngs[1], 0.0, 1), Copying().law, 0.6, rngs[1])
    assert np.array_equal(made.realised, expected.realised)
    clean = demonstration(0, Copying(), config("masked", eta=0.0), np.random.default_rng(5))
    assert np.array_equal(clean.realised, clean.labels)


def test_it_is_not_cloning_without_the_labels_that_delete():
    """There no state with a mistake has a label: the loss is likelihood of clean states, some counted again."""
    policy, data = float64_policy(), Copying()
    rng = np.random.default_rng(1)
    members = [data.demonstration(i % 5, rng, 0.5, 1) for i in range(8)]
    batch = pack([[t] for t in members], SPACE)
    left_out = objective(policy, batch, ObjectiveConfig(method="bc", edit_weight=0.0), 0, None).total
    visits = sum(len(t) for t in members)
    total = torch.zeros((), dtype=torch.float64)
    for i, t in enumerate(members):
        answer = data.reference(i % 5)
        clean = Trajectory.make(t.prompt, answer, space=SPACE)
        log_prob = replayed_values(policy, [clean], [False]).log_prob
        depth = [0]
        for a in t.realised[:-1]:
            depth.append(depth[-1] - 1 if a == SPACE.bkspc else depth[-1] + 1)
        for label, d in zip(t.labels.tolist(), depth, strict=True):
            if label != SPACE.bkspc:
                assert label == answer[d]
                total = total - log_prob[d]
    torch.testing.assert_close(left_out, total / visits, atol=1e-12, rtol=0)
    # Here the states after a mistake are what is added: with it, the loss depends on how they are read.
    noisy = some()
    touched = next(t for t in noisy if (t.labels != t.realised)[0])
    others = Trajectory(touched.prompt, touched.labels, touched.labels)
    pair = [objective(policy, pack([[t]], SPACE), MASKED, 0, None).total for t in (touched, others)]
    assert (pair[0] - pair[1]).abs() > 1e-3


@pytest.mark.parametrize(("eta", "burst", "said"), [(1.5, 1, "must lie in"), (0.5, 0, "burst is the number")])
def test_settings_are_checked(eta, burst, said):
    clean = Trajectory.make([0], [2, 1], space=SPACE)
    with pytest.raises(ValueError, match=said):
        standing_mistakes(clean, LAW, eta, np.random.default_rng(0), burst=burst)

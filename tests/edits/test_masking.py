"""Algorithm A (stack form) = trie = replay: in states, logits, losses and gradients (design of Sec. 4.1)."""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from smlib.edits.actions import Trajectory, replay
from smlib.edits.algorithm_a import algorithm_a, algorithm_a_printed
from smlib.edits.masking import dense_mask, trie, tries
from smlib.edits.packing import pack
from smlib.objectives.divergences import get
from smlib.objectives.losses import likelihood, sequencematch, visit_values
from tests.support.oracles import SPACE, algorithm_a_values, float64_policy, groups, replayed_values, trajectories


def visible_state(tokens, positions, mask_row):
    seen = np.flatnonzero(mask_row)
    order = np.argsort(positions[seen], kind="stable")
    return tuple(tokens[seen][order].tolist()), positions[seen][order].tolist()


@given(trajectories())
def test_trie_shows_each_visit_exactly_its_state(trajectory):
    laid = trie(trajectory, SPACE)
    mask = dense_mask(torch.from_numpy(laid.expiry)[None])[0, 0].numpy()
    for state, slot in zip(replay(trajectory, SPACE), laid.states, strict=True):
        assert visible_state(laid.tokens, laid.positions, mask[slot]) == (state, list(range(len(state))))


@given(st.lists(trajectories(), max_size=6))
def test_many_laid_out_at_once_are_each_laid_out_alone(several):
    together = tries(several, SPACE)
    assert len(together) == len(several)
    for laid, trajectory in zip(together, several, strict=True):
        for name, part in vars(trie(trajectory, SPACE)).items():
            found = getattr(laid, name)
            assert found.dtype == np.int64
            np.testing.assert_array_equal(found, part, err_msg=name)


@given(trajectories())
def test_trie_needs_one_slot_per_inserted_token(trajectory):
    inserted = int((trajectory.realised != SPACE.bkspc).sum())
    assert trie(trajectory, SPACE).tokens.size == trajectory.prompt.size + inserted


@given(trajectories())
def test_algorithm_a_shows_each_visit_exactly_its_state(trajectory):
    masked = algorithm_a(trajectory, SPACE)
    for t, state in enumerate(replay(trajectory, SPACE)):
        row = masked.mask[trajectory.prompt.size - 1 + t]
        assert visible_state(masked.inputs, masked.positions, row) == (state, list(range(len(state))))


@given(trajectories(prompt=[SPACE.bos]))
def test_algorithm_a_as_printed_is_right_up_to_a_shift_of_positions(trajectory):
    # The printed p starts at 1 ("p[i] <- p[d-1] + 1" for i = 0 reads p[0] = 0), Figure 2 starts at 0.
    printed = algorithm_a_printed([SPACE.bos, *trajectory.realised.tolist()], SPACE.bkspc)
    for t, state in enumerate(replay(trajectory, SPACE)):
        expected = (state, list(range(1, len(state) + 1)))
        assert visible_state(printed.inputs, printed.positions, printed.mask[t]) == expected


def test_algorithm_a_as_printed_deletes_the_prompt():
    # A root of two tokens: "<bos> 5" then <bkspc> 3. The definition keeps the prompt; the printed pointers delete 5.
    trajectory = Trajectory.make([0, 5], [SPACE.bkspc, 3, SPACE.eos], space=SPACE)
    printed = algorithm_a_printed([0, *trajectory.prompt[1:].tolist(), *trajectory.realised.tolist()], SPACE.bkspc)
    state, _ = visible_state(printed.inputs, printed.positions, printed.mask[3])
    assert replay(trajectory, SPACE)[2] == (0, 5, 3)
    assert state == (0, 3)


def test_figure_2():
    # The table of Figure 2: Apples=2 are=3 blue=4 green=5.
    trajectory = Trajectory.make([0], [2, 3, 4, SPACE.bkspc, 5, SPACE.eos], space=SPACE)
    masked = algorithm_a(trajectory, SPACE)
    assert masked.inputs[:6].tolist() == [0, 2, 3, 4, 3, 5]
    assert masked.positions[:6].tolist() == [0, 1, 2, 3, 2, 3]
    laid = trie(trajectory, SPACE)  # no copy of "are": five slots instead of six before <eos>
    assert laid.tokens.tolist() == [0, 2, 3, 4, 5, 1]
    assert laid.positions.tolist() == [0, 1, 2, 3, 3, 4]
    assert laid.expiry.tolist() == [6, 6, 6, 4, 6, 6]
    assert laid.states.tolist() == [0, 1, 2, 3, 2, 4, 5]


@given(st.lists(groups(), min_size=1, max_size=3), st.integers(1, 60), st.booleans())
def test_packed_batches_show_each_visit_its_state(batch_groups, row_len, from_root):
    batch = pack(batch_groups, SPACE, row_len=row_len, discount_from_root=from_root)
    mask = batch.mask()[:, 0].numpy()
    n_slots = batch.tokens.shape[1]
    members = [t for group in batch_groups for t in group]
    for b, trajectory in enumerate(members):
        own = (batch.trajectory == b).nonzero().flatten()
        states = [*batch.visit_state[own].tolist(), int(batch.terminal[b])]
        assert batch.visit_next[own].tolist() == states[1:]
        assert states[0] == int(batch.initial[b])
        assert batch.label[own].tolist() == trajectory.labels.tolist()
        begin = trajectory.prompt.size if from_root else 0
        assert batch.step[own].tolist() == list(range(begin, begin + len(trajectory)))
        for state, u in zip(replay(trajectory, SPACE), states, strict=True):
            row, slot = divmod(int(batch.slots[u]), n_slots)
            shown = visible_state(batch.tokens[row].numpy(), batch.positions[row].numpy(), mask[row, slot])
            assert shown == (state, list(range(len(state))))


def test_rollouts_share_the_slots_of_their_prompt():
    data = Trajectory.make([0, 2, 3, 4], [5, 6, SPACE.eos], space=SPACE)
    rollout = Trajectory.make([0, 2, 3, 4], [6, SPACE.eos], space=SPACE)
    inside = Trajectory.make([0, 2, 3, 4, 5], [2, SPACE.eos], space=SPACE)
    alone = [pack([[t]], SPACE).tokens.numel() for t in (data, rollout, inside)]
    assert pack([[data, rollout, inside]], SPACE).tokens.numel() == sum(alone) - 4 - 5


POLICY = float64_policy()


def losses_and_gradients(visits):
    """Each loss with its gradient with respect to every parameter."""
    out = []
    for loss in (
        likelihood(visits),
        sequencematch(visits, divergence=get("chi2"), alpha=0.3, gamma=0.9, mixture=True),
        sequencematch(visits, divergence=get("js"), alpha=0.1, gamma=0.9),
    ):
        POLICY.zero_grad()
        loss.total.backward(retain_graph=True)
        gradient = [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in POLICY.parameters()]
        out.append((loss.total.detach(), torch.cat([g.flatten() for g in gradient])))
    return out


@settings(max_examples=20, phases=[Phase.explicit, Phase.generate])  # shrinking runs the slow oracles for minutes
@given(st.lists(groups(), min_size=1, max_size=2), st.integers(1, 60))
def test_trie_equals_replay_and_algorithm_a_in_losses_and_gradients(batch_groups, row_len):
    # 1e-9: float64 sums of some hundred terms of order 1, in another order.
    members = [t for group in batch_groups for t in group]
    model = [[False] + [True] * (len(group) - 1) for group in batch_groups]
    flat = [flag for group in model for flag in group]
    batch = pack(batch_groups, SPACE, model=model, row_len=row_len)
    fast = visit_values(*POLICY(batch), batch)
    for slow in (replayed_values(POLICY, members, flat), algorithm_a_values(POLICY, members, flat)):
        for name in ("logit", "value", "next_value", "initial_value", "terminal_value"):
            torch.testing.assert_close(getattr(fast, name), getattr(slow, name), rtol=0, atol=1e-9)
        for (a, da), (b, db) in zip(losses_and_gradients(fast), losses_and_gradients(slow), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
            torch.testing.assert_close(da, db, rtol=0, atol=1e-9)


@pytest.mark.parametrize("path", ["plain head", "head with a hook of its own"])
def test_chunked_unembedding_equals_the_whole(path, monkeypatch):
    if path != "plain head":  # anything but a plain nn.Linear is called as it is

        class Head(torch.nn.Linear):
            pass

        monkeypatch.setattr(POLICY.lm.lm_head, "__class__", Head)
    trajectory = Trajectory.make([0, 2], [3, SPACE.bkspc, 4, 5, SPACE.bkspc, 6, SPACE.eos], space=SPACE)
    batch = pack([[trajectory], [trajectory]], SPACE)
    results = []
    for chunk in (None, 1, 3, 100):
        POLICY.zero_grad()
        visits = visit_values(*POLICY(batch, chunk), batch)
        loss = sequencematch(visits, divergence=get("chi2"), alpha=0.3, gamma=0.9).total
        loss.backward()
        results.append((loss.detach(), *(p.grad.clone() for p in POLICY.parameters() if p.grad is not None)))
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_row_packing_wastes_little():
    rng = np.random.default_rng(0)
    lots = [[Trajectory.make([0], [*rng.integers(2, 7, n), 1], space=SPACE)] for n in rng.integers(3, 40, 200)]
    assert pack(lots, SPACE, row_len=128).padding < 0.05


def test_nothing_to_pack_and_wrong_flags_are_refused():
    with pytest.raises(ValueError, match="nothing to pack"):
        pack([[]], SPACE)
    with pytest.raises(ValueError, match="one flag for each"):
        pack([[Trajectory.make([0], [1], space=SPACE)]], SPACE, model=[[True, False]])

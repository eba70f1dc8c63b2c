import numpy as np
import pytest

from smlib.edits.actions import Trajectory
from smlib.training.rollouts import Ahead, ReplayBuffer, refill_interval
from tests.support.oracles import SPACE


def sampler(examples, step):
    """A rollout that says which example and step it came from."""
    return [Trajectory.make([0, 2 + e % 5], [2 + step % 5, SPACE.bkspc, 3, 1], space=SPACE) for e in examples]


def test_each_entry_is_seen_as_often_as_asked():
    # Appendix E: 1,000 places, 8 times each. The time in the buffer is size/refill refills of `interval` steps.
    batch, refill, size = 32, 100, 400
    interval = refill_interval(batch, refill, times_seen=8)
    assert interval == 25
    buffer = ReplayBuffer(n_examples=5_000, size=size, seed=0)
    buffer.enter(size, 0)
    seen: dict[tuple[int, int], int] = {}  # (example, when it entered) -> draws so far
    gone: list[int] = []
    for step in range(2_000):
        if step and step % interval == 0:
            oldest = [(e.example, e.born) for e in buffer.entries[:refill]]
            buffer.enter(refill, step)
            gone += [seen.pop(key, 0) for key in oldest]
        for entry in buffer.draw(batch, step):
            key = (entry.example, entry.born)
            seen[key] = seen.get(key, 0) + 1
    # The first `size` leave early. The others stay exactly 100 steps of 32 draws from 400 entries: 8 in expectation,
    # and since every draw hits someone the mean over full lives is 8 up to those that are still inside.
    assert np.mean(gone[size:]) == pytest.approx(8, abs=0.05)


def test_every_example_enters_once_an_epoch():
    buffer = ReplayBuffer(n_examples=10, size=4, seed=3)
    entered = [e.example for _ in range(6) for e in buffer.enter(5, 0)[-5:]]
    buffer = ReplayBuffer(n_examples=10, size=10, seed=3)
    entered = [e.example for _ in range(4) for e in buffer.enter(5, 0)]
    assert sorted(entered[:10]) == sorted(entered[10:]) == list(range(10))
    assert entered[:10] != entered[10:]


def test_the_oldest_are_replaced():
    buffer = ReplayBuffer(n_examples=100, size=6, seed=0)
    first = buffer.enter(6, 0)
    second = buffer.enter(2, 1)
    assert buffer.entries == [*first[2:], *second]


def test_draws_follow_from_seed_and_step():
    buffer = ReplayBuffer(100, 50, seed=5)
    buffer.enter(50, 0)
    picks = [e.example for e in buffer.draw(8, 7)]
    buffer.draw(8, 3)
    assert [e.example for e in buffer.draw(8, 7)] == picks
    assert [e.example for e in buffer.draw(8, 8)] != picks


def test_state_survives_a_round_trip():
    buffer = ReplayBuffer(30, 12, seed=1)
    buffer.enter(12, 0)
    late = buffer.entries[5:]
    for entry, rollout in zip(late, sampler([e.example for e in late], 4), strict=True):
        entry.rollout, entry.born, entry.stale = rollout, 4, 3
    buffer.ahead[7] = Ahead(2, [9, 3], sampler([9, 3], 2))
    buffer.ahead[9] = Ahead(4, [], [])
    restored = ReplayBuffer(30, 12, seed=1)
    restored.load_state_dict(buffer.state_dict(), SPACE)
    assert [e.example for e in restored.entries] == [e.example for e in buffer.entries]
    assert [(e.born, e.stale) for e in restored.entries] == [(e.born, e.stale) for e in buffer.entries]
    assert {due: (a.weights, a.examples) for due, a in restored.ahead.items()} == {7: (2, [9, 3]), 9: (4, [])}
    for a, b in zip(buffer.ahead[7].rollouts, restored.ahead[7].rollouts, strict=True):
        assert all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("prompt", "labels", "realised"))
    for a, b in zip(buffer.entries, restored.entries, strict=True):
        assert (a.rollout is None) == (b.rollout is None)
        if a.rollout is not None:
            assert all(np.array_equal(getattr(a.rollout, n), getattr(b.rollout, n)) for n in ("prompt", "labels"))
    assert [e.example for e in restored.enter(9, 5)] == [e.example for e in buffer.enter(9, 5)]


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="generate at least 4 at a time"):
        refill_interval(batch=32, refill=1, times_seen=8)
    with pytest.raises(ValueError, match="at least one example"):
        ReplayBuffer(0, 5, seed=0)


def test_how_many_questions_a_window_shows():
    """The numbers of docs/choices.md for `paired=True`: 1,500 steps of 32 at the buffer's settings of Figure 3."""

    def seen(n_examples):
        buffer, interval = ReplayBuffer(n_examples, 1_000, seed=0), refill_interval(32, 128, 8.0)
        buffer.enter(buffer.size, 0)
        found = set()
        for step in range(1_500):
            if step and step % interval == 0:
                buffer.enter(128, step)
            found |= {entry.example for entry in buffer.draw(32, step)}
        return len(found)

    assert seen(5_000) == 4_963  # "all but forty"
    assert seen(50_000) == 6_750


@pytest.mark.parametrize("group", [1, 3])
def test_what_will_enter_is_known_before(group):
    buffer, told = (ReplayBuffer(10, 6, seed=3, group=group) for _ in range(2))
    buffer.enter(6, 0)
    for n in range(1, 9):
        assert told.coming(6 + 3 * n, 3) == [e.example for e in buffer.enter(3, n)]
        assert told.coming(6 + 3 * n, 99) == [e.example for e in buffer.entries]
        assert [e.example for e in buffer.entries[::group] for _ in range(group)] == [e.example for e in buffer.entries]


def test_a_checkpoint_of_before_there_were_stale_rollouts_is_read():
    buffer = ReplayBuffer(30, 4, seed=1)
    buffer.enter(4, 0)
    state = buffer.state_dict()
    del state["stale"]
    buffer.load_state_dict(state, SPACE)
    assert [e.stale for e in buffer.entries] == [0] * 4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smlib.edits.actions import ActionSpace, Trajectory, final_state, replay, step
from tests.support.oracles import SPACE, trajectories

B, E = SPACE.bkspc, SPACE.eos


def test_figure_2_states():
    # "Apples are blue <bkspc> green" from <bos>; the states are the paper's S0..S5 and the end.
    trajectory = Trajectory.make([0], [2, 3, 4, B, 5, E], space=SPACE)
    assert replay(trajectory, SPACE) == [
        (0,),
        (0, 2),
        (0, 2, 3),
        (0, 2, 3, 4),
        (0, 2, 3),
        (0, 2, 3, 5),
        (0, 2, 3, 5, E),
    ]
    assert final_state(trajectory, SPACE).tolist() == [2, 3, 5]


def test_backspace_at_the_root_leaves_the_state():
    trajectory = Trajectory.make([0, 4], [B, B, 3, B, B, 2, E], space=SPACE)
    assert replay(trajectory, SPACE)[:3] == [(0, 4)] * 3
    assert final_state(trajectory, SPACE).tolist() == [2]


def test_terminal_state_absorbs():
    assert step((0, 2, E), 3, SPACE, root=1) == (0, 2, E)
    assert step((0, 2, E), B, SPACE, root=1) == (0, 2, E)


@given(trajectories())
def test_final_state_is_the_end_of_replay(trajectory):
    last = replay(trajectory, SPACE)[-1]
    assert [*trajectory.prompt.tolist(), *final_state(trajectory, SPACE).tolist(), E] == list(last)


@given(trajectories(), st.integers(2, 12))
def test_over_long_sequences_are_forced_to_eos_and_keep_the_label(trajectory, room):
    limit = trajectory.prompt.size + room
    cut = Trajectory.make(trajectory.prompt, trajectory.labels, trajectory.realised, space=SPACE, max_len=limit)
    lengths = [len(s) for s in replay(cut, SPACE)]
    assert max(lengths) <= limit
    assert cut.labels.tolist() == trajectory.labels[: len(cut)].tolist()
    assert cut.realised[:-1].tolist() == trajectory.realised[: len(cut) - 1].tolist()
    if len(cut) < len(trajectory):  # it was cut because the dropped action would not have fitted
        assert lengths[-1] == limit
        assert trajectory.realised[len(cut) - 1] not in (E, B)


@pytest.mark.parametrize(
    ("prompt", "labels", "realised", "message"),
    [
        ([], [E], None, "prompt is empty"),
        ([0], [2, 9, E], None, "labels contains id 9: expected 0 <= id < 8"),
        ([0, B], [E], None, "prompt contains id 7: expected 0 <= id < 7"),
        ([0], [2, E, 3], None, "nothing may follow the terminal state"),
        ([0], [2, 3], None, "never executes <eos>"),
        ([0], [2, E], [E], "one each per visit"),
        ([0], [-1, E], None, "labels contains id -1"),
    ],
)
def test_bad_trajectories_are_refused(prompt, labels, realised, message):
    with pytest.raises(ValueError, match=message):
        Trajectory.make(np.array(prompt, dtype=np.int64), np.array(labels), realised, space=SPACE)


def test_a_prompt_without_room_is_refused():
    with pytest.raises(ValueError, match="no room for <eos>"):
        Trajectory.make([0, 2, 3], [E], space=SPACE, max_len=3)


def test_bad_spaces_and_actions_are_refused():
    with pytest.raises(ValueError, match="eos=9 is not a token id"):
        ActionSpace(4, eos=9)
    with pytest.raises(ValueError, match="outside the action space"):
        step((0,), 8, SPACE, root=1)
    with pytest.raises(ValueError, match="fewer than its root"):
        step((0,), 2, SPACE, root=2)


def test_fractional_ids_are_refused():
    with pytest.raises((ValueError, TypeError)):
        Trajectory.make(np.array([0]), np.array([2.5, E]), space=SPACE)

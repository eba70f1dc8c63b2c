"""Names in two languages: right French for what a reader can check, apart from the task by key and by kind."""

from itertools import islice

import pytest

from smlib.data import load_task
from smlib.data.mathematics import Example
from smlib.data.translation_names import LONGEST, SHARES, check_apart, names, stream


@pytest.mark.parametrize(
    ("kind", "code", "english", "french"),
    [
        ("territory", "DE", "Germany", "Allemagne"),
        ("language", "nl", "Dutch", "néerlandais"),
        ("script", "Cyrl", "Cyrillic", "cyrillique"),
        ("month", "8", "August", "août"),
    ],
)
def test_names_are_what_a_speaker_would_say(kind, code, english, french):
    assert {name[0]: name[1:] for name in names(kind)}[code] == (english, french)


def test_pairs_are_lists_of_names_and_hold_no_number():
    pairs = list(islice(stream(1), 500))
    kinds = {part.split(":")[0] for pair in pairs for part in pair.meta["key"].split(" & ")}
    assert kinds == set(SHARES)
    assert {pair.meta["key"].count(" & ") for pair in pairs} == {0, 1, 2}
    assert not any(c.isdigit() for pair in pairs for c in pair.prompt + pair.answer)
    assert all(max(len(pair.meta["english"]), len(pair.answer)) <= LONGEST for pair in pairs)
    joined = [pair for pair in pairs if pair.meta["key"].count(" & ") == 1]
    assert all(" et " in pair.answer or " ou " in pair.answer for pair in joined)
    assert len({pair.meta["key"] for pair in pairs}) > 300


def test_they_are_the_same_for_the_same_seed_and_leave_out_what_they_are_told():
    first, again, other = (list(islice(stream(seed), 200)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    left_out = first[0].meta["key"]
    assert all(pair.meta["key"] != left_out for pair in islice(stream(1, {left_out}), 200))


def test_no_pair_of_the_task_is_among_them_and_an_overlap_is_named():
    task = load_task("translation", difficulty="easy", n_train=300, n_val=40, n_test=40)
    pairs = list(islice(stream(1, task.keys()), 300))
    check_apart(pairs, task.keys())
    asked = {e.prompt for split in (task.train, task.val, task.test) for e in split}
    assert not asked & {pair.prompt for pair in pairs}
    shared = Example("Germany Solution: ", "Allemagne", {"key": "territory:DE", "english": "Germany"})
    with pytest.raises(ValueError, match=r"1 pairs of the base model are among those of the task, 'Germany Solution:'"):
        check_apart([shared], {"territory:DE"})


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown kind 'river'; known: territory, language, script, month"):
        names("river")

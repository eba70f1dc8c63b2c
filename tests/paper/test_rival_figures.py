"""Rivals of deletion and late mistakes: the figures, tables and sentences show what was run, and say what was not."""

import pytest

from smlib.paper.figures import rivals
from smlib.paper.sentences.deletion import late
from smlib.paper.sentences.deletion import rivals as said_of_rivals


def estimate(value, half=0.02):
    return {"value": value, "low": value - half, "high": value + half, "n_seeds": 2, "n_items": 500}


def lead(difference, half=0.01):
    return {"difference": difference, "low": difference - half, "high": difference + half, "p_value": 0.1}


def row(way, value, over, *, decoding="t1", after=None):
    recovery = {"recovery": {d: {"all_removed": a, "correct": c} for d, (a, c) in after.items()}} if after else {}
    return {
        "way": way, "decoding": decoding, "status": "run", "n_seeds": 2, "accuracy": estimate(value),
        "over_mle": lead(over), "tokens": 5.0, "passes": 5.5, **recovery,
    }  # fmt: skip


STUDY = {
    "preset": "full",
    "sources": ["a.json"],
    "rows": [
        row("mle", 0.71, 0.0),
        row("mle", 0.73, 0.02, decoding="greedy"),
        row("mle", 0.72, 0.01, decoding="delete_0.1", after={"1": (0.9, 0.6), "3": (0.5, 0.3)}),
        row("mle", 0.72, 0.01, decoding="resample_0.1", after={"1": (0.9, 0.6), "3": (0.5, 0.3)}),  # drawn nowhere
        row("bc", 0.75, 0.04, after={"1": (0.99, 0.75), "3": (0.8, 0.62)}),
        row("soft", 0.65, -0.06, after={"1": (0.9, 0.7), "3": (0.9, 0.64)}),
        row("sm", 0.715, 0.005),
        {"way": "masked", "decoding": "t1", "status": "not run"},
        {"way": "masked", "decoding": "greedy", "status": "not run"},
    ],
}


def test_every_row_that_was_run_has_its_accuracy_and_its_recovery():
    made = rivals.accuracy_and_recovery(STUDY)
    left, right = made.axes
    assert [text.get_text() for text in left.get_yticklabels()] == [
        "MLE (2)", "MLE, greedy (2)", "MLE, deletes below p = 0.1 (2)", "BC (2)", "soft deletion (2)",
        "SequenceMatch (2)",
    ]  # fmt: skip
    assert len(left.containers) == 6
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["1 wrong token", "3 wrong tokens"]
    drawn = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in right.lines)
    assert drawn == [(0.3, 2), (0.6, 2), (0.62, 3), (0.64, 4), (0.7, 4), (0.75, 3)]
    assert rivals.finding(STUDY).startswith("At temperature 1: MLE 0.710, BC 0.750, soft deletion 0.650")
    with pytest.raises(ValueError, match="no run of the study is there"):
        rivals.accuracy_and_recovery({"rows": [{"way": "bc", "decoding": "t1", "status": "not run"}]})


def test_the_table_says_what_was_not_run():
    table = rivals.table(STUDY)
    assert table.loc[("masked errors", "temperature 1"), "seeds"] == "not run"
    assert table.loc[("BC", "temperature 1"), "3 wrong: all deleted / right"] == "0.80 / 0.62"
    assert table.loc[("soft deletion", "temperature 1"), "over MLE, points"] == "-6.0 (-7.0 to -5.0)"


def test_the_sentences_group_the_ways_by_their_intervals():
    said = said_of_rivals(STUDY)
    assert "MLE answers 71.0 %" in said
    assert "Ahead of it: BC (+4.0 points (95 %: +3.0 to +5.0), 2 seeds)." in said
    assert "Behind it: soft deletion (−6.0 points" in said
    assert "Not told apart from it: SequenceMatch" in said
    assert "right and all three deleted: BC 62 % and 80 % and soft deletion 64 % and 90 %." in said
    assert "With fewer than 3 seeds these are leads and no verdicts." in said
    more = {"rows": [{**r, "n_seeds": 3} if r["status"] == "run" else r for r in STUDY["rows"]]}
    assert "leads" not in said_of_rivals(more)
    assert "MLE that deletes below p = 0.1 is right after one wrong token in 60 % and after three in 30 %" in said
    assert "Not run: masked errors." in said
    assert said_of_rivals({"rows": []}) == "No run of this study is there."


def seen(*bkspc):
    return [
        {"distance": i, "n": 9, "bkspc": p, "bkspc_clean": 0.01, "correct": 1 - p, "correct_clean": 0.9}
        for i, p in enumerate(bkspc, 1)
    ]


def order(name, method, any_digit, carry):
    return {
        "order": name, "method": method, "status": "run", "n_seeds": 1, "accuracy": estimate(0.7),
        "visible": {"any": any_digit, "carry": carry},
    }  # fmt: skip


ORDERS = {
    "sources": ["b.json"],
    "rows": [
        order("most_first", "bc", seen(0.8, 0.9, 0.9, 0.9, 0.9, 0.9), seen(0.3, 0.7)),
        order("most_first", "mle", seen(0.2, 0.3), seen(0.1, 0.2)),
        order("least_first", "bc", seen(0.95), seen(0.94)),
        {"order": "least_first", "method": "mle", "status": "not run"},
    ],
}


def test_what_is_noticed_stands_beside_the_same_states_without_the_mistake():
    made = rivals.visible(ORDERS)
    upper, lower = made.axes[0], made.axes[2]
    assert [len(line.get_xdata()) for line in upper.lines] == [5, 5, 1, 1]  # the sixth distance is not drawn
    assert list(upper.lines[1].get_ydata()) == [0.01] * 5
    assert len(lower.lines) == 2  # MLE has one order only
    assert "most significant digit first: 0.80 for any digit and 0.30 for one more or less" in rivals.noticed(ORDERS)
    assert rivals.noticed(ORDERS, "sm") == "What is right after a wrong digit, seen by a model that cannot delete"
    with pytest.raises(ValueError, match="no run of bc or mle is there"):
        rivals.visible({"rows": []})


def test_the_orders_in_sentences_and_in_a_table():
    said = late(ORDERS)
    assert "Most significant digit first: BC deletes with probability 80 % right after any wrong digit." in said
    assert "one more or less than the right one, 30 %, and 70 % one token later; after a right digit 1 %." in said
    assert "one more or less than the right one, 94 %; after a right digit 1 %." in said
    assert "Not run, least significant digit first: MLE." in said
    assert late({"rows": []}) == "No run of this study is there."
    table = rivals.orders_table(ORDERS)
    assert table.loc["MLE"].tolist() == ["0.700 (1 seed)", "not run"]

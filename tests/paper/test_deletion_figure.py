"""The cost of deletion as a figure, and decoupled deletion's rivals as a table: every number with its interval."""

import pytest

from smlib.paper.figures import deletion
from smlib.paper.sentences.deletion import confirmation, cost


def found(difference, half=0.01):
    return {"difference": difference, "low": difference - half, "high": difference + half, "p_value": 0.5}


ROWS = [
    {"shape": "8x96", "way": "closed form", "n_seeds": 3, "cost": found(0.0, 0.0), "gain": found(0.003)},
    {"shape": "8x96", "way": "shared", "n_seeds": 2, "cost": found(-0.025), "gain": found(0.022)},
    {"shape": "8x96", "way": "own network (bc)", "n_seeds": 2, "gain": found(0.044)},
    {"shape": "4x64", "way": "shared", "n_seeds": 1, "cost": found(0.05), "gain": found(0.01)},
]


def test_every_way_has_a_line_and_every_shape_a_colour():
    made = deletion.cost_and_gain(ROWS)
    cost, gain = made.axes
    assert [label.get_text() for label in cost.get_yticklabels()] == [
        "in the same weights (BC)", "a network of its own (BC)", "closed form, no training",
    ]  # fmt: skip
    assert len(cost.containers) == 3  # MLE's own writing cannot be lost by a network beside it
    assert len(gain.containers) == 4
    assert [text.get_text() for text in made.legends[0].get_texts()] == [
        "8x96 (layers × width)", "4x64 (layers × width)",
    ]  # fmt: skip


def test_the_title_has_the_interval_of_what_it_says_and_the_fewest_seeds():
    said = deletion.finding(ROWS)
    assert said == (
        "A base of 8x96: edits win +2.2 (+1.2 to +3.2) points in the same weights, where the loss in writing is -2.5 "
        "(-3.5 to -1.5), and +4.4 (+3.4 to +5.4) by a network of its own (BC)"
    )
    assert deletion.cost_and_gain(ROWS).legends[0].get_title().get_text().endswith("at least 1 seed")
    assert deletion.cost_and_gain(ROWS[:3]).get_supxlabel().endswith("at least 2 seeds")
    with pytest.raises(ValueError, match="no run of the study is there"):
        deletion.cost_and_gain([])


def test_what_was_not_run_is_said_for_each_base():
    first, second = cost(ROWS).splitlines()
    assert first.startswith("- Not run with a base of 8x96: same weights, labels count a quarter; same weights, labels")
    assert "closed form" not in first
    assert "closed form, no training" in second
    assert cost([]) == "No run of this study is there."
    every = [{"shape": "8x96", "way": way} for way in deletion.WAYS]
    assert cost(every) == "Every way was run with every base."


def test_decoupled_deletion_stands_beside_each_rule_for_the_writer():
    over = {rule: found(lead) for rule, lead in {"t1": 0.044, "top_p": 0.033}.items()}
    row = {"deleter": "bc", "rule": "drawn", "n_seeds": 2, "accuracy": {"value": 0.767}, "over": over}
    table = deletion.decoupled_table([row])
    assert table.loc[("BC", "drawn from P(<bkspc>)")].tolist() == [
        "2", "0.767", "+4.4 (+3.4 to +5.4)", "+3.3 (+2.3 to +4.3)",
    ]  # fmt: skip
    assert deletion.decoupled_table([]).empty


STUDY = {
    "ours": "both",
    "rivals": {"mle": "MLE alone", "bc": "BC, one network", "greedy": "greedy"},
    "seeds": 3,
    "planned": 3,
    "accuracy": {"both": {"value": 0.76}, "mle": {"value": 0.718}, "bc": {"value": 0.757}, "greedy": {"value": 0.8}},
    "passes": {"both": 7.3, "mle": 4.6, "bc": 5.9, "greedy": 4.6},
    "claims": [
        {"over": "MLE alone", **found(0.042), "p_holm": 0.001, "outcome": "confirmed"},
        {"over": "BC, one network", **found(0.003), "p_holm": 0.6, "outcome": "same sign"},
        {"over": "greedy", **found(-0.04), "p_holm": 0.01, "outcome": "contradicted"},
    ],
}  # fmt: skip


def test_the_confirmation_says_whom_it_is_ahead_of_and_whom_not():
    said = confirmation(STUDY).splitlines()
    assert said == [
        "- On the test questions MLE's writing with BC's deletions answers 76.0 %, over 3 of 3 seeds that chose "
        "nothing.",
        "- **It is ahead of** MLE alone (+4.2 points (95 %: +3.2 to +5.2)).",
        "- Not told apart from it: BC, one network (+0.3 points (95 %: −0.7 to +1.3)).",
        "- **It is behind** greedy (−4.0 points (95 %: −5.0 to −3.0)).",
        "- It reads 7.3 tokens an answer with each of its two networks, BC 5.9 and MLE 4.6 with one.",
    ]
    table = deletion.confirmation_table(STUDY)
    assert table.loc["MLE alone"].tolist() == ["0.718", "+4.2 (+3.2 to +5.2)", "0.001", "confirmed"]


def test_claims_without_every_seed_are_undecided():
    part = [{key: value for key, value in claim.items() if key != "outcome"} for claim in STUDY["claims"]]
    study = {**STUDY, "seeds": 1, "claims": part}
    assert "Undecided until every planned seed is there: its lead over MLE alone" in confirmation(study)
    assert set(deletion.confirmation_table(study)["ahead"]) == {"undecided"}
    none = {**STUDY, "claims": []}
    assert confirmation(none) == "The confirmation has not been run with this preset, nor with `full`."
    assert deletion.confirmation_table(none).empty

"""The cost of deletion as a figure, and decoupled deletion's rivals as a table: every number with its interval."""

import pytest

from smlib.paper.figures import deletion


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
        "Edits win +2.2 (+1.2 to +3.2) points in the same weights and +4.4 (+3.4 to +5.4) by a network of its own "
        "(BC); in the former writing loses -2.5 (-3.5 to -1.5)"
    )
    assert deletion.cost_and_gain(ROWS).get_supxlabel().endswith("at least 1 seed")
    with pytest.raises(ValueError, match="no run of the study is there"):
        deletion.cost_and_gain([])


def test_decoupled_deletion_stands_beside_each_rule_for_the_writer():
    over = {rule: found(lead) for rule, lead in {"t1": 0.044, "top_p": 0.033}.items()}
    row = {"deleter": "bc", "rule": "drawn", "n_seeds": 2, "accuracy": {"value": 0.767}, "over": over}
    table = deletion.decoupled_table([row])
    assert table.loc[("BC", "drawn from P(<bkspc>)")].tolist() == [
        "2", "0.767", "+4.4 (+3.4 to +5.4)", "+3.3 (+2.3 to +4.3)",
    ]  # fmt: skip
    assert deletion.decoupled_table([]).empty

"""Decoupled deletion on trained policies: the pair of runs, what it answers, and that the writer is left as it is."""

import pytest

from smlib.paper.experiments.arithmetic import decoupled, learning
from smlib.paper.experiments.runs.kept import kept_policy


def test_a_pair_is_the_plans_own_runs():
    pair = decoupled.parts("full", "bc", 3)
    plan = learning.cells("full")
    assert {part: name for part, (name, _) in pair.items()} == {
        "writer": "mle-s3",
        "deleter": "bc-ground_truth-0.2-s3",
    }
    assert all(config == plan[name] for name, config in pair.values())
    assert decoupled.parts("full", "dagger", 0)["deleter"][1].training.objective.method == "dagger"
    with pytest.raises(ValueError, match="unknown deleter 'gail'; known: bc, sm, dagger"):
        decoupled.parts("full", "gail", 0)


def test_trained_networks_write_as_the_writer_does_and_delete_as_the_deleter(tmp_path, capsys):
    decoupled.main(["--preset", "smoke", "--results-dir", str(tmp_path), "--deleter", "bc"])
    assert "decoupled-bc-s0: its runs are not finished" in capsys.readouterr().out
    found = decoupled.run("smoke", "bc", 0, tmp_path, tmp_path / "weights")
    for rule in decoupled.RULES:  # with <bkspc> forbidden every answer is the writer's own, bit by bit
        assert found["rules"][rule]["val"]["no_backspace"]["correct"] == found["writer"]["val"]["t1"]["correct"]
        assert found["rules"][rule]["val"]["no_backspace"]["backspace_rate"] == 0.0
    drawn, doubled = (found["rules"][rule]["val"]["t1"]["backspace_rate"] for rule in ("drawn", "doubled"))
    assert 0 < drawn < doubled
    assert found["parameters"]["both"] > 1.9 * found["parameters"]["writer"]
    name, config = decoupled.parts("smoke", "bc", 0)["deleter"]
    assert kept_policy(config, name, tmp_path / "weights").config.backspace
    study = decoupled.study("smoke", tmp_path)
    assert [(row["deleter"], row["rule"], row["n_seeds"]) for row in study["rows"]] == [
        ("bc", rule, 1) for rule in decoupled.RULES
    ]
    assert all(set(row["over"]) == set(decoupled.RIVALS) and row["p_holm"] <= 1 for row in study["rows"])
    assert decoupled.study("quick", tmp_path) == {"rows": [], "sources": []}

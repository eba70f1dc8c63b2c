"""What deleting costs, by how it is trained: the runs differ in that alone, cost and gain are differences of bits."""

import dataclasses

import numpy as np
import pytest

from smlib.paper.experiments.arithmetic import deletion_cost, learning
from smlib.paper.experiments.arithmetic.deletion_ways import parameters
from smlib.paper.experiments.runs import finetuning
from smlib.paper.results import run_cached
from tests.support.made_up_runs import bits

RATES = {"mle": {"t1": 0.7, "truncation": 0.75}, "left_out": {"t1": 0.66, "no_backspace": 0.66}}


def test_the_ways_differ_in_the_objective_alone():
    made = deletion_cost.cells("full")
    assert list(made) == [f"cost-8x96-{way}-s0" for way in ("mle", "shared", "weight=0.25", "left_out", "own_head")]
    assert made["cost-8x96-mle-s0"][:3] == ("fig3", "mle-s0", True)  # the plan's own runs are not trained again
    assert made["cost-8x96-shared-s0"][:3] == ("fig3", "bc-ground_truth-0.2-s0", True)
    ways = [made[f"cost-8x96-{way}-s0"][3] for way in ("shared", "weight=0.25", "left_out")]
    assert [c.training.objective.edit_weight for c in ways] == [1.0, 0.25, 0.0]
    same = {dataclasses.replace(c.training, objective=ways[0].training.objective) for c in ways}
    assert len(same) == 1
    assert ways[0].training == learning.cells("full")["bc-ground_truth-0.2-s0"].training
    with pytest.raises(ValueError, match="unknown shape 9x9; known: 8x96"):
        deletion_cost.cells("full", ("9x9",))
    assert list(deletion_cost.cells("full", ways=("mle", "left out"))) == ["cost-8x96-mle-s0", "cost-8x96-left_out-s0"]
    with pytest.raises(ValueError, match="unknown way head; known: mle, shared"):
        deletion_cost.cells("full", ways=("head",))


def test_shapes_have_the_parameters_that_are_said():
    assert parameters("8x96") == 944_928  # the committed base's own count
    assert 0.8e6 < parameters("3x160") < 1.1e6
    assert 0.8e6 < parameters("2x192") < 1.1e6
    assert 0.2e6 < parameters("4x64") < 0.3e6
    assert 5e6 < parameters("12x192") < 6e6


def test_cost_and_gain_are_differences_of_the_finished_runs(tmp_path):
    made = deletion_cost.cells("full")
    for way, rates in RATES.items():
        label = f"cost-8x96-{way}-s0"
        rng = np.random.default_rng([*label.encode()])
        answers = {d: {"correct": bits(rng, 500, p), "accuracy": p, "backspace_rate": 0.0} for d, p in rates.items()}
        item, name, test, config = made[label]
        own = finetuning._identity(config, "full", test, ())
        run_cached(item, name, compute=lambda _, a=answers: {"val": a}, results_dir=tmp_path, **own)
    rows = {row["way"]: row for row in deletion_cost.study("full", results_dir=tmp_path)}
    assert set(rows) == {"closed form", "left out"}
    assert rows["closed form"]["cost"]["difference"] == 0.0
    assert rows["closed form"]["gain"]["difference"] == pytest.approx(0.05, abs=0.08)
    assert rows["left out"]["cost"]["difference"] == pytest.approx(0.04, abs=0.08)

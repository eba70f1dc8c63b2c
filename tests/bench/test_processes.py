"""Training along the number of processes: what is timed, what fails, and how it is shown."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from smlib.bench import processes as measured
from smlib.bench.workloads import ARITHMETIC, level_policy
from smlib.cli.app import app
from smlib.edits.actions import ActionSpace
from smlib.files import ResultError
from smlib.paper import results
from smlib.paper.experiments.overhead import tables as experiment
from smlib.paper.figures import overhead as pictures
from smlib.paper.sentences import overhead as sentences
from tests.support import processes

SHAPE = replace(ARITHMETIC, **processes.SIZES)
FOUND = {
    "x": [1, 2],
    "mle": [0.2, 0.12],
    "sm": [0.3, 0.18],
    "turns": {"mle": [[0.2, 0.2], [0.12, 0.12]], "sm": [[0.3, 0.3], [0.15, 0.18]]},
    "cores": 2,
}


def test_the_steps_between_two_refills_are_timed_in_two_processes(tmp_path):
    for status, text in processes.start("timed", tmp_path):
        assert status == 0, text
    found = json.loads((tmp_path / "seconds.json").read_text())
    assert set(found) == set(measured.METHODS)
    assert all(0 < seconds < 60 for seconds in found.values())
    (row,) = [
        json.loads(line) for line in (tmp_path / "sm" / "metrics.jsonl").read_text().splitlines() if "loss" in line
    ]
    assert row["step"] == 2 * SHAPE.interval


def test_one_process_and_more_take_turns(monkeypatch):
    order = []

    def started(shape, count):
        order.append(count)
        return {"mle": 1.0 / count, "sm": 3.0 / count}

    monkeypatch.setattr(measured, "started", started)
    found = measured.along_processes(SHAPE, counts=(1, 2), turns=3)
    assert order == [1, 2, 2, 1, 1, 2]
    assert (found["x"], found["mle"], found["sm"]) == ([1, 2], [1.0, 0.5], [3.0, 1.5])
    assert found["turns"]["mle"] == [[1.0] * 3, [0.5] * 3]
    with pytest.raises(ValueError, match="3 processes do not divide a batch of 4"):
        measured.along_processes(SHAPE, counts=(1, 3))


def test_the_policy_is_the_same_in_every_process():
    """Weights that the global generator drew would differ between processes, which refuse to train together then."""
    made = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        policy = level_policy(SHAPE, ActionSpace(vocab_size=11, eos=1), 0.2, 0.1)
        made.append({name: p.detach() for name, p in policy.named_parameters()})
    assert made[0].keys() == made[1].keys()
    assert all(torch.equal(p, made[1][name]) for name, p in made[0].items())


def test_what_fails_in_a_process_is_said():
    """The real command; a shape that no model can have."""
    with pytest.raises(RuntimeError, match=r"a process of 1 that train together ended with status 1: .*Error: "):
        measured.started(replace(SHAPE, dim=15), 1)


def test_a_process_alone_is_told_of_no_others(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    assert not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} & set(measured._environment(0, 1, 5))
    told = measured._environment(1, 2, 5)
    assert (told["RANK"], told["WORLD_SIZE"], told["MASTER_PORT"], told["OMP_NUM_THREADS"]) == ("1", "2", "5", "1")


def test_figures_table_and_sentence():
    figures = measured.as_figures(FOUND)
    assert figures["processes_2_mle_step_over_1"]["value"] == pytest.approx(0.6)
    assert figures["processes_2_sm_step_over_1"]["value"] == pytest.approx(0.55)
    assert figures["processes_1_sm_over_mle"]["value"] == pytest.approx(1.5)
    assert {entry["clock"] for entry in figures.values()} == {"wall"}
    table = pictures.processes(FOUND)
    assert table.loc[2, "MLE, over 1"] == 0.6
    assert np.isclose(table.loc[1, "SequenceMatch, ms a step"], 300)
    said = sentences.processes(FOUND)
    assert said == (
        "In 2 processes a step takes 0.60 of its time in 1 with MLE and 0.55 with SequenceMatch, on 2 cores; a perfect "
        "share would be 0.50."
    )


def test_the_notebook_reads_what_full_measured(tmp_path, monkeypatch):
    assert experiment.in_processes("smoke", tmp_path) is None
    with results.reading_only():
        assert experiment.in_processes("full", tmp_path) is None
    monkeypatch.setattr(measured, "along_processes", lambda: FOUND)
    made = experiment.in_processes("full", tmp_path)
    assert made == experiment.in_processes("smoke", tmp_path) == FOUND
    assert made.path.parent.name == "tab4"


def test_the_command_prints_what_was_measured(monkeypatch):
    monkeypatch.setattr(measured, "along_processes", lambda turns: FOUND if turns == 1 else {})
    done = CliRunner().invoke(app, ["bench", "--processes", "--quick", "--json"])
    assert json.loads(done.stdout)["processes_2_sm_over_mle"]["unit"] == "ratio"
    refused = CliRunner().invoke(app, ["bench", "--processes", "--peers"])
    assert isinstance(refused.exception, ResultError)

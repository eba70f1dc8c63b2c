"""Two processes are one: losses and weights of every method, what is refused, failures, and going on after a kill."""

import json
import os
import shutil
import types

import numpy as np
import pytest
import torch

from smlib.edits.packing import pack
from smlib.objectives.losses import sizes
from smlib.objectives.methods import METHODS
from smlib.training.algorithm_1 import train
from smlib.training.batches import Batches, Exponents
from smlib.training.processes import ALONE, Processes, _flattened, _restored, data_hash
from smlib.training.trainer import SequenceMatchTrainer
from tests.support import processes
from tests.support.copying import Copying, config, policy
from tests.support.finetuning import arguments, prompted
from tests.support.models import saved_model
from tests.support.oracles import SPACE


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Every case, trained by two processes that were started once."""
    folder = tmp_path_factory.mktemp("pair")
    bases(folder)
    for status, text in processes.start("all_cases", folder):
        assert status == 0, text
    return folder


def bases(folder):
    saved_model(folder / "base")
    saved_model(folder / "tied", "tied")


def test_no_method_is_left_out():
    assert set(processes.METHODS) == set(METHODS)


@pytest.mark.parametrize("name", [*processes.cases(), *processes.TRAINED])
def test_two_processes_are_one(pair, tmp_path, name):
    """Losses, weights and the replay buffer: in both processes as in one."""
    if name in processes.TRAINED:
        bases(tmp_path)
        one = processes.run_trainer(name, tmp_path, per_device=4)
    else:
        one = processes.run(name, tmp_path)
    # What GAIL's critic says is in float32 whatever the policy is in.
    tolerance = 1e-6 if name.endswith("float32") or name.startswith("gail") else 1e-10
    with np.load(pair / f"{name}-0.npz") as first, np.load(pair / f"{name}-1.npz") as second:
        assert set(first.files) == set(one)
        for part, values in one.items():
            np.testing.assert_array_equal(first[part], second[part])
            np.testing.assert_allclose(first[part], values, rtol=tolerance, atol=tolerance, err_msg=part)
        assert len(first["losses"]) >= 8
        assert {"buffer.example", "buffer.realised"} < set(one)
    assert (pair / name).is_dir()


def test_one_process_alone_writes_files(pair):
    assert len((pair / "sm-full" / "metrics.jsonl").read_text().splitlines()) == 20


def test_whoever_was_started_differently_is_told_how(tmp_path):
    ends = processes.start("different", tmp_path)
    first, second = (json.loads((tmp_path / f"said-{r}.json").read_text()) for r in (0, 1))
    assert first == second
    assert [text.partition(" than ")[0] for text in first[:3]] == [
        f"process 1 was started with {what}" for what in ("another configuration", "other data", "another model")
    ]
    assert len(first) == 3
    for status, text in ends:
        assert status == 1
        assert "2 processes do not divide a batch of 3: 3 examples at a time" in text


@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_fails_ends_all_with_its_message(tmp_path, which):
    folder = tmp_path / f"fails-{which}"
    folder.mkdir()
    ends = processes.start("failing", folder)
    assert "OSError: the disk is gone" in ends[which][1]
    status, text = ends[1 - which]
    assert status == 1
    assert f"OtherProcessError: process {which} of 2 failed: OSError: the disk is gone" in text


def test_after_a_kill_two_processes_or_one_go_on(tmp_path):
    ends = processes.start("killed", tmp_path)
    assert ends[1][0] == -9
    assert ends[0][0] == 1
    run = tmp_path / "run"
    reached = json.loads((run / "checkpoint" / "run.json").read_text())["step"]
    assert 0 < reached < 20
    shutil.copytree(run, tmp_path / "alone" / "run")
    assert [status for status, _ in processes.start("resumed", tmp_path)] == [0, 0]
    processes.resumed(tmp_path / "alone")
    whole = processes.run("sm-full", tmp_path / "whole")
    for folder in (tmp_path, tmp_path / "alone"):
        with np.load(folder / "resumed.npz") as found:
            for name, values in whole.items():
                if name != "norms":
                    np.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-10, err_msg=name)


def test_a_failure_inside_the_trainer_ends_all_with_its_message(tmp_path):
    bases(tmp_path)
    ends = processes.start("trainer_fails", tmp_path)
    assert [status for status, _ in ends] == [1, 1]
    assert "OtherProcessError: process 1 of 2 failed: OSError: the disk is gone" in ends[0][1]
    assert "OSError: the disk is gone" in ends[1][1]


def test_a_process_whose_trainer_cannot_begin_tells_the_other_why(tmp_path):
    bases(tmp_path)
    (tmp_path / "rows-0.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompted()))
    ends = processes.start("trainer_cannot_begin", tmp_path)
    assert [status for status, _ in ends] == [1, 1]
    assert "OtherProcessError: process 1 of 2 failed: " in ends[0][1]
    for _, text in ends:
        assert "rows-1.jsonl" in text.strip().splitlines()[-1]


def test_both_loops_compare_what_the_processes_were_started_with(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Processes, "check_same", lambda self, *given: asked.append(given))
    plain, data = config("bc", steps=4), Copying()
    train(policy(), data, plain, tmp_path / "a", progress=False)
    trainer = SequenceMatchTrainer(
        str(saved_model(tmp_path / "base")), arguments(tmp_path / "b", method="bc", max_steps=4), prompted()
    )
    trainer.train()
    (first, identity, own), (second, start, theirs) = asked
    assert (first, own) == (plain, data)
    assert len(identity) == len(start) > 8
    assert theirs is trainer.data
    assert second["config"] == trainer.train_config
    other = arguments(tmp_path / "c", method="bc", max_steps=4, lr_scheduler_type="linear", eval_steps=3)
    said = other.alike(trainer.train_config)
    assert {name for name in second if second[name] != said[name]} == {"lr_scheduler_type", "eval_steps"}


def test_processes_that_do_not_find_one_another_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = types.SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"))
    with pytest.raises(RuntimeError, match="2 processes were started and Accelerate finds 1: on CPUs"):
        Processes.of(alone)


def test_shares_are_equal_neighbours_and_complete():
    shares = [Processes(rank, 3).share(6) for rank in range(3)]
    assert [list(share) for share in shares] == [[0, 1], [2, 3], [4, 5]]
    Processes(0, 3).check_divides(6, 2)
    with pytest.raises(ValueError, match="3 processes do not divide a batch of 8 in 2 parts: 4 examples at a time"):
        Processes(0, 3).check_divides(8, 2)


def test_the_sizes_of_a_batch_come_from_its_trajectories():
    data, rng = Copying(), np.random.default_rng(0)
    demonstrations = [[data.demonstration(i, rng, 0.5, 1)] for i in range(3)]
    rollouts = [data.demonstration(i, rng, 0.9, 1) for i in range(2)]
    flags = [[False]] * 3 + [[True]] * 2
    laid = pack([*demonstrations, *[[r] for r in rollouts]], SPACE, model=flags)
    expected, found = sizes([laid]), Exponents()
    found.add(demonstrations, rollouts)
    made = found.sizes("cpu")
    assert (made.n_data, made.n_model) == (expected.n_data, expected.n_model) == (3, 2)
    assert torch.equal(made.data_step, expected.data_step)
    assert torch.equal(made.model_step, expected.model_step)


def test_a_batch_is_the_shares_of_its_processes():
    asked = config("bc")
    every = Batches(policy(), Copying(), asked)
    every.begin()
    whole = every.draw(3, "cpu").groups[0]
    shares = []
    for rank in range(2):
        own = Batches(policy(), Copying(), asked, Processes(rank, 2))
        own.begin()
        shares += own.draw(3, "cpu").groups[0]
    assert [g[0].realised.tolist() for g in shares] == [g[0].realised.tolist() for g in whole]


def test_trajectories_travel_as_numbers():
    data, rng = Copying(), np.random.default_rng(0)
    given = [data.demonstration(i, rng, 0.5, 1) for i in range(4)]
    found = _restored(_flattened(given))
    for before, after in zip(given, found, strict=True):
        for name in ("prompt", "labels", "realised"):
            assert np.array_equal(getattr(before, name), getattr(after, name))
            assert getattr(before, name).dtype == getattr(after, name).dtype
    assert _restored(_flattened([])) == []


def test_alone_nothing_is_asked_of_others():
    assert ALONE.summed({"a": 1.0}) == {"a": 1.0}
    assert ALONE.first_that(False) is None
    assert ALONE.leads
    ALONE.check_same({}, "", Copying())
    assert data_hash(Copying()) == data_hash(Copying())
    assert "RANK" not in os.environ

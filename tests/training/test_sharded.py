"""Two processes that split the model between them are one: FSDP2 through `train` and `SequenceMatchTrainer`.

Pairs of processes are started once and train one case after another. By default they are two layers of 16 numbers and
each method's shortest run that rolls out (8 steps; 20 of bc and sm): a step of a split model takes ten times that of a
whole one on a processor, and the whole file has a minute. `test_every_method_for_20_steps` has the rest.
"""

import dataclasses
import json
import os
import shutil
import types
import warnings

import numpy as np
import pytest
import torch

from smlib.environment import RefusedEnvironmentError, check_environment
from smlib.objectives.adversarial import Critic
from smlib.policies.loading import Lora, load_policy
from smlib.training.processes import ALONE, Processes
from smlib.training.sharding import full, put, whole, whole_state
from smlib.training.sharding_plan import asked, check_can_be_split, units, unsaid, whole_anyway
from smlib.training.split_trainer import SplitTrainer
from tests.support import processes, sharded
from tests.support.models import saved_model
from tests.support.oracles import float64_policy
from tests.support.processes_apart import forget_accelerates_state

PAIR = Processes(0, 2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    sharded.bases(folder)
    ends = processes.start(sharded.some_cases, folder, seconds=900)
    assert [status for status, _ in ends] == [0, 0], "\n".join(text for _, text in ends)
    return folder


def check_equal(folder, name, one):
    # What GAIL's critic says is in float32 whatever the policy is in.
    tolerance = 1e-6 if name.endswith("float32") or name.startswith("gail") else 1e-10
    with np.load(folder / f"{name}-0.npz") as first, np.load(folder / f"{name}-1.npz") as second:
        assert set(first.files) == set(one)
        for part, values in one.items():
            np.testing.assert_array_equal(first[part], second[part])
            np.testing.assert_allclose(first[part], values, rtol=tolerance, atol=tolerance, err_msg=part)


@pytest.mark.parametrize("name", sharded.SOME)
def test_two_processes_with_a_piece_each_are_one(pair, tmp_path, name):
    check_equal(pair, name, processes.run(name, tmp_path))


@pytest.mark.parametrize("name", sharded.TRAINED)
def test_so_they_are_through_the_trainer(pair, tmp_path, name):
    sharded.bases(tmp_path)
    one = sharded.run_trainer(name, tmp_path, each=4)
    check_equal(pair, name, one)
    for part, values in one.items():
        if part.startswith("resumed."):
            np.testing.assert_allclose(values, one[part.removeprefix("resumed.")], rtol=1e-12, atol=1e-12)
    read, _ = load_policy(pair / f"trainer-{name}")  # and anybody reads what they saved
    for part, p in read.named_parameters():
        if part in one:
            np.testing.assert_allclose(p.detach().double(), one[part], rtol=1e-10, atol=1e-10)


def test_passes_in_sixteen_bits_are_those_of_a_whole_model(pair, tmp_path):
    """Weights are gathered in their own type, so logits, V and the loss are float32 with pieces too. One process packs
    other rows, which the network rounds otherwise."""
    sharded.bases(tmp_path)
    forget_accelerates_state()
    one = sharded.run_trainer("rounded", tmp_path, each=4)["losses"]
    forget_accelerates_state()
    with np.load(pair / "rounded-0.npz") as pieces, np.load(pair / "rounded-whole-0.npz") as whole_models:
        np.testing.assert_allclose(pieces["losses"], whole_models["losses"], rtol=1e-6)
        np.testing.assert_allclose(pieces["losses"], one, rtol=5e-3)
        assert not np.array_equal(pieces["losses"], one)


def test_each_has_half_of_weights_gradients_and_state(pair):
    for name in ("tied", "tied-head"):
        found = [json.loads((pair / f"pieces-{name}-{r}.json").read_text()) for r in (0, 1)]
        small = 16 + 8 * 17 + 8 + 8 + 1  # the row of <bkspc> and the offset head
        for part in ("weights", "gradients", "state"):
            (first, total), (second, same) = found[0][part], found[1][part]
            assert total == same
            assert total < first + second <= total + small
            assert abs(first - second) <= 0.1 * total


def test_a_checkpoint_is_that_of_one_process(pair, tmp_path):
    shutil.copytree(pair / "trainer-tied", tmp_path / "trainer-tied")
    state = torch.load(tmp_path / "trainer-tied" / "checkpoint-4" / "optimizer.pt", weights_only=True)
    assert all(type(v) is torch.Tensor for entry in state["state"].values() for v in entry.values())


def test_a_policy_is_whole_where_it_is_looked_at_and_can_be_split_again(pair, tmp_path):
    check_equal(pair, "evaluated", sharded.evaluated(tmp_path))


def test_the_unembedding_is_gathered_once_a_step(pair):
    chunked, at_once = json.loads((pair / "gathers-0.json").read_text())
    assert chunked == at_once


@pytest.mark.skipif(not os.environ.get("SMLIB_LONG_TESTS"), reason="takes minutes: SMLIB_LONG_TESTS=1 asks for it")
@pytest.mark.parametrize("name", processes.cases())
def test_every_method_for_20_steps(all_of_them, tmp_path, name):
    check_equal(all_of_them, name, sharded.long_run(name, tmp_path))


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    ends = processes.start(sharded.all_cases, folder, seconds=1800)
    assert [status for status, _ in ends] == [0, 0], "\n".join(text for _, text in ends)
    return folder


@pytest.mark.skipif(not os.environ.get("SMLIB_LONG_TESTS"), reason="two more pairs; `tied` resumes by default")
def test_after_a_kill_two_processes_or_one_go_on(tmp_path):
    ends = processes.start(sharded.killed, tmp_path)
    assert (ends[0][0], ends[1][0]) == (1, -9)
    run = tmp_path / "run"
    assert 0 < json.loads((run / "checkpoint" / "run.json").read_text())["step"] < 20
    shutil.copytree(run, tmp_path / "alone" / "run")
    assert [status for status, _ in processes.start(sharded.resumed, tmp_path)] == [0, 0]
    processes.resumed(tmp_path / "alone")
    uninterrupted = processes.run("sm-full", tmp_path / "whole")
    for folder in (tmp_path, tmp_path / "alone"):
        with np.load(folder / "resumed.npz") as found:
            for name, values in uninterrupted.items():
                if name != "norms":
                    np.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-10, err_msg=name)


@pytest.mark.parametrize(("killed", "resumed"), [(processes, sharded), (sharded, processes)])
def test_after_a_kill_in_the_trainer_it_goes_on_split_or_whole(tmp_path, killed, resumed):
    """A checkpoint is that of one process, so each goes on from what the other left; and one does alone."""
    saved_model(tmp_path / "base")
    ends = processes.start(killed.trainer_killed, tmp_path)
    assert (ends[0][0], ends[1][0]) == (1, -9)
    assert [path.name for path in (tmp_path / "trained").glob("checkpoint-*")] == ["checkpoint-4"]
    alone = tmp_path / "alone"
    shutil.copytree(tmp_path / "trained", alone / "trained")
    saved_model(alone / "base")
    assert [status for status, _ in processes.start(resumed.trainer_resumed, tmp_path)] == [0, 0]
    saved_model(tmp_path / "whole" / "base")
    trainer = processes.checkpointed_trainer(tmp_path / "whole", each=4)
    trainer.train()
    uninterrupted = processes.learned(trainer)
    processes.trainer_resumed(alone, each=4)
    for folder in (tmp_path, alone):
        with np.load(folder / "resumed.npz") as found:
            assert set(found.files) == set(uninterrupted)
            for name, values in uninterrupted.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-10, atol=1e-10, err_msg=name)


def test_a_process_that_fails_ends_both_with_its_message(tmp_path):
    folder = tmp_path / "fails-1"
    folder.mkdir()
    ends = processes.start(sharded.failing, folder)
    assert [status for status, _ in ends] == [1, 1]
    assert "OtherProcessError: process 1 of 2 failed: OSError: the disk is gone" in ends[0][1]


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FSDP_VERSION", "1", "FSDP_VERSION=1: FSDP2 alone can train a policy"),
        ("FSDP_OFFLOAD_PARAMS", "true", "FSDP_OFFLOAD_PARAMS=true, and pieces stay on the device"),
        ("FSDP_CPU_RAM_EFFICIENT_LOADING", "true", "LOADING=true, and every process reads the weights"),
        ("FSDP_ACTIVATION_CHECKPOINTING", "true", r"CHECKPOINTING=true, and it renames the layers. load_policy\(grad"),
        ("FSDP_AUTO_WRAP_POLICY", "SIZE_BASED_WRAP", "SIZE_BASED_WRAP, and it would cut out the unembedding"),
        ("FSDP_IGNORED_MODULES", "lm_head", "FSDP_IGNORED_MODULES=lm_head, and all weights are split: leave it out"),
    ],
)
def test_what_has_no_counterpart_is_refused(monkeypatch, name, value, said):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    assert asked(PAIR) is not None
    assert asked(ALONE) is None
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=said):
        asked(PAIR)


def test_a_refusal_is_said_by_both(tmp_path):
    for status, text in processes.start(sharded.refused, tmp_path):
        assert status == 1
        assert "ValueError: the environment has FSDP_OFFLOAD_PARAMS=true" in text


def test_one_process_cannot_be_asked_to_split(monkeypatch):
    here = {"ACCELERATE_USE_FSDP": "true"}
    with pytest.raises(RefusedEnvironmentError, match="ACCELERATE_USE_FSDP=true, by which the model would be split"):
        check_environment(here, several=True)
    launched = {**here, "RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "here", "MASTER_PORT": "1"}
    check_environment(launched, several=True)
    with pytest.raises(RefusedEnvironmentError, match="ACCELERATE_USE_FSDP=true"):
        check_environment(launched)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with unsaid():
        check_environment({**launched, **here} | {"ACCELERATE_USE_FSDP": ""}, several=True)


def test_quantised_weights_and_mixed_types_are_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised, _ = load_policy(saved_model(tmp_path / "base"), lora=Lora(2, 4), four_bit=True)
    with pytest.raises(ValueError, match=r"is quantised .* cannot be split over processes: load the model without"):
        check_can_be_split(quantised)
    mixed = float64_policy()
    check_can_be_split(mixed)
    mixed.offset.float()  # stays whole
    check_can_be_split(mixed)
    mixed.lm.lm_head.float()
    with pytest.raises(ValueError, match=r"types are trained, and FSDP2 splits those of one: .* is"):
        check_can_be_split(mixed)


def test_the_units_are_the_layers():
    policy = float64_policy()
    layers = list(policy.lm.model.layers)
    assert units(policy) == units(policy, ("LlamaDecoderLayer",)) == layers
    assert units(policy, ("LlamaMLP",)) == [layer.mlp for layer in layers]
    with pytest.raises(ValueError, match="FSDP_TRANSFORMER_CLS_TO_WRAP=GPT2Block: this model has no such layers"):
        units(policy, ("GPT2Block",))
    assert len(whole_anyway(policy)) == 5
    policy.critic = Critic(policy)
    assert units(policy) == layers + list(policy.critic.body.layers)
    assert len(whole_anyway(policy)) == 7
    layers[1].mlp.up_proj.weight = layers[0].mlp.up_proj.weight
    with pytest.raises(ValueError, match=r"layers 0 and 1 of this model share mlp\.up_proj.weight"):
        units(policy)


@pytest.mark.parametrize(
    ("changes", "optimizers", "said"),
    [
        ({}, (object(), None), "leave out optimizers"),
        ({"fp16": True}, (None, None), "use bf16"),
        ({"optim": "adafactor"}, (None, None), "optim='adafactor' does not take the pieces of FSDP2"),
    ],
)
def test_what_the_trainer_cannot_split_is_refused(changes, optimizers, said):
    args = types.SimpleNamespace(**{"fp16": False, "optim": "adamw_torch", **changes})
    here = types.SimpleNamespace(split=object(), policy=float64_policy())
    with pytest.raises(ValueError, match=said):
        SplitTrainer.check_split(here, args, optimizers)
    SplitTrainer.check_split(types.SimpleNamespace(split=None), args, optimizers)


def test_what_is_not_split_stays_as_it_is():
    policy = float64_policy()
    before = [id(p) for p in policy.parameters()]
    with whole(policy):
        assert [id(p) for p in policy.parameters()] == before
    value = torch.arange(3.0)
    assert full(value) is value
    put(value, torch.ones(3))
    assert value.tolist() == [1.0, 1.0, 1.0]
    optimizer = torch.optim.AdamW(policy.parameters())
    assert whole_state(optimizer) == optimizer.state_dict()
    assert dataclasses.asdict(PAIR)["count"] == 2

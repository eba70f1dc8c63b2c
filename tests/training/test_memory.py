"""A device that is out of memory: one line, with the setting that halves what did not fit."""

import types

import pytest
import torch

from smlib.cli import workbench
from smlib.files import ResultError
from smlib.paper.experiments.gpu import __main__ as gpu
from smlib.paper.experiments.gpu import records, tables
from smlib.training import rollouts
from smlib.training.algorithm_1 import train
from smlib.training.memory import DeviceMemoryError, for_devices, for_loading, for_parts, for_rollouts, room
from smlib.training.module import PolicyUnderTraining
from smlib.training.trainer import SequenceMatchTrainer
from tests.support.copying import Copying, config, policy
from tests.support.finetuning import arguments, prompted
from tests.support.models import saved_model

SAID = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.00 GiB of which little is free."
)


def full(*arguments, **options):
    raise torch.OutOfMemoryError(SAID)


def test_sampling_names_the_number_of_rollouts(tmp_path, monkeypatch):
    monkeypatch.setattr(rollouts, "sample", full)
    with pytest.raises(DeviceMemoryError) as caught:
        train(policy(), Copying(), config(rollout_batch=8), tmp_path, progress=False)
    assert str(caught.value) == (
        "out of memory on the device, sampling rollouts (Tried to allocate 2.00 GiB): rollout_batch=4 halves it"
    )


def test_a_gradient_names_the_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(PolicyUnderTraining, "forward", full)
    with pytest.raises(DeviceMemoryError, match=r"training on a part of a batch .*: accumulation=2 takes half as much"):
        train(policy(), Copying(), config(), tmp_path, progress=False)


def test_an_update_names_adapters(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.optim.AdamW, "step", full)
    with pytest.raises(DeviceMemoryError, match=r"updating the weights .*: adapters"):
        train(policy(), Copying(), config(), tmp_path, progress=False)


def test_the_trainer_says_it_in_its_own_names(tmp_path, monkeypatch):
    base = saved_model(tmp_path / "base")
    trainer = SequenceMatchTrainer(str(base), arguments(tmp_path / "run"), prompted())
    monkeypatch.setattr(PolicyUnderTraining, "forward", full)
    with pytest.raises(
        DeviceMemoryError, match=r"training .*: per_device_train_batch_size=2 with gradient_accumulation_st"
    ):
        trainer.train()


def test_a_command_without_the_option_says_what_else_helps(tmp_path, monkeypatch):
    def broken(*arguments):
        with room("training", "accumulation=2 halves it"):
            full()

    monkeypatch.setattr(workbench, "train", broken)
    settings = workbench.settings_for("bc", steps=4, eta=None, alpha=0.1, gamma=0.9, seed=0, task="mul", questions=8)
    with pytest.raises(ResultError, match=r"accumulation=2 halves it\. That is a setting of smlib\.train"):
        workbench.fit(settings, tmp_path / "mine")


def test_a_part_of_the_visit_to_a_gpu_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "tables", full)
    assert gpu.main(["--dry", "--here", "--results-dir", str(tmp_path), "--only", "tables"]) == 1
    said = records.read_all(tmp_path)["tables"]["error"]
    assert said.startswith("DeviceMemoryError: out of memory on the device, in the part tables (Tried to allocate")
    assert "half the batch of tab4" in said
    assert gpu.HALVES.keys() == records.PARTS.keys()


def test_what_halves_what():
    assert for_rollouts(None).startswith("up to 256 rollouts are sampled side by side; rollout_batch=128")
    assert "lower rollout_tokens" in for_rollouts(1)
    assert "accumulation=4 takes" in for_parts(config(accumulation=2), 1)
    assert "chunk=512 bounds the logits" in for_parts(config(), 1)
    assert "one example at a time" in for_parts(config(accumulation=4), 1)
    assert "one example at a time" in for_parts(config(accumulation=2), 2)
    odd = {"gradient_accumulation_steps": 2, "chunk": 512, "max_length": 64}
    assert "batch_size=1 with gradient_accumulation_steps=6 " in for_devices(
        types.SimpleNamespace(per_device_train_batch_size=3, **odd)
    )
    assert "max_length=32 halves" in for_devices(types.SimpleNamespace(per_device_train_batch_size=1, **odd))
    assert "dtype=bfloat16 halves it" in for_loading(None, False)
    assert "makes it a quarter" in for_loading("bfloat16", False)
    assert "a smaller model" in for_loading(None, True)
    with pytest.raises(ValueError, match="another"), room("training", "nothing"):
        raise ValueError("another")

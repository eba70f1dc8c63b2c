"""Where a model comes from: arguments that nobody can mean, and what the hub is asked for."""

import inspect

import pytest
import torch

from smlib.paper.experiments.runs.text_models import TextModel
from smlib.policies.loading import Lora, load_policy, load_tokenizer
from smlib.policies.probing import ModelError
from tests.support.models import saved_model

unchecked = inspect.unwrap(load_policy)  # without the tests' type checker, as users call it


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"dtype": "bf16"}, TypeError, r"dtype takes a dtype of torch, such as torch\.bfloat16, got 'bf16'"),
        ({"dtype": "bfloat16"}, TypeError, "dtype takes a dtype of torch"),
        ({"dtype": torch.int8}, ValueError, r"dtype takes a dtype of real numbers.*torch\.int8"),
        ({"lora": True}, TypeError, r"lora=Lora\(r=16, alpha=16\), or None.*got True"),
        ({"lora": 16}, TypeError, r"lora=Lora\(r=16, alpha=16\), or None.*got 16"),
        ({"device": "cud"}, ValueError, "unknown device 'cud': expected a name such as 'cpu', 'cuda' or 'cuda:0'"),
        ({"device": "xpu"}, ValueError, "device 'xpu' is not here: torch finds"),
        ({"device": "cuda:64"}, ValueError, "device 'cuda:64' is not here: torch finds"),
        ({"device": 0}, TypeError, "device takes a name"),
        ({"four_bit": "yes"}, TypeError, "four_bit takes True or False, got 'yes'"),
        ({"gradient_checkpointing": 1}, TypeError, "gradient_checkpointing takes True or False, got 1"),
        ({"offset_head": None}, TypeError, "offset_head takes True or False, got None"),
        ({"local_files_only": "no"}, TypeError, "local_files_only takes True or False, got 'no'"),
    ],
)
def test_an_argument_that_nobody_can_mean_is_refused_before_anything_is_loaded(given, kind, message):
    with pytest.raises(kind, match=message):
        unchecked("nobody/nothing", **given)


def test_a_model_of_an_experiment_names_a_dtype():
    assert TextModel(dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(ValueError, match="dtype is the name of a dtype of torch, such as 'bfloat16', got 'bf16'"):
        TextModel(dtype="bf16")


def test_cuda_without_a_cuda_device_is_named():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(ValueError, match="device 'cuda' is not here: torch finds the CPU alone"):
        load_policy("nobody/nothing", device="cuda")


@pytest.mark.parametrize(
    ("sizes", "kind", "message"),
    [
        ({"r": 0}, ValueError, "r must be at least 1, got 0"),
        ({"alpha": 16.5}, TypeError, "alpha is a whole number, got 16.5"),
        ({"r": "16"}, TypeError, "r is a whole number, got '16'"),
        ({"dropout": 1.0}, ValueError, "dropout is a probability below 1, got 1.0"),
        ({"unembedding": "yes"}, TypeError, "unembedding takes True or False, got 'yes'"),
    ],
)
def test_adapters_of_impossible_sizes_are_refused(sizes, kind, message):
    with pytest.raises(kind, match=message):
        inspect.unwrap(Lora.__post_init__)(_unchecked(**sizes))


def _unchecked(**sizes: object) -> Lora:
    made = object.__new__(Lora)
    for name, value in {"r": 16, "alpha": 16, "dropout": 0.0, "unembedding": False, **sizes}.items():
        object.__setattr__(made, name, value)
    return made


def test_the_hub_is_not_asked_for_adapters_of_what_is_local_or_unknown(tmp_path, monkeypatch):
    from transformers.models.auto import auto_factory

    asked = []
    real = auto_factory.find_adapter_config_file

    def seen(*given: object, **options: object) -> object:
        asked.append(options.get("local_files_only", False))
        return real(*given, **options)

    monkeypatch.setattr(auto_factory, "find_adapter_config_file", seen)
    for local in (True, False):
        with pytest.raises(FileNotFoundError, match="no model 'nobody/nothing'"):
            load_policy("nobody/nothing", local_files_only=local)
    assert not asked  # its configuration is asked for first, and not found
    load_policy(saved_model(tmp_path))
    assert asked == [True]


def test_a_kind_of_model_that_transformers_does_not_know_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "of another world"}')
    for load in (load_policy, load_tokenizer):
        with pytest.raises(ModelError, match=r"is no model that transformers can load: .*of another world"):
            load(tmp_path)

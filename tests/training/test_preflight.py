"""What a run stumbles over is found before its first step, and before it leaves anything behind."""

import errno
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
import torch

from smlib.data.continuations import Continuations
from smlib.data.demonstrations import TaskDemonstrations
from smlib.data.tasks import load_task
from smlib.data.tokenizers import PretrainedTokenizer
from smlib.edits.actions import ActionSpace
from smlib.edits.noise import NoiseLaw
from smlib.objectives.methods import METHODS
from smlib.policies.loading import Lora, load_policy
from smlib.policies.policy import tiny_policy
from smlib.training import preflight
from smlib.training.algorithm_1 import train
from tests.support.copying import Copying, config, policy
from tests.support.models import saved_model, texts, words_tokenizer

NOISY = {"eta": 0.2}, {"eta": 0.0, "rollout_noise": 0.1}


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the type checker of the tests, as in a reader's script."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def refused(folder: Path, kind: type[Exception], message: str, data: object = None, **settings: object) -> None:
    """A run that is refused with these words, and has left nothing."""
    start = settings.pop("start", None)
    evaluate = settings.pop("evaluate", None)
    with pytest.raises(kind, match=message):
        train(
            start or policy(),
            Copying() if data is None else data,
            config(**settings),
            folder / "run",
            progress=False,
            evaluate=evaluate,
        )
    assert not (folder / "run").exists()


# --- data ----------------------------------------------------------------------------------------------------------


def text_data() -> tuple[Continuations, object]:
    tokenizer = PretrainedTokenizer(words_tokenizer())
    data = Continuations.from_texts(texts(), tokenizer, context=24, max_prompt=8)
    space = ActionSpace(tokenizer.vocab_size, eos=tokenizer.eos, bos=tokenizer.bos)
    return data, tiny_policy(space, dim=16, layers=1, heads=2, positions=32, seed=0)


def test_dagger_on_running_text_is_refused_before_it_has_cloned_for_hours(tmp_path):
    data, start = text_data()
    message = "dagger cannot be trained on these data: .*no single right continuation.*; choose sm or bc"
    refused(tmp_path, ValueError, message, data, method="dagger", start=start)
    train(start, data, config("sm"), tmp_path / "run", progress=False)


@pytest.mark.parametrize("settings", NOISY)
@pytest.mark.parametrize("nothing", [NoiseLaw.none(), None])
def test_noise_without_a_law_is_refused(settings, nothing, tmp_path, unchecked):
    class Clean(Copying):
        def noise_law(self, index):
            return nothing

    rate = "rollout_noise=0.1" if "rollout_noise" in settings else "eta=0.2"
    refused(tmp_path, ValueError, f"{rate} asks for noise, and the noise law of example 0", Clean(), **settings)


@pytest.mark.parametrize("settings", NOISY)
def test_a_task_without_noise_has_no_law(settings, tmp_path):
    task = load_task(n_train=3, n_val=0, n_test=0, difficulty="easy")
    start = tiny_policy(task.space, dim=16, layers=1, heads=2, positions=64)
    data = TaskDemonstrations(task, task.train)
    message = r"asks for noise, and .* has no tokens: set it to 0, or .*noise=\"ground_truth\""
    refused(tmp_path, ValueError, message, data, start=start, **settings)
    for method in ("mle", "unlikelihood"):  # which take no noise, and rollouts neither
        train(start, data, config(method, **settings), tmp_path / method, progress=False)


def lacking(*names: str) -> object:
    """The data set without some of its parts."""
    parts = ("branches", "__len__", "demonstration", "rollout_prompt", "reference", "noise_law")
    kept = {name: Copying.__dict__[name] for name in parts if name not in names}
    if "rollout_prompt" in names or "reference" in names:
        kept["demonstration"] = lambda self, *arguments: Copying().demonstration(*arguments)
    return type("Partial", (), {**kept, "law": Copying.law})()


@pytest.mark.parametrize(
    ("part", "settings", "message"),
    [
        ("branches", {"method": "mle"}, "without branches, which mle needs: expected a data set such as"),
        ("rollout_prompt", {}, "without rollout_prompt, which sm needs"),
        ("reference", {"method": "dagger"}, "without reference, which dagger needs"),
        (
            "noise_law",
            {"eta": 0.1},
            r"without noise_law, which sm needs with eta=0.1: .*smlib.training.dataset.Dataset lists",
        ),
        ("noise_law", {"eta": 0.0, "rollout_noise": 0.1}, "noise_law, which sm needs with rollout_noise=0.1"),
    ],
)
def test_a_data_set_lacks_what_the_method_asks_of_it(part, settings, message, tmp_path, unchecked):
    refused(tmp_path, TypeError, message, lacking(part), **settings)


def test_what_a_method_does_not_ask_for_need_not_be_there(tmp_path, unchecked):
    data = lacking("rollout_prompt", "reference", "noise_law")
    for method in ("mle", "bc"):
        train(policy(), data, config(method, eta=0.0), tmp_path / method, progress=False)


def test_texts_in_place_of_a_data_set(tmp_path, unchecked):
    refused(tmp_path, TypeError, "the data are a list without branches, demonstration, ", ["w1 w2", "w3 w4"])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_empty_data_set_is_refused(method, tmp_path):
    class Empty(Copying):
        def __len__(self):
            return 0

    refused(tmp_path, ValueError, "the data set is empty", Empty(), method=method)


@pytest.mark.parametrize("prompt", [np.array([0.0, 2.5]), np.array([0, 99]), np.array([], np.int32)])
def test_a_prompt_of_rollouts_that_is_none_is_found_before_they_begin(prompt, tmp_path, unchecked):
    class Odd(Copying):
        def rollout_prompt(self, index, rng):
            return super().rollout_prompt(index, rng) if index < 4 else prompt

        def demonstration(self, index, rng, eta, burst):
            return super().demonstration(0, rng, eta, burst)

    refused(tmp_path, ValueError, "prompt 4 ", Odd())


# --- policy --------------------------------------------------------------------------------------------------------


def test_what_load_policy_returns_is_no_policy_but_two_things(tmp_path, unchecked):
    message = "the policy is a tuple: expected a Policy, the first of the two"
    refused(tmp_path, TypeError, message, start=(policy(), None))
    refused(tmp_path, TypeError, "the policy is a LlamaForCausalLM", start=policy().lm)


@pytest.mark.parametrize(("dtype", "beyond"), [(torch.bfloat16, "0.026"), (torch.float16, "0.2")])
def test_weights_too_coarse_for_their_steps_are_warned_of(dtype, beyond, tmp_path):
    coarse, tokenizer = load_policy(saved_model(tmp_path / "model"), dtype=dtype)
    data = Continuations.from_texts(texts(), tokenizer, context=24, max_prompt=8)
    message = rf"9\d% of the weights .* of type {dtype}, .* of learning_rate=0.0001 away .* beyond about {beyond}: load"
    settings = {"learning_rate": 1e-4, "start": coarse}
    refused(tmp_path, UserWarning, message, data, **settings)  # under these tests a warning is an error
    adapters, _ = load_policy(tmp_path / "model", dtype=dtype, lora=Lora(2, 4))
    train(adapters, data, config(learning_rate=1e-4, steps=6), tmp_path / "run", progress=False)


def test_a_step_is_lost_beyond_the_size_that_is_warned_of():
    for dtype in (torch.bfloat16, torch.float16):
        beyond = 2e-4 / torch.finfo(dtype).eps
        large, small = torch.tensor([2.0 * beyond, 0.5 * beyond], dtype=dtype)
        assert large + 1e-4 == large
        assert small + 1e-4 != small


# --- settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warmup_steps", [6, 2_000])
def test_a_run_that_is_warm_up_alone_says_so(warmup_steps, tmp_path):
    message = f"with warmup_steps={warmup_steps} all of this run's steps=6 are warm-up, .*: lower warmup_steps"
    refused(tmp_path, UserWarning, message, steps=6, warmup_steps=warmup_steps)
    train(policy(), Copying(), config(steps=6, warmup_steps=5), tmp_path / "run", progress=False)


def test_an_evaluation_that_would_never_be_called_is_refused(tmp_path):
    message = "with eval_every=0 evaluate is never called: set eval_every, to steps for the end alone, or leave"
    refused(tmp_path, ValueError, message, evaluate=lambda _: {"accuracy": 0.5})
    refused(tmp_path, ValueError, "eval_every=4 and nothing to call: give evaluate", eval_every=4)
    settings = config(eval_every=16, steps=16)
    history = train(policy(), Copying(), settings, tmp_path, progress=False, evaluate=lambda _: {"x": 1.0}).history
    assert [row["step"] for row in history if "val_x" in row] == [16]


def test_what_is_no_function_does_not_evaluate(tmp_path, unchecked):
    message = "evaluate=0.5: expected a function of the policy, which gives numbers by name"
    refused(tmp_path, TypeError, message, evaluate=0.5, eval_every=4)


def test_an_objective_is_no_configuration_of_a_run(tmp_path, unchecked):
    with pytest.raises(TypeError, match="the configuration is a ObjectiveConfig: expected a TrainConfig"):
        train(policy(), Copying(), config().objective, tmp_path / "run", progress=False)


# --- the folder ----------------------------------------------------------------------------------------------------


def test_a_folder_that_cannot_be_one_is_found_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("mine")
    for taken, kind, why in (
        (tmp_path / "file", FileExistsError, "it is a file"),
        (tmp_path / "file" / "run", NotADirectoryError, "Not a directory"),
    ):
        with pytest.raises(kind, match=f"{taken} cannot be the folder of a run: {why}; name one"):
            train(policy(), Copying(), config(), taken, progress=False)
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(ValueError, match="the folder of a run is an empty name: name one"):
        train(policy(), Copying(), config(), "", progress=False)


def test_a_read_only_folder_is_found_before_the_first_step(tmp_path, monkeypatch):
    """Simulated: root may write to a folder whatever its mode, and tests may run as root."""

    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(OSError, match=r"run cannot be the folder of a run: Read-only file system; name one"):
        train(policy(), Copying(), config(), tmp_path / "run", progress=False)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("method", ["gail", "exact"])
def test_a_policy_gradient_from_older_weights_is_warned_of(method):
    with pytest.warns(UserWarning, match=f"{method} needs rollouts of the present policy, .* may be 3 steps old"):
        preflight.warn_of_stale_policy(method, "background", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preflight.warn_of_stale_policy(method, "in_process", 0)
        preflight.warn_of_stale_policy("sm", "background", 3)

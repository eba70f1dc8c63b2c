"""`smlib train` and `smlib generate`: a policy in a folder, from nothing to text."""

import inspect
import json
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smlib.cli import app as cli
from smlib.cli import started, workbench
from smlib.data.tokenizers import arithmetic_tokenizer
from smlib.edits.actions import ActionSpace
from smlib.files import ResultError, canonical_json, differences
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.policies.loading import load_policy, save_policy
from smlib.policies.policy import Policy, tiny_policy
from smlib.training.algorithm_1 import NonFiniteLossError
from smlib.training.checkpoints import CheckpointError
from tests.support.models import saved_model

runner = CliRunner()
SMALL = ["--steps", "4", "--questions", "40"]


def small_policy(folder: Path, *, vocabulary: int | None = None) -> Policy:
    """A policy without training where `smlib train` would have left one."""
    words = arithmetic_tokenizer()
    space = ActionSpace(vocabulary or words.vocab_size, eos=words.eos, bos=words.bos)
    policy = tiny_policy(space, dim=8, layers=1, heads=2, positions=32)
    policy.save(folder / "policy")
    settings = {"task": "add_or_sub_in_base", "difficulty": "easy"}
    (folder / "settings.json").write_text(json.dumps({"settings": settings}))
    return policy


def said(*arguments: str) -> str:
    """What a command says to its user about an input that cannot be used."""
    error = runner.invoke(cli.app, list(arguments)).exception
    assert isinstance(error, ResultError), error
    return str(error)


def test_train_then_generate(tmp_path: Path) -> None:
    folder = str(tmp_path / "policy")
    trained = runner.invoke(cli.app, ["train", folder, *SMALL], catch_exceptions=False)
    assert "validation accuracy, t1: " in trained.stdout
    asked = ["generate", folder, "--prompt", "In base 7, what is 1 + 2? Solution: ", "-n", "2"]
    first = runner.invoke(cli.app, asked, catch_exceptions=False).stdout
    assert first.count("In base 7, what is 1 + 2?") == 2
    assert first == runner.invoke(cli.app, asked, catch_exceptions=False).stdout  # the seed decides
    longer = said("train", folder, "--steps", "8", "--questions", "40", "--method", "mle")
    assert longer == (
        f"{folder} holds a run with other settings, in settings.json: --noise was ground_truth and is none, --eta was "
        "0.1 and is 0.0, --method was sm and is mle, --steps was 4 and is 8. A run cannot be made longer or shorter, "
        "since its schedule is laid out over its steps: to train its policy further, start another with `--init "
        f"{folder}`. Give the options that it was started with to go on with it, or name another folder"
    )
    assert "--init was left out and is base. Give the options" in said("train", folder, *SMALL, "--init", "base")
    described = Path(folder) / "settings.json"
    described.write_text(json.dumps(json.loads(described.read_text())))  # other bytes, the same settings
    assert "validation accuracy" in runner.invoke(cli.app, ["train", folder, *SMALL], catch_exceptions=False).stdout


def test_what_follows_from_no_option_is_named_as_it_stands(tmp_path: Path) -> None:
    """As where another version of smlib derives a setting in another way; and a run that has not ended."""
    settings = workbench.settings_for("sm", steps=4, eta=0.1, alpha=0.1, gamma=0.9, seed=0)
    record = canonical_json({"settings": settings, "init": None})
    (tmp_path / started.SETTINGS).write_text(record.replace('"row_len": 128', '"row_len": 64'))
    with pytest.raises(ResultError, match=r"in settings\.json: training\.row_len was 64 and is 128\. Give the"):
        started.check_same(tmp_path, record)
    (tmp_path / started.SETTINGS).write_text(record.replace('"steps": 4', '"steps": 8'))
    with pytest.raises(ResultError, match=r"--steps was 8 and is 4\..*: let it end, and start another"):
        started.check_same(tmp_path, record)
    (tmp_path / started.SETTINGS).write_text("torn")
    with pytest.raises(ResultError, match="is no valid JSON"):
        started.check_same(tmp_path, record)


def test_every_option_of_train_is_told_by_its_name() -> None:
    """All but the folder, which is what the others are told of."""
    known = {f"--{name.replace('_', '-')}" for name in inspect.signature(cli.train).parameters}
    assert set(started.OPTIONS.values()) == known - {"--folder"}
    places = differences(json.loads(canonical_json({"settings": workbench.Settings(), "init": "x"})), {})
    later = {place for place in started.OPTIONS if "rollout_" in place}  # they stand there where they are not left out
    assert set(started.OPTIONS) - later <= set(places)


def test_alpha_and_gamma_are_those_of_the_arithmetic_runs() -> None:
    options = inspect.signature(cli.train).parameters
    preset = arithmetic.preset("full")
    assert (options["alpha"].default, options["gamma"].default) == (preset.alpha, preset.gamma)


def test_methods_without_noise_get_none() -> None:
    settings = workbench.settings_for("mle", steps=8, eta=0.1, alpha=0.1, gamma=0.9, seed=0, noise="ground_truth")
    assert (settings.noise, settings.training.eta) == ("none", 0.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "smm"}, "unknown method 'smm'; known: mle"),
        ({"gamma": 1.0}, "gamma must lie strictly between 0 and 1"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"eta": 2.0}, "eta is a probability"),
        ({"eta": 1.0}, "eta = 1 never reaches the end"),
        ({"eta": 0.2, "noise": "none"}, "the noise `none` has eta = 0, not 0.2"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"seed": 2**63}, "a seed lies between 0 and"),
    ],
)
def test_values_that_cannot_be_used_are_named(change: dict[str, object], message: str) -> None:
    options = {"method": "sm", "steps": 8, "eta": 0.1, "alpha": 0.1, "gamma": 0.9, "seed": 0, **change}
    with pytest.raises(ResultError, match=message):
        workbench.settings_for(**options)  # type: ignore[arg-type]


def test_unknown_tasks_and_empty_folders_are_named(tmp_path: Path) -> None:
    unknown = workbench.settings_for("bc", steps=8, eta=0.1, alpha=0.1, gamma=0.9, seed=0, task="sums")
    with pytest.raises(ResultError, match="unknown task 'sums'"):
        workbench.fit(unknown, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    assert isinstance(runner.invoke(cli.app, ["generate", str(tmp_path), "--prompt", "x"]).exception, ResultError)


def test_a_noise_that_cannot_be_had_leaves_the_folder_free(tmp_path: Path) -> None:
    sizes = {"task": "translation", "questions": 20, "validation": 5}
    wrong = workbench.settings_for(
        "bc", steps=4, eta=0.1, alpha=0.1, gamma=0.9, seed=0, noise="ground_truth", **sizes
    )  # fmt: skip
    with pytest.raises(ResultError, match="no ground-truth noise"):
        workbench.fit(wrong, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_without_noise_its_level_is_0(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert "leave eta out" in said("train", str(folder), "--noise", "none", "--eta", "0.2", *SMALL)
    assert not folder.exists()
    trained = runner.invoke(cli.app, ["train", str(folder), "--noise", "none", *SMALL], catch_exceptions=False)
    assert "validation accuracy" in trained.stdout
    assert json.loads((folder / "settings.json").read_text())["settings"]["training"]["eta"] == 0.0
    noisy = workbench.settings_for("sm", steps=4, eta=None, alpha=0.1, gamma=0.9, seed=0)
    assert (noisy.noise, noisy.training.eta) == ("ground_truth", 0.1)


def test_a_start_that_cannot_be_had_leaves_the_folder_free(tmp_path: Path) -> None:
    folder, init = tmp_path / "mine", tmp_path / "earlier"
    arguments = ("train", str(folder), "--init", str(init), *SMALL)
    assert "holds no finished policy" in said(*arguments)
    assert "no base model of translation (easy) is committed" in said(
        "train", str(folder), "--task", "translation", "--noise", "random", "--init", "base", *SMALL
    )
    assert "is committed" in said("train", str(folder), "--difficulty", "hard", "--init", "base", *SMALL)
    small_policy(init, vocabulary=50)
    assert "has the actions of another task" in said(*arguments)
    small_policy(init).forbid_backspace().save(init / "policy")
    assert "has no <bkspc>: sm starts from one" in said(*arguments)
    (init / "policy" / "policy.safetensors").write_bytes(b"torn")
    assert "cannot be read: " in said(*arguments)
    assert not folder.exists()
    assert "cannot be the folder of a run: it is a file" in said("train", str(init / "settings.json"), *SMALL)


@pytest.mark.parametrize("name", ["base", "sm-arithmetic"])
def test_a_run_starts_from_weights_that_know_the_task(name: str, tmp_path: Path) -> None:
    arguments = ["train", str(tmp_path / "mine"), "--init", name, *SMALL]
    told = runner.invoke(cli.app, arguments, catch_exceptions=False).stdout
    shares = [float(share) for share in re.findall(r"accuracy, \w+: ([\d.]+)", told)]
    assert len(shares) == 2
    assert min(shares) > 0.4  # from random weights: 0
    settings = json.loads((tmp_path / "mine" / "settings.json").read_text())["settings"]
    assert settings["training"]["learning_rate"] == arithmetic.preset("full").learning_rate


def test_what_generate_is_given_is_checked(tmp_path: Path) -> None:
    small_policy(tmp_path)
    folder = str(tmp_path)
    assert "temperature=0.0: expected > 0" in said("generate", folder, "--temperature", "0")
    assert "top_p=2.0: expected in (0, 1]" in said("generate", folder, "--top-p", "2")
    assert "a seed lies between 0" in said("generate", folder, "--seed", "-1")
    assert "leave out the one or the others" in said("generate", folder, "--greedy", "--temperature", "0.5")
    assert "leave out the one or the others" in said("generate", folder, "--greedy", "--top-p", "0.5")
    assert "no room for 24 more; shorten the prompt" in said("generate", folder, "--prompt", "1 2 3 4 5 6 7 8 9")
    for settings in ("[]", "{}", '{"settings": {"task": "sums", "difficulty": "easy"}}'):
        (tmp_path / "settings.json").write_text(settings)
        assert "settings.json" in said("generate", folder)


def test_a_policy_of_any_tokeniser_needs_no_option_of_its_own(tmp_path: Path) -> None:
    """What `smlib finetune` and `save_policy` leave is found by its folder, as `smlib export` finds it."""
    policy, words = load_policy(saved_model(tmp_path / "base"))
    save_policy(policy, words, tmp_path / "run")
    written = [
        runner.invoke(cli.app, ["generate", *given, "--prompt", "w3", "--max-tokens", "4"], catch_exceptions=False)
        for given in ([str(tmp_path / "run")], ["--model", str(tmp_path / "run")])
    ]
    assert written[0].exit_code == 0
    assert written[0].output == written[1].output != ""


def test_soft_deletion_is_neither_shown_nor_exported_as_what_goes_back(tmp_path: Path) -> None:
    policy, words = load_policy(saved_model(tmp_path / "base"))
    save_policy(policy.keep_edits(), words, tmp_path / "soft")
    assert "sample it in Python by smlib.sample" in said("generate", "--model", str(tmp_path / "soft"))
    assert "reads what was deleted (soft deletion)" in said("export", str(tmp_path / "soft"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [CheckpointError, NonFiniteLossError])
def test_a_training_that_stops_says_why_in_one_line(
    kind: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise kind("it stopped\nfor a reason")

    monkeypatch.setattr(workbench, "train", stop)
    monkeypatch.setattr(sys, "argv", ["smlib", "train", str(tmp_path / "mine"), *SMALL])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "smlib: it stopped for a reason\n"


def test_an_error_of_the_code_is_not_taken_for_one_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise ValueError("3 is no shape")

    monkeypatch.setattr(workbench, "train", stop)
    error = runner.invoke(cli.app, ["train", str(tmp_path / "mine"), *SMALL]).exception
    assert type(error) is ValueError

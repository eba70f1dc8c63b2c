"""`smlib train` and `smlib generate`: a policy in a folder, from nothing to text."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from smlib import cli, workbench
from smlib.files import ResultError

runner = CliRunner()
SMALL = ["--steps", "4", "--questions", "40"]


def test_train_then_generate(tmp_path: Path) -> None:
    folder = str(tmp_path / "policy")
    trained = runner.invoke(cli.app, ["train", folder, *SMALL], catch_exceptions=False)
    assert "validation accuracy, t1: " in trained.stdout
    asked = ["generate", folder, "--prompt", "In base 7, what is 1 + 2? Solution: ", "-n", "2"]
    first = runner.invoke(cli.app, asked, catch_exceptions=False).stdout
    assert first.count("In base 7, what is 1 + 2?") == 2
    assert first == runner.invoke(cli.app, asked, catch_exceptions=False).stdout  # the seed decides
    other = workbench.settings_for("mle", steps=4, eta=0.1, alpha=0.1, gamma=0.9, seed=0, questions=40)
    with pytest.raises(ResultError, match="other settings"):
        workbench.fit(other, Path(folder))


def test_a_policy_without_backspace_is_no_start_for_a_method_that_deletes(tmp_path: Path) -> None:
    first, second = str(tmp_path / "mle"), str(tmp_path / "sm")
    runner.invoke(cli.app, ["train", first, "--method", "mle", *SMALL], catch_exceptions=False)
    done = runner.invoke(cli.app, ["train", second, "--init", first, *SMALL])
    assert done.exit_code != 0
    assert "<bkspc>, which is switched off in this policy" in str(done.exception)


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

"""`smlib policies`, `smlib generate NAME` and `--demo`: a policy that writes and deletes at once, without training."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer
from typer.testing import CliRunner

from smlib.cli import app as cli
from smlib.cli import completions, recorded, showcase
from smlib.data.mathematics import as_prompt
from smlib.files import ResultError
from smlib.policies import shipped

runner = CliRunner()
QUESTION = "In base 7, what is 12 + 34?"
COMMANDS: dict[str, click.Command] = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


def said(*arguments: str) -> str:
    """What a command says to its user about an input that cannot be used."""
    error = runner.invoke(cli.app, list(arguments)).exception
    assert isinstance(error, ResultError), error
    return str(error)


def test_policies_lists_what_ships() -> None:
    shown = runner.invoke(cli.app, ["policies"], env={"COLUMNS": "160"}, catch_exceptions=False).stdout
    for name in shipped.names():
        assert name in shown
    cards = json.loads(runner.invoke(cli.app, ["policies", "--json"]).stdout)
    assert [card["name"] for card in cards] == list(shipped.names())
    assert all(0.4 < card["measured"]["accuracy"]["t1"] < 1 for card in cards)


@pytest.mark.parametrize("asked", [QUESTION, f"{QUESTION} Solution:", f"{QUESTION} Solution: ", f" {QUESTION} "])
def test_a_question_is_completed_to_the_form_of_the_task(asked: str) -> None:
    assert as_prompt(asked) == f"{QUESTION} Solution: "
    assert as_prompt("") == ""


def test_generate_by_name() -> None:
    asked = ["generate", "sm-arithmetic", "--prompt", QUESTION, "-n", "3"]
    lines = runner.invoke(cli.app, asked, catch_exceptions=False).stdout.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{QUESTION} Solution: ") for line in lines)
    assert lines == runner.invoke(cli.app, asked).stdout.splitlines()  # the seeds decide
    example = runner.invoke(cli.app, ["generate", "sm-arithmetic"], catch_exceptions=False).stdout
    assert example.startswith(shipped.card("sm-arithmetic").example)


def test_generate_writes_a_page_to_step_through(tmp_path: Path) -> None:
    asked = ["generate", "sm-arithmetic", "--prompt", "In base 7, what is 6 + 4?", "--seed", "53"]
    shown = runner.invoke(cli.app, [*asked, "--html", str(tmp_path / "out.html")], catch_exceptions=False).stdout
    [data] = re.findall(r'id="record">(.*?)</script>', (tmp_path / "out.html").read_text(encoding="utf-8"), re.DOTALL)
    made = json.loads(data)
    written = "".join(step["executed"] for step in made["steps"] if step["kind"] != "end")
    assert shown.splitlines()[0] == made["prompt"] + written  # the page is the completion that was printed
    assert made["note"] == "sm-arithmetic, seed 53."
    runner.invoke(cli.app, [*asked, "-n", "2", "--html", str(tmp_path / "many.html")], catch_exceptions=False)
    assert {path.name for path in tmp_path.iterdir()} == {"out.html", "many-53.html", "many-54.html"}
    (tmp_path / "file").write_text("")
    assert "the page cannot be written" in said(*asked, "--html", str(tmp_path / "file" / "out.html"))


def test_only_a_terminal_waits_between_actions(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(completions.time, "sleep", waited.append)
    assert list(completions._paced(iter([1, 2, 3]), 0.5)) == [1, 2, 3]  # type: ignore[arg-type]
    assert waited == []
    monkeypatch.setattr(completions.sys.stdout, "isatty", lambda: True, raising=False)
    assert list(completions._paced(iter([1, 2, 3]), 0.5)) == [1, 2, 3]  # type: ignore[arg-type]
    assert len(waited) == 3
    assert all(0.4 < seconds <= 0.5 for seconds in waited[1:])


def test_the_demonstration_shows_deletions_and_a_right_answer_and_the_model_does_the_same() -> None:
    shown = runner.invoke(cli.app, ["generate", "--demo"], catch_exceptions=False).stdout
    record, again = re.findall(r"Solution: (.*)", shown)
    answer = re.search(r"Its answer is (.+)\. Loading", shown)
    assert answer is not None
    given = re.search(r"deletes the wrong digit (\d), which was given, then a wrong one of its own", shown)
    assert given is not None
    assert record.startswith(f"{given[1]}<bkspc>")
    assert record.count("<bkspc>") == 2
    assert f"were chosen to show this: seed {recorded.recording().seed} is the first that does" in " ".join(
        shown.split()
    )
    written = record
    while "<bkspc>" in written:  # every token of an answer is one character
        written = re.sub(r"(?:^|[^>])<bkspc>", "", written, count=1)
    assert written == answer[1]
    assert ("the same actions" in shown) == (again == record)


def test_the_record_is_the_first_such_completion_and_needs_no_torch() -> None:
    assert showcase.record() == recorded.recording()
    show = "from smlib.cli import recorded; recorded.introduce(recorded.recording())"
    code = f"import sys; {show}; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "<bkspc>" in shown
    assert shown.splitlines()[-1] == "False"


def test_a_demonstration_of_another_policy_is_searched_for() -> None:
    shown = runner.invoke(cli.app, ["generate", "burst-arithmetic", "--demo"], catch_exceptions=False).stdout
    told = re.search(r"wrote (\d+) tokens and deleted (\d+)\. Its answer is (.+)\.", shown)
    assert told is not None
    assert int(told[2]) == 2
    assert int(told[1]) == len(told[3]) + 1  # every token is a character, and one of its own was deleted


def test_a_damaged_record_says_how_to_get_it_back(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text('{"policy": "sm-arithmetic"}')
    with pytest.raises(ResultError, match=r"is no recorded run: actions, .*git checkout --"):
        recorded.recording(tmp_path / "demo.json")


def test_what_cannot_be_shown_is_said() -> None:
    assert "mle-arithmetic cannot delete" in said("generate", "mle-arithmetic", "--demo")
    assert "leave out --model" in said("generate", "--demo", "--model", "smollm2")
    message = said("generate", "sm-arithmetics", "--prompt", QUESTION)
    assert "sm-arithmetics" in message
    assert ", ".join(shipped.names()) in message
    assert "`smlib policies` lists" in said("generate", "--prompt", QUESTION)
    assert "a seed lies between" in said("generate", "sm-arithmetic", "--seed", "-1")
    assert "no room for" in said("generate", "sm-arithmetic", "--prompt", "1 + " * 60)


@pytest.mark.parametrize("damage", ["missing", "torn"])
def test_weights_that_are_not_there_say_how_to_get_them(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(shipped.FOLDER / "sm-arithmetic", tmp_path / "sm-arithmetic")
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    weights = tmp_path / "sm-arithmetic" / "lm" / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:1000])
    message = said("generate", "sm-arithmetic", "--prompt", QUESTION)
    assert "python -m smlib.paper.shipping sm-arithmetic" in message
    assert "git checkout -- " in message


def test_a_card_of_another_form_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "card.json").write_text('{"name": "mine"}')
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    with pytest.raises(ResultError, match=r"card\.json is no card of a policy: command, config"):
        shipped.card("mine")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_every_option_says_what_it_takes(name: str) -> None:
    command = COMMANDS[name]
    (example,) = re.findall(rf"Example: smlib {name}\b(.*)", command.help or "")
    options = {option for parameter in command.params for option in parameter.opts}
    if name != "finetune":  # its options are those of a parser of its own, see test_finetune.py
        assert set(re.findall(r"(?<= )--?[a-z][a-z-]*", example)) <= options
    for parameter in command.params:
        if parameter.name == "help":
            continue
        told = getattr(parameter, "help", None)
        assert told, f"smlib {name}: {parameter.name} has no help"
        flag = getattr(parameter, "is_flag", False)
        if parameter.default is None and not flag and not parameter.required and parameter.param_type_name == "option":
            said_so = "Default" in told or "such as" in told or "instead" in told.lower()
            assert said_so, f"smlib {name} {parameter.name}: what happens without it?"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("smlib generate sm", ["sm-arithmetic"]),
        ("smlib reproduce --only fig", ["fig1", "fig2", "fig3"]),
        ("smlib reproduce --preset f", ["full"]),
        ("smlib train x --method iq", ["iqlearn"]),
        ("smlib train x --task m", ["mul"]),
        ("smlib po", ["policies"]),
    ],
)
def test_the_shell_completes(words: str, expected: list[str]) -> None:
    place = str(len(words.split()) - 1)
    environment = {**os.environ, "_SMLIB_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": place}
    done = subprocess.run([sys.executable, "-m", "smlib"], capture_output=True, text=True, check=False, env=environment)
    assert sorted(done.stdout.split()) == expected, done.stderr


def test_completion_can_be_installed() -> None:
    shown = runner.invoke(cli.app, ["--help"], env={"COLUMNS": "120"}).stdout
    assert "--install-completion" in shown

"""What a user, a disk or somebody else's file can get wrong: one clear line on stderr, exit status 2, no traceback."""

import errno
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smlib.cli import app as cli
from smlib.cli import screen
from smlib.paper import checksums, fresh
from smlib.paper.items import ITEMS
from smlib.paper.ledger import item_path, write_item
from smlib.policies.loading import load_policy, save_policy
from smlib.training import folder as run_folder
from tests.cli.test_workbench import SMALL, small_policy
from tests.support.models import saved_model

Prepare = Callable[[Path], list[str]]
"""Makes what is wrong in a folder, and returns the command."""


def smlib(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """A command in this process: exit status, stdout, stderr."""
    monkeypatch.setattr(sys, "argv", ["smlib", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def items(folder: Path, *, fig3: str | None = None) -> list[str]:
    """Two items and, in the place of a third, whatever `fig3` is."""
    for name in ("fig1", "tab6"):
        write_item(name, "full", ours=0.5, n_seeds=3, verdict="reproduced", results_dir=folder)
    if fig3 is not None:
        item_path("fig3", "full", folder).write_text(fig3)
    return ["status", "--results-dir", str(folder)]


def item_with(**changes: Any) -> Callable[[Path], list[str]]:
    """An item's file with other contents, and no checksum to tell it by."""

    def prepare(folder: Path) -> list[str]:
        command = items(folder)
        path = write_item("fig3", "full", ours=0.5, n_seeds=3, verdict="reproduced", results_dir=folder)
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        (folder / "full" / checksums.MANIFEST).unlink()
        return command

    return prepare


def edited(folder: Path) -> list[str]:
    command = items(folder)
    path = item_path("tab6", "full", folder)
    path.write_text(path.read_text().replace('"ours": 0.5', '"ours": 0.6'))
    return command


def edited_and_checked(folder: Path) -> list[str]:
    edited(folder)
    (folder / "README.md").write_text("")
    return ["report-readme", "--check", "--readme", f"{folder}/README.md", "--results-dir", f"{folder}"]


def unreadable(folder: Path) -> list[str]:
    command = items(folder)
    item_path("fig3", "full", folder).mkdir()
    return command


def fresh_since(text: str) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        (folder / "smoke").mkdir(parents=True)
        (folder / "smoke" / fresh.FRESH).write_text(text)
        return ["reproduce", "--preset", "smoke", "--only", "fig1", "--results-dir", str(folder)]

    return prepare


def fresh_in_a_file(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    options = ["--results-dir", str(folder / "file"), "--runs-dir", str(folder / "runs")]
    return ["reproduce", "--preset", "smoke", "--only", "fig1", "--fresh", *options]


def runs_in_a_file(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["reproduce", "--preset", "smoke", "--only", "fig1", "--runs-dir", str(folder / "file")]


def tampered(**changes: Any) -> Prepare:
    """A trained policy whose model's configuration was changed."""

    def prepare(folder: Path) -> list[str]:
        small_policy(folder)
        path = folder / "policy" / "lm" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
        return ["generate", str(folder), "--prompt", "x"]

    return prepare


def tampered_model(file: str, text: str | None = None, **changes: Any) -> Prepare:
    """A language model of transformers one of whose files was changed, or holds another text."""

    def prepare(folder: Path) -> list[str]:
        path = saved_model(folder / "m") / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}) if text is None else text)
        return ["generate", "--model", f"{folder}/m", "--prompt", "w1", "--max-tokens", "2"]

    return prepare


def tampered_policy(file: str, text: str) -> Prepare:
    """A policy of `save_policy` one of whose files holds another text."""

    def prepare(folder: Path) -> list[str]:
        save_policy(*load_policy(saved_model(folder / "base")), folder / "m")
        (folder / "m" / file).write_text(text)
        return ["generate", "--model", f"{folder}/m", "--prompt", "w1", "--max-tokens", "2"]

    return prepare


def sampling(*options: str) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        small_policy(folder)
        return ["generate", str(folder), *options]

    return prepare


def always(*command: str) -> Prepare:
    return lambda folder: [part.format(folder=folder) for part in command]


DEEP = '{"schema": ' + "[" * 100_000 + "]" * 100_000 + "}"
BAD: dict[str, tuple[Prepare, str]] = {
    # status
    "mistyped results folder": (always("status", "--results-dir", "{folder}/resluts"), "resluts does not exist"),
    "foreign results folder": (always("status", "--results-dir", "{folder}"), "holds no results (no paper/<item>.json"),
    "no results of a preset": (lambda f: [*items(f), "--preset", "quick"], "no results of the preset quick"),
    "unknown preset": (lambda f: [*items(f), "--preset", "fast"], "unknown preset 'fast'; known: smoke, quick"),
    "torn item": (lambda f: items(f, fig3="{torn"), "fig3.json is no valid JSON"),
    "NaN in an item": (lambda f: items(f, fig3='{"ours": NaN}'), "NaN is no JSON number"),
    "infinity in an item": (lambda f: items(f, fig3='{"ours": 1e999}'), "1e999 is larger than any float"),
    "endless integer": (lambda f: items(f, fig3='{"ours": ' + "9" * 5000 + "}"), "fig3.json is no valid JSON"),
    "deep item": (lambda f: items(f, fig3=DEEP), "fig3.json is nested deeper than any result"),
    "list for an item": (lambda f: items(f, fig3="[]"), "fig3.json holds a JSON list"),
    "unreadable item": (unreadable, "fig3.json cannot be read: Is a directory"),
    "a list for a value": (item_with(ours=["x"]), "fig3.json has a list as ours"),
    "a truth for a count": (item_with(n_seeds=True), "fig3.json has a bool as n_seeds"),
    "no provenance": (item_with(provenance=[]), "fig3.json has a list as provenance"),
    "foreign sources": (item_with(provenance={"sources": [1]}), "does not say which runs it rests on"),
    "unknown verdict": (item_with(verdict="[red]proved[/]"), "unknown verdict '[red]proved[/]'"),
    "edited item": (edited, "tab6.json is not what smlib wrote"),
    # report-readme and reproduce
    "README outside": (always("report-readme", "--readme", "{folder}/README.md"), "README.md cannot be read: "),
    "README of nothing": (
        lambda f: [(f / "R.md").write_text(""), "report-readme", "--readme", f"{f}/R.md", "--results-dir", f"{f}"][1:],
        "holds no results",
    ),
    "README of an edited item": (edited_and_checked, "tab6.json is not what smlib wrote"),
    "fresh-since NaN": (fresh_since('{"round": "a", "since": NaN, "notebooks": []}'), ".fresh-since is no valid JSON"),
    "fresh-since of no time": (fresh_since('{"round": "a", "since": 1e300, "notebooks": []}'), "delete it"),
    "fresh where nothing can be written": (fresh_in_a_file, "cannot be written: "),
    "runs where nothing can be written": (runs_in_a_file, "name another folder with --runs-dir"),
    "empty results folder": (always("status", "--results-dir", ""), "an empty name"),
    # train and generate
    "empty folder": (always("train", ""), "an empty name"),
    "empty start": (always("train", "{folder}/p", "--init", ""), "an empty name"),
    "nothing to generate from": (always("generate", ""), "an empty name"),
    "no model to generate from": (always("generate", "--model", ""), "an empty name"),
    "no page to write": (always("generate", "sm-arithmetic", "--html", ""), "an empty name; name a file"),
    "nothing to watch": (always("watch", ""), "an empty name"),
    "nothing to export": (always("export", "", "{folder}/p"), "an empty name"),
    "nowhere to export to": (always("export", "{folder}/p", ""), "an empty name"),
    "nowhere for notebooks": (always("reproduce", "--runs-dir", ""), "an empty name"),
    "no results to reproduce into": (always("reproduce", "--results-dir", ""), "an empty name"),
    "nothing to fine-tune": (always("finetune", "--model", "", "--dataset", "x.jsonl"), "there is no model: name one"),
    "nothing to fine-tune on": (always("finetune", "--model", "x", "--dataset", " "), "there is no dataset: name one"),
    "nowhere to fine-tune": (always("finetune", "--output_dir", ""), "output_dir is an empty name"),
    "too many questions": (always("train", "{folder}/p", "--questions", "99999999999"), "value for '--questions'"),
    "a file for a folder": (
        lambda f: [(f / "p").write_text(""), "train", f"{f}/p", *SMALL][1:],
        "p cannot be the folder of a run: it is a file",
    ),
    "denormal temperature": (sampling("--temperature", "1e-320"), "temperature=1e-320: expected > 0, from 1e-100"),
    "endless temperature": (sampling("--temperature", "inf"), "temperature=inf: expected > 0, from 1e-100"),
    "no number": (sampling("--temperature", "nan"), "temperature=nan: expected > 0"),
    "tampered width": (tampered(hidden_size=16), "does not hold the weights of the LlamaForCausalLM"),
    "endless width": (tampered(hidden_size=10**13), "lm is damaged"),
    "a word for a width": (tampered(hidden_size="wide"), "policy in"),
    "no heads": (tampered(num_attention_heads=0), "policy in"),
    "a word for a model's width": (tampered_model("config.json", hidden_size="wide"), "transformers can load: "),
    "a model without heads": (tampered_model("config.json", num_attention_heads=0), "transformers can load: "),
    "a model's torn configuration": (tampered_model("config.json", "{torn"), "m"),
    "a model's torn tokeniser": (tampered_model("tokenizer.json", "{torn"), "the tokeniser in "),
    "another file for a tokeniser": (tampered_model("tokenizer.json", "{}"), "the tokeniser in "),
    "a policy's torn source": (tampered_policy("source.json", "{torn"), "source.json is damaged, or none of smlib's: "),
    "a list for a source": (tampered_policy("source.json", "[]"), "source.json is damaged, or none of smlib's: "),
    "a source without adapters": (tampered_policy("source.json", "{}"), "source.json is damaged, or none of smlib's: "),
    "a source of no dtype": (
        tampered_policy("source.json", '{"name": "", "lora": null, "dtype": "float17"}'), "dtype is 'float17', none of",
    ),
    "a number for a policy": (tampered_policy("policy.json", "3"), "m is a corrupt or foreign checkpoint: "),
    "a deep policy": (tampered_policy("policy.json", DEEP), "m is a corrupt or foreign checkpoint: "),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_one_line_says_what_is_wrong(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, expected = BAD[name]
    command = [str(part) for part in prepare(tmp_path)]
    monkeypatch.setenv("COLUMNS", "300")
    code, _, said = smlib(*command, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2, said
    assert expected in said
    assert "Traceback" not in said
    ours = [line for line in said.splitlines() if line.startswith("smlib: ")]
    assert len(ours) == 1 or "Usage: " in said  # typer draws a box around what it refuses itself
    assert not (tmp_path / "p").is_dir()


def test_one_bad_item_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = items(tmp_path, fig3="{torn")
    code, shown, said = smlib(*command, "--json", monkeypatch=monkeypatch, capsys=capsys)
    rows = {row["id"]: row["verdict"] for row in json.loads(shown)}
    assert code == 2
    assert list(rows) == list(ITEMS)
    assert (rows["fig1"], rows["tab6"], rows["fig3"]) == ("reproduced", "reproduced", "not run")
    assert said.count("\n") == 1


def test_markup_and_escapes_of_a_file_are_shown_and_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    text = "[red]not[/red] \x1b[31mred\x1b[0m \u202eback\r[link=x]"
    write_item("fig1", "full", ours=text, n_seeds=0, verdict="reproduced", results_dir=tmp_path)
    code, shown, _ = smlib("status", "--results-dir", str(tmp_path), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert r"[red]not[/red] \x1b[31mred\x1b[0m \u202eback\r[link=x]" in shown
    assert not {"\x1b", "\u202e"} & set(shown)


def test_status_of_a_preset_shows_ones_own_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    items(tmp_path)
    write_item("fig1", "quick", ours="mine", n_seeds=0, verdict="direction only", results_dir=tmp_path)
    monkeypatch.chdir(tmp_path.parent)  # a relative path starts where the user is
    command = ("status", "--json", "--results-dir", tmp_path.name, "--preset", "quick")
    code, shown, _ = smlib(*command, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert [row["ours"] for row in json.loads(shown)][:2] == ["mine", None]


# Streams, in processes of their own.


def outside(folder: Path, repository: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell's command with `smlib` as a stranger has it: from another folder."""
    ours = {**os.environ, "PYTHONPATH": str(repository), **environment}
    line = command.replace("smlib", f"{sys.executable} -m smlib", 1)
    return subprocess.run(["bash", "-c", line], cwd=folder, env=ours, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("smlib status --results-dir . > /dev/full", 2, "no space left on the device: nothing more can be written\n"),
        ("smlib status --results-dir . >&-", 2, "smlib: standard output is closed: there is nowhere to print to\n"),
        ("smlib status --results-dir . | head -n 1; exit ${PIPESTATUS[0]}", 0, ""),
        ("PYTHONIOENCODING=ascii smlib status --results-dir .", 0, ""),
        ("PYTHONIOENCODING=latin-1 smlib status --json --results-dir .", 0, ""),
        ("smlib status", 2, "run smlib inside its repository, or name the folder with --results-dir\n"),
        ("smlib report-readme", 2, "run smlib inside its repository, or name the file with --readme\n"),
        ("smlib reproduce --only fig1", 2, "run smlib from the repository\n"),
    ],
)  # fmt: skip
def test_streams_and_places(command: str, code: int, said: str, tmp_path: Path, repository: Path) -> None:
    """Also what a wheel does outside of the repository."""
    write_item("fig1", "full", ours="−n log(1−ε) \U0001d4d0", n_seeds=0, verdict="reproduced", results_dir=tmp_path)
    if "=" in command.split()[0]:
        setting, command = command.split(" ", 1)
        done = outside(tmp_path, repository, command, **dict([setting.split("=")]))
    else:
        done = outside(tmp_path, repository, command)
    assert done.returncode == code, done.stderr
    assert done.stderr.endswith(said)
    assert done.stderr.count("\n") == (1 if said else 0)
    if "--json" in command:
        assert json.loads(done.stdout)[0]["ours"] == "−n log(1−ε) \U0001d4d0"


def test_a_moved_checkout_runs_by_its_interpreter(tmp_path: Path, repository: Path) -> None:
    """Scripts of an environment name the folder that it was made in; `python -m` does not, and make calls it alone."""
    moved = tmp_path / "moved"
    for part in ("smlib", "results/full"):
        shutil.copytree(repository / part, moved / part, ignore=shutil.ignore_patterns("__pycache__", "scratch"))
    shutil.copy(repository / "pyproject.toml", moved)
    program = "import smlib, smlib.cli.app as a, sys; sys.argv = ['smlib', 'status']; print(smlib.__file__); a.main()"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=moved, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.startswith(str(moved / "smlib" / "__init__.py")), done.stderr
    assert "fig3" in done.stdout
    recipes = [line for line in (repository / "Makefile").read_text().splitlines() if "$(BIN)/" in line]
    assert recipes
    assert [line for line in recipes if "$(BIN)/" in line.replace("$(BIN)/python", "")] == []


def test_make_clean_leaves_what_the_user_made(tmp_path: Path, repository: Path) -> None:
    shutil.copy(repository / "Makefile", tmp_path)
    kept = [
        "runs/mine/policy/policy.json",
        "runs/quick.txt",
        "results/full/fig1.json",
        "figures/fig1.png",
        "runs/full/my/p",
    ]
    gone = [
        "runs/quick/01_chain_toy_model.ipynb", "runs/quick/markers/01.json", "runs/quick/.ipython/history",
        "runs/quick/.compiled/torch.pyc", "results/quick/fig1.json", "figures/smoke/fig1.png",
    ]  # fmt: skip
    for name in (*kept, *gone, "smlib/x", "tests/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    subprocess.run(["make", "-s", "clean"], cwd=tmp_path, check=True)
    assert [name for name in kept if not (tmp_path / name).exists()] == []
    assert [name for name in gone if (tmp_path / name).exists()] == []
    assert not (tmp_path / "runs" / "quick").exists()


# The machine's refusals while something is trained.


def train(folder: Path, **how: Any) -> tuple[int, str, str]:
    return smlib("train", str(folder), *SMALL, **how)


def test_a_full_disk_leaves_no_part_of_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*arguments: object, **options: object) -> None:
        raise full

    with monkeypatch.context() as patch:
        patch.setattr("smlib.policies.policy.save_file", refuse)
        code, _, said = train(tmp_path / "policy", monkeypatch=monkeypatch, capsys=capsys)
    assert (code, said.count("smlib: ")) == (2, 1)
    assert "the policy cannot be written to " in said
    assert "No space left on device; free some space, and the same command goes on" in said
    left = {path.name for path in (tmp_path / "policy").iterdir()}
    assert left <= {"settings.json", "metrics.jsonl", ".lock", "checkpoint"}
    with monkeypatch.context() as patch:
        patch.setattr("smlib.cli.workbench.write_atomically", refuse)
        code, _, said = train(tmp_path / "settings", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "cannot be written: [Errno 28] No space left on device" in said
    assert not (tmp_path / "settings").exists()


def test_only_one_process_trains_in_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    assert not run_folder._held
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom smlib.training.folder import hold\n"
        f"hold(Path({str(folder)!r}))\nprint('held', flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        code, _, said = train(folder, monkeypatch=monkeypatch, capsys=capsys)
        other.kill()
    assert code == 2
    assert f"shared is being trained in by another process, number {other.pid}: name another folder" in said
    with run_folder.held(folder), run_folder.held(folder):  # the lock went with the process; ours is ours twice
        pass
    assert not run_folder._held


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("WORLD_SIZE", "2", "the environment has WORLD_SIZE=2: start it without"),
        ("ACCELERATE_USE_FSDP", "true", "the environment has ACCELERATE_USE_FSDP=true, by which"),
    ],
)  # fmt: skip
def test_an_environment_of_another_run_is_refused(
    name: str,
    value: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(name, value)
    code, _, shown = train(tmp_path / "p", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert said in shown
    assert not (tmp_path / "p").exists()


def test_weights_are_as_readable_as_the_other_files(tmp_path: Path) -> None:
    small_policy(tmp_path)
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if path.is_file()} == {"0o644"}


def test_every_refusal_of_a_machine_has_words() -> None:
    assert (
        screen.refusal(OSError(errno.EROFS, "", "/x/y")) == "/x/y cannot be used: the file system cannot be written to"
    )
    assert screen.refusal(OSError(errno.ENOENT, "", "/x/y")) is None  # a file that should be there is a fault of ours


def test_a_warning_is_one_line_without_its_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warned(**_: object) -> None:
        warnings.simplefilter("always")  # as outside of tests, where no warning is an error
        warnings.warn("two\nlines \x1b[31m", stacklevel=1)

    monkeypatch.setattr(cli, "app", warned)
    before = warnings.showwarning
    cli.main()
    assert capsys.readouterr().err == "warning: two lines \\x1b[31m\n"
    assert warnings.showwarning is before

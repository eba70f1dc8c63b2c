"""The command line: what it prints, and what it says to a typing error."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from smlib import __version__
from smlib.cli import app as cli
from smlib.files import ResultError
from smlib.paper import reproduce
from smlib.paper.experiments.report.errata import ERRATA
from smlib.paper.items import ITEMS
from smlib.paper.ledger import LEDGER_FIELDS, write_item
from smlib.paper.readme import (
    BEGIN,
    DETAILS_BEGIN,
    DETAILS_END,
    END,
    ERRATA_BEGIN,
    ERRATA_END,
    SAID,
    brief_value,
    markers,
    shown_value,
)
from smlib.policies import shipped
from tests.support.notebook_maker import write_notebook

runner = CliRunner()


def smlib(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "smlib", *arguments], capture_output=True, text=True, check=False)


def test_status_as_json_has_exactly_the_fields_of_the_design(tmp_path: Path) -> None:
    write_item("fig1", "full", ours="−n log(1−ε)", n_seeds=0, verdict="reproduced", results_dir=tmp_path)
    done = runner.invoke(cli.app, ["status", "--json", "--results-dir", str(tmp_path)])
    assert done.exit_code == 0
    rows = json.loads(done.stdout)
    assert len(rows) == 15
    assert all(tuple(row) == LEDGER_FIELDS for row in rows)
    assert rows[0]["verdict"] == "reproduced"
    assert {row["verdict"] for row in rows[1:]} == {"not run"}


def test_status_as_a_table(tmp_path: Path) -> None:
    write_item("tab6", "quick", ours=0.5, error=0.03, n_seeds=3, verdict="not reproduced", results_dir=tmp_path)
    done = runner.invoke(cli.app, ["status", "--results-dir", str(tmp_path)], env={"COLUMNS": "200"})
    assert "0.5 ± 0.03 (3 seeds)" in done.stdout
    assert "not reproduced" in done.stdout


def test_status_of_a_damaged_result_is_one_line_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / "fig3.json").write_text("{torn")
    done = smlib("status", "--results-dir", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.startswith("smlib: ")
    assert "no valid JSON" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "--preset", "fast"], "unknown preset 'fast'; known: smoke, quick, full, paper"),
        (["reproduce", "--only", "fig9"], "unknown item 'fig9'; known: fig1, theory, fig2"),
        (["reproduce", "--only", ""], "--only names no item; known: fig1, theory, fig2"),
        (["reproduce", "--only", " ,", "--only", ""], "--only names no item"),
        (["reproduce", "--jobs", "0"], "greater than or equal to 1"),
    ],
)
def test_unknown_names_list_the_known_ones(arguments: list[str], message: str) -> None:
    done = smlib(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_version() -> None:
    assert runner.invoke(cli.app, ["--version"]).stdout.strip() == f"smlib {__version__}"


def test_reproduce_ends_with_one_table_and_fails_if_a_notebook_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = (
        "from smlib.paper import results\n"
        "results.write_item('fig2', preset, ours='equal', n_seeds=0, verdict='reproduced', results_dir=results_dir)"
    )
    write_notebook(tmp_path / "notebooks/03_masking.ipynb", good, "results.finish(['fig2'], preset, results_dir)")
    write_notebook(tmp_path / "notebooks/04_arithmetic.ipynb", "1 / 0", "results.finish(['fig3'], preset, results_dir)")
    plan = reproduce.plan
    monkeypatch.setattr(reproduce, "plan", lambda ids: plan(ids, tmp_path / "notebooks"))
    monkeypatch.setattr(reproduce, "project_root", lambda: tmp_path)
    arguments = ["reproduce", "--preset", "smoke", "--results-dir", str(tmp_path / "results")]
    wide = {"COLUMNS": "220"}
    done = runner.invoke(cli.app, [*arguments, "--only", "fig2"], env=wide)
    assert done.exit_code == 0, done.stdout
    assert "03_masking: done" in done.stdout
    done = runner.invoke(cli.app, [*arguments, "--only", "fig2,fig3"], env=wide)
    assert done.exit_code == 1
    assert "ZeroDivisionError: division by zero" in done.stdout
    assert "In [3] `1 / 0`" in done.stdout
    assert "04_arithmetic: failed (" in done.stdout
    failed = next(line for line in done.stdout.splitlines() if line.startswith("04_arithmetic: failed ("))
    assert failed.endswith(" at In [3] `1 / 0`: ZeroDivisionError: division by zero")  # on its own line, at once
    assert "1 failed" in done.stdout


def test_a_notebook_that_is_missing_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a call for two items does not succeed with one."""
    made = reproduce.Task("03_masking", ("fig2",), tmp_path / "03_masking.ipynb")
    absent = reproduce.Task("04_arithmetic", ("fig3", "tab1"), None)
    monkeypatch.setattr(reproduce, "plan", lambda ids: [made, absent])
    execute = reproduce.Reproduction.execute
    monkeypatch.setattr(
        reproduce.Reproduction,
        "execute",
        lambda self, task: execute(self, task) if task == absent else reproduce.Outcome(task, "done"),
    )
    arguments = ["reproduce", "--preset", "smoke", "--results-dir", str(tmp_path), "--only", "fig2,fig3"]
    arguments += ["--runs-dir", str(tmp_path / "runs")]
    done = runner.invoke(cli.app, arguments, env={"COLUMNS": "220"})
    assert done.exit_code == 1
    assert "04_arithmetic: no notebook" in done.stdout
    assert "1 failed" in done.stdout


def test_reproduce_as_json_and_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--runs-dir` is for a checkout that cannot be written to; a relative one starts where the user stands."""
    monkeypatch.chdir(tmp_path)
    seen: list[reproduce.Reproduction] = []

    def execute(self: reproduce.Reproduction, task: reproduce.Task) -> reproduce.Outcome:
        seen.append(self)
        said = ("fig3: 30 of 30 runs read from the cache, made at 4672b805c; sources differ in 3 files",)
        return reproduce.Outcome(task, "done", 1.25, runs=said)

    monkeypatch.setattr(reproduce.Reproduction, "execute", execute)
    monkeypatch.setattr(reproduce, "plan", lambda ids: [reproduce.Task("04_arithmetic", ("fig3", "tab1"), None)])
    arguments = ["reproduce", "--preset", "smoke", "--only", "fig3", "--results-dir", "r", "--runs-dir", "mine"]
    done = runner.invoke(cli.app, [*arguments, "--json"])
    assert done.exit_code == 0
    [record] = json.loads(done.stdout)
    assert (record["notebook"], record["items"], record["status"]) == ("04_arithmetic", ["fig3", "tab1"], "done")
    assert record["runs"] == ["fig3: 30 of 30 runs read from the cache, made at 4672b805c; sources differ in 3 files"]
    assert "04_arithmetic: done" in done.stderr
    assert seen[0].folder == tmp_path / "mine" / "smoke"
    assert seen[0].parameters["results_dir"] == str(tmp_path / "r")
    plain = runner.invoke(cli.app, arguments).stdout
    assert "  fig3: 30 of 30 runs read from the cache, made at 4672b805c; sources differ in 3 files\n" in plain


def test_an_unfinished_fresh_call_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce.Reproduction, "execute", lambda self, task: reproduce.Outcome(task, status))
    arguments = ["reproduce", "--preset", "smoke", "--results-dir", str(tmp_path), "--only", "fig3"]
    arguments += ["--runs-dir", str(tmp_path / "runs")]
    status = "interrupted"
    assert runner.invoke(cli.app, arguments).stderr == ""
    assert runner.invoke(cli.app, [*arguments, "--fresh"]).stderr == ""
    plain = runner.invoke(cli.app, arguments).stderr
    assert "is not finished, so old and new runs stand side by side" in plain
    assert "go on with `--fresh --only fig3,tab1`, or delete " in plain
    assert plain.count("\n") == 1
    status = "done"
    again = runner.invoke(cli.app, [*arguments, "--fresh"])
    assert again.stderr.startswith("smlib: going on with the `--fresh --only fig3,tab1` begun ")
    assert again.stderr.count("\n") == 1
    assert again.exit_code == 0
    assert runner.invoke(cli.app, arguments).stderr == ""


def test_report_readme_writes_between_the_markers(tmp_path: Path) -> None:
    readme, docs = tmp_path / "README.md", tmp_path / "docs"
    words = "\n".join(markers(SAID))
    readme.write_text(f"# Title\n\n{words}\n\n{BEGIN}\nlast week's\n{END}\n\ntail\n")
    write_item("fig1", "full", ours=1.0, error=0.5, n_seeds=3, verdict="reproduced", results_dir=tmp_path / "results")
    arguments = ["report-readme", "--readme", str(readme), "--results-dir", str(tmp_path / "results")]
    missing = runner.invoke(cli.app, arguments).exception
    assert isinstance(missing, ResultError)
    assert "results.md does not exist" in str(missing)
    docs.mkdir()
    (docs / "results.md").write_text(f"# Results\n{DETAILS_BEGIN}\n{DETAILS_END}\n{words}\n")
    (docs / "errata.md").write_text(f"# Errata\n{ERRATA_BEGIN}\nnone\n{ERRATA_END}\n")
    assert runner.invoke(cli.app, [*arguments, "--check"]).exit_code != 0
    assert "last week's" in readme.read_text()
    assert runner.invoke(cli.app, arguments).exit_code == 0
    text = readme.read_text()
    assert text.startswith("# Title")
    assert text.endswith("tail\n")
    assert "last week's" not in text
    assert "| 1.0 ± 0.5 | reproduced |" in text
    assert "Of 14 items 1 is reproduced and 13 were not run; 1 of the three" in text
    assert "`report`" not in text
    assert "| 1.0 ± 0.5 (3 seeds) | reproduced |" in (docs / "results.md").read_text()
    errata = (docs / "errata.md").read_text()
    assert errata.count("*Printed:*") == len(ERRATA)
    assert "](../notebooks/01_chain_toy_model.ipynb)). *Printed:* " in errata
    assert runner.invoke(cli.app, [*arguments, "--check"]).exit_code == 0


@pytest.mark.parametrize(
    ("error", "n_seeds", "shown"),
    [
        (0.0244, 3, "0.7 ± 0.024 (3 seeds)"),
        (None, 1, "0.7 (1 seed)"),
        ("largest gap 8e-16", 0, "0.7 (largest gap 8e-16)"),
        ("each ± 0.070 or less", 1, "0.7 (each ± 0.070 or less; 1 seed)"),
        (None, 0, "0.7"),
    ],
)
def test_an_error_in_words_is_no_error_bar(error: float | str | None, n_seeds: int, shown: str) -> None:
    assert shown_value({"ours": 0.7, "error": error, "n_seeds": n_seeds}) == shown


@pytest.mark.parametrize(
    ("row", "shown"),
    [
        ({"id": "fig3", "ours": "SM 0.6, BC 0.7", "error": "each ± 0.025 or less"}, "SM 0.6, BC 0.7 (± 0.025)"),
        ({"id": "fig2", "ours": "equal; and more", "error": "largest gap 8e-16"}, "equal"),
        ({"id": "fig1", "ours": "KL; χ²; refuted: q²", "error": None}, "KL; the paper errs in q²"),
        ({"id": "tab6", "ours": 0.5, "error": 0.0244}, "0.5 ± 0.024"),
        ({"id": "tab6", "ours": None, "error": None}, "—"),
    ],
)
def test_a_cell_of_the_readme_is_short(row: dict[str, object], shown: str) -> None:
    assert brief_value(row) == shown


def test_start_up_is_light() -> None:
    program = (
        "import sys, smlib.cli.app; sys.exit(bool({'torch', 'pandas', 'papermill', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, env=os.environ).returncode == 0


def test_names_that_are_typed_again_are_whole_in_80_columns(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lines(*command: str) -> list[str]:
        shown = runner.invoke(cli.app, list(command), env={"COLUMNS": "80"}).stdout.splitlines()
        rows = [line for line in shown if line.startswith("│")]
        assert max(map(cell_len, rows)) <= 80
        return rows

    ledger = lines("status", "--results-dir", str(repository / "results"))
    assert set(ITEMS) <= {row.split()[1] for row in ledger}
    assert set(shipped.names()) <= {row.split()[1] for row in lines("policies")}
    tasks = reproduce.plan([])
    monkeypatch.setattr(reproduce.Reproduction, "execute", lambda self, task: reproduce.Outcome(task, "failed", 3600.0))
    done = lines("reproduce", "--preset", "smoke", "--results-dir", str(tmp_path), "--runs-dir", str(tmp_path / "runs"))
    for task in tasks:
        (row,) = [row for row in done if f" {task.name} " in row]
        assert f" {task.label} " in row
        assert " failed " in row

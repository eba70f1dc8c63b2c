"""Reading must not write: a reader's pass over committed results leaves every file as it was."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smlib.files import ResultError
from smlib.paper import checksums, ledger, origins
from smlib.paper.reproduce import Reproduction, Task, plan
from smlib.paper.results import Run, read_item, run_cached, write_item


def run(folder: Path, seed: int = 0, accuracy: float = 0.5, **options: Any) -> Run:
    return run_cached(
        "fig3", "sm", {"seed": seed}, lambda _: {"accuracy": accuracy}, preset="full", seeds=[seed],
        version_key="training", results_dir=folder, **options,
    )  # fmt: skip


def item(folder: Path, *runs: Run, ours: float = 0.5) -> Path:
    return write_item(
        "fig3", "full", ours=ours, n_seeds=1, verdict="direction only", sources=runs, results_dir=folder,
        rows=[{"label": "SM", "paper": None, "ours": ours, "error": None}],
    )  # fmt: skip


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine, another revision, other packages."""
    monkeypatch.setattr("smlib.paper.provenance._revision", lambda: ("0" * 40, True))
    monkeypatch.setattr("smlib.paper.provenance.machine", lambda: {"cpu": "another", "threads": 64})
    monkeypatch.setattr("smlib.paper.provenance.versions", lambda: {"python": "3.99"})


def test_an_item_of_the_same_numbers_and_runs_keeps_its_bytes(tmp_path: Path, elsewhere: None) -> None:
    with pytest.MonkeyPatch.context() as here:
        here.setattr("smlib.paper.provenance._revision", lambda: ("1" * 40, False))
        here.setattr("smlib.paper.provenance.machine", lambda: {"cpu": "this one"})
        made = run(tmp_path)
        path = item(tmp_path, made)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    again = run(tmp_path)
    assert item(tmp_path, again, ours=0.5 + 1e-13) == path  # the last digit is a processor's own
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before
    ledger.finish(["fig3"], "full", tmp_path)  # and it counts as this run's


@pytest.mark.parametrize("change", ["number", "run", "fewer runs"])
def test_an_item_is_written_when_its_numbers_or_its_runs_change(tmp_path: Path, change: str) -> None:
    runs = [run(tmp_path, seed) for seed in (0, 1)]
    path = item(tmp_path, *runs)
    before = path.read_bytes()
    if change == "number":
        item(tmp_path, *runs, ours=0.5001)
    elif change == "run":
        item(tmp_path, run(tmp_path, 0, accuracy=0.7, fresh=True), runs[1])
    else:
        item(tmp_path, runs[0])
    assert path.read_bytes() != before


def test_an_item_keeps_where_its_runs_were_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machines = [{"cpu": "first"}, {"cpu": "second"}]
    runs = []
    for seed, machine in enumerate(machines):
        monkeypatch.setattr("smlib.paper.provenance.machine", lambda machine=machine: machine)
        runs.append(run(tmp_path, seed))
    origin = json.loads(item(tmp_path, *runs).read_text())["provenance"]
    assert origin["source_machines"] == machines
    assert len(origin["source_versions"]) == 1


def test_finish_says_what_was_read_and_that_the_sources_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker.json"
    monkeypatch.setenv("SMLIB_FINISH_MARKER", str(marker))
    computed = [run(tmp_path, seed) for seed in (0, 1)]
    item(tmp_path, *computed)
    ledger.finish(["fig3"], "full", tmp_path)
    assert "cache" not in capsys.readouterr().out
    monkeypatch.setattr(origins, "changed_since", lambda revision: "sources differ in 2 files")
    item(tmp_path, run(tmp_path, 0), computed[1])
    ledger.finish(["fig3"], "full", tmp_path)
    said = capsys.readouterr().out
    assert "fig3: 1 of 2 runs read from the cache, made at " in said
    assert said.endswith("; sources differ in 2 files\n")
    assert json.loads(marker.read_text())["runs"]["fig3"].startswith("1 of 2 runs read from the cache")


def test_an_edited_run_or_item_is_named_wherever_it_is_read(tmp_path: Path) -> None:
    made = run(tmp_path)
    path = item(tmp_path, made)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"ours": 0.5', b'"ours": 0.9'))
    for reads in (lambda: read_item("fig3", "full", tmp_path), lambda: ledger.ledger(tmp_path), lambda: item(tmp_path)):
        with pytest.raises(ResultError, match=r"fig3\.json is not what smlib wrote"):
            reads()
    path.write_bytes(whole)
    ledger.ledger(tmp_path)
    made.path.write_bytes(made.path.read_bytes().replace(b"0.5", b"0.9"))
    for reads in (lambda: run(tmp_path), lambda: ledger.ledger(tmp_path), lambda: item(tmp_path, made)):
        with pytest.raises(ResultError, match="is not what smlib wrote"):
            reads()
    assert len(checksums.problems(tmp_path / "full")) == 1


def test_a_run_that_was_repeated_or_is_gone_makes_its_item_stale(tmp_path: Path) -> None:
    runs = [run(tmp_path, seed) for seed in (0, 1)]
    item(tmp_path, *runs)
    run(tmp_path, 0, accuracy=0.7, fresh=True)
    runs[1].path.unlink()
    [row] = [row for row in ledger.ledger(tmp_path) if row["id"] == "fig3"]
    assert isinstance(row["provenance"], dict)
    stale = "\n".join(row["provenance"]["stale"])
    assert "has been repeated since" in stale
    assert "is not there" in stale


def test_files_without_a_checksum_are_read_as_before(tmp_path: Path) -> None:
    item(tmp_path, run(tmp_path))
    (tmp_path / "full" / checksums.MANIFEST).unlink()
    assert run(tmp_path) == {"accuracy": 0.5}
    assert ledger.ledger(tmp_path)
    assert len(checksums.problems(tmp_path / "full")) == 2
    assert checksums.main(["write", str(tmp_path / "full")]) == 0
    assert checksums.problems(tmp_path / "full") == []
    (tmp_path / "full" / checksums.MANIFEST).write_text('{"file": 3}\nx\n')
    with pytest.raises(ResultError, match=r"line 1 of .*checksums\.jsonl is damaged"):
        ledger.ledger(tmp_path)


def test_a_run_is_read_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = run(tmp_path)
    shutil.rmtree(made.path.parent / "scratch")
    for name in ("open", "mkdir", "replace"):
        monkeypatch.setattr(f"os.{name}", refuse)
    assert run(tmp_path) == {"accuracy": 0.5}


def refuse(*arguments: object, **options: object) -> None:
    raise OSError(30, "Read-only file system", str(arguments[0]))


@pytest.mark.slow
def test_a_readers_pass_over_the_committed_results_changes_no_file(repository: Path, tmp_path: Path) -> None:
    """Every notebook at `full`, from the cache, on a copy: item files, runs and figures stay the same bytes."""
    for folder in ("results", "figures"):
        ignored = shutil.ignore_patterns("quick", "smoke", "scratch")
        shutil.copytree(repository / folder, tmp_path / folder, ignore=ignored)
    names = [task.name for task in plan()]
    program = repository / "tests" / "support" / "readers_pass.py"
    asked = {"SMLIB_QUIET": "1", "SMLIB_WORKERS": "1", "SMLIB_HEADLESS": "1", "IPYTHONDIR": str(tmp_path / "ipython")}
    search = os.pathsep.join([str(repository), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(program), str(tmp_path), *names],
        cwd=repository,
        env={**os.environ, **asked, "PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]
    told = dict(json.loads(line) for line in done.stdout.splitlines() if re.match(r'\["\d\d_\w+", \[', line))
    assert told == {name: [] for name in names}


def test_no_matplotlibrc_reaches_a_committed_figure(repository: Path, tmp_path: Path) -> None:
    rc = tmp_path / "matplotlibrc"
    rc.write_text("font.size: 33\ntext.usetex: true\naxes.facecolor: red\nlines.linewidth: 9\nlegend.frameon: true\n")
    program = (
        "from smlib.paper import figures\n"
        "from smlib.paper.figures import committed\n"
        f"figures.save(committed.redraw('fig1', 'full', {str(repository / 'results')!r}), 'fig1', 'full', '.')\n"
    )
    environment = {"MATPLOTLIBRC": str(rc), "PYTHONPATH": str(repository), "PATH": "/usr/bin:/bin"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "fig1.png").read_bytes() == (repository / "figures" / "fig1.png").read_bytes()


def test_kernels_are_this_interpreters_and_start_with_nothing_of_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel called `python3` on JUPYTER_PATH, an IPython startup file and PYTHONSTARTUP change nothing."""
    from tests.support.notebook_maker import write_notebook

    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    spec = {"argv": ["/bin/false", "{connection_file}"], "display_name": "another", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    for file in (startup / "00.py", tmp_path / "started.py"):
        file.write_text("raise SystemExit('a startup file was run')\nmine = 1\n")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "started.py"))
    made = write_notebook(
        tmp_path / "01_kernel.ipynb",
        f"import sys\nassert sys.executable == {sys.executable!r}, sys.executable\nassert 'mine' not in globals()",
        "from smlib.paper import results\nresults.finish([], preset, results_dir)",
    )
    work = Reproduction("smoke", results_dir=str(tmp_path / "results"), runs_dir=tmp_path / "runs")
    [outcome] = work.run([Task("01_kernel", (), made)])
    assert outcome.status == "done", f"{outcome.where}: {outcome.why}"

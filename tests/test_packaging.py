"""Files that must agree: metadata, pins, conda environment, Makefile, CI, README, citation, layers."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import yaml

import smlib
from smlib.files import ResultError
from smlib.paper.experiments.report.errata import ERRATA
from smlib.paper.items import ITEMS, PRESETS, VERDICTS
from smlib.paper.ledger import COMMITTED_PRESETS, ledger
from smlib.paper.readme import with_errata, with_replication_table


@pytest.fixture
def pyproject(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture
def makefile(repository: Path) -> str:
    return (repository / "Makefile").read_text()


@pytest.fixture
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def canonical(requirement: str) -> str:
    """The normalised name in front of a requirement's version or extras."""
    return re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-")


def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_dependency_is_pinned_and_nothing_twice(repository: Path, pyproject: dict[str, Any]) -> None:
    pinned = [canonical(name) for name in pins(repository)]
    assert len(pinned) == len(set(pinned))
    project = pyproject["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    assert {canonical(requirement) for requirement in wanted} <= set(pinned)


def test_pins_are_plain_versions(repository: Path) -> None:
    """A local version such as 2.13.0+cpu exists on no public index."""
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", number) for number in pins(repository).values())


def test_what_is_installed_here_is_what_is_pinned(repository: Path) -> None:
    different = {}
    for name, number in pins(repository).items():
        try:
            found = version(name).split("+")[0]
        except PackageNotFoundError:
            continue  # an extra that this environment lacks
        if found != number:
            different[name] = (found, number)
    assert not different


def test_conda_environment_is_in_step(repository: Path, pyproject: dict[str, Any], makefile: str) -> None:
    environment = yaml.safe_load((repository / "environment.yml").read_text())
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert f"python{pyproject['project']['requires-python']}" in conda
    assert {"pip", "make"} <= set(conda)
    extras = re.search(r"^EXTRAS := (.*)$", makefile, re.MULTILINE)
    assert extras
    assert pip == ["--constraint constraints.txt", f"--editable .[{extras[1]}]"]
    assert set(extras[1].split(",")) <= set(pyproject["project"]["optional-dependencies"])


def test_the_version_is_stated_once_and_quoted_right(repository: Path, pyproject: dict[str, Any]) -> None:
    assert pyproject["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "smlib.__version__"}
    citation = yaml.safe_load((repository / "CITATION.cff").read_text())
    assert citation["version"] == smlib.__version__
    assert citation["preferred-citation"]["title"].startswith("SequenceMatch: Imitation Learning")
    assert [author["family-names"] for author in citation["preferred-citation"]["authors"]] == ["Cundy", "Ermon"]
    assert citation["license"] == pyproject["project"]["license"] == "Apache-2.0"
    assert "Apache License" in (repository / "LICENSE").read_text()


def test_ci_runs_the_readmes_test_command(repository: Path, readme: str) -> None:
    script = repository / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make --no-print-directory test" in script.read_text()
    assert re.search(r"^make test ", readme, re.MULTILINE)
    assert re.search(r"^make reproduce ", readme, re.MULTILINE)


def test_every_make_target_and_option_in_the_readme_exists(readme: str, makefile: str) -> None:
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", readme, re.DOTALL))
    targets = re.findall(r"^make (?:[A-Z]+=\S+ )*([a-z0-9]+)", blocks, re.MULTILINE)
    assert {"reproduce", "test", "lab"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_smlib_command_and_option_in_the_readme_exists(readme: str) -> None:
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", readme, re.DOTALL))
    commands = re.findall(r"^smlib ([a-z-]+)([^#\n]*)", blocks, re.MULTILINE)
    assert {name for name, _ in commands} >= {"reproduce", "status", "train", "generate"}
    for name, rest in commands:
        done = subprocess.run(
            [sys.executable, "-m", "smlib", name, "--help"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "TERM": "dumb", "COLUMNS": "200"},
        )
        for option in re.findall(r"(?<= )--?[a-z-]+", rest):
            assert option in done.stdout, f"smlib {name} {option}"
        for item in re.findall(r"--only (\S+)", rest):
            assert item in ITEMS
        for preset in re.findall(r"--preset (\S+)", rest):
            assert preset in PRESETS


def test_the_readmes_presets_verdicts_and_files_exist(repository: Path, readme: str) -> None:
    assert re.findall(r"^\| `([a-z]+)` \| ", readme, re.MULTILINE)[: len(PRESETS)] == list(PRESETS)
    for verdict in VERDICTS:
        assert f"*{verdict}*" in readme
    for path in re.findall(r"`(smlib/[a-z_]+(?:\.py|/))`", readme):
        assert (repository / path).exists(), path


def test_every_link_of_the_readme_leads_somewhere(repository: Path, readme: str) -> None:
    for path in re.findall(r"\]\(([^)#]+)\)", readme):
        assert path.startswith("http") or (repository / path).exists(), path


def test_the_replication_table_is_the_ledger(repository: Path, readme: str) -> None:
    shown = with_replication_table(readme, ledger(repository / "results", COMMITTED_PRESETS))
    assert shown == readme, "run `smlib report-readme`"


def test_the_errata_of_the_readme_are_those_of_the_report(readme: str) -> None:
    assert with_errata(readme, [vars(erratum) for erratum in ERRATA]) == readme, "run `smlib report-readme`"


def test_every_erratum_is_shown_in_a_notebook_that_names_its_place(repository: Path) -> None:
    for erratum in ERRATA:
        (path,) = (repository / "notebooks").glob(f"{erratum.shown}_*.ipynb")
        text = path.read_text().replace("Appendix ", "App. ").replace("Section ", "Sec. ").replace("Sections ", "Sec. ")
        for place in re.findall(r"Table \d|(?:App\. )?[A-I]\.\d|Sec\. [\d.]*\d|Algorithm A|App\. E", erratum.place):
            assert re.search(rf"{re.escape(place.removeprefix('App. '))}\b", text), f"{path.name} lacks {place}"


def test_a_readme_without_markers_is_left_alone() -> None:
    for rewrite in (with_replication_table, with_errata):
        with pytest.raises(ResultError, match="needs the two lines"):
            rewrite("# no markers", [])


def test_make_describes_every_target(repository: Path) -> None:
    done = subprocess.run(["make", "help"], cwd=repository, capture_output=True, text=True, check=True)
    for target in ("reproduce", "test", "lab", "lint", "install", "clean"):
        assert f"make {target} — " in done.stdout


def test_make_names_a_python_that_is_too_old(repository: Path, tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "import sys; sys.version_info = (3, 10); $2"\n')
    old.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "smlib needs Python 3.11 or newer" in done.stderr
    assert not (tmp_path / "venv").exists()


@pytest.mark.slow
def test_layers_hold(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_every_module_has_a_layer(repository: Path, pyproject: dict[str, Any]) -> None:
    (layers,) = (c["layers"] for c in pyproject["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    placed = {name for layer in layers for name in re.findall(r"[a-z0-9_]+", layer)}
    modules = {
        path.stem
        for path in (repository / "smlib").iterdir()
        if (path.suffix == ".py" and path.stem != "__init__") or (path / "__init__.py").exists()
    }
    assert modules <= placed, f"no layer in pyproject.toml: {', '.join(sorted(modules - placed))}"


def test_no_module_is_too_long(repository: Path) -> None:
    """One idea a module, under about 300 lines; a little slack, since a cut in the wrong place is worse."""
    lengths = {path: len(path.read_text().splitlines()) for path in (repository / "smlib").rglob("*.py")}
    assert not {path.name: length for path, length in lengths.items() if length > 320}

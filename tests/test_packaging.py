"""Files that must agree: metadata, pins, conda environment, Makefile, CI, README and docs, citation, layers."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import fields
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import smlib
from smlib.cli import app as cli
from smlib.cli.finetune import FinetuneArguments
from smlib.files import ResultError, project_root
from smlib.paper.experiments.report.errata import ERRATA
from smlib.paper.items import ITEMS, PRESETS, VERDICTS
from smlib.paper.ledger import COMMITTED_PRESETS, ledger
from smlib.paper.readme import (
    BEGIN,
    END,
    SAID,
    Generated,
    markers,
    pages,
    with_details,
    with_errata,
    with_paragraphs,
    with_replication_table,
)
from smlib.paper.sentences.pages import generated
from smlib.training.trainer_config import SequenceMatchConfig


@pytest.fixture
def pyproject(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture
def makefile(repository: Path) -> str:
    return (repository / "Makefile").read_text()


@pytest.fixture
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text()


def prose(repository: Path) -> dict[str, str]:
    """README and every page beside it, by their paths in the repository."""
    found = [repository / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    found += sorted((repository / "docs").glob("*.md"))
    return {str(path.relative_to(repository)): path.read_text() for path in found}


PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{name}.md" for name in (
    "architecture", "choices", "course", "diverging", "errata", "evaluation_harness", "export", "glossary", "gpu",
    "machines", "map", "models", "processors", "results", "running", "serving", "stability", "stepper",
    "your-own-model")))  # fmt: skip


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


def blocks(repository: Path, language: str) -> str:
    return "\n".join(
        block
        for text in prose(repository).values()
        for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    )


def test_every_make_target_in_readme_and_docs_exists(repository: Path, makefile: str) -> None:
    shown = (
        blocks(repository, "bash")
        + "\n"
        + "\n".join(re.findall(r"`(make [^`]+)`", "".join(prose(repository).values())))
    )
    targets = re.findall(r"^make (?:[A-Z]+=\S+ )*([a-z0-9]+)", shown, re.MULTILINE)
    assert {"reproduce", "test", "lab", "install", "smollm2"} <= set(targets)
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_every_smlib_command_and_option_in_readme_and_docs_exists(repository: Path) -> None:
    shown = (
        blocks(repository, "bash")
        + "\n"
        + "\n".join(re.findall(r"`(smlib [^`]+)`", "".join(prose(repository).values())))
    )
    commands = re.findall(r"^smlib ([a-z][a-z-]*)([^#\n]*)", shown, re.MULTILINE)
    assert {name for name, _ in commands} >= {"reproduce", "status", "train", "generate", "policies", "bench"}
    known = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, rest in commands:
        assert name in known, f"smlib {name}"
        options = {option for parameter in known[name].params for option in parameter.opts}
        if name == "finetune":  # its options are the fields of two dataclasses
            options |= {"--config", "--help"} | {
                f"--{f.name}" for kind in (FinetuneArguments, SequenceMatchConfig) for f in fields(kind)
            }
        for option in re.findall(r"(?<= )--?[a-z][a-z_-]*", rest):
            assert option in options, f"smlib {name} {option}"
        for item in re.findall(r"--only (\S+)", rest):
            assert item in ITEMS
        for preset in re.findall(r"--preset (\S+)", rest):
            assert preset in PRESETS


def test_presets_and_verdicts_are_explained(repository: Path, readme: str) -> None:
    running = (repository / "docs" / "running.md").read_text()
    assert re.findall(r"^\| `([a-z]+)` \| ", running, re.MULTILINE)[: len(PRESETS)] == list(PRESETS)
    for verdict in VERDICTS:
        assert f"*{verdict}*" in readme
        assert f"*{verdict}*" in (repository / "docs" / "results.md").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_every_path_and_name_on_a_page_exists(page: str, repository: Path) -> None:
    """Files in backquotes, and functions said to be `in` one; patterns such as `<item>` are not files."""
    text = prose(repository)[page]
    # The changelog names what is gone; a reader of the others goes where they point.
    for path in re.findall(r"`((?:smlib|tests|results|figures|notebooks|docs)/[\w./-]+)`", text):
        if not path.startswith(("results/quick", "figures/quick")):
            assert (repository / path).exists(), path
    for name, path in re.findall(r"`(\w+)` (?:and `\w+` )?in\s+`(smlib/[\w/]+\.py)`", text):
        assert re.search(rf"^(?:def|class) {name}\b|^{name}\b.*=", (repository / path).read_text(), re.MULTILINE), name
    for name in re.findall(r"smlib\.([A-Za-z_]+)\(", text):
        assert name in smlib.__all__, f"smlib.{name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str, repository: Path) -> None:
    for path in re.findall(r"\]\(([^)#\s]+)\)", prose(repository)[page]):
        assert path.startswith("http") or (repository / page).parent.joinpath(path).exists(), path


def test_the_pages_are_those_that_are_checked_and_each_can_be_found_from_readme(repository: Path, readme: str) -> None:
    assert sorted(prose(repository)) == sorted(PAGES)
    linked = set(re.findall(r"\]\(([^)#\s]+\.md)\)", readme))
    assert linked == set(PAGES) - {"README.md"}


def test_the_readme_is_a_page(readme: str) -> None:
    assert len(readme.splitlines()) <= 150
    table = readme[readme.index(BEGIN) : readme.index(END)]
    for line in table.splitlines():
        for cell in line.split(" | "):
            assert len(re.sub(r"\]\([^)]*\)", "", cell)) <= 100, cell


@pytest.mark.parametrize(
    ("question", "place"),
    [
        ("`<bkspc>` is rolled back in the cache", "smlib/generation/edit_batch.py"),
        ("eq. 4", "smlib/objectives/losses.py"),
        ("who writes `results/full/fig3.json`", "smlib/paper/experiments/arithmetic/items.py"),
        ("how to add a divergence", "CONTRIBUTING.md"),
        ("an experiment", "CONTRIBUTING.md"),
    ],
)
def test_the_readme_answers_on_the_line_of_the_question(question: str, place: str, readme: str) -> None:
    (line,) = [line for line in readme.splitlines() if line.startswith("|") and question in line.split("|")[1]]
    assert place in line.split("|")[2]


@pytest.fixture(scope="module")
def said() -> Generated:
    """Every paragraph that is made from the committed results."""
    results = project_root() / "results"
    return generated(ledger(results, COMMITTED_PRESETS), results)


def test_the_picture_has_its_words(readme: str, said: Generated) -> None:
    assert said.picture is not None
    assert f"![{said.picture}](figures/demo.png)" in readme


def test_what_is_generated_is_what_the_results_say(repository: Path, said: Generated) -> None:
    rows = ledger(repository / "results", COMMITTED_PRESETS)
    found = pages(repository / "README.md", rows, [vars(erratum) for erratum in ERRATA], said)
    assert {path.name for path in found} == {"README.md", "results.md", "errata.md", "choices.md", "diverging.md"}
    for path, (before, after) in found.items():
        assert before == after, f"{path.name}: run `smlib report-readme`"


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/diverging.md"])
def test_no_share_is_typed_by_hand(page: str, repository: Path) -> None:
    """A measured share or difference in prose stands between markers, where it is made from a result file."""
    generated_parts = re.compile(r"<!-- [^>]*? by `smlib report-readme`.*?<!-- end of .*? -->", re.DOTALL)
    text = generated_parts.sub("", prose(repository)[page])
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("95 %", "")
    assert re.findall(r"(?:^|[ (−+±])\.\d{3}\b|\b0\.\d{3}\b|\b\d[\d.]* (?:%|per cent|points)", text) == []


def test_what_came_out_is_said_in_two_sentences(said: Generated) -> None:
    brief = said.short.split("\n\n")[0]
    assert len(re.findall(r"\.(?: |$)", brief)) == 2
    assert "SequenceMatch" in brief


def test_every_erratum_is_shown_in_a_notebook_that_names_its_place(repository: Path) -> None:
    for erratum in ERRATA:
        (path,) = (repository / "notebooks").glob(f"{erratum.shown}_*.ipynb")
        text = path.read_text().replace("Appendix ", "App. ").replace("Section ", "Sec. ").replace("Sections ", "Sec. ")
        for place in re.findall(r"Table \d|(?:App\. )?[A-I]\.\d|Sec\. [\d.]*\d|Algorithm A|App\. E", erratum.place):
            assert re.search(rf"{re.escape(place.removeprefix('App. '))}\b", text), f"{path.name} lacks {place}"


def test_a_readme_without_markers_is_left_alone() -> None:
    for rewrite in (with_replication_table, with_details, with_errata):
        with pytest.raises(ResultError, match="needs the two lines"):
            rewrite("# no markers", [])
    assert with_paragraphs("# no markers", SAID, "") == "# no markers"
    with pytest.raises(ResultError, match=r"<!-- what came out: written by .*' and '<!-- end of what came out"):
        with_paragraphs("# no markers", SAID, "said")


def test_paragraphs_are_folded_between_their_markers() -> None:
    begin, end = markers(SAID)
    made = with_paragraphs(f"a\n{begin}\nold\n{end}\nz\n", SAID, f"{'one ' * 40}\n\n- {'two ' * 40}")
    assert made.startswith(f"a\n{begin}\n\none ")
    assert made.endswith(f"two\n\n{end}\nz\n")
    assert max(map(len, made.splitlines())) <= 120
    assert "\n  two" in made
    assert "old" not in made


def test_what_ships_is_package_data(repository: Path, pyproject: dict[str, Any]) -> None:
    """So that a wheel has the weights and their cards, and not only a checkout."""
    package = repository / "smlib"
    patterns = pyproject["tool"]["setuptools"]["package-data"]["smlib"]
    packed = {path for pattern in patterns for path in package.glob(pattern)}
    folders = [folder for folder in (package / "policies" / "shipped").iterdir() if folder.name != "__pycache__"]
    needed = {path for folder in folders if folder.is_dir() for path in folder.rglob("*") if path.is_file()}
    assert needed <= packed, sorted(str(path.relative_to(package)) for path in needed - packed)
    assert {path.suffix for path in needed} == {".json", ".md", ".safetensors"}


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


FOLDERS = ("bench", "cli", "data", "edits", "evaluation", "generation", "objectives", "paper", "policies", "theory",
           "training", "widgets")  # fmt: skip


def test_tests_mirror_the_folders(repository: Path) -> None:
    subjects = {path.parent.name for path in (repository / "smlib").glob("*/__init__.py")}
    assert subjects == set(FOLDERS)
    tested = {path.parent.name for path in (repository / "tests").glob("*/__init__.py")}
    assert tested == {*FOLDERS, "browser", "support"}


@pytest.mark.parametrize("old", ["smlib.losses", "smlib.training.training", "smlib.models", "smlib.experiments"])
def test_an_old_import_path_fails_with_pythons_own_error(old: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{re.escape(old)}'"):
        import_module(old)


def test_every_arrow_of_the_drawing_is_an_import(repository: Path) -> None:
    """Of the library's folders in docs/architecture.md; and every folder of the package is in the drawing."""
    drawing = (repository / "docs" / "architecture.md").read_text().split("```mermaid")[1].split("```")[0]
    arrows = re.findall(r"^\s*(\w+)(?:\[.*?\])? --> (\w+)", drawing, re.MULTILINE)
    assert len(arrows) > 10
    for above, below in arrows:
        if "library" not in (above, below):
            sources = (path.read_text() for path in (repository / "smlib" / above).rglob("*.py"))
            wanted = re.compile(rf"^\s*(?:from|import) smlib\.{below}\b", re.MULTILINE)
            assert any(wanted.search(source) for source in sources), f"{above} --> {below}"
    assert set(FOLDERS) <= set(re.findall(r"\b(\w+)\[\"", drawing))


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
    contracts = pyproject["tool"]["importlinter"]["contracts"]
    (layers,) = (c["layers"] for c in contracts if c["type"] == "layers" and c["containers"] == ["smlib"])
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


@pytest.mark.slow
def test_a_source_distribution_is_the_package_and_leaves_every_test_out(repository: Path, tmp_path: Path) -> None:
    """Tests without their conftest and oracles would fail; with these they would need results and notebooks too."""
    copy = tmp_path / "checkout"
    kept = shutil.ignore_patterns(
        ".git", ".venv*", "runs", "results", "figures", "notebooks", "__pycache__", "*.egg-info"
    )
    shutil.copytree(repository, copy, ignore=kept)
    program = "from setuptools.build_meta import build_sdist; print(build_sdist('dist'))"
    done = subprocess.run([sys.executable, "-c", program], cwd=copy, capture_output=True, text=True, check=True)
    with tarfile.open(copy / "dist" / done.stdout.splitlines()[-1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "constraints.txt", "smlib/__init__.py", "smlib/py.typed"} <= names
    assert any(name.endswith(".safetensors") for name in names)
    assert not [name for name in names if name.split("/")[0] in ("tests", "notebooks", "results", "figures", "docs")]


def test_the_lowest_transformers_is_one_that_works(pyproject: dict[str, Any]) -> None:
    """From 5.0 to 5.10 the layers of a cache have another signature, and sampling ends in a TypeError."""
    (bound,) = [line for line in pyproject["project"]["dependencies"] if line.startswith("transformers")]
    assert tuple(map(int, bound.partition(">=")[2].split("."))) >= (5, 14)

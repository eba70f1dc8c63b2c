"""Builds the book, without a network, and with every warning an error.

    python -m smlib.paper.book.build site

The notebooks are executed at `full`, which reads committed results and trains nothing; those that were executed before
and have not changed since are taken as they are.
"""

import argparse
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import nbformat

from smlib.files import ResultError, project_root, write_atomically
from smlib.objectives.methods import METHODS
from smlib.paper.book import badges, methods, reference
from smlib.paper.book.pages import on_site
from smlib.paper.notebooks import notebook_files

CHAPTERS = ("00", "13", "01", "03", "14", "07", "04", "15", "08", "09", "10", "05", "06", "02", "11", "12")
"""The notebooks in the order of `docs/course.md`."""
SETTINGS = Path(__file__).with_name("conf.py.txt")
STATIC = tuple(Path(__file__).with_name(name) for name in ("book.css", "book.js"))
ROOT_PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")


def build(target: Path, executed: Path | None = None, work: Path | None = None) -> Path:
    """Writes the site into `target` and returns its first page.

    Args:
        executed: a folder with executed notebooks; they are executed into `runs/full` when omitted.
        work: where Sphinx's sources go, beside the target when omitted.

    Raises:
        ResultError: Sphinx or its theme is not installed; a notebook failed; a warning of Sphinx, which is shown.
    """
    root = project_root()
    _check_installed()
    executed = executed or execute(root / "runs")
    source = (work or target.parent / f".{target.name}-source").absolute()
    shutil.rmtree(source, ignore_errors=True)
    lay_out(source, executed)
    built = source / "_build" / "html"  # MyST-NB lays a folder of its own beside what it builds
    options = ["-b", "html", "-W", "--keep-going", "-q", "-j", "1", str(source), str(built)]
    done = subprocess.run([sys.executable, "-m", "sphinx", *options], text=True, capture_output=True, check=False)
    if done.returncode:
        raise ResultError(f"the book has warnings or errors; its sources are in {source}:\n{done.stderr[-4_000:]}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.move(built, target)
    return target / "index.html"


def execute(runs: Path) -> Path:
    """Executes at `full` those notebooks whose executed copy is missing or of another text, and returns the folder.

    Raises:
        ResultError: a notebook failed, with its place and its reason.
    """
    from smlib.paper.reproduce import Reproduction, plan

    root, folder = project_root(), runs / "full"
    stale = {path.stem for path in notebook_files([root / "notebooks"]) if not _is_of(folder / path.name, path)}
    tasks = [task for task in plan() if task.name in stale]
    work = Reproduction(
        "full", jobs=2, results_dir=str(root / "results"), figures_dir=str(root / "figures"), runs_dir=runs
    )
    for outcome in work.run(tasks, lambda made: print(f"{made.task.name}: {made.status}", flush=True)):
        if outcome.failed:
            raise ResultError(f"{outcome.task.name} failed: {outcome.where} {outcome.why}")
    return folder


def _is_of(executed: Path, notebook: Path) -> bool:
    """Whether an executed notebook has the cells of the present one, and outputs at all."""
    if not executed.is_file():
        return False
    made, now = (nbformat.reads(path.read_text(encoding="utf-8"), as_version=4) for path in (executed, notebook))
    cells = [cell.source for cell in made.cells if "injected-parameters" not in cell.metadata.get("tags", [])]
    finished = any(cell.get("execution_count") for cell in made.cells if cell.cell_type == "code")
    return finished and cells == [cell.source for cell in now.cells]


def lay_out(source: Path, executed: Path) -> None:
    """Writes Sphinx's sources: pages, notebooks with badges, figures, result files, methods, reference, settings."""
    root = project_root()
    notebooks = {path.stem[:2]: path for path in notebook_files([root / "notebooks"])}
    pages = sorted((root / "docs").glob("*.md"))
    figures = sorted((root / "figures").glob("*.png"))
    files = [root / name for name in ROOT_PAGES] + pages + figures + list(notebooks.values()) + badges.result_files()
    known = frozenset(path.relative_to(root).as_posix() for path in files)
    for path in [*(root / name for name in ROOT_PAGES), *pages]:
        place = PurePosixPath(path.relative_to(root).as_posix())
        _write(source / place, on_site(path.read_text(encoding="utf-8"), place, known))
    for path in [*figures, *badges.result_files()]:
        copy = source / path.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    for path in notebooks.values():
        done = executed / path.name
        if not done.is_file():
            raise ResultError(f"{done} is not there: execute the notebooks with `smlib reproduce --preset full`")
        notebook = _without_parameters(nbformat.reads(done.read_text(encoding="utf-8"), as_version=4))
        place = PurePosixPath("notebooks") / path.name
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                cell.source = on_site(cell.source, place, known)
        try:
            shown = badges.with_badges(notebook)
        except ResultError as error:
            raise ResultError(f"{path.name}: {error}") from error
        _write(source / place, nbformat.writes(shown))
    for name in METHODS:
        _write(source / "methods" / f"{name}.md", methods.page(name))
    for name in reference.FOLDERS:
        _write(source / "reference" / f"{name}.md", reference.page(name))
    _write(source / "index.md", _index(notebooks, pages))
    _write(source / "conf.py", SETTINGS.read_text(encoding="utf-8"))
    for file in STATIC:
        _write(source / "_static" / file.name, file.read_text(encoding="utf-8"))


def _without_parameters(notebook: Any) -> Any:
    """The notebook without papermill's second cell of parameters, and with nothing of this machine in its metadata."""
    notebook.cells = [c for c in notebook.cells if "injected-parameters" not in c.metadata.get("tags", [])]
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
    return notebook


def _index(notebooks: dict[str, Path], pages: Sequence[Path]) -> str:
    """The first page and the contents."""
    missing = sorted(set(notebooks) ^ set(CHAPTERS))
    if missing:
        raise ResultError(f"the book's order and the notebooks differ: {', '.join(missing)}; see CHAPTERS")
    contents = {
        "Course": ["docs/course", *(f"notebooks/{notebooks[n].stem}" for n in CHAPTERS), "docs/glossary"],
        "Methods": [f"methods/{name}" for name in METHODS],
        "Using it": sorted(f"docs/{p.stem}" for p in pages if p.stem not in ("course", "glossary")),
        "Reference": [f"reference/{name}" for name in reference.FOLDERS],
        "Project": ["README", "CONTRIBUTING", "CHANGELOG"],
    }
    trees = [
        f"```{{toctree}}\n:caption: {caption}\n:maxdepth: 1\n:hidden:\n\n" + "\n".join(entries) + "\n```"
        for caption, entries in contents.items()
    ]
    return (
        "# SequenceMatch, rebuilt\n\n"
        "A language model that may delete what it wrote, from the idea to the last number. Every figure here is drawn "
        "from a result file, and says which.\n\n"
        "![A recorded completion in which the model deletes wrong digits](figures/demo.png)\n\n"
        "* Begin with [the overview](notebooks/00_overview.ipynb), or with "
        "[imitation learning on seven nodes](notebooks/13_imitation_learning.ipynb).\n"
        "* [The course](docs/course.md) has an order to read in, with the minutes.\n"
        "* [What came out](docs/results.md), and [the map](docs/map.md) from each figure, equation and table to its "
        "code.\n"
        "* [Your own model](docs/your-own-model.md): train it, export it, serve it.\n\n" + "\n\n".join(trees) + "\n"
    )


def _check_installed() -> None:
    try:
        for name in ("sphinx", "myst_nb", "sphinx_book_theme", "latex2mathml"):
            importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ResultError(f"the book needs {error.name}: pip install -c constraints.txt 'smlib[book]'") from error


def _write(path: Path, text: str) -> None:
    write_atomically(path, text)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("target", nargs="?", default="site", help="the folder of the site, such as site")
    parser.add_argument("--executed", help="a folder with the executed notebooks, instead of runs/full")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        first = build(Path(given.target), Path(given.executed) if given.executed else None)
    except ResultError as error:
        raise SystemExit(f"smlib: {error}") from None
    print(f"the book is in {first}; open it in a browser")


if __name__ == "__main__":
    main()

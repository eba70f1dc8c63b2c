"""What a committed notebook looks like: no outputs, one parameters cell of literals, no definitions, a last `finish`.

python -m smlib.paper.notebooks check notebooks     # what `make lint` runs
python -m smlib.paper.notebooks strip notebooks     # what `make format` runs
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat

from smlib.files import ResultError, write_atomically

PARAMETERS = ("preset", "results_dir", "figures_dir")
"""What every notebook takes, and all that `smlib reproduce` passes."""

KEPT = ("alt", "tags")
"""What may stand in the metadata of a cell."""

KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}


def strip(notebook: Any) -> Any:
    """The notebook without outputs, execution counts and metadata that a run or an editor left (in place, and back).

    Kept are the kernelspec, set to `python3`, cell ids, cell tags, and what is written for those who cannot see a
    picture: a cell's `alt` and a text's attached pictures, whose words stand in the text. The words of a drawn figure
    are made anew when it is drawn (`smlib.paper.figures.words`).
    """
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": {"name": "python"}})
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({name: cell.metadata[name] for name in KEPT if cell.metadata.get(name)})
        if cell.cell_type == "code":
            cell.outputs = []
            cell.execution_count = None
    return notebook


def strip_file(path: Path) -> bool:
    """Strip one file; returns whether that changed it."""
    before = path.read_text(encoding="utf-8")
    after = nbformat.writes(strip(nbformat.reads(before, as_version=4))) + "\n"
    if after != before:
        write_atomically(path, after)
    return after != before


def problems(path: Path) -> list[str]:
    """Everything that keeps a notebook from being committed, each with its cell; empty if it is fit."""
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(notebook)
    except Exception as error:  # nbformat raises a family of its own, json's and jsonschema's errors
        return [f"no valid notebook: {str(error).splitlines()[0]}"]
    found = list(_leftovers(notebook))
    code = [(i, cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    found += _parameter_problems([cell for _, cell in code if "parameters" in cell.metadata.get("tags", [])])
    for i, cell in code:
        found += [f"cell {i}: {what}" for what in _definitions(cell.source)]
    if not notebook.cells or not notebook.cells[0].get("source", "").startswith("# "):
        found.append("the first cell is not a heading")
    elif _opens_with_table(notebook.cells[0].source):
        found.append("the first cell has no paragraph, of what is found here and why one should care, before its table")
    if not code or "finish(" not in code[-1][1].source:
        found.append("the last code cell does not call smlib.paper.results.finish(...)")
    return found


def _opens_with_table(source: str) -> bool:
    _, _, rest = source.partition("\n")
    return rest.lstrip().startswith("|")


def notebook_files(places: Sequence[Path]) -> list[Path]:
    """The notebooks named by files and folders, sorted; raises `ResultError` for a place that does not exist."""
    files = []
    for place in places:
        if not place.exists():
            raise ResultError(f"{place} does not exist")
        files += sorted(place.glob("*.ipynb")) if place.is_dir() else [place]
    return files


def _leftovers(notebook: Any) -> Iterator[str]:
    for i, cell in enumerate(notebook.cells):
        if cell.get("outputs"):
            yield f"cell {i}: has outputs"
        if cell.get("execution_count"):
            yield f"cell {i}: has an execution count"
        extra = set(cell.metadata) - set(KEPT)
        if extra:
            yield f"cell {i}: has metadata {', '.join(sorted(extra))}"
    extra = set(notebook.metadata) - {"kernelspec", "language_info"}
    if extra:
        yield f"has metadata {', '.join(sorted(extra))}"
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "its kernelspec is not python3"


def _parameter_problems(cells: Sequence[Any]) -> list[str]:
    if len(cells) != 1:
        return [f"{len(cells)} cells are tagged `parameters`, one is wanted"]
    try:
        body = ast.parse(cells[0].source).body
    except SyntaxError as error:
        return [f"parameters cell: {error}"]
    found, names = [], set()
    for statement in body:
        if not (isinstance(statement, ast.Assign) and len(statement.targets) == 1):
            found.append(f"parameters cell: `{ast.unparse(statement)}` is no plain assignment")
            continue
        target = statement.targets[0]
        names.add(ast.unparse(target))
        try:
            ast.literal_eval(statement.value)
        except ValueError:
            found.append(f"parameters cell: `{ast.unparse(statement)}` is no literal")
    missing = [name for name in PARAMETERS if name not in names]
    return found + [f"parameters cell: lacks {name}" for name in missing]


def _definitions(source: str) -> list[str]:
    """Functions and classes a cell defines; they belong in smlib, where tests reach them."""
    python = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
    try:
        tree = ast.parse(python)
    except SyntaxError as error:
        return [f"does not parse: {error.msg}, line {error.lineno}"]
    defining = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    return [f"defines `{node.name}`; move it into smlib" for node in ast.walk(tree) if isinstance(node, defining)]


def main(arguments: Sequence[str]) -> int:
    """`check` or `strip` the notebooks in the given files and folders; returns the exit status."""
    if len(arguments) < 2 or arguments[0] not in ("check", "strip"):
        print("usage: python -m smlib.paper.notebooks check|strip PATH...", file=sys.stderr)
        return 2
    try:
        files = notebook_files([Path(argument) for argument in arguments[1:]])
    except ResultError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if arguments[0] == "strip":
        for path in files:
            if strip_file(path):
                print(f"stripped {path}")
        return 0
    bad = 0
    for path in files:
        for problem in problems(path):
            print(f"{path}: {problem}", file=sys.stderr)
            bad += 1
    print(f"{len(files)} notebooks checked, {bad} problems" + ("; `make format` strips" if bad else ""))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""What a committed notebook may hold."""

from pathlib import Path
from typing import Any

import nbformat
import pytest

from smlib.paper import notebooks
from smlib.paper.book.badges import SAVED
from tests.support.notebook_maker import notebook

FINISH = "smlib.paper.results.finish([], preset, results_dir)"


def problems(made: Any, folder: Path) -> list[str]:
    path = folder / "00_test.ipynb"
    nbformat.write(made, path)
    return notebooks.problems(path)


def test_a_clean_notebook_has_no_problems(tmp_path: Path) -> None:
    assert problems(notebook("import smlib.paper.results", FINISH), tmp_path) == []


@pytest.mark.parametrize(
    ("cells", "options", "expected"),
    [
        (("def f():\n    pass", FINISH), {}, "cell 2: defines `f`"),
        (("%matplotlib inline\nclass A:\n    pass", FINISH), {}, "cell 2: defines `A`"),
        (("if True:\n    async def g(): ...", FINISH), {}, "cell 2: defines `g`"),
        (("x = (", FINISH), {}, "does not parse"),
        (("x = 1",), {}, "does not call smlib.paper.results.finish"),
        ((FINISH,), {"parameters": 'preset = "quick"\nresults_dir = "results"'}, "lacks figures_dir"),
        ((FINISH,), {"parameters": 'preset = str("quick")\nresults_dir = figures_dir = "x"'}, "is no literal"),
        ((FINISH,), {"parameters": "import os"}, "no plain assignment"),
        ((FINISH,), {"heading": "Just text"}, "not a heading"),
        ((FINISH,), {"heading": "# A test\n\n| | |\n|---|---|"}, "no paragraph, of what is found here"),
    ],
)
def test_each_problem_is_named(tmp_path: Path, cells: tuple[str, ...], options: dict[str, str], expected: str) -> None:
    assert any(expected in problem for problem in problems(notebook(*cells, **options), tmp_path))


def test_leftovers_of_a_run_are_found_and_stripped(tmp_path: Path) -> None:
    made = notebook("1 + 1", FINISH)
    made.cells[2].outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "2"}, execution_count=1)]
    made.cells[2].execution_count = 1
    made.cells[3].metadata["papermill"] = {"status": "completed"}
    made.metadata["widgets"] = {}
    made.metadata["kernelspec"]["name"] = "my-venv"
    found = "\n".join(problems(made, tmp_path))
    for expected in ("has outputs", "execution count", "metadata papermill", "metadata widgets", "not python3"):
        assert expected in found
    path = tmp_path / "00_test.ipynb"
    assert notebooks.strip_file(path)
    assert notebooks.problems(path) == []
    assert not notebooks.strip_file(path)  # nothing left to do
    assert nbformat.read(path, 4).cells[1].metadata["tags"] == ["parameters"]


def test_two_parameters_cells_are_refused(tmp_path: Path) -> None:
    made = notebook(FINISH)
    made.cells.insert(1, made.cells[1].copy())
    made.cells[1]["id"] = "another"
    assert any("2 cells are tagged" in problem for problem in problems(made, tmp_path))


def test_no_notebook_at_all_is_a_problem(tmp_path: Path) -> None:
    path = tmp_path / "broken.ipynb"
    path.write_text("{torn")
    assert notebooks.problems(path)[0].startswith("no valid notebook")


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nbformat.write(notebook("def f(): ...", FINISH), tmp_path / "00_bad.ipynb")
    assert notebooks.main(["check", str(tmp_path)]) == 1
    assert "defines `f`" in capsys.readouterr().err
    assert notebooks.main(["polish", str(tmp_path)]) == 2
    assert notebooks.main(["check", str(tmp_path / "absent")]) == 2


def test_every_committed_notebook_is_clean(repository: Path) -> None:
    files = notebooks.notebook_files([repository / "notebooks"])
    assert files
    assert {path.name: notebooks.problems(path) for path in files} == {path.name: [] for path in files}


def test_every_figure_is_followed_by_what_to_see_in_it(repository: Path) -> None:
    """Within the next cells, before another heading: in words, or in sentences made from the result."""
    for path in notebooks.notebook_files([repository / "notebooks"]):
        cells = nbformat.read(path, 4).cells
        for number, cell in enumerate(cells):
            if cell.cell_type == "code" and SAVED.search(cell.source):
                after = [
                    c.source for c in cells[number + 1 : number + 4] if c.cell_type == "markdown" or "told(" in c.source
                ]
                assert after, f"{path.name}, cell {number}"
                assert not after[0].startswith("#"), f"{path.name}, cell {number}"

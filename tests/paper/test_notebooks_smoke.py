"""Every committed notebook runs to its last cell at `smoke`, as `smlib reproduce` would run it.

What runs is the teacher's copy, so that the answers to its exercises run with it: the notebook itself but for the cells
that ask, which `test_course.py` runs as they stand.
"""

import dataclasses
import json
import re

import nbformat
import pytest

from smlib.files import project_root
from smlib.paper.course.copies import asked, write_course
from smlib.paper.ledger import item_path
from smlib.paper.reproduce import Reproduction, plan

NOTEBOOKS = sorted(p.name for p in (project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))

OPEN_TABLES = 3
"""So many tables a page shows at once; more of them are folded (`smlib.paper.tables.folded`)."""

EXPECTED: tuple[str, ...] = ()
"""Regular expressions for lines that a notebook may write to standard error, each with a comment that says why."""


def unexpected(executed):
    """Lines on standard error of an executed notebook, and pictures without words, each with its cell."""
    for number, cell in enumerate(executed.cells):
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and output.name == "stderr":
                for line in output.text.splitlines():
                    if line.strip() and not any(re.search(pattern, line) for pattern in EXPECTED):
                        yield f"cell {number}: {line}"
            if "image/png" in output.get("data", {}) and not output.metadata.get("image/png", {}).get("alt"):
                yield f"cell {number}: a picture without words"


def test_what_is_unexpected_is_named():
    cell = nbformat.v4.new_code_cell("x")
    picture = nbformat.v4.new_output("display_data", {"image/png": "aaaa"})
    cell.outputs = [nbformat.v4.new_output("stream", name="stderr", text="WARNING clustering\n"), picture]
    made = nbformat.v4.new_notebook(cells=[cell])
    assert list(unexpected(made)) == ["cell 0: WARNING clustering", "cell 0: a picture without words"]
    cell.outputs[1].metadata = nbformat.from_dict({"image/png": {"alt": "words"}})
    assert len(list(unexpected(made))) == 1


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """The folder that `make course` writes."""
    folder = tmp_path_factory.mktemp("course")
    write_course(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_at_smoke_with_the_answers_pasted_in(name, course, tmp_path, monkeypatch):
    monkeypatch.setenv("SMLIB_QUIET", "1")
    monkeypatch.setenv("SMLIB_WORKERS", "1")
    copy = course / "teacher" / name
    tasks = [dataclasses.replace(t, path=copy) for t in plan() if t.path is not None and t.path.name == name]
    assert len(tasks) == 1
    work = Reproduction(
        "smoke",
        results_dir=str(tmp_path / "results"),
        figures_dir=str(tmp_path / "figures"),
        runs_dir=tmp_path / "runs",
        execution_timeout=600,
    )
    [outcome] = work.run(tasks)
    assert outcome.status == "done", f"{outcome.where}: {outcome.why}"
    executed = nbformat.read(work.folder / name, 4)
    assert list(unexpected(executed)) == []
    told = "".join(o.get("text", "") for c in executed.cells if c.cell_type == "code" for o in c.outputs)
    numbers = asked(nbformat.read(project_root() / "notebooks" / name, 4))
    assert [number for number in numbers if f"{number}: right.\n" not in told] == []
    outputs = [o.get("data", {}) for c in executed.cells if c.cell_type == "code" for o in c.outputs]
    assert not any("application/vnd.jupyter.widget-view+json" in data for data in outputs)  # it dies with the kernel
    tables = ["".join(data.get("text/html", "")) for data in outputs]
    assert sum("<table" in html and "<details" not in html for html in tables) <= OPEN_TABLES
    if name == "00_overview.ipynb":  # the stepper's static twin
        [twin] = ["".join(data["text/html"]) for data in outputs if "<iframe" in "".join(data.get("text/html", ""))]
        assert "sm-arithmetic, seed 53." in twin
    for item in tasks[0].items:
        content = json.loads(item_path(item, "smoke", tmp_path / "results").read_text())
        assert content["verdict"] in ("reproduced", "direction only", "not reproduced")

"""The book: links lead somewhere, figures say where they are from, and the site builds without a warning."""

import re
import sys
from pathlib import Path, PurePosixPath

import nbformat
import pytest

from smlib.files import ResultError, read_json
from smlib.objectives.methods import METHODS
from smlib.paper.book import badges, methods, reference
from smlib.paper.book.build import CHAPTERS, lay_out
from smlib.paper.book.pages import on_site
from smlib.paper.figures.committed import FIGURES
from smlib.paper.ledger import read_item

KNOWN = frozenset({"docs/running.md", "notebooks/04_arithmetic.ipynb", "figures/demo.png", "README.md"})


@pytest.mark.parametrize(
    ("written", "turned"),
    [
        ("[a](running.md#presets)", "[a](running.md#presets)"),
        ("[04](../notebooks/04_arithmetic.ipynb)", "[04](../notebooks/04_arithmetic.ipynb)"),
        ("![it](../figures/demo.png)", "![it](../figures/demo.png)"),
        ("see [the code](../smlib/files.py).", "see `smlib/files.py`."),
        ("[`99`](../notebooks/99_none.ipynb)", "`99`"),
        ("[out](https://example.org/x.md)", "[out](https://example.org/x.md)"),
        ("[up](#The-Start)", "[up](#the-start)"),
        ("```text\n[a](../smlib/files.py)\n```\n", "```text\n[a](../smlib/files.py)\n```\n"),
        ("```mermaid\ngraph\n```\n", "```text\ngraph\n```\n"),
    ],
)
def test_links_lead_to_the_site_or_become_names(written: str, turned: str) -> None:
    assert on_site(written, PurePosixPath("docs/x.md"), KNOWN) == turned


def test_a_figure_says_its_file_its_commit_and_its_command() -> None:
    cell = nbformat.v4.new_code_cell('fig = draw(item)\nsave(fig, "fig3", preset, figures_dir)\nfig')
    formulas = nbformat.v4.new_code_cell('save(fig, "overview", preset, figures_dir)')
    shown = badges.with_badges(nbformat.v4.new_notebook(cells=[cell, formulas]))
    assert [c.cell_type for c in shown.cells] == ["code", "markdown", "code", "markdown"]
    assert re.search(r"fig3\.json.* computed at commit `[0-9a-f]{9}`", shown.cells[1].source)
    assert "smlib reproduce --preset full --only fig3" in shown.cells[1].source
    assert "from no result file" in shown.cells[3].source


def test_a_picture_says_its_source_or_there_is_no_book() -> None:
    drawn = nbformat.v4.new_output("display_data", {"image/png": "aaaa"})
    for source, said in (
        ("learning_figures.curves(study)", "runs in `results/full/fig3`, each of which names its commit"),
        ("learning_figures.against_noise(study)", "runs in `results/full/fig3`, each of which names its commit"),
        ("deletion_figures.cost_and_gain(costs) if costs else None", "arithmetic.deletion_cost\n"),
        ("sliders.law()", "law, one setting"),
    ):
        cell = nbformat.v4.new_code_cell(source, outputs=[drawn])
        assert said in badges.with_badges(nbformat.v4.new_notebook(cells=[cell])).cells[1].source
    cell = nbformat.v4.new_code_cell("picture", outputs=[drawn])
    with pytest.raises(ResultError, match="cell 0 has a picture of an unknown source"):
        badges.with_badges(nbformat.v4.new_notebook(cells=[cell]))


def test_every_committed_figure_of_the_notebooks_gets_its_line(repository: Path) -> None:
    line = badges.badge()
    assert all(f"--only {item}\n" in line(name) for name, (item, _) in FIGURES.items())


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_page(method: str, repository: Path) -> None:
    text = methods.page(method)
    assert text.startswith(f"# {METHODS[method].title}\n")
    (code,) = re.findall(r"Code: `(smlib/[\w/]+\.py)", text)
    assert (repository / code).is_file()
    assert f"--method {method}" in text
    assert "nan" not in text.lower().split()
    assert ("has to learn the task" in text) == (method in ("mle", "bc", "sm"))


def test_a_methods_page_has_the_committed_accuracies(repository: Path) -> None:
    study = read_json(repository / "results" / "full" / "learning.json")
    [cell] = [cell for cell in study["cells"] if cell["cell"] == "sm-ground_truth-0.2"]
    found = cell["test"]["t1"]
    learned, _, known = methods.page("sm").partition("Where the base model knew")
    assert f"| **SequenceMatch** | {found['value']:.3f} | {found['low']:.3f} to" in learned
    assert "| **SequenceMatch** |" in known
    rivals = read_item("ablations", "full")["details"]["methods"]
    [own] = [entry for entry in rivals if entry["name"] == "dagger"]
    assert f"| **DAgger** | {own['accuracy']['t1']['value']:.3f} |" in methods.page("dagger")


def test_the_reference_has_what_the_library_offers() -> None:
    assert set(methods.LOSSES) == set(METHODS)
    text = reference.page("objectives")
    for name in ("## smlib.objectives.losses", "### sequencematch", "def sequencematch(", "J = sum_data"):
        assert name in text


def test_a_module_of_an_extra_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its submodules too: one that another test has imported is found without its package.
    for name in ("lm_eval", *(name for name in sys.modules if name.startswith("lm_eval."))):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "smlib.generation.harness", raising=False)
    text = reference.page("generation")
    (said,) = re.findall(r"## smlib\.generation\.harness\n\n(.*)", text)
    assert "lacks an extra" in said
    assert "smlib[lm-eval]" in said
    assert "## smlib.generation.sampling" in text


def test_a_notebook_that_was_not_executed_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"is not there: execute the notebooks with `smlib reproduce --preset full`"):
        lay_out(tmp_path / "source", tmp_path)


def test_every_notebook_leads_to_its_neighbours_in_the_course(repository: Path) -> None:
    files = {path.stem[:2]: path for path in (repository / "notebooks").glob("*.ipynb")}
    assert sorted(files) == sorted(CHAPTERS)
    listed = re.findall(r"\(\.\./notebooks/(\d\d)_", (repository / "docs" / "course.md").read_text())
    assert tuple(listed) == CHAPTERS
    for place, number in enumerate(CHAPTERS):
        opening = nbformat.read(files[number], 4).cells[0].source
        before, after = CHAPTERS[max(place - 1, 0) : place], CHAPTERS[place + 1 : place + 2]
        links = [files[n].name for n in (*before, *after)]
        assert re.findall(r"\((\d\d_\w+\.ipynb)\)", opening.splitlines()[-1]) == links, number

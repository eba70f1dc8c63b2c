"""Every committed figure is what its result files, or its notebook's formulas, draw again."""

import json
from pathlib import Path

import pytest

from smlib.files import ResultError
from smlib.paper import figures
from smlib.paper.figures import committed
from smlib.paper.items import ITEMS
from smlib.paper.results import item_path

FINDING_IN_PANELS = {"fig2", "demo"}
"""The paper's own picture, whose two panels say what they show, and a recorded completion, which is what it shows."""


@pytest.mark.parametrize("name", committed.FIGURES)
def test_a_committed_figure_is_what_its_results_say(name: str, repository: Path, tmp_path: Path) -> None:
    item, _ = committed.FIGURES[name]
    kept = figures.figure_path(name, "full", repository / "figures")
    assert item_path(item, "full", repository / "results").exists(), f"{item} has no full result: run its notebook"
    assert kept.exists(), f"results/full/{item}.json is there and {kept.name} is not: run the notebook"
    made = committed.redraw(name, "full", repository / "results")
    assert made.get_suptitle() or name in FINDING_IN_PANELS, "the finding is its title"
    again = figures.save(made, name, "full", tmp_path)
    assert again.read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("name", committed.FROM_FORMULAS)
def test_a_figure_of_formulas_is_what_its_notebook_draws(name: str, repository: Path, tmp_path: Path) -> None:
    notebook = json.loads((repository / "notebooks" / f"{committed.FROM_FORMULAS[name]}.ipynb").read_text("utf-8"))
    scope: dict[str, object] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            exec(source, scope)
            if "parameters" in cell["metadata"].get("tags", ()):
                scope |= {"preset": "full", "figures_dir": str(tmp_path)}
            if f'"{name}"' in source:
                break
    kept = figures.figure_path(name, "full", repository / "figures")
    assert figures.figure_path(name, "full", tmp_path).read_bytes() == kept.read_bytes()


def test_every_committed_figure_is_drawn_again(repository: Path) -> None:
    kept = {path.stem for path in (repository / "figures").glob("*.png")}
    assert kept <= {*committed.FIGURES, *committed.FROM_FORMULAS}


def test_every_figure_belongs_to_an_item() -> None:
    assert {item for item, _ in committed.FIGURES.values()} <= set(ITEMS)


def test_unknown_figures_are_named() -> None:
    with pytest.raises(ResultError, match="no figure 'fig9'"):
        committed.redraw("fig9")

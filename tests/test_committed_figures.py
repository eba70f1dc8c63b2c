"""Every committed figure that an item's file determines is that file, drawn again."""

from pathlib import Path

import pytest

from smlib import figures
from smlib.figures import committed
from smlib.files import ResultError
from smlib.items import ITEMS
from smlib.results import item_path


@pytest.mark.parametrize("name", committed.FIGURES)
def test_a_committed_figure_is_what_its_results_say(name: str, repository: Path, tmp_path: Path) -> None:
    item, _ = committed.FIGURES[name]
    kept = figures.figure_path(name, "full", repository / "figures")
    if not item_path(item, "full", repository / "results").exists():
        pytest.skip(f"{item} has no full result yet")
    assert kept.exists(), f"results/full/{item}.json is there and {kept.name} is not: run the notebook"
    again = figures.save(committed.redraw(name, "full", repository / "results"), name, "full", tmp_path)
    assert again.read_bytes() == kept.read_bytes()


def test_every_figure_belongs_to_an_item() -> None:
    assert {item for item, _ in committed.FIGURES.values()} <= set(ITEMS)


def test_unknown_figures_are_named() -> None:
    with pytest.raises(ResultError, match="no figure 'fig9'"):
        committed.redraw("fig9")

"""Under every figure of a notebook: the result file that it shows, the commit that computed it, how to redraw it."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat

from smlib.files import ResultError, resolve
from smlib.paper.figures.committed import FIGURES
from smlib.paper.ledger import item_path, read_item

SAVED = re.compile(r"""\bsave\(\s*\w+\s*,\s*["'](?P<name>[\w-]+)["']""")
"""How a notebook saves a figure: `save(fig, "fig3", preset, figures_dir)`."""
SLIDERS = re.compile(r"\bsliders\.(?P<name>\w+)\(")
_ONLY = "smlib reproduce --preset full --only {}"
_MODULE = "python -m smlib.paper.experiments.arithmetic.{}"
FROM_RUNS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "learning_figures.curves(": ("what fine-tuning teaches", _ONLY.format("fig3"), ("fig3",)),
    "learning_figures.against_noise(": ("how much noise", _ONLY.format("fig3"), ("fig3",)),
    "deletion_figures.cost_and_gain(": ("what deleting costs", _MODULE.format("deletion_cost"), ("fig3", "ablations")),
    "rival_figures.accuracy_and_recovery(": (
        "rivals of deletion",
        _MODULE.format("rivals_of_deletion"),
        ("ablations",),
    ),
    "rival_figures.visible(": ("mistakes that show later", _MODULE.format("late_mistakes"), ("ablations",)),
}
"""Figures that rest on no item's file: how a notebook draws one -> its name, the command that computes what it shows,
and the folders of the runs that it is drawn from."""


def with_badges(notebook: Any, results_dir: str | os.PathLike[str] = "results") -> Any:
    """The notebook with a line under each of its figures (a new notebook; the cells are those given).

    Raises:
        ResultError: a picture of which nothing here knows the source.
    """
    cells = []
    for number, cell in enumerate(notebook.cells):
        cells.append(cell)
        if cell.cell_type != "code":
            continue
        lines = list(_lines(cell.source, results_dir))
        if not lines and any("image/png" in output.get("data", {}) for output in cell.get("outputs", ())):
            raise ResultError(f"cell {number} has a picture of an unknown source: save it, or name it in FROM_RUNS")
        cells += map(nbformat.v4.new_markdown_cell, lines)
    return nbformat.from_dict({**notebook, "cells": cells})


def _lines(source: str, results_dir: str | os.PathLike[str]) -> Iterator[str]:
    yield from map(badge(results_dir), (found["name"] for found in SAVED.finditer(source)))
    for found in SLIDERS.finditer(source):
        words = "Drawn from formulas, from no result file. Where a kernel runs it has sliders."
        yield _admonition(f"{found['name']}, one setting", words)
    for call, (title, command, folders) in FROM_RUNS.items():
        if call in source:
            places = " and ".join(f"`results/full/{folder}`" for folder in folders)
            yield _admonition(title, f"Drawn from runs in {places}, each of which names its commit.", command)


def badge(results_dir: str | os.PathLike[str] = "results") -> Any:
    """A function from a figure's name to its line in Markdown."""

    def line(name: str) -> str:
        if name not in FIGURES:
            return _admonition(name, "Drawn from formulas in this notebook, from no result file.")
        item, _ = FIGURES[name]
        if not item_path(item, "full", results_dir).exists():
            return _admonition(name, f"Not run: there is no committed result of `{item}`.")
        file = f"{{download}}`{item}.json <../results/full/{item}.json>`"
        return _admonition(name, f"{file} · computed at commit `{_commit(item, results_dir)}`", _ONLY.format(item))

    return line


def _admonition(title: str, words: str, command: str = "") -> str:
    """The line, with the command that draws the figure again (`book.js` makes a button of it)."""
    shown = f"\n\n```bash\n{command}\n```" if command else ""
    return f":::{{admonition}} {title}\n:class: figure-source\n{words}{shown}\n:::"


def _commit(item: str, results_dir: str | os.PathLike[str]) -> str:
    provenance: Mapping[str, Any] = read_item(item, "full", results_dir)["provenance"]  # type: ignore[assignment]
    return str(provenance.get("git_revision", "unknown"))[:9]


def result_files(results_dir: str | os.PathLike[str] = "results") -> list[Path]:
    """The items' files, which the badges link to."""
    return sorted((resolve(results_dir) / "full").glob("*.json"))

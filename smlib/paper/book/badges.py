"""Under every figure of a notebook: the result file that it shows, the commit that computed it, how to redraw it."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat

from smlib.files import resolve
from smlib.paper.figures.committed import FIGURES
from smlib.paper.ledger import item_path, read_item

SAVED = re.compile(r"""\bsave\(\s*\w+\s*,\s*["'](?P<name>[\w-]+)["']""")
"""How a notebook saves a figure: `save(fig, "fig3", preset, figures_dir)`."""


def with_badges(notebook: Any, results_dir: str | os.PathLike[str] = "results") -> Any:
    """The notebook with a line under each of its figures (a new notebook; the cells are those given)."""
    cells = []
    for cell in notebook.cells:
        cells.append(cell)
        names = [found["name"] for found in SAVED.finditer(cell.source)] if cell.cell_type == "code" else []
        cells += [nbformat.v4.new_markdown_cell(text) for text in map(badge(results_dir), names)]
    return nbformat.from_dict({**notebook, "cells": cells})


def badge(results_dir: str | os.PathLike[str] = "results") -> Any:
    """A function from a figure's name to its line in Markdown."""

    def line(name: str) -> str:
        if name not in FIGURES:
            words = "Drawn from formulas in this notebook, from no result file."
            return f":::{{admonition}} {name}\n:class: badge\n{words}\n:::"
        item, _ = FIGURES[name]
        if not item_path(item, "full", results_dir).exists():
            return f":::{{admonition}} {name}\n:class: badge\nNot run: there is no committed result of `{item}`.\n:::"
        file = f"{{download}}`{item}.json <../results/full/{item}.json>`"
        return (
            f":::{{admonition}} {name}\n:class: badge\n"
            f"{file} · computed at commit `{_commit(item, results_dir)}`\n\n"
            f"```bash\nsmlib reproduce --preset full --only {item}   # reproduce this figure\n```\n:::"
        )

    return line


def _commit(item: str, results_dir: str | os.PathLike[str]) -> str:
    provenance: Mapping[str, Any] = read_item(item, "full", results_dir)["provenance"]  # type: ignore[assignment]
    return str(provenance.get("git_revision", "unknown"))[:9]


def result_files(results_dir: str | os.PathLike[str] = "results") -> list[Path]:
    """The items' files, which the badges link to."""
    return sorted((resolve(results_dir) / "full").glob("*.json"))

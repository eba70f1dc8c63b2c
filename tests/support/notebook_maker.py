"""Notebooks written by a test: a heading, the parameters cell, and the cells the test wants."""

from pathlib import Path
from typing import Any

import nbformat

from smlib.paper.notebooks import strip

PARAMETERS = 'preset = "quick"\nresults_dir = "results"\nfigures_dir = "figures"'


def notebook(*cells: str, parameters: str = PARAMETERS, heading: str = "# A test") -> Any:
    """A notebook fit to be committed if its cells are."""
    made = nbformat.v4.new_notebook()
    tagged = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    made.cells = [nbformat.v4.new_markdown_cell(heading), tagged, *map(nbformat.v4.new_code_cell, cells)]
    return strip(made)


def write_notebook(path: Path, *cells: str, **options: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook(*cells, **options), path)
    return path

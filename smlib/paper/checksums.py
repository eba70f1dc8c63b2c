"""Checksums of result files, noted as they are written: a file that was edited by hand is told from what smlib wrote.

`results/<preset>/checksums.jsonl` has a line for each file of a run and of an item, its path in that folder and its
SHA-256. A line is appended before the file takes its place, so a killed process leaves no file without one. Every later
reading compares. What has no line passes: files of earlier versions, or copied from elsewhere.

    python -m smlib.paper.checksums check results/full      # every file is there and is what its line says
    python -m smlib.paper.checksums write results/full      # one line a file, sorted, of the files as they are

The second is for whoever commits results: it takes what it finds.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from smlib.files import ResultError, append_line, canonical_json, write_atomically

MANIFEST = "checksums.jsonl"


def sha256(path: Path) -> str:
    """Of a file's bytes, in hex digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def note(path: Path, text: str, folder: Path) -> None:
    """Append the checksum that a file of the preset's `folder` is about to have."""
    line = {"file": path.relative_to(folder).as_posix(), "sha256": hashlib.sha256(text.encode()).hexdigest()}
    append_line(folder / MANIFEST, line)


def noted(folder: Path) -> Mapping[str, tuple[str, ...]]:
    """The checksums that were noted for each file of a preset's folder, the last one last.

    Raises `ResultError` if a line is damaged; an unfinished last line is one that a kill cut off, and is left out.
    """
    manifest = folder / MANIFEST
    try:
        status = manifest.stat()
    except OSError:
        return {}
    return _parsed(manifest, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _parsed(manifest: Path, _changed: int, _size: int) -> Mapping[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    *lines, _unfinished = manifest.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            name, digest = str(entry["file"]), str(entry["sha256"])
        except (ValueError, TypeError, KeyError):
            raise ResultError(
                f"line {number} of {manifest} is damaged: restore it with `git checkout`, or delete the file if the "
                "results are your own"
            ) from None
        found[name] = (*found.get(name, ()), digest)
    return found


def check(path: Path, folder: Path) -> None:
    """Raises `ResultError` if a file of the preset's `folder` is none of those that were noted under its name."""
    known = noted(folder).get(path.relative_to(folder).as_posix())
    # Any of them: a process that was killed between the line and the file leaves the one before.
    if known is not None and sha256(path) not in known:
        raise ResultError(
            f"{path} is not what smlib wrote: its SHA-256 is {sha256(path)[:12]}…, and {known[-1][:12]}… was noted in "
            f"{folder / MANIFEST}. It was edited or damaged, and was left as it is. Restore it with `git checkout`, or "
            "delete it and run `smlib reproduce`"
        )


def result_files(folder: Path) -> list[Path]:
    """The files of items and runs in a preset's folder."""
    return sorted(path for pattern in ("*.json", "*/*.json") for path in folder.glob(pattern) if path.name[0] != ".")


def problems(folder: Path) -> list[str]:
    """What differs between the files of a preset's folder and its checksums; empty where nothing does."""
    known = noted(folder)
    files = {path.relative_to(folder).as_posix(): path for path in result_files(folder)}
    found = [f"{name} is noted and is not there" for name in known if name not in files]
    for name, path in files.items():
        if name not in known:
            found.append(f"{name} has no checksum")
        elif sha256(path) != known[name][-1]:
            found.append(f"{name} is not what was noted")
    return sorted(found)


def write(folder: Path) -> Path:
    """Note every file of a preset's folder as it is, one line each, and nothing else."""
    lines = [
        canonical_json({"file": path.relative_to(folder).as_posix(), "sha256": sha256(path)}, indent=None) + "\n"
        for path in result_files(folder)
    ]
    return write_atomically(folder / MANIFEST, "".join(lines))


def main(arguments: Sequence[str]) -> int:
    """`check` or `write` the checksums of the given folders; returns the exit status."""
    if len(arguments) < 2 or arguments[0] not in ("check", "write"):
        print("usage: python -m smlib.paper.checksums check|write FOLDER...", file=sys.stderr)
        return 2
    bad = 0
    for folder in map(Path, arguments[1:]):
        if not folder.is_dir():
            print(f"error: {folder} is no folder", file=sys.stderr)
            return 2
        if arguments[0] == "write":
            write(folder)
        found = problems(folder)
        for problem in found:
            print(f"{folder}: {problem}", file=sys.stderr)
        bad += len(found)
        print(f"{folder}: {len(result_files(folder))} files, {len(found)} problems")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

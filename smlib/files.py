"""Files and folders that are either whole or absent: canonical JSON, atomic writes, and where relative paths start.

Every file that smlib leaves behind goes through `write_atomically`: written beside its final name and then
renamed, so that a killed process leaves the old file or the new one and nothing in between. JSON is written in
one canonical form (sorted keys, shortest floats that read back the same), so equal results are equal bytes.
"""

import ctypes
import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from types import MappingProxyType

import numpy as np

ADDED_LATER: Mapping[str, bool] = MappingProxyType({"added_later": True})
"""Metadata of a dataclass field whose default is what was done before it existed; see `plain`."""


def added_later(before: object) -> Mapping[str, object]:
    """The same where `before`, and not the default, is what was done before the field existed."""
    return MappingProxyType({**ADDED_LATER, "before": before})


AT_FDCWD, RENAME_EXCHANGE = -100, 2
"""Of Linux's `<fcntl.h>` and `<linux/fs.h>`: paths are relative to the working directory; the two change places."""


class ResultError(Exception):
    """A result file, item id, preset or value that cannot be used; the message says what would cure it."""


def project_root(start: Path | None = None) -> Path:
    """The repository that encloses `start` (default: the working directory), or `start` itself outside of one.

    Notebooks run from `notebooks/` in JupyterLab and from the root under papermill; both have to mean the same
    `results/`.
    """
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (folder / "smlib" / "__init__.py").is_file():
            return folder
    return here


def resolve(path: str | os.PathLike[str]) -> Path:
    """An absolute path; a relative one starts at `project_root()`."""
    given = Path(path)
    return given if given.is_absolute() else project_root() / given


def plain(value: object, where: str = "value") -> object:
    """`value` as JSON types only; raises `ResultError` naming the place of a NaN, an infinity or a foreign type.

    Dataclasses and mappings become dicts, sequences and arrays lists, sets sorted lists, paths strings. A field that is
    `ADDED_LATER` shows only where it is not what was done before, so that finished runs keep their identity. A member
    of an `Enum` is its value. A quantity that *is* infinite (the reverse KL of Figure 1) is written as the string
    "inf", and a missing one as None: both on purpose, at the place that knows.
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Enum):
        return plain(value.value, where)
    if isinstance(value, np.generic | np.ndarray):
        return plain(value.tolist(), where)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ResultError(f"{where} is {value}: write None if it is missing, or the string 'inf' if it is infinite")
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name), f"{where}.{f.name}")
            for f in dataclasses.fields(value)
            if not (f.metadata.get("added_later") and getattr(value, f.name) == f.metadata.get("before", f.default))
        }
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str | int) or isinstance(key, bool):
                raise ResultError(f"{where} has the key {key!r}: keys are strings or integers")
        return {str(key): plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Set):
        return sorted(plain(item, where) for item in value)  # type: ignore[type-var]
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ResultError(f"{where} is a {type(value).__name__}, which JSON cannot hold: convert it to numbers first")


def canonical_json(value: object, where: str = "value", indent: int | None = 1) -> str:
    """The one JSON text of `value`: keys sorted, UTF-8 kept, no NaN; ends in a newline when indented."""
    text = json.dumps(
        plain(value, where),
        sort_keys=True,
        ensure_ascii=False,
        allow_nan=False,
        indent=indent,
        separators=(",", ": ") if indent else (",", ":"),
    )
    return text + "\n" if indent else text


def config_hash(config: object) -> str:
    """The first 12 hex digits of the SHA-256 of the config's canonical JSON (dataclass, dict, or any JSON value)."""
    return hashlib.sha256(canonical_json(config, "config", indent=None).encode()).hexdigest()[:12]


def differences(before: object, now: object) -> dict[str, tuple[object, object]]:
    """Where two JSON values differ: the place, as `config.steps`, -> what was there and what is; None for nothing.

    >>> differences({"config": {"steps": 8, "seed": 0}}, {"config": {"steps": 16, "seed": 0}})
    {'config.steps': (8, 16)}
    """
    one, other = _leaves(before), _leaves(now)
    places = sorted(one.keys() | other.keys())
    return {place: (one.get(place), other.get(place)) for place in places if one.get(place) != other.get(place)}


def _leaves(value: object, at: str = "") -> dict[str, object]:
    """What is in nested mappings, by its place."""
    if not isinstance(value, Mapping):
        return {at: value}
    parts = (_leaves(item, f"{at}.{key}" if at else str(key)) for key, item in value.items())
    return {place: leaf for part in parts for place, leaf in part.items()}


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write `content` to a file beside `path`, flush it to disk, and rename it into place."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    handle, beside = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(beside, 0o644)  # mkstemp makes private files
        os.replace(beside, target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return target


@contextmanager
def whole_folder(target: Path, marker: str) -> Iterator[Path]:
    """A path beside `target` for a folder that takes its place once it is complete; after an error there is none.

    A kill leaves the old folder or the new one; see `swap_in` for where that takes the next call of this.

    Args:
        marker: a file of every such folder, by which an older one is known.

    Raises:
        FileExistsError: there is something else at `target`, which is not ours to replace.
    """
    scratch, aside = target.with_name(f".{target.name}.new"), set_aside(target)
    if not target.exists() and (aside / marker).is_file():
        os.replace(aside, target)  # a process was killed between the two renames of `swap_in`
    if target.exists() and not (target / marker).is_file() and (target.is_file() or any(target.iterdir())):
        raise FileExistsError(f"{target} holds something else than what is to be saved there: choose a new folder")
    shutil.rmtree(scratch, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield scratch
        swap_in(scratch, target, aside)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def set_aside(target: Path) -> Path:
    """Where `whole_folder` keeps what stood at `target` where two folders cannot change places in one step."""
    return target.with_name(f".{target.name}.replaced")


def swap_in(fresh: Path, target: Path, aside: Path) -> None:
    """The complete folder `fresh` takes the place of `target`, if there is one, and what stood there goes.

    Linux exchanges the two in one step, so that there is a whole one at any moment. Where the system or the file system
    cannot (macOS, NFS) it takes two, and a process that is killed between them leaves what stood there at `aside` and
    nothing at `target`: whoever comes next has to look there.
    """
    for file in fresh.rglob("*"):
        if file.is_file():
            os.chmod(file, 0o644)  # safetensors makes private files, and who may read the others may read the weights
    if not target.exists():
        os.replace(fresh, target)
    elif target.is_symlink() or not exchanged(fresh, target):
        shutil.rmtree(aside, ignore_errors=True)  # not before: after a kill it may be the only one
        os.replace(target, aside)
        try:
            os.replace(fresh, target)
        except OSError:
            os.replace(aside, target)
            raise
    for leftover in (fresh, aside):
        shutil.rmtree(leftover, ignore_errors=True)


def exchanged(one: Path, other: Path) -> bool:
    """Lets two folders change places in one step; False, and nothing has happened, where that cannot be had."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None), "renameat2", None)  # glibc has it since 2.28
    if rename is None:
        return False
    here = [ctypes.c_int(AT_FDCWD), os.fsencode(one), ctypes.c_int(AT_FDCWD), os.fsencode(other)]
    return bool(rename(*here, ctypes.c_uint(RENAME_EXCHANGE)) == 0)


def append_line(path: str | os.PathLike[str], value: object) -> None:
    """Append one JSON line in a single write, so that lines of processes running side by side never mix."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    line = canonical_json(value, where=target.name, indent=None) + "\n"
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        if os.write(handle, line.encode()) < len(line.encode()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    finally:
        os.close(handle)


def read_json(path: str | os.PathLike[str]) -> dict[str, object]:
    """The object in a JSON file; raises `ResultError` if it is missing, unreadable, torn, no object, or holds a NaN."""
    source = Path(path)
    try:
        value = json.loads(source.read_text(encoding="utf-8"), parse_constant=_no_number, parse_float=_finite)
    except FileNotFoundError:
        raise ResultError(f"{source} does not exist") from None
    except OSError as error:
        raise ResultError(f"{source} cannot be read: {error.strerror or error}") from None
    except RecursionError:
        raise ResultError(f"{source} is nested deeper than any result; nothing was overwritten. Delete it") from None
    except ValueError as error:  # of json, of the encoding, of an integer with thousands of digits
        raise ResultError(
            f"{source} is no valid JSON ({error}); nothing was overwritten. Delete it and run again"
        ) from None
    if not isinstance(value, dict):
        raise ResultError(
            f"{source} holds a JSON {type(value).__name__} where an object was expected; nothing was overwritten. "
            "Delete it and run again"
        )
    return value


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is larger than any float")
    return value

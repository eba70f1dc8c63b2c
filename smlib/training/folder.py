"""The folder of a run: one that can be written to, and by one process at a time."""

import errno
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from smlib.locks import lock

LOCK = ".lock"

_held: dict[Path, int] = {}
"""Locks that this process holds, each with its descriptor."""


class FolderInUseError(RuntimeError):
    """Another process trains in the folder; the message names both."""


def usable_folder(folder: Path | str) -> Path:
    """The folder of a run, made if it is not there, in which a file can be made.

    Raises:
        OSError: of the kind that the system raised, with the folder and the reason. ValueError: an empty name.
    """
    if not str(folder).strip():
        raise ValueError("the folder of a run is an empty name: name one, or `.` for the working directory")
    work = Path(folder)
    try:
        work.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=work).close()
    except OSError as error:
        why = "it is a file" if work.is_file() else os.strerror(error.errno or 0)
        raise type(error)(f"{work} cannot be the folder of a run: {why}; name one that can be written to") from error
    return work


def check_folder(folder: Path | str) -> None:
    """Looks whether `usable_folder` could make this folder, and makes nothing: before a model is loaded.

    Raises:
        OSError: the folder, or the nearest one above it that is there, is a file or cannot be written to.
    """
    there = next(path for path in (Path(folder).absolute(), *Path(folder).absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"{folder} cannot be the folder of a run: {there} is a file; name another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(
            f"{folder} cannot be the folder of a run: {there} may not be written to; name one that can be written to"
        )


def hold(folder: Path, name: str = LOCK) -> bool:
    """Lets no other process train in the folder, until `release` or the end of this one, however it ends.

    Args:
        name: the file in it that is locked.

    Returns:
        Whether it was held before, by this process: `smlib train` holds it around `train`.

    Raises:
        FolderInUseError: another process holds it.
    """
    key = folder.resolve() / name
    if key in _held:
        return True
    handle = os.open(key, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        lock(handle, wait=False)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            who = os.read(handle, 20).decode("ascii", "replace").strip()
            os.close(handle)
            raise FolderInUseError(
                f"{folder} is being trained in by another process{f', number {who}' if who else ''}: name another "
                "folder, or wait until it has ended"
            ) from None
        # Some network file systems have no locks.
        warnings.warn(
            f"{folder} cannot be locked ({os.strerror(error.errno or 0)}): train in it once at a time", stacklevel=3
        )
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    _held[key] = handle
    return False


def release(folder: Path, name: str = LOCK) -> None:
    """Lets others train in the folder again."""
    handle = _held.pop(folder.resolve() / name, None)
    if handle is not None:
        os.close(handle)


@contextmanager
def held(folder: Path, name: str = LOCK) -> Iterator[None]:
    """`hold` for the length of a block; one inside another does nothing.

    Raises:
        FolderInUseError: another process holds it.
    """
    outer = hold(folder, name)
    try:
        yield
    finally:
        if not outer:
            release(folder, name)

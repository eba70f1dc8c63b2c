"""What a command may print, and to where: files' own text without its escapes, and streams that take any text."""

import errno
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.markup import escape

from smlib.files import ResultError
from smlib.screen import visible

FULL = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the file system cannot be written to",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
    errno.EIO: "an input/output error",
    errno.EFBIG: "the file is too large",
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "it is a folder",
}
"""What a machine can refuse to any program, in words."""


def cell(text: object) -> str:
    """A text of a file for a rich table: neither the terminal's escapes nor rich's markup in it are obeyed."""
    return escape(visible(text))


def print_json(value: Any) -> None:
    """A JSON text on standard output, in ASCII where that takes no Unicode."""
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, indent=1, ensure_ascii=not unicode, allow_nan=False))


def prepare() -> None:
    """Streams that take every character, some of them spelt out; raises `ResultError` if there is no output at all."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if sys.stdout is None:
        raise ResultError("standard output is closed: there is nowhere to print to")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings inside are a line of their own words, without the file and the line of source that they come from."""

    def shown(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"warning: {visible(' '.join(str(message).split()))}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = shown
        yield


def refusal(error: OSError) -> str | None:
    """An error of the machine in one line, with the file; None for what no machine refuses of itself."""
    why = FULL.get(error.errno or 0)
    if why is None:
        return None
    return f"{error.filename} cannot be used: {why}" if error.filename else f"{why}: nothing more can be written"


def drop_output() -> None:
    """Nothing more is printed: the interpreter would fail once more when it flushes what it could not write."""
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass

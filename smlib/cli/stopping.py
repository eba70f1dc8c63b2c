"""Ctrl-C in a command that trains: where it stopped, and the command that goes on."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STATUS = 130
"""What a shell calls a program that Ctrl-C ended."""


class Stopped(Exception):
    """The user ended a command; the message says how to go on with it."""


def command(*more: str, arguments: Sequence[str] | None = None) -> str:
    """The command line that is running, as it would be typed again, and `more`."""
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["smlib", *given, *more])


@contextmanager
def stoppable() -> Iterator[None]:
    """A KeyboardInterrupt inside becomes `Stopped`, with what it says and the command."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Stopped(f"{str(error) or 'stopped before the first step'}. Go on with: {command()}") from error

"""Locks on files, by which processes keep out of one another's way; POSIX's, and so of Linux and macOS."""

import sys

try:
    import fcntl
except ModuleNotFoundError as error:
    raise ImportError(
        f"smlib runs on Linux and macOS: it locks its files by POSIX's fcntl, which {sys.platform} has not. On "
        "Windows, install it inside WSL"
    ) from error


def lock(descriptor: int, wait: bool = True) -> None:
    """Locks an open file until it is closed, however the process ends.

    Args:
        wait: until another process lets it go. Else a file that is locked raises OSError with EWOULDBLOCK or EACCES.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)

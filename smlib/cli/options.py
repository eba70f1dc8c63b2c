"""Options that several commands share, and what a shell completes them to."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer

ResultsDir = Annotated[
    str | None,
    typer.Option(help="Where result files are kept. Default: the repository's folder `results`.", show_default=False),
]
FiguresDir = Annotated[
    str | None,
    typer.Option(help="Where figures are kept. Default: the repository's folder `figures`.", show_default=False),
]


def folder_name(given: str) -> Path:
    """A folder's path; the empty name, which would mean the working directory, is a slip of a script's variable."""
    if not given.strip():
        raise typer.BadParameter("an empty name; name a folder, or `.` for this one")
    return Path(given)


def file_name(given: str) -> Path:
    """The path of a file that is to be written; an empty one is found before there is anything to write."""
    if not given.strip():
        raise typer.BadParameter("an empty name; name a file, such as out.html")
    return Path(given)


def place(given: str | None, default: str) -> str:
    """A folder that the user named, from where the user stands; `default`, from the repository, if there is none."""
    return default if given is None else str(Path.cwd() / folder_name(given))


def one_of(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """For `autocompletion`: what is known and begins as the word on the command line does."""
    return lambda incomplete: [name for name in known() if name.startswith(incomplete)]

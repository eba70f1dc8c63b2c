"""Options that several commands share, and what a shell completes them to."""

from collections.abc import Callable, Iterable
from typing import Annotated

import typer

ResultsDir = Annotated[
    str, typer.Option(help="Where result files are kept; a relative path starts at the repository, such as results.")
]


def one_of(known: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """For `autocompletion`: what is known and begins as the word on the command line does."""
    return lambda incomplete: [name for name in known() if name.startswith(incomplete)]

"""Options that several commands share."""

from typing import Annotated

import typer

ResultsDir = Annotated[str, typer.Option(help="Where result files are kept.")]

"""`smlib report-readme`: what is generated in README.md and in docs/."""

from pathlib import Path
from typing import Annotated

import typer

from smlib.cli.options import ResultsDir
from smlib.files import ResultError


def report_readme(
    readme: Annotated[
        Path, typer.Option(help="README to rewrite between its markers; the pages are in the docs folder beside it.")
    ] = Path("README.md"),
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if a page is out of date.")] = False,
    results_dir: ResultsDir = "results",
) -> None:
    """Write the replication table of README.md and the generated pages of docs/, from the committed results.

    Example: smlib report-readme --check
    """
    from smlib.files import resolve, write_atomically
    from smlib.paper.experiments.report.errata import ERRATA
    from smlib.paper.ledger import COMMITTED_PRESETS, ledger
    from smlib.paper.readme import pages

    # quick results are this machine's own
    found = pages(resolve(readme), ledger(results_dir, COMMITTED_PRESETS), [vars(erratum) for erratum in ERRATA])
    old = [path for path, (before, after) in found.items() if before != after]
    if check and old:
        names = ", ".join(path.name for path in old)
        raise ResultError(f"not what the results say: {names}; run `smlib report-readme`")
    for path in old:
        write_atomically(path, found[path][1])
        print(f"rewrote what is generated in {path.name}")
    if not old:
        print(f"{', '.join(path.name for path in found)} show the ledger and the errata as they are")

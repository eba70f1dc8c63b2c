"""`smlib report-readme`: what is generated in README.md."""

from pathlib import Path
from typing import Annotated

import typer

from smlib.cli.options import ResultsDir
from smlib.files import ResultError


def report_readme(
    readme: Annotated[Path, typer.Option(help="The file to rewrite between its markers.")] = Path("README.md"),
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if it is out of date.")] = False,
    results_dir: ResultsDir = "results",
) -> None:
    """Write the replication table of README.md, from the committed results, and its list of errata."""
    from smlib.files import resolve, write_atomically
    from smlib.paper.experiments.report.errata import ERRATA
    from smlib.paper.ledger import COMMITTED_PRESETS, ledger
    from smlib.paper.readme import with_errata, with_replication_table

    path = resolve(readme)
    before = path.read_text(encoding="utf-8")
    # quick results are this machine's own
    after = with_replication_table(before, ledger(results_dir, COMMITTED_PRESETS))
    after = with_errata(after, [vars(erratum) for erratum in ERRATA])
    if before == after:
        print(f"{path.name} shows the ledger and the errata as they are")
    elif check:
        raise ResultError(f"{path.name} shows another ledger, or other errata; run `smlib report-readme`")
    else:
        write_atomically(path, after)
        print(f"rewrote the replication table and the errata of {path.name}")

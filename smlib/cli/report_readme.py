"""`smlib report-readme`: what is generated in README.md."""

from pathlib import Path
from typing import Annotated

import typer

from smlib.cli.options import ResultsDir, place
from smlib.files import ResultError


def report_readme(
    readme: Annotated[
        Path | None,
        typer.Option(help="The file to rewrite between its markers; the repository's README.md if omitted."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if it is out of date.")] = False,
    results_dir: ResultsDir = None,
) -> None:
    """Write the replication table of README.md, from the committed results, and its list of errata."""
    from smlib.files import resolve, write_atomically
    from smlib.paper.experiments.report.errata import ERRATA
    from smlib.paper.ledger import COMMITTED_PRESETS, check_results, ledger
    from smlib.paper.readme import with_errata, with_replication_table

    path = resolve(place(None if readme is None else str(readme), "README.md"))
    folder = place(results_dir, "results")
    try:
        before = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ResultError(
            f"{path} cannot be read: {why}; run smlib inside its repository, or name the file with --readme"
        ) from error
    check_results(folder, COMMITTED_PRESETS)
    # quick results are this machine's own
    after = with_replication_table(before, ledger(folder, COMMITTED_PRESETS))
    after = with_errata(after, [vars(erratum) for erratum in ERRATA])
    if before == after:
        print(f"{path.name} shows the ledger and the errata as they are")
    elif check:
        raise ResultError(f"{path.name} shows another ledger, or other errata; run `smlib report-readme`")
    else:
        write_atomically(path, after)
        print(f"rewrote the replication table and the errata of {path.name}")

"""`smlib report-readme`: what is generated in README.md and in docs/."""

from pathlib import Path
from typing import Annotated

import typer

from smlib.cli.options import ResultsDir, place
from smlib.files import ResultError


def report_readme(
    readme: Annotated[
        Path | None,
        typer.Option(
            help="README to rewrite between its markers, such as copy/README.md; the pages are in the docs folder "
            "beside it. Default: the repository's README.md.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if a page is out of date.")] = False,
    results_dir: ResultsDir = None,
) -> None:
    """Write the tables, the picture and the paragraphs with numbers of README.md and docs/, from the committed results.

    Example: smlib report-readme --check
    """
    from smlib.files import resolve, write_atomically
    from smlib.paper.experiments.report.errata import ERRATA
    from smlib.paper.figures import save
    from smlib.paper.figures.committed import redraw
    from smlib.paper.ledger import COMMITTED_PRESETS, check_results, item_path, ledger
    from smlib.paper.readme import pages
    from smlib.paper.sentences.pages import generated

    path = resolve(place(None if readme is None else str(readme), "README.md"))
    folder = place(results_dir, "results")
    if not path.is_file():
        raise ResultError(
            f"{path} cannot be read: there is no such file; run smlib inside its repository, or name the file with "
            "--readme"
        )
    check_results(folder, COMMITTED_PRESETS)
    drawn = item_path("tab1", "full", folder).exists()
    # quick results are this machine's own
    rows = ledger(folder, COMMITTED_PRESETS)
    try:
        found = pages(path, rows, [vars(erratum) for erratum in ERRATA], generated(rows, folder))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise ResultError(f"a page of {path.parent} cannot be read: {why}") from error
    old = [page for page, (before, after) in found.items() if before != after]
    if check and old:
        names = ", ".join(page.name for page in old)
        raise ResultError(f"not what the results say: {names}; run `smlib report-readme`")
    for page in old:
        write_atomically(page, found[page][1])
        print(f"rewrote what is generated in {page.name}")
    if drawn and not check:
        save(redraw("demo", "full", folder), "demo", "full", path.parent / "figures")
    if not old:
        print(f"{', '.join(page.name for page in found)} show the ledger and the errata as they are")

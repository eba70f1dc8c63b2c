"""`smlib status`: the ledger."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from smlib.cli.options import ResultsDir, place
from smlib.cli.screen import cell, print_json
from smlib.paper.items import check_preset
from smlib.screen import visible

VERDICT_COLOURS = {
    "reproduced": "green",
    "direction only": "yellow",
    "not reproduced": "red",
    "not run": "dim",
}


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object an item.")] = False,
    preset: Annotated[
        str | None,
        typer.Option(help="Show the values of this preset, such as quick, your own. Default: the best there is."),
    ] = None,
    results_dir: ResultsDir = None,
) -> None:
    """Print the ledger: the paper's value, ours, its error bar and the verdict for every figure and table.

    Example: smlib status --json
    """
    from smlib.paper.ledger import LEDGER_PRESETS, check_results, ledger
    from smlib.paper.readme import shown_value

    folder = place(results_dir, "results")
    presets = LEDGER_PRESETS if preset is None else (check_preset(preset),)
    check_results(folder, presets)
    damaged: list[str] = []
    rows = ledger(folder, presets, damaged)
    if as_json:
        print_json(rows)
    else:
        _print_table(rows, shown_value)
    for message in damaged:
        print(f"smlib: {visible(message)}", file=sys.stderr)
    if damaged:
        raise typer.Exit(2)


def _print_table(rows: Sequence[Mapping[str, object]], shown_value: Callable[[Mapping[str, object]], str]) -> None:
    table = Table(title="smlib: the paper's figures and tables", show_lines=True)
    for column in ("id", "title", "preset", "paper", "ours", "verdict"):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "preset"))  # what is typed again
    for row in rows:
        verdict = str(row["verdict"])
        table.add_row(
            cell(row["id"]),
            cell(row["title"]),
            cell(row["preset"] or "—"),
            cell(row["paper"]),
            cell(shown_value(row)),
            f"[{VERDICT_COLOURS[verdict]}]{verdict}[/]",
        )
    console = Console()
    console.print(table)
    for row in rows:
        origin = row["provenance"]
        changes = origin.get("stale", []) if isinstance(origin, dict) else []
        if changes:
            more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
            cure = f"run `smlib reproduce --preset {row['preset']} --only {row['id']}`"
            console.print(f"[yellow]{row['id']} is stale[/] — {cell(changes[0])}{more}; {cure}")

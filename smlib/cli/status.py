"""`smlib status`: the ledger."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from smlib.cli.options import ResultsDir

VERDICT_COLOURS = {
    "reproduced": "green",
    "direction only": "yellow",
    "not reproduced": "red",
    "not run": "dim",
}


def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list, one object an item.")] = False,
    results_dir: ResultsDir = "results",
) -> None:
    """Print the ledger: the paper's value, ours, its error bar and the verdict for every figure and table."""
    from smlib.paper.ledger import ledger
    from smlib.paper.readme import shown_value

    rows = ledger(results_dir)
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False, allow_nan=False))
        return
    table = Table(title="smlib: the paper's figures and tables", show_lines=True)
    for column in ("id", "title", "preset", "paper", "ours", "verdict"):
        table.add_column(column, overflow="fold")
    for row in rows:
        verdict = str(row["verdict"])
        table.add_row(
            str(row["id"]),
            str(row["title"]),
            str(row["preset"] or "—"),
            str(row["paper"]),
            shown_value(row),
            f"[{VERDICT_COLOURS[verdict]}]{verdict}[/]",
        )
    console = Console()
    console.print(table)
    for row in rows:
        origin = row["provenance"]
        for change in origin.get("stale", []) if isinstance(origin, dict) else []:
            console.print(f"[yellow]{row['id']} is stale[/] — {change}; run `smlib reproduce --only {row['id']}`")

"""`smlib policies`: what ships."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table


def policies(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list: the whole card of each policy.")] = False,
) -> None:
    """List the trained policies that come with smlib, with their accuracy and recovery.

    Example: smlib policies
    """
    from smlib.policies import shipped

    cards = [shipped.card(name) for name in shipped.names()]
    if as_json:
        print(json.dumps([asdict(card) for card in cards], indent=1, ensure_ascii=False, allow_nan=False))
        return
    table = Table(title="policies that come with smlib", show_lines=True)
    for column in ("name", "what it is", "right answers", "3 wrong digits deleted"):
        table.add_column(column, overflow="fold", no_wrap=column == "name")  # which is typed again
    for card in cards:
        accuracy, recovery = card.measured["accuracy"], card.measured["recovery"]
        table.add_row(
            card.name,
            escape(card.summary),
            f"{accuracy['t1']:.3f} sampled, {accuracy['greedy']:.3f} greedy",
            f"{recovery['3']['all_removed']:.3f} of prompts" if recovery else "cannot delete",
        )
    console = Console()
    console.print(table)
    console.print(f"on {cards[0].measured['questions']} validation questions; try: smlib generate {cards[-1].name}")

"""`smlib bench`: speed and memory as ratios."""

import json
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions, under two minutes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print {name: {value, unit, baseline, n}}.")] = False,
) -> None:
    """Measure speed and memory as ratios inside one run on this machine.

    Example: smlib bench --quick
    """
    import importlib

    figures = importlib.import_module("smlib.bench").run(quick=quick)
    if as_json:
        print(json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False))
        return
    table = Table(title="smlib bench")
    for column in ("name", "value", "unit", "baseline", "n"):
        table.add_column(column)
    for name, figure in figures.items():
        table.add_row(name, *(str(figure[key]) for key in ("value", "unit", "baseline", "n")))
    Console().print(table)

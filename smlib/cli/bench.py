"""`smlib bench`: speed and memory as ratios."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from smlib.files import ResultError

WIDE = 110
"""Columns of a terminal that all of the table needs: its longest name has 51."""


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions, under two minutes.")] = False,
    peers: Annotated[
        bool, typer.Option("--peers", help="TRL's trainers beside ours instead (the extra peers), a few minutes.")
    ] = False,
    processes: Annotated[
        bool, typer.Option("--processes", help="Training in one process and in two instead, two minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print {name: {value, unit, baseline, n}}.")] = False,
) -> None:
    """Measure speed and memory as ratios inside one run on this machine.

    Example: smlib bench --quick
    """
    import importlib

    if peers and processes:
        raise ResultError("--peers and --processes measure different things: give one of them at a time")
    module = "smlib.bench.peers" if peers else "smlib.bench.processes" if processes else "smlib.bench"
    with _told() as tell:
        figures = importlib.import_module(module).run(quick=quick, tell=tell)
    if as_json:
        print(json.dumps(figures, indent=1, ensure_ascii=False, allow_nan=False))
        return
    console = Console()
    narrow = console.width < WIDE
    table = Table(title="smlib bench", box=None, pad_edge=False) if narrow else Table(title="smlib bench")
    table.add_column("name", no_wrap=True)  # what `--json` and the docs call it
    judged = any("target" in figure for figure in figures.values())
    columns = ("value", *(("target", "bound") if judged else ()), *(() if narrow else ("unit", "baseline", "n")))
    for column in columns:
        table.add_column(column, overflow="fold")
    for name, figure in figures.items():
        missed = figure.get("reached") is False
        table.add_row(name, *(str(figure.get(key, "")) for key in columns), style="yellow" if missed else None)
    captions = [
        "bound: the best that is possible (smlib/bench/targets.py); entries that miss their target are yellow"
    ] * judged
    captions += [f"--json, and a terminal of {WIDE} columns, show units, baselines and counts"] * narrow
    table.caption = "; ".join(captions) or None
    console.print(table)


@contextmanager
def _told() -> Iterator[Callable[[str], None]]:
    """What is measured at the moment, on standard error: a line that changes in a terminal, a line each in a log."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda part: print(f"measuring {part}", file=sys.stderr, flush=True)
        return
    with console.status("measuring") as status:
        yield lambda part: status.update(f"measuring {part}")

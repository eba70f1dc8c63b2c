"""`smlib watch`: the curves of a run while it trains."""

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from smlib.cli.options import folder_name
from smlib.files import ResultError
from smlib.screen import visible


def watch(
    run: Annotated[
        Path,
        typer.Argument(
            parser=folder_name,
            metavar="RUN",
            help="The folder that `smlib train` or `smlib.train` writes to, or a metrics.jsonl.",
        ),
    ],
    every: Annotated[float, typer.Option(help="Seconds between two looks, above 0, such as 2.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Draw the curves as they are now, and end.")] = False,
) -> None:
    """Draw the curves of a training run as they grow, until it has finished or Ctrl-C (in a pipe: once).

    Example: smlib watch runs/mine
    """
    if not (math.isfinite(every) and every > 0):
        raise ResultError(f"--every {every:g}: expected seconds above 0")
    console = Console(highlight=False)
    if once or not console.is_terminal:
        console.print(_picture(run, console.width))
        return
    from smlib.training.curves import finished

    try:
        with Live(console=console, auto_refresh=False) as live:
            while True:
                done = finished(run)  # before the look: what is drawn last holds what was written last
                live.update(_picture(run, console.width), refresh=True)
                if done:
                    return
                time.sleep(every)
    except KeyboardInterrupt:
        return


def _picture(run: Path, width: int) -> Any:
    """The table of the curves, or a line that says that there are none yet."""
    from smlib.training.curves import curves_of, finished, summary
    from smlib.training.metrics import MetricsError

    try:
        curves = curves_of(run)
    except MetricsError as error:
        raise ResultError(str(error)) from error
    if not curves:
        return Text(f"{visible(run)}: nothing is logged yet", overflow="fold")
    step = max(curve[-1][0] for curve in curves.values())
    room = max(8, width - max(len(name) for name in curves) - 44)
    table = Table("curve", "from the first to the last step", "now", "least", "largest", box=None, pad_edge=False)
    for name, picture, *numbers in summary(curves, min(room, 80)):
        table.add_row(visible(name), picture, *numbers)
    state = f"{step} steps" if finished(run) else f"step {step}"
    return Group(Text(f"{visible(run)}: {state}"), table)

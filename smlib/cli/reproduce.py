"""`smlib reproduce`: rebuild figures and tables."""

import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from smlib.cli.options import FiguresDir, ResultsDir, folder_name, one_of, place
from smlib.cli.screen import cell, print_json
from smlib.files import ResultError

if TYPE_CHECKING:
    from smlib.paper.reproduce import Outcome


def _items() -> Iterable[str]:
    from smlib.paper.items import ITEMS

    return ITEMS


def _presets() -> Iterable[str]:
    from smlib.paper.items import PRESETS

    return PRESETS


def reproduce(
    preset: Annotated[
        str,
        typer.Option(
            help="smoke (minutes, numbers without meaning), quick (half an hour), full (what is committed: evenings) "
            "or paper (GPUs).",
            autocompletion=one_of(_presets),
        ),
    ] = "quick",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="An item id, such as fig3, or several as fig1,tab3; may be repeated; `smlib status` lists them. "
            "Default: all.",
            autocompletion=one_of(_items),
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks to run at a time, such as 2.")] = 1,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Repeat finished runs, or go on with a --fresh that was stopped.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Compute independent runs on a Ray cluster: auto for the one that this machine belongs to, or "
            "HOST:PORT such as 10.0.0.1:6379. Default: here, side by side.",
            show_default=False,
        ),
    ] = None,
    results_dir: ResultsDir = None,
    figures_dir: FiguresDir = None,
    runs_dir: Annotated[
        Path | None,
        typer.Option(
            parser=folder_name,
            metavar="FOLDER",
            help="Where executed notebooks go. Default: the repository's folder `runs`. With --results-dir and "
            "--figures-dir a checkout that cannot be written to can be reproduced.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print a JSON list instead, one object a notebook; progress goes to stderr."),
    ] = False,
) -> None:
    """Rebuild figures and tables by running their notebooks; finished training runs are not repeated.

    Example: smlib reproduce --preset quick --only fig1 --only fig3
    """
    from smlib.paper.fresh import fresh_round
    from smlib.paper.items import ITEMS, check_preset, get_item

    # A typing error is answered before papermill is loaded.
    check_preset(preset)
    ids = [get_item(part.strip()).id for given in only or [] for part in given.split(",") if part.strip()]
    if only and not ids:
        raise ResultError(f"--only names no item; known: {', '.join(ITEMS)}")
    if ray is not None:
        _use_cluster(ray)
    results, figures = place(results_dir, "results"), place(figures_dir, "figures")
    unfinished = fresh_round(preset, results)
    from smlib.paper.reproduce import Outcome, Reproduction, Task, plan

    tasks = plan(ids)
    if unfinished and not fresh:
        cure = f"go on with `{unfinished.options}`, or delete {unfinished.path} to keep what there is"
        print(f"smlib: {unfinished} is not finished, so old and new runs stand side by side: {cure}", file=sys.stderr)
    elif unfinished and unfinished.covers([task.name for task in tasks]):
        print(f"smlib: going on with {unfinished}; delete {unfinished.path} to begin anew", file=sys.stderr)
    console = Console(stderr=as_json)
    with _progress(console) as progress:
        lines = {task.name: progress.add_task(task.name, start=False, total=None) for task in tasks}

        beat = Heartbeat(progress.console)

        def listen(task: Task, finished: int, total: int) -> None:
            beat.at(task.name, finished, total)
            if finished == 0:
                progress.start_task(lines[task.name])
            progress.update(lines[task.name], completed=finished, total=total)

        def report(outcome: Outcome) -> None:
            line = lines[outcome.task.name]
            progress.update(line, completed=progress.tasks[line].total or 1, total=progress.tasks[line].total or 1)
            ended = f"{outcome.task.name}: {outcome.status} ({_duration(outcome.seconds)}){_why(outcome)}"
            progress.console.print(ended, highlight=False, soft_wrap=True)
            for said in outcome.runs:
                progress.console.print(f"  {cell(said)}", highlight=False, soft_wrap=True)

        work = Reproduction(
            preset,
            jobs=jobs,
            fresh=fresh,
            results_dir=results,
            figures_dir=figures,
            runs_dir=None if runs_dir is None else runs_dir.absolute(),
            listener=listen,
            waiting=beat,
        )
        outcomes = work.run(tasks, report)
    failed = [outcome.task.name for outcome in outcomes if outcome.failed]
    if as_json:
        print_json([_record(outcome) for outcome in outcomes])
        raise typer.Exit(1 if failed else 0)
    table = Table(title=f"smlib reproduce --preset {preset}")
    for column in ("item", "notebook", "status", "time"):
        table.add_column(column, no_wrap=True)
    colours = {"done": "green", "failed": "red", "interrupted": "yellow", "no notebook": "red"}
    for outcome in outcomes:
        table.add_row(
            outcome.task.label,
            outcome.task.name,
            f"[{colours[outcome.status]}]{outcome.status}[/]",
            _duration(outcome.seconds) if outcome.seconds else "—",
        )
    console.print(table)
    if failed:
        for outcome in outcomes:
            if outcome.failed:
                console.print(f"{outcome.task.name}: {outcome.status}{_why(outcome)}", highlight=False, soft_wrap=True)
        console.print(f"[red]{len(failed)} failed[/]; the notebooks as far as they came are in {work.folder}")
        raise typer.Exit(1)


def _use_cluster(address: str) -> None:
    """Has the notebooks send their runs to a cluster that answers; raises `ResultError` before one has begun."""
    from smlib.paper.experiments.runs.cluster import check_answers
    from smlib.paper.experiments.runs.executor import RAY

    check_answers(address)
    os.environ[RAY] = address


def _why(outcome: "Outcome") -> str:
    """Where and why a notebook failed, behind the word."""
    where = f" at {outcome.where}" if outcome.where else ""
    return f"{cell(where)}: {cell(outcome.why)}" if outcome.why else ""


class Heartbeat:
    """In a log, a line every half minute about each notebook that runs: its cell, and the run inside it if it tells."""

    EVERY = 30.0

    def __init__(self, console: Console) -> None:
        self.console = console
        self.shown = not console.is_terminal and not os.environ.get("SMLIB_QUIET")
        self._said = time.monotonic()
        self._begun: dict[str, float] = {}
        self._cells: dict[str, tuple[int, int]] = {}

    def at(self, name: str, finished: int, total: int) -> None:
        """A notebook has come to another cell."""
        self._begun.setdefault(name, time.monotonic())
        self._cells[name] = (finished, total)

    def __call__(self, running: Mapping[str, str]) -> None:
        """Called again and again while notebooks run, with their names and the latest line of a run in each."""
        now = time.monotonic()
        if not self.shown or now - self._said < self.EVERY:
            return
        self._said = now
        for name, line in running.items():
            if name in self._cells:
                number, total = self._cells[name]
                after = f" — {line}" if line else ""
                text = f"{name}: cell {number + 1} of {total}, {_duration(now - self._begun[name])}{after}"
                self.console.print(cell(text), highlight=False, soft_wrap=True)


def _record(outcome: "Outcome") -> dict[str, object]:
    """A notebook's outcome as JSON."""
    return {
        "notebook": outcome.task.name,
        "items": list(outcome.task.items),
        "status": outcome.status,
        "seconds": round(outcome.seconds, 1),
        "where": outcome.where,
        "why": outcome.why,
        "runs": list(outcome.runs),
    }


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,  # a log file gets one line a notebook, and no bars
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"

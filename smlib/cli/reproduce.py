"""`smlib reproduce`: rebuild figures and tables."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from smlib.cli.options import ResultsDir
from smlib.files import ResultError


def reproduce(
    preset: Annotated[str, typer.Option(help="smoke, quick, full or paper.")] = "quick",
    only: Annotated[list[str] | None, typer.Option(help="An item id, such as fig3; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Notebooks to run at a time.")] = 1,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Repeat finished runs, or go on with a --fresh that was stopped.")
    ] = False,
    results_dir: ResultsDir = "results",
    figures_dir: Annotated[str, typer.Option(help="Where figures are kept.")] = "figures",
) -> None:
    """Rebuild figures and tables by running their notebooks; finished training runs are not repeated."""
    from smlib.paper.items import ITEMS, check_preset, get_item
    from smlib.paper.results import fresh_round

    # A typing error is answered before papermill is loaded.
    check_preset(preset)
    ids = [get_item(part.strip()).id for given in only or [] for part in given.split(",") if part.strip()]
    if only and not ids:
        raise ResultError(f"--only names no item; known: {', '.join(ITEMS)}")
    unfinished = fresh_round(preset, results_dir)
    from smlib.paper.reproduce import Outcome, Reproduction, Task, plan

    tasks = plan(ids)
    if unfinished and not fresh:
        cure = f"go on with `{unfinished.options}`, or delete {unfinished.path} to keep what there is"
        print(f"smlib: {unfinished} is not finished, so old and new runs stand side by side: {cure}", file=sys.stderr)
    elif unfinished and unfinished.covers([task.name for task in tasks]):
        print(f"smlib: going on with {unfinished}; delete {unfinished.path} to begin anew", file=sys.stderr)
    console = Console()
    with _progress(console) as progress:
        lines = {task.name: progress.add_task(task.name, start=False, total=None) for task in tasks}

        def listen(task: Task, finished: int, total: int) -> None:
            if finished == 0:
                progress.start_task(lines[task.name])
            progress.update(lines[task.name], completed=finished, total=total)

        def report(outcome: Outcome) -> None:
            line = lines[outcome.task.name]
            progress.update(line, completed=progress.tasks[line].total or 1, total=progress.tasks[line].total or 1)
            progress.console.print(f"{outcome.task.name}: {outcome.status} ({_duration(outcome.seconds)})")

        work = Reproduction(
            preset, jobs=jobs, fresh=fresh, results_dir=results_dir, figures_dir=figures_dir, listener=listen
        )
        outcomes = work.run(tasks, report)
    table = Table(title=f"smlib reproduce --preset {preset}", show_lines=True)
    for column in ("item", "notebook", "status", "time", "where", "why"):
        table.add_column(column, overflow="fold")
    colours = {"done": "green", "failed": "red", "interrupted": "yellow", "no notebook": "red"}
    for outcome in outcomes:
        table.add_row(
            outcome.task.label,
            outcome.task.name,
            f"[{colours[outcome.status]}]{outcome.status}[/]",
            _duration(outcome.seconds) if outcome.seconds else "—",
            escape(outcome.where),
            escape(outcome.why),
        )
    console.print(table)
    failed = [outcome.task.name for outcome in outcomes if outcome.failed]
    if failed:
        console.print(f"[red]{len(failed)} failed[/]; the notebooks as far as they came are in {work.folder}")
        raise typer.Exit(1)


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

"""The command line: `smlib reproduce · status · bench · train · generate`.

Each command imports what it needs when it runs, so that `smlib status` answers without loading torch.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from smlib import __version__
from smlib.files import ResultError

app = typer.Typer(
    name="smlib",
    help="SequenceMatch (Cundy & Ermon, ICLR 2024), rebuilt: every figure and table of the paper.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

VERDICT_COLOURS = {
    "reproduced": "green",
    "direction only": "yellow",
    "not reproduced": "red",
    "not run": "dim",
}

ResultsDir = Annotated[str, typer.Option(help="Where result files are kept.")]


def _version(wanted: bool) -> bool:
    if wanted:
        print(f"smlib {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """SequenceMatch (Cundy & Ermon, ICLR 2024), rebuilt: every figure and table of the paper."""


@app.command()
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


@app.command()
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


@app.command()
def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer repetitions, under two minutes.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print {name: {value, unit, baseline, n}}.")] = False,
) -> None:
    """Measure speed and memory as ratios inside one run on this machine."""
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


@app.command("train")
def train_command(
    folder: Annotated[Path, typer.Argument(help="Where the policy goes; a killed run in it goes on.")],
    task: Annotated[str, typer.Option(help="add_or_sub_in_base, mul or list_prime_factors.")] = "add_or_sub_in_base",
    method: Annotated[str, typer.Option(help="mle, bc, sm, iqlearn, dagger, gail, direct or unlikelihood.")] = "sm",
    noise: Annotated[str, typer.Option(help="ground_truth, random or none.")] = "ground_truth",
    eta: Annotated[
        float | None, typer.Option(help="Noise level of the demonstrations; 0.1, or 0 with --noise none.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Entropy weight.")] = 0.01,
    gamma: Annotated[float, typer.Option(help="Discount.")] = 0.95,
    steps: Annotated[int, typer.Option(min=4, help="Gradient steps.")] = 2000,
    questions: Annotated[int, typer.Option(min=1, help="Training questions.")] = 5000,
    difficulty: Annotated[str, typer.Option(help="easy, medium, hard or all.")] = "easy",
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    init: Annotated[Path | None, typer.Option(help="Folder of an earlier policy to start from.")] = None,
) -> None:
    """Train a small policy on a task and report its accuracy on validation questions."""
    from smlib.cli.workbench import fit, settings_for

    options: dict[str, str | int] = {"task": task, "difficulty": difficulty, "questions": questions, "noise": noise}
    settings = settings_for(method, steps=steps, eta=eta, alpha=alpha, gamma=gamma, seed=seed, **options)
    accuracy = fit(settings, folder, init)
    for decoding, share in accuracy.items():
        print(f"validation accuracy, {decoding}: {share:.3f} of {settings.validation} questions")
    print(f"saved in {folder}; try: smlib generate {folder} --prompt '...'")


@app.command("generate")
def generate_command(
    folder: Annotated[Path | None, typer.Argument(help="Where `smlib train` left a policy.")] = None,
    prompt: Annotated[str, typer.Option(help="What it goes on from; empty for a text from nothing.")] = "",
    model: Annotated[
        str | None,
        typer.Option(help="Instead: a folder that save_policy wrote, `smollm2`, or any causal language model."),
    ] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="How many completions.")] = 1,
    temperature: Annotated[float, typer.Option(help="Divides the logits.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Keep the most probable actions up to this mass.")] = 1.0,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the most probable action.")] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest completion; 24 for a task, 128 for text.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first completion; the others count on.")] = 0,
    download: Annotated[bool, typer.Option("--download", help="Let --model ask the hub.")] = False,
) -> None:
    """Write completions, with what was deleted struck out (in a pipe: with <bkspc> spelt out)."""
    if (folder is None) == (model is None):
        raise ResultError("name a folder of `smlib train`, or a language model with --model; one of the two")
    from smlib.cli.workbench import write, write_text
    from smlib.generation.sampling import SamplingConfig

    # Greedy decoding without a memory can insert and delete the same token for ever.
    try:
        config = SamplingConfig(
            temperature=temperature,
            top_p=top_p,
            greedy=greedy,
            exclude_deleted=greedy,
            max_new_tokens=max_tokens or (24 if model is None else 128),
        )
    except ValueError as error:
        raise ResultError(str(error)) from error
    seeds = range(seed, seed + count)
    if model is not None:
        write_text(model, prompt, config, seeds, download=download)
        return
    assert folder is not None
    for number in seeds:
        write(folder, prompt, config, number)


@app.command("report-readme")
def report_readme(
    readme: Annotated[Path, typer.Option(help="The file to rewrite between its markers.")] = Path("README.md"),
    check: Annotated[bool, typer.Option("--check", help="Change nothing; fail if it is out of date.")] = False,
    results_dir: ResultsDir = "results",
) -> None:
    """Write the replication table of README.md, from the committed results, and its list of errata."""
    from smlib.files import resolve, write_atomically
    from smlib.paper.experiments.report.errata import ERRATA
    from smlib.paper.ledger import COMMITTED_PRESETS, ledger
    from smlib.paper.readme import with_errata, with_replication_table

    path = resolve(readme)
    before = path.read_text(encoding="utf-8")
    # quick results are this machine's own
    after = with_replication_table(before, ledger(results_dir, COMMITTED_PRESETS))
    after = with_errata(after, [vars(erratum) for erratum in ERRATA])
    if before == after:
        print(f"{path.name} shows the ledger and the errata as they are")
    elif check:
        raise ResultError(f"{path.name} shows another ledger, or other errata; run `smlib report-readme`")
    else:
        write_atomically(path, after)
        print(f"rewrote the replication table and the errata of {path.name}")


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


def main() -> None:
    """The `smlib` command: an error of the user's is one line on stderr and exit status 2."""
    try:
        app()
    except ResultError as error:
        print(f"smlib: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()

"""`smlib train`: a small policy on a task."""

from pathlib import Path
from typing import Annotated

import typer

from smlib.cli.options import folder_name

MOST_QUESTIONS = 1_000_000
"""The generator makes about 3,000 a second, and all are held in memory."""


def train(
    folder: Annotated[
        Path,
        typer.Argument(parser=folder_name, metavar="FOLDER", help="Where the policy goes; a killed run in it goes on."),
    ],
    task: Annotated[str, typer.Option(help="add_or_sub_in_base, mul or list_prime_factors.")] = "add_or_sub_in_base",
    method: Annotated[str, typer.Option(help="mle, bc, sm, iqlearn, dagger, gail, direct or unlikelihood.")] = "sm",
    noise: Annotated[str, typer.Option(help="ground_truth, random or none.")] = "ground_truth",
    eta: Annotated[
        float | None, typer.Option(help="Noise level of the demonstrations; 0.1, or 0 with --noise none.")
    ] = None,
    alpha: Annotated[float, typer.Option(help="Entropy weight.")] = 0.01,
    gamma: Annotated[float, typer.Option(help="Discount.")] = 0.95,
    steps: Annotated[int, typer.Option(min=4, help="Gradient steps.")] = 2000,
    questions: Annotated[int, typer.Option(min=1, max=MOST_QUESTIONS, help="Training questions.")] = 5000,
    difficulty: Annotated[str, typer.Option(help="easy, medium, hard or all.")] = "easy",
    seed: Annotated[int, typer.Option(help="Of everything.")] = 0,
    init: Annotated[
        Path | None,
        typer.Option(parser=folder_name, metavar="FOLDER", help="Folder of an earlier policy to start from."),
    ] = None,
) -> None:
    """Train a small policy on a task and report its accuracy on validation questions."""
    from smlib.cli.workbench import fit, settings_for

    options: dict[str, str | int] = {"task": task, "difficulty": difficulty, "questions": questions, "noise": noise}
    settings = settings_for(method, steps=steps, eta=eta, alpha=alpha, gamma=gamma, seed=seed, **options)
    accuracy = fit(settings, folder, init)
    for decoding, share in accuracy.items():
        print(f"validation accuracy, {decoding}: {share:.3f} of {settings.validation} questions")
    print(f"saved in {folder}; try: smlib generate {folder} --prompt '...'")

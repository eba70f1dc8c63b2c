"""`smlib train`: a small policy on a task."""

import shlex
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from smlib.cli.options import folder_name, one_of
from smlib.cli.stopping import stoppable

MOST_QUESTIONS = 1_000_000
"""The generator makes about 3,000 a second, and all are held in memory."""


def _tasks() -> Iterable[str]:
    from smlib.data.tasks import TASKS

    return TASKS


def _engines() -> Iterable[str]:
    from smlib.training.configuration import ENGINES

    return ENGINES


def _methods() -> Iterable[str]:
    from smlib.objectives.methods import METHODS

    return METHODS


def train(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=folder_name,
            metavar="FOLDER",
            help="Where the policy goes, such as runs/mine; a killed run in it goes on from there.",
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            help="What is asked: add_or_sub_in_base, mul, list_prime_factors, translation or opus_books.",
            autocompletion=one_of(_tasks),
        ),
    ] = "add_or_sub_in_base",
    method: Annotated[
        str,
        typer.Option(
            help="What is minimised: mle, bc, sm, iqlearn, dagger, direct, exact, gail, unlikelihood, soft or masked.",
            autocompletion=one_of(_methods),
        ),
    ] = "sm",
    noise: Annotated[
        str,
        typer.Option(
            help="What wrong tokens the demonstrations hold: ground_truth (digits), random (any token) or none.",
            autocompletion=one_of(lambda: ("ground_truth", "random", "none")),
        ),
    ] = "ground_truth",
    eta: Annotated[
        float | None,
        typer.Option(
            help="Noise level: the rate of wrong tokens in the demonstrations, from 0 to below 1. Default: 0.1, or 0 "
            "with --noise none.",
            show_default=False,
        ),
    ] = None,
    alpha: Annotated[float, typer.Option(help="Entropy weight of eq. 4, above 0, such as 0.1.")] = 0.01,
    gamma: Annotated[float, typer.Option(help="Discount, between 0 and 1: step t counts gamma to the power t.")] = 0.95,
    steps: Annotated[
        int, typer.Option(min=4, help="Gradient steps; 2000 take about five minutes on two cores.")
    ] = 2000,
    questions: Annotated[
        int, typer.Option(min=1, max=MOST_QUESTIONS, help="Training questions; the paper has 5000.")
    ] = 5000,
    difficulty: Annotated[
        str,
        typer.Option(
            help="easy, medium, hard or all: thirds of the generator's range.",
            autocompletion=one_of(lambda: ("easy", "medium", "hard", "all")),
        ),
    ] = "easy",
    seed: Annotated[
        int, typer.Option(help="Seed of all that is random: first weights, order of the questions, noise; such as 1.")
    ] = 0,
    init: Annotated[
        Path | None,
        typer.Option(
            parser=folder_name,
            metavar="NAME|FOLDER",
            help="What to start from instead of random weights: base (the committed base model of add_or_sub_in_base, "
            "mul or list_prime_factors), a policy of `smlib policies`, or a folder of `smlib train`.",
            show_default=False,
        ),
    ] = None,
    rollout_engine: Annotated[
        str,
        typer.Option(
            help="Who samples rollouts: in_process, between two steps; background, a process beside training, every "
            "run alike; free_running, the same, taking what is there. See docs/machines.md.",
            autocompletion=one_of(_engines),
        ),
    ] = "in_process",
    rollout_staleness: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="With rollouts beside training: how many steps old their weights may be when they are first used. "
            "Default: the steps between two refills.",
            show_default=False,
        ),
    ] = None,
    rollout_refresh: Annotated[
        int,
        typer.Option(
            min=1, help="With rollouts beside training: how often these get new weights, in steps, such as 4."
        ),
    ] = 1,
) -> None:
    """Train a small policy on a task and report its accuracy on validation questions.

    Example: smlib train runs/mine --init base --method sm --eta 0.1 --steps 500
    """
    from smlib.cli.checks import told
    from smlib.cli.workbench import RATE, RATE_ON, fit, settings_for

    options: dict[str, str | int] = {"task": task, "difficulty": difficulty, "questions": questions, "noise": noise}
    rate = RATE if init is None else RATE_ON
    settings = settings_for(
        method, steps=steps, eta=eta, alpha=alpha, gamma=gamma, seed=seed, learning_rate=rate, **options
    )
    with told(ValueError):
        training = replace(
            settings.training,
            rollout_engine=rollout_engine,
            rollout_staleness=rollout_staleness,
            rollout_refresh=rollout_refresh,
        )
    settings = replace(settings, training=training)
    with stoppable():
        accuracy = fit(settings, folder, init)
    for decoding, share in accuracy.items():
        print(f"validation accuracy, {decoding}: {share:.3f} of {settings.validation} questions")
    print(f"saved in {folder}; try: smlib generate {shlex.quote(str(folder))} --prompt '...'")

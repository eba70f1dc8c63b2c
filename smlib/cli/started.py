"""Whether what `smlib train` is asked for is the run that its folder holds; if not, what differs and what to do."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from smlib.files import ResultError, differences, read_json

SETTINGS = "settings.json"
"""In the folder of a run: what it was started with."""

OPTIONS: Mapping[str, str] = {
    "init": "--init",
    "settings.task": "--task",
    "settings.difficulty": "--difficulty",
    "settings.questions": "--questions",
    "settings.noise": "--noise",
    "settings.training.steps": "--steps",
    "settings.training.seed": "--seed",
    "settings.training.eta": "--eta",
    "settings.training.objective.method": "--method",
    "settings.training.objective.alpha": "--alpha",
    "settings.training.objective.gamma": "--gamma",
    "settings.training.rollout_engine": "--rollout-engine",
    "settings.training.rollout_staleness": "--rollout-staleness",
    "settings.training.rollout_refresh": "--rollout-refresh",
}
"""Places in `SETTINGS` -> the option that sets each. Other settings follow from these."""

STEPS = "settings.training.steps"


def check_same(folder: Path, asked: str) -> None:
    """Compares a run that is asked for, as JSON, with the one in `folder`, if there is one.

    Raises:
        ResultError: another run, with the options that differ; a `SETTINGS` that cannot be read.
    """
    described = folder / SETTINGS
    if not described.exists():
        return
    changed = differences(read_json(described), json.loads(asked))
    if not changed:
        return
    named = {OPTIONS[place]: values for place, values in changed.items() if place in OPTIONS}
    # Nothing but what follows from options: another version of smlib derives it in another way.
    shown = named or {place.removeprefix("settings."): values for place, values in changed.items()}
    told = ", ".join(f"{name} was {_said(before)} and is {_said(now)}" for name, (before, now) in shown.items())
    cure = _longer(folder) if STEPS in changed else ""
    raise ResultError(
        f"{folder} holds a run with other settings, in {SETTINGS}: {told}. {cure}"
        "Give the options that it was started with to go on with it, or name another folder"
    )


def _longer(folder: Path) -> str:
    """What to do for a run that should have been longer."""
    why = "A run cannot be made longer or shorter, since its schedule is laid out over its steps: "
    if (folder / "policy").exists():
        return f"{why}to train its policy further, start another with `--init {shlex.quote(str(folder))}`. "
    return f"{why}let it end, and start another from it with `--init {shlex.quote(str(folder))}`. "


def _said(value: object) -> str:
    return "left out" if value is None else str(value)

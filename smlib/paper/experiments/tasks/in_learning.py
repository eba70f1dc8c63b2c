"""Tables 5 to 7 where there is something to learn: what is there of their runs from bases that did not know the task.

`python -m smlib.paper.experiments.tasks.queue --item tab6` (or `tab7`) and `python -m
smlib.paper.experiments.tasks.translation` train them, the base first. Nothing is trained here.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smlib.evaluation import Estimate
from smlib.evaluation.bleu_jackknife import bleu_estimate
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.method_tables import METHODS
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tuned
from smlib.paper.experiments.tasks import mathematics, translation
from smlib.paper.results import Run, finished_run

REGIME = "learning"


def study(item: str, preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """One row a method and noise level (JSON types), with `status` `run` or `not run`; `n_seeds`, `planned` and, where
    it was run, the estimate on the test questions at temperature 1: accuracy, BLEU for `tab5`.

    Raises:
        ValueError: an unknown item.
    """
    known = (translation.ITEM, *mathematics.TASKS)
    if item not in known:
        raise ValueError(f"unknown table {item!r}; known: {', '.join(known)}")
    if item == translation.ITEM:
        chosen, configs, score = translation.preset(preset, REGIME), translation.cells(preset, REGIME), _bleu
    else:
        chosen, configs = mathematics.preset(item, preset, REGIME).runs, mathematics.cells(item, preset, REGIME)
        score = scores.accuracy
    there = {name: _finished(item, name, config, preset, results_dir) for name, config in configs.items()}
    found = {name: run for name, run in there.items() if run is not None}
    return [_row(method, level, found, len(chosen.seeds), score) for level in chosen.levels for method in METHODS]


def latest(item: str, preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """The rows of a preset, or of `full` where the preset has no run: what the committed files hold."""
    own = study(item, preset, results_dir)
    return own if any(row["status"] == "run" for row in own) else study(item, "full", results_dir)


def _row(
    method: str, level: float, found: Mapping[str, Run], planned: int, score: Callable[..., Estimate]
) -> dict[str, Any]:
    name = mathematics.prefix(method, level)
    runs = [run for label, run in found.items() if label.rsplit("-s", 1)[0] == name]
    row = {"method": method, "level": level, "planned": planned, "n_seeds": len(runs)}
    return row | ({"status": "run", **scores.estimate_record(score(runs))} if runs else {"status": "not run"})


def _finished(item: str, name: str, config: FineTuneConfig, preset: str, results_dir: str | Path) -> Run | None:
    if item == translation.ITEM:
        return finished_run(item, name, config, preset=preset, results_dir=results_dir, **translation.kept(config))
    return fine_tuned(config, name, item=item, preset=preset, results_dir=results_dir)


def _bleu(runs: list[Any]) -> Estimate:
    return bleu_estimate([run["test"]["t1"]["texts"] for run in runs], runs[0]["references"])

"""Direct matching against likelihood once more, on questions and seeds that chose nothing (beyond the paper).

`direct_matching` found on validation questions that total variation gains at temperature 1 with 50,000 questions. Its
divergence and its regime were chosen on the way, so that is a hypothesis. What is here was fixed, and committed, before
the first of these runs was started:

- test questions, which no run of direct matching has been judged on; seeds 3 to 7, which no other run has;
- arithmetic with 50,000 questions, and multiplication with as many, where direct matching was never tried;
- four claims, at temperature 1: total variation is ahead of maximum likelihood, and so is the paper's chi^2-mixture,
  on either task. Two-sided paired tests, Holm's correction over the four, 5 %. A claim is confirmed if its difference
  is positive and significant; greedy answers are shown beside it, where theory expects no difference, and not tested.
"""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.paper.experiments.ablations import direct_matching, regimes
from smlib.paper.experiments.ablations import study as ablations
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.arithmetic.grid import ArithmeticPreset
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.verdicts import outcome
from smlib.paper.experiments.runs.executor import in_parallel
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune
from smlib.paper.experiments.tasks import mathematics
from smlib.paper.results import Run, check_preset

SEEDS = (3, 4, 5, 6, 7)
REGIME = "n_train=50000"
TASKS: Mapping[str, str] = MappingProxyType({"add_or_sub_in_base": "arithmetic", "mul": "multiplication"})
PRESETS: Mapping[str, tuple[str, ...]] = MappingProxyType({"smoke": (), "quick": (), "full": tuple(TASKS), "paper": ()})
"""On which tasks."""


def cells(preset: str) -> dict[str, FineTuneConfig]:
    """`<task>/<method>-s<seed>` -> configuration; seeds outermost."""
    of_task = {"add_or_sub_in_base": arithmetic.preset(check_preset(preset))}
    of_task["mul"] = mathematics.preset("tab6", preset).runs
    here: dict[str, ArithmeticPreset] = {t: regimes.REGIMES[REGIME].of(of_task[t]) for t in PRESETS[preset]}
    return {
        f"{task}/{name}-s{seed}": regimes.config_of(chosen, name.split("-")[0], 0.0, seed, **changes)
        for seed in SEEDS
        for task, chosen in here.items()
        for name, changes in {"mle": {}, **direct_matching.VARIANTS}.items()
    }


def run(preset: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Run]:
    """Every run by `<task>/<method>-s<seed>`, computed or read; the ablations keep them."""
    wanted = cells(preset)
    for config in {c.base: c for c in wanted.values()}.values():
        config.prepare(preset, results_dir)
    calls = [
        {"config": config, "name": "confirm-" + name.replace("/", "-"), "item": ablations.ITEM, "preset": preset}
        | {"results_dir": results_dir}
        for name, config in wanted.items()
    ]
    return dict(zip(wanted, in_parallel(fine_tune, calls, processes) if calls else [], strict=True))


def study(preset: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Any]:
    """Each claim's difference on the test questions and whether it is confirmed.

    Returns `rows` (as `direct_matching.study`; those of greedy answers have no corrected p-value, and no `confirmed`)
    and `sources` (the runs).
    """
    runs = run(preset, results_dir, processes)
    rows: list[dict[str, Any]] = []
    for task in PRESETS[preset]:
        found = {m: scores.by_prefix(runs, f"{task}/{m}") for m in ("mle", *direct_matching.VARIANTS)}
        rows += [
            {"regime": task, "title": f"{TASKS[task]}, {regimes.REGIMES[REGIME].title}"}
            | direct_matching.comparison(found, "test", rule)
            for rule in direct_matching.DECODINGS
        ]
    claims = [test for row in rows for test in row["over_mle"].values() if row["decoding"] == "t1"]
    direct_matching.correct(claims)
    for test in claims:
        test["confirmed"] = outcome(test["difference"], test["p_holm"]) == "confirmed"
    return {"rows": rows, "sources": list(runs.values())}

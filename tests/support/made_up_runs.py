"""Results of runs that nobody trained: right sizes, random content, kept by the real cache."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smlib.objectives.methods import get_method
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.runs import finetuning
from smlib.paper.experiments.runs.finetuning import FineTuneConfig
from smlib.paper.results import Run, run_cached


def bits(rng: np.random.Generator, n: int, p: float) -> str:
    return "".join("1" if hit else "0" for hit in rng.random(n) < p)


def made_up(
    config: FineTuneConfig,
    name: str,
    *,
    item: str,
    preset: str,
    results_dir: str | Path,
    test: bool = True,
    without: tuple[str, ...] = (),
) -> Run:
    """In the place of `fine_tune`: MLE answers 40 %, BC 50 %, everything else 60 %."""
    method = config.training.objective.method
    rate = {"mle": 0.4, "bc": 0.5}.get(method, 0.6)
    rng = np.random.default_rng([config.training.seed, *name.encode()])

    def compute(_: Path) -> Mapping[str, object]:
        def answers(n: int) -> dict[str, Any]:
            return {
                d: {"correct": bits(rng, n, rate), "accuracy": rate, "backspace_rate": 0.1} for d in config.decodings
            }

        result: dict[str, object] = {
            "history": {"outside_domain": [0.1, 0.2], "chi2_mixture": [-0.3, 0.1, 0.1, 0.2]},
            "grad_norms": rng.lognormal(size=config.training.steps).round(4).tolist(),
            "val": answers(config.n_val),
        }
        if test:
            result["test"] = answers(config.n_test)
        if config.recovery_prompts and get_method(method).backspace:
            shares = ("first_backspace", "all_removed", "correct")
            result["recovery"] = {
                str(k): {what: bits(rng, config.recovery_prompts, 0.9 / k) for what in shares}
                for k in config.recovery_depths
            }
        return result

    return run_cached(
        item,
        name,
        {"config": config, "test": test, "made_up": True},
        compute,
        preset=preset,
        seeds=[config.training.seed],
        version_key="data",
        results_dir=results_dir,
    )


def replace_training(monkeypatch: Any, *modules: Any) -> None:
    """Lets the experiments in `modules` run on made-up results, in this process and without a base model."""

    def one_by_one(function: Any, calls: Any, processes: int | None = None) -> list[Any]:
        return [function(**call) for call in calls]

    monkeypatch.setattr(FineTuneConfig, "task", lambda self: None)
    monkeypatch.setattr(finetuning, "pretrained", lambda *args, **options: None)
    for module in modules:
        monkeypatch.setattr(module, "in_parallel", one_by_one)
        if hasattr(module, "fine_tune"):
            monkeypatch.setattr(module, "fine_tune", made_up)


def put_planned(label: str, config: FineTuneConfig, folder: Path, rates: Mapping[str, float]) -> None:
    """A finished run of the learning regime that nobody trained, where `fine_tune` would leave it.

    Args:
        rates: method -> share of right answers, the same at every look.
    """
    method, rng = label.split("-")[0], np.random.default_rng([*label.encode()])

    def compute(_: Path) -> Mapping[str, object]:
        def answers(n: int) -> dict[str, Any]:
            return {
                d: {"correct": bits(rng, n, rates[method]), "accuracy": rates[method], "backspace_rate": 0.1}
                for d in config.decodings
            }

        steps = list(range(config.training.eval_every, config.training.steps + 1, config.training.eval_every))
        curves = {f"val_{d}": [rates[method]] * len(steps) for d in config.curve}
        return {
            "history": {"step": [1], "val_step": steps, **curves},
            "val": answers(config.n_val),
            "test": answers(config.n_test),
        }

    own = finetuning._identity(config, "full", True, ())
    run_cached(learning.ITEM, label, compute=compute, results_dir=folder, **own)

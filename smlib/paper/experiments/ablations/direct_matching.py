"""Direct matching of occupancies against likelihood, where samples are worse than greedy answers (beyond the paper).

Likelihood covers what it believes possible, in proportion; a bounded divergence does not (`smlib.objectives.direct`).
So direct matching should gain at temperature 1, up to what greedy decoding gains, and nothing greedily. How much there
is to gain depends on the regime, and is what the two regimes differ in. Chosen on validation questions, and judged
there alone; `smlib.paper.experiments.ablations.confirmation` asks the test questions.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smlib.evaluation import paired_difference
from smlib.paper.experiments.ablations import regimes
from smlib.paper.experiments.ablations import study as ablations
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.verdicts import holm
from smlib.paper.experiments.runs.executor import in_parallel
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune
from smlib.paper.results import Run, check_preset

VARIANTS: Mapping[str, Mapping[str, Any]] = MappingProxyType({"direct": {}, "direct-tv": {"divergence": "tv"}})
"""Direct matching by the names of the ablations' runs, and what it changes in the objective."""

ONCE = ("direct",)
"""What is run at the first seed alone: total variation, which sharpens most, has them all."""

PRESETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"smoke": (), "quick": (), "full": (regimes.DEFAULT, "n_train=50000"), "paper": ()}
)
"""In which regimes."""

DECODINGS = regimes.DECODINGS


def cells(preset: str) -> dict[str, tuple[str, str, bool, FineTuneConfig]]:
    """`<regime>/<method>-s<seed>`, as `regimes.cells` gives them and shared with it, at the seeds of the ablations."""
    chosen = arithmetic.preset(check_preset(preset))
    made: dict[str, tuple[str, str, bool, FineTuneConfig]] = {}
    for seed in ablations.seeds(preset):
        variants = {k: v for k, v in VARIANTS.items() if seed == ablations.seeds(preset)[0] or k not in ONCE}
        for regime in PRESETS[preset]:
            if regime == regimes.DEFAULT:
                own = ablations.cells(preset, tuple(variants))
                made[f"{regime}/mle-s{seed}"] = ("fig3", f"mle-s{seed}", True, chosen.grid()[f"mle-s{seed}"])
                for label in (f"{name}-s{seed}" for name in variants):
                    made[f"{regime}/{label}"] = (ablations.ITEM, label, False, own[label])
                continue
            here = regimes.REGIMES[regime].of(chosen)
            for name, changes in {"mle": {}, **variants}.items():
                config = regimes.config_of(here, name.split("-")[0], 0.0, seed, **changes)
                kept_as = regimes.kept_name(regime, name, seed)
                made[f"{regime}/{name}-s{seed}"] = (ablations.ITEM, kept_as, False, config)
    return made


def run(preset: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Run]:
    """Every run by `<regime>/<method>-s<seed>`, computed or read."""
    wanted = cells(preset)
    calls = [
        {"config": config, "name": name, "item": item, "preset": preset, "results_dir": results_dir, "test": test}
        for item, name, test, config in wanted.values()
    ]
    for _, _, _, config in list(wanted.values())[:1]:  # all have the base model of the default
        config.prepare(preset, results_dir)
    return dict(zip(wanted, in_parallel(fine_tune, calls, processes) if calls else [], strict=True))


def comparison(found: Mapping[str, Sequence[scores.Result]], split: str, decoding: str) -> dict[str, Any]:
    """Accuracy of likelihood and of direct matching under one decoding rule, and paired tests over the seeds that both
    have.

    Args:
        found: runs of `mle` and of each of `VARIANTS`, in the order of their seeds.
        decoding: of `DECODINGS`. Without `<bkspc>` there is nothing to exclude: greedy answers are both.
    """
    rule = {m: decoding if decoding in own[0][split] else "greedy" for m, own in found.items()}
    right = {m: scores.correctness(own, split, rule[m]) for m, own in found.items()}
    accuracy = {m: scores.estimate_record(scores.accuracy(own, split, rule[m])) for m, own in found.items()}
    tests = {m: _over(right[m], right["mle"]) for m in VARIANTS}
    return {"decoding": "t1" if decoding == "t1" else "greedy", "accuracy": accuracy, "over_mle": tests}


def _over(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> dict[str, Any]:
    seeds = min(len(ours), len(theirs))
    return {"n_seeds": seeds} | scores.paired_record(paired_difference(ours[:seeds], theirs[:seeds]))


def correct(tests: list[dict[str, Any]]) -> None:
    """Adds Holm's p-values over all of these tests, in place."""
    for test, adjusted in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
        test["p_holm"] = scores.number(adjusted, 6)


def study(preset: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Any]:
    """Accuracy of likelihood and of direct matching, and paired differences with Holm's correction over all of them.

    Returns `rows` (JSON types, one a regime and decoding rule, for the figure) and `sources` (the runs).
    """
    runs = run(preset, results_dir, processes)
    rows: list[dict[str, Any]] = []
    for regime in PRESETS[preset]:
        found = {m: scores.by_prefix(runs, f"{regime}/{m}") for m in ("mle", *VARIANTS)}
        title = "Figure 3" if regime == regimes.DEFAULT else regimes.REGIMES[regime].title
        rows += [{"regime": regime, "title": title} | comparison(found, "val", rule) for rule in DECODINGS]
    correct([test for row in rows for test in row["over_mle"].values()])
    return {"rows": rows, "sources": list({r.path: r for r in runs.values()}.values())}

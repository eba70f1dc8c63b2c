"""What a step of each method costs over maximum likelihood's, as the ablations train (beyond the paper)."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from smlib.bench.steps import GradientStep
from smlib.bench.timing import figure, in_turns, seconds_of
from smlib.bench.workloads import dataset, groups, policy_for, sampling_job
from smlib.generation.sampling import sample
from smlib.paper.experiments.overhead.tables import KEYS, PRESETS, as_trained
from smlib.paper.results import Run, check_preset, run_cached

MEASURED: Mapping[str, tuple[str, ...]] = {
    "cost-as_trained": ("mle", "bc", "iqlearn", "sm", "dagger"),
    "cost-rivals": ("mle", "direct", "gail"),
}
"""Runs and the methods that take turns in each, with maximum likelihood in every one."""
BATCHES = {"direct": "mle", "iqlearn": "bc", "dagger": "sm", "gail": "sm"}
"""Whose trajectories a method's step has, where not its own; DAgger relabels for nothing."""


def method_costs(preset: str, results_dir: str | Path = "results") -> dict[str, Run]:
    """Seconds of a gradient step of every method on the arithmetic shape over MLE's, each rollout's share included.

    Data and rollouts lie apart, as in the ablations' training. Entries `<method>`: median of the ratio turn by turn,
    quartiles as the spread. GAIL uses a rollout once, the others as often as the shape says.

    Returns:
        the runs by the names in `MEASURED`.
    """
    chosen = PRESETS[check_preset(preset)]
    shape, turns = as_trained(chosen.arithmetic), chosen.table_turns

    def compute(methods: tuple[str, ...]) -> dict[str, object]:
        data, space = dataset(shape)
        policy = policy_for(shape, space)
        kinds = {name: BATCHES.get(name, name) for name in methods}
        batches = {kind: groups(shape, data, space, method=kind) for kind in sorted(set(kinds.values()))}
        times = in_turns(
            {
                name: GradientStep(
                    policy, batches[kind], name, row_len=shape.row_len, apart=True, branches=data.branches
                )
                for name, kind in kinds.items()
            },
            turns,
        )
        job = sampling_job(shape, data, space, [i % len(data) for i in range(shape.refill)], seed=0)
        refill = float(np.median([seconds_of(lambda: sample(*job)) for _ in range(turns)]))
        once = replace(shape, times_seen=1.0)
        shares = {
            name: refill / (once if name == "gail" else shape).interval * (kind == "sm") for name, kind in kinds.items()
        }
        base = times.seconds["mle"]
        return {
            name: figure([(t + shares[name]) / m for t, m in zip(times.seconds[name], base, strict=True)], "×", "MLE")
            for name in methods
        }

    return {
        name: run_cached(
            "ablations", name, chosen, lambda _, methods=methods: compute(methods),  # type: ignore[misc]
            preset=preset, seeds=chosen.seeds, version_key=KEYS, results_dir=results_dir,
        )
        for name, methods in MEASURED.items()
    }  # fmt: skip

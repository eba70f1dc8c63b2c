"""Trains the runs of a plan one after another, in its order: `python -m smlib.paper.experiments.tasks.queue`.

A run that is there is passed over, and one that was killed goes on from its last checkpoint, so the same command is
given again after any interruption. It starts one process of one thread. Several commands side by side need an order or
names of their own (`--only`): one that comes to a run that another has begun waits for it.

`--item g1` trains the divergences of App. G.1 in the learning regime, one seed, on the validation questions alone; the
ablations have a command of their own, `python -m smlib.paper.experiments.ablations.in_learning`.
"""

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

from smlib.paper.experiments.arithmetic import divergences, learning, learning_variants
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune, fine_tuned
from smlib.paper.experiments.tasks import mathematics
from smlib.paper.items import PRESETS

PLANS: Mapping[str, Callable[[str], Mapping[str, FineTuneConfig]]] = MappingProxyType(
    {
        learning.ITEM: learning.cells,
        **{item: partial(mathematics.cells, item, regime="learning") for item in mathematics.TASKS},
        divergences.ITEM: lambda preset: {c.kept_as: c.config for c in variants(preset)},
    }
)
"""Item -> the runs of the learning regime, in their order."""

ON_VALIDATION = (divergences.ITEM,)
"""Items whose runs in this regime see no test question."""


def variants(preset: str) -> list[learning_variants.Cell]:
    """The runs of `g1` that no other plan has, one seed."""
    return [cell for cell in learning_variants.cells(preset).values() if cell.item == divergences.ITEM]


def train(
    item: str,
    preset: str,
    results_dir: str | Path = "results",
    limit: int | None = None,
    only: Sequence[str] = (),
    weights_dir: str | Path | None = None,
) -> int:
    """Trains what is missing of a plan, the base model first, and returns how many runs that was.

    Args:
        item: key of `PLANS`.
        limit: at most so many runs. only: names of runs; all of them by default.
        weights_dir: where each run leaves its policy, about 4 MB; nowhere by default.

    Raises:
        ValueError: a name in `only` that no run of the plan has, or a limit below 1.
    """
    wanted = PLANS[item](preset)
    unknown = sorted(set(only) - set(wanted))
    if unknown:
        raise ValueError(f"the plan has no run called {', '.join(unknown)}; it has {', '.join(wanted)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit}")
    wanted = {label: config for label, config in wanted.items() if not only or label in only}
    next(iter(wanted.values())).prepare(preset, results_dir)
    done = 0
    for place, (label, config) in enumerate(wanted.items(), start=1):
        test = item not in ON_VALIDATION
        where = {"item": item, "preset": preset, "results_dir": results_dir, "test": test}
        if fine_tuned(config, label, **where) is not None:  # type: ignore[arg-type]
            continue
        if done == limit:
            break
        run = fine_tune(config, label, **where, weights_dir=weights_dir)  # type: ignore[arg-type]
        done += 1
        print(f"{place} of {len(wanted)}: {label} -> {run.path}", flush=True)
    return done


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--item", choices=PLANS, default=learning.ITEM)
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--limit", type=int, help="train at most so many runs")
    parser.add_argument("--only", action="append", default=[], metavar="RUN", help="a run by its name; may be repeated")
    parser.add_argument("--weights-dir", help="leave the trained policies there, such as models/ (git ignores it)")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    done = train(given.item, given.preset, given.results_dir, given.limit, given.only, given.weights_dir)
    print(f"{done} runs trained", flush=True)


if __name__ == "__main__":
    main()

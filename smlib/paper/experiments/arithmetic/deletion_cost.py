"""What learning to delete costs the language model, by how `<bkspc>` is trained (beyond the paper).

Two differences on the same questions, at temperature 1: the *cost*, accuracy of MLE minus that of the policy with
`<bkspc>` forbidden, and the *gain*, accuracy with its own edits minus without. They are measured for ways of training
the deletions that leave the rest of the learning regime as it is:

    shared           in the weights that write, as the paper does (the plan's BC run)
    weight=0.25      the same, with labels `<bkspc>` at a quarter of their weight in the loss
    left out         the same, without these labels: what the noise alone does to the language model
    own network      decoupled deletion: the cost is 0 by construction
    closed form      P(<bkspc>) = eta u / (eta u + p) of MLE's own p, which needs no training: sampling by it is the law
                     p^2 / (p + eta u), the decoding rule `truncation` (with eta = 0.1), and the cost is 0 as well

on the plan's base and on bases of other depths at (nearly) equal parameters. Judged on the validation questions.
"""

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.evaluation import paired_difference
from smlib.paper.experiments.arithmetic import decoupled, learning
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune, fine_tuned
from smlib.paper.experiments.runs.pretraining import PretrainConfig, TinyModel
from smlib.paper.items import PRESETS

ITEM = "ablations"
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "mle": ("mle", {}),
        "shared": ("bc", {}),
        "weight=0.25": ("bc", {"edit_weight": 0.25}),
        "left out": ("bc", {"edit_weight": 0.0}),
    }
)
"""Ways that are a run of their own: method, and what it changes in the objective."""

SHAPES: Mapping[str, TinyModel | None] = MappingProxyType(
    {
        "8x96": None,  # the plan's
        "3x160": TinyModel(dim=160, layers=3),
        "2x192": TinyModel(dim=192, layers=2),
        "4x64": TinyModel(dim=64, layers=4),
        "12x192": TinyModel(dim=192, layers=12, heads=6),
    }
)
"""Layers x width of the base: the first three have 0.9 to 1.1 M parameters, the fourth 0.24 M, the last 5.4 M."""

DECODINGS = ("t1", "greedy", "no_backspace", "truncation")


Cell = tuple[str, str, bool, FineTuneConfig]
"""Item that keeps the run, its name there, whether it saw the test questions, its configuration."""


def cells(
    preset: str, shapes: Sequence[str] = ("8x96",), seeds: Sequence[int] = (0,), ways: Sequence[str] = tuple(WAYS)
) -> dict[str, Cell]:
    """`cost-<shape>-<way>-s<seed>` -> its run, seeds outermost. What the plan has already is shared with it.

    Raises:
        ValueError: an unknown shape or way.
    """
    for given, known, what in ((shapes, SHAPES, "shape"), (ways, WAYS, "way")):
        if unknown := sorted(set(given) - set(known)):
            raise ValueError(f"unknown {what} {', '.join(unknown)}; known: {', '.join(known)}")
    made: dict[str, Cell] = {}
    plan = learning.cells(preset)
    for seed in seeds:
        for shape in shapes:
            chosen, model = learning.preset(preset), SHAPES[shape]
            assert isinstance(chosen.base, PretrainConfig)
            if model is not None:
                chosen = dataclasses.replace(chosen, base=dataclasses.replace(chosen.base, model=model))
            for way, (method, changes) in ((way, WAYS[way]) for way in ways):
                kind, eta = ("none", 0.0) if method == "mle" else (learning.KIND, learning.headline_level(chosen))
                config = chosen.run(method, kind, eta, seed, **changes)
                rules = tuple(d for d in DECODINGS if method != "mle" or d != "no_backspace")
                label = f"cost-{shape}-{way.replace(' ', '_')}-s{seed}"
                planned = next((name for name, own in plan.items() if own == config), None)
                if planned is not None:
                    made[label] = (learning.ITEM, planned, True, config)
                    continue
                config = dataclasses.replace(config, decodings=rules, recovery_prompts=0, examples=0)
                made[label] = (ITEM, label, False, config)
    return made


def study(preset: str, seeds: Sequence[int] = (0,), results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """Cost and gain of every way whose runs are there, one record a shape and way (JSON types); nothing is trained."""
    found: dict[tuple[str, str], dict[int, Any]] = {}
    for label, (item, name, test, config) in cells(preset, tuple(SHAPES), seeds).items():
        run = fine_tuned(config, name, item=item, preset=preset, results_dir=results_dir, test=test)
        if run is not None:
            _, shape, rest = label.split("-", 2)
            way, seed = rest.rsplit("-s", 1)
            found.setdefault((shape, way), {})[int(seed)] = run
    rows: list[dict[str, Any]] = []
    for (shape, way), runs in found.items():
        both = sorted(set(runs) & set(found.get((shape, "mle"), {})))
        if not both:
            continue
        ours, writer = [runs[s] for s in both], [found[shape, "mle"][s] for s in both]
        base = scores.correctness(writer, "val")
        own = scores.correctness(ours, "val")
        bare = own if way == "mle" else scores.correctness(ours, "val", "no_backspace")
        # MLE's own edits would be the closed form's: what the truncation law makes of it.
        edited = scores.correctness(ours, "val", "truncation") if way == "mle" else own
        rows.append(
            {
                "shape": shape,
                "way": "closed form" if way == "mle" else way.replace("_", " "),
                "n_seeds": len(both),
                "cost": scores.paired_record(paired_difference(base, bare)),
                "gain": scores.paired_record(paired_difference(edited, bare)),
            }
        )
    rows += [
        {
            "shape": "8x96",
            "way": f"own network ({row['deleter']})",
            "n_seeds": row["n_seeds"],
            "gain": row["over"]["t1"],
        }
        for row in decoupled.study(preset, results_dir)["rows"]
        if row["rule"] == "drawn"
    ]
    return rows


def latest(preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """The study of a preset over its seeds, or of `full` where the preset has no run: what the committed files hold."""
    own = study(preset, learning.preset(preset).seeds, results_dir)
    return own or study("full", learning.preset("full").seeds, results_dir)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m smlib.paper.experiments.arithmetic.deletion_cost`: trains what is missing, one run after another."""
    parser = argparse.ArgumentParser(description="What learning to delete costs, by how <bkspc> is trained.")
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="8x96 by default; others train a base first")
    parser.add_argument("--way", choices=WAYS, action="append", help="all by default; may be repeated")
    parser.add_argument("--seed", type=int, action="append", help="0 by default")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = cells(given.preset, given.shape or ("8x96",), given.seed or (0,), given.way or tuple(WAYS))
    for config in {c.base: c for *_, c in wanted.values()}.values():
        config.prepare(given.preset, given.results_dir)
    for item, name, test, config in wanted.values():
        run = fine_tune(config, name, item=item, preset=given.preset, results_dir=given.results_dir, test=test)
        print(f"{name} -> {run.path}", flush=True)


if __name__ == "__main__":
    main()

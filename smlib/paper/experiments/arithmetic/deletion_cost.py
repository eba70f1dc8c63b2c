"""What learning to delete costs the language model, by how `<bkspc>` is trained (beyond the paper).

Two differences on the same questions, at temperature 1: the *cost*, accuracy of MLE minus that of the policy with
`<bkspc>` forbidden, and the *gain*, accuracy with its own edits minus without. They are measured for ways of training
the deletions that leave the rest of the learning regime as it is:

    shared           in the weights that write, as the paper does (the plan's BC run)
    weight=0.25      the same, with labels `<bkspc>` at a quarter of their weight in the loss
    left out         the same, without these labels: what the noise alone does to the language model
    own head         a head of its own for `<bkspc>`, on two detached hidden vectors: deletions train no other weight
    held row, held head, held adapters   learned after writing, with the trunk held (`after_writing`)
    own network      decoupled deletion: the cost is 0 by construction
    closed form      P(<bkspc>) = eta u / (eta u + p) of MLE's own p, which needs no training: sampling by it is the law
                     p^2 / (p + eta u), the decoding rule `truncation` (with eta = 0.1), and the cost is 0 as well

on the plan's base and on bases of other depths at (nearly) equal parameters. Judged on the validation questions.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smlib.evaluation import paired_difference
from smlib.paper.experiments.arithmetic import after_writing, decoupled, learning
from smlib.paper.experiments.arithmetic.deletion_ways import (
    ITEM,
    SHAPES,
    WAYS,
    Cell,
    cells,
    check_base,
    check_known,
    label_of,
    parameters,
)
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.runs.finetuning import fine_tune, fine_tuned
from smlib.paper.items import PRESETS

__all__ = ["EVERY_WAY", "ITEM", "SHAPES", "WAYS", "Cell", "cells", "latest", "main", "study", "train"]

EVERY_WAY = (*WAYS, *after_writing.WAYS)
"""Ways that are trained here; `own network` is trained by `decoupled`, and the closed form by nobody."""


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
    rows += after_writing.study(preset, seeds, results_dir)
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
    return [row | {"parameters": parameters(row["shape"])} for row in rows]


def latest(preset: str, results_dir: str | Path = "results") -> list[dict[str, Any]]:
    """The study of a preset over its seeds, or of `full` where the preset has no run: what the committed files hold."""
    own = study(preset, learning.preset(preset).seeds, results_dir)
    return own or study("full", learning.preset("full").seeds, results_dir)


def train(
    preset: str,
    shapes: Sequence[str] = ("8x96",),
    ways: Sequence[str] = EVERY_WAY,
    seeds: Sequence[int] = (0,),
    results_dir: str | Path = "results",
    weights_dir: str | Path = "models/learning",
) -> list[Path]:
    """Trains what is missing, one run after another, base models first; returns the result files.

    Args:
        weights_dir: where policies are left: the ways that are learned after writing begin with MLE's.

    Raises:
        ValueError: an unknown shape or way; with `quick`, a shape without committed base.
    """
    check_known(ways, EVERY_WAY, "way")
    first = cells(preset, shapes, seeds, [way for way in ways if way in WAYS])
    for shape in shapes:
        check_base(preset, shape, results_dir)
        after_writing.writer(preset, shape, seeds[0])[3].prepare(preset, results_dir)
    made: list[Path] = []
    for item, name, test, config in first.values():
        run = fine_tune(
            config, name, item=item, preset=preset, results_dir=results_dir, test=test, weights_dir=weights_dir
        )
        made.append(run.path)
        print(f"{name} -> {run.path}", flush=True)
    for seed in seeds:
        for shape in shapes:
            for way in (way for way in ways if way in after_writing.WAYS):
                run = after_writing.run(preset, way, shape, seed, results_dir, weights_dir)
                made.append(run.path)
                print(f"{label_of(shape, way, seed)} -> {run.path}", flush=True)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m smlib.paper.experiments.arithmetic.deletion_cost`: trains what is missing, one run after another."""
    parser = argparse.ArgumentParser(description="What learning to delete costs, by how <bkspc> is trained.")
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--weights-dir", default="models/learning", help="where policies are kept, and left")
    parser.add_argument("--shape", choices=SHAPES, action="append", help="8x96 by default; others train a base first")
    parser.add_argument("--way", choices=EVERY_WAY, action="append", help="all by default; may be repeated")
    parser.add_argument("--seed", type=int, action="append", help="0 by default")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    train(
        given.preset,
        given.shape or ("8x96",),
        given.way or EVERY_WAY,
        given.seed or (0,),
        given.results_dir,
        given.weights_dir,
    )


if __name__ == "__main__":
    main()

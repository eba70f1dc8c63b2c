"""Which runs the cost of deletion is measured on: ways of training `<bkspc>`, and base models of several shapes.

Every run is the learning regime's own, but for how `<bkspc>` is trained or for the shape of the base model.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.arithmetic.grid import ArithmeticPreset
from smlib.paper.experiments.runs.finetuning import FineTuneConfig
from smlib.paper.experiments.runs.pretraining import PretrainConfig, TinyModel, weights_file

ITEM = "ablations"


@dataclass(frozen=True)
class Way:
    """One way of training that is a run of its own.

    Attributes:
        method: of the run. changes: to its objective. head: whether `<bkspc>` has a head of its own
            (`smlib.policies.deletion_head`).
    """

    method: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    head: bool = False


WAYS: Mapping[str, Way] = MappingProxyType(
    {
        "mle": Way("mle"),
        "shared": Way("bc"),
        "weight=0.25": Way("bc", {"edit_weight": 0.25}),
        "left out": Way("bc", {"edit_weight": 0.0}),
        "own head": Way("bc", head=True),
    }
)
"""Ways that begin with the base model. Those that begin with a finished writer are in `after_writing`."""

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
VOCABULARY = 305
"""Tokens of the arithmetic task."""

Cell = tuple[str, str, bool, FineTuneConfig]
"""Item that keeps the run, its name there, whether it saw the test questions, its configuration."""


def check_known(given: Sequence[str], known: Sequence[str], what: str) -> None:
    """Raises ValueError with the known names where one of those given is none of them."""
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"unknown {what} {', '.join(unknown)}; known: {', '.join(known)}")


def with_shape(preset: str, shape: str) -> ArithmeticPreset:
    """The learning regime of a preset on a base model of another shape; ValueError for one that is not known."""
    check_known((shape,), tuple(SHAPES), "shape")
    chosen, model = learning.preset(preset), SHAPES[shape]
    assert isinstance(chosen.base, PretrainConfig)
    return chosen if model is None else dataclasses.replace(chosen, base=dataclasses.replace(chosen.base, model=model))


def parameters(shape: str) -> int:
    """Weights of the base model of a shape: embeddings and head, attention, the gated MLP and norms of each layer."""
    model = with_shape("full", shape).base.model
    assert isinstance(model, TinyModel)
    layer = 4 * model.dim**2 + 3 * model.dim * (8 * model.dim // 3) + 2 * model.dim
    return 2 * VOCABULARY * model.dim + model.layers * layer + model.dim


def minutes_of_base(shape: str) -> float:
    """Processor minutes that the base model of a shape takes, roughly: a line through the two that were measured, 13
    for 0.24 million parameters and 39 for 0.94."""
    return 4.0 + 36.5 * parameters(shape) / 1e6


def check_base(preset: str, shape: str, results_dir: str | Path = "results") -> None:
    """That `quick` finds the base model of a shape: it trains none.

    Raises:
        ValueError: there is none, with the command that trains it and the minutes that it takes.
    """
    base = with_shape(preset, shape).base
    assert isinstance(base, PretrainConfig)
    if preset == "quick" and not weights_file(base, preset, results_dir).exists():
        raise ValueError(
            f"no base model of {shape} (layers x width) is committed, and quick trains none. `python -m "
            f"smlib.paper.experiments.arithmetic.deletion_cost --preset full --shape {shape} --way mle` does, in about "
            f"{minutes_of_base(shape):.0f} processor minutes, and fine-tunes it after that; known: {', '.join(SHAPES)}"
        )


def cells(
    preset: str, shapes: Sequence[str] = ("8x96",), seeds: Sequence[int] = (0,), ways: Sequence[str] = tuple(WAYS)
) -> dict[str, Cell]:
    """`cost-<shape>-<way>-s<seed>` -> its run, seeds outermost. What the plan has already is shared with it.

    Raises:
        ValueError: an unknown shape or way.
    """
    check_known(shapes, tuple(SHAPES), "shape")
    check_known(ways, tuple(WAYS), "way")
    made: dict[str, Cell] = {}
    plan = learning.cells(preset)
    for seed in seeds:
        for shape in shapes:
            chosen = with_shape(preset, shape)
            for name in ways:
                way = WAYS[name]
                kind, eta = ("none", 0.0) if way.method == "mle" else (learning.KIND, learning.headline_level(chosen))
                config = chosen.run(way.method, kind, eta, seed, **way.changes)
                rules = tuple(d for d in DECODINGS if way.method != "mle" or d != "no_backspace")
                label = label_of(shape, name, seed)
                planned = next((run for run, own in plan.items() if own == config and not way.head), None)
                if planned is not None:
                    made[label] = (learning.ITEM, planned, True, config)
                    continue
                short = dataclasses.replace(config, decodings=rules, recovery_prompts=0, examples=0)
                made[label] = (ITEM, label, False, dataclasses.replace(short, deletion_head=way.head))
    return made


def label_of(shape: str, way: str, seed: int) -> str:
    """Name of a run of this study."""
    return f"cost-{shape}-{way.replace(' ', '_')}-s{seed}"

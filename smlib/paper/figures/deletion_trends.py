"""Cost and gain of deletion while training goes on, and against the size of the model."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.deletion import in_points
from smlib.paper.figures.style import PALETTE, figure, headline
from smlib.paper.sentences.deletion_trends import of_one_size, title

STYLES = {
    "cost": ("writing, lost to MLE", {"color": PALETTE["black"], "marker": "o"}),
    "gain": ("won by edits", {"color": PALETTE["green"], "marker": "s"}),
}
Trends = Mapping[str, Any]


def passes_and_sizes(found: Trends) -> Figure:
    """Two panels in points of accuracy: cost and gain against passes, and against parameters with a line through them.

    Args:
        found: of `experiments.arithmetic.deletion_trends.trends`, with a run in one of its parts at least.

    Raises:
        ValueError: no run.
    """
    size, passes = found["size"], found["passes"]
    if not size["bases"] and not passes:
        raise ValueError("no run of the study is there: nothing to draw")
    made, (left, right) = figure(1, 2, height=3.8, width=9.0, sharey=True)
    for what, (label, style) in STYLES.items():
        if passes:
            at = [row["passes"] for row in passes]
            left.plot(at, [100 * row[what]["difference"] for row in passes], label=label, **style)
            if passes[0][what]["low"] is not None:
                low, high = ([100 * row[what][end] for row in passes] for end in ("low", "high"))
                left.fill_between(at, low, high, color=style["color"], alpha=0.15, lw=0)
        for row, place in zip(size["bases"], _places(size["bases"]), strict=True):
            value = 100 * row[what]["difference"]
            ends = [[value - 100 * row[what]["low"]], [100 * row[what]["high"] - value]]
            label = "" if passes or row is not size["bases"][0] else label
            right.errorbar([place], [value], yerr=ends, linestyle="none", label=label, **style)
        if size["status"] == "fitted":
            _draw_line(right, size, what, str(style["color"]))
    for row, place in zip(size["bases"], _places(size["bases"]), strict=True):
        top = 100 * max(row[what]["high"] for what in STYLES)
        shape = row["shape"].replace("x", " × ")
        right.annotate(shape, (place, top), (0, 3), textcoords="offset points", ha="center", fontsize=9)
    left.set_ylim(*_measured(found))  # a line that is drawn on goes far beyond what was measured, and off the page
    for ax in (left, right):
        ax.axhline(0.0, color=PALETTE["grey"], lw=1)
    left.set_xlabel("passes over the questions")
    left.set_ylabel("points of accuracy, validation")
    right.set_xlabel("parameters (equal sizes side by side)")
    right.set_xscale("log")
    right.margins(x=0.08)
    if size["status"] != "fitted":
        right.set_title(f"{len(size['bases'])} of {size['needed']} sizes: no line", fontsize=11)
    shown = left if passes else right
    made.legend(*shown.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    headline(made, title(found))
    return made


def _places(bases: Sequence[Mapping[str, Any]]) -> list[float]:
    """Where each base is drawn: at its size, and those of nearly one size side by side, deepest first."""
    alike = of_one_size(bases)
    beside = {row["shape"]: 2.0 ** (n - (len(alike) - 1) / 2) for n, row in enumerate(alike)}
    return [row["parameters"] * beside.get(row["shape"], 1.0) for row in bases]


def _measured(found: Trends) -> tuple[float, float]:
    """From below to above every interval that was measured, in points."""
    tests = [row[what] for row in (*found["passes"], *found["size"]["bases"]) for what in STYLES]
    ends = [0.0, *(100 * t[e] for t in tests for e in ("low", "difference", "high") if t[e] is not None)]
    margin = 0.08 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def _draw_line(ax: Any, size: Mapping[str, Any], what: str, colour: str) -> None:
    """Through the bases, and on to the largest size that it is asked about, with its interval there."""
    line, bases = size[what], size["bases"]
    x = np.log10([row["parameters"] for row in bases])
    far = list(line["far"].values())[-1]
    end = math.log10(far["parameters"])
    start = far["difference"] - line["slope"]["difference"] * (end - x[0])
    at = 10.0 ** np.array([x[0], x[-1], end])
    values = 100 * (start + line["slope"]["difference"] * (np.array([x[0], x[-1], end]) - x[0]))
    ax.plot(at[:2], values[:2], color=colour, lw=1.2)
    ax.plot(at[1:], values[1:], color=colour, lw=1.2, linestyle=":")  # nothing is measured there


def noise_table(found: Trends) -> pd.DataFrame:
    """Cost and gain at each level of digit noise, in points; `not run` where no run is there."""
    made = {
        f"η = {row['level']:g}": {
            "seeds": str(row["n_seeds"]) if row["status"] == "run" else "not run",
            **{label: in_points(row[what]) if what in row else "" for what, (label, _) in STYLES.items()},
        }
        for row in found["noise"]
    }
    return pd.DataFrame.from_dict(made, orient="index").rename_axis(index="digit noise")


def size_table(found: Trends) -> pd.DataFrame:
    """Cost and gain of each base, smallest first, in points."""
    made = {
        row["shape"]: {
            "parameters": f"{row['parameters']:,}",
            "seeds": str(row["n_seeds"]),
            **{label: in_points(row[what]) for what, (label, _) in STYLES.items()},
        }
        for row in found["size"]["bases"]
    }
    return pd.DataFrame.from_dict(made, orient="index").rename_axis(index="layers × width")

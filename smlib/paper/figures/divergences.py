"""Appendix G.1 in pictures: accuracy of each divergence, its gradient norms, its spikes, its visits off the domain."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, figure, headline

COLORS = {
    "chi2_mixture": (PALETTE["blue"], "D"),
    "js": (PALETTE["vermilion"], "s"),
    "chi2": (PALETTE["sky"], "o"),
    "reverse_kl": (PALETTE["green"], "v"),
    "forward_kl": (PALETTE["purple"], "^"),
    "hellinger": (PALETTE["orange"], "P"),
}
TITLES = {
    "chi2": "χ²",
    "js": "Jensen-Shannon",
    "reverse_kl": "reverse KL",
    "forward_kl": "forward KL",
    "hellinger": "Hellinger",
    "tv": "total variation",
}
DASHES: dict[str, Any] = {
    "chi2": "-",
    "js": "-",
    "reverse_kl": "-.",
    "forward_kl": ":",
    "hellinger": (0, (4, 2)),
}
PAPER = {"chi2_mixture": (0.85, 0.90), "js": (0.60, 0.60)}
"""App. G.1: "the JS-divergence was only able to achieve 60% accuracy, compared to 85-90%"."""


def _bars(estimate: Mapping[str, Any]) -> np.ndarray:
    """Distances to the ends of an interval, [2, 1]; zero where an end is open."""
    value = estimate["value"]
    low, high = (value if estimate[end] is None else estimate[end] for end in ("low", "high"))
    return np.array([[value - low], [high - value]])


def comparison(study: Mapping[str, Any]) -> Figure:
    """Accuracy, spikes in 1,000 steps and visits outside phi's domain, a line a divergence; 95 % intervals.

    Grey strokes: what the paper says of the accuracy, in words, a range for chi^2.
    """
    rows = study["rows"]
    made, (left, middle, right) = figure(1, 3, height=0.9 + 0.42 * len(rows), width=9.5, sharey=True)
    for y, row in enumerate(rows):
        color, marker = COLORS[row["name"]]
        style = {"color": color, "marker": marker, "linestyle": "none"}
        left.errorbar(row["accuracy"]["value"], y, xerr=_bars(row["accuracy"]), **style)
        if row["name"] in PAPER:
            left.plot(
                PAPER[row["name"]],
                [y + 0.3] * 2,
                color=PALETTE["grey"],
                marker="|",
                markersize=10,
                markeredgewidth=2,
                linewidth=3,
            )
        spikes = row["spikes_per_1000"]
        ends = np.minimum(_bars(spikes), [[spikes["value"]], [np.inf]])  # no count is below 0
        middle.errorbar(spikes["value"], y, xerr=ends, **style)
        right.plot(100 * np.array(row["outside_domain"]), [y] * len(row["outside_domain"]), alpha=0.7, **style)
    left.plot(
        [], [], color=PALETTE["grey"], marker="|", markersize=10, markeredgewidth=2, linewidth=3, label="the paper"
    )
    left.legend(fontsize=10, loc="lower right")
    left.axvline(study["bc"]["value"], color=PALETTE["grey"], linestyle="--", linewidth=1.5)
    left.annotate(
        " BC", (study["bc"]["value"], -0.6), color=PALETTE["grey"], ha="left", fontsize=10, annotation_clip=False
    )
    left.set_yticks(range(len(rows)), [row["title"] for row in rows])
    left.set_ylim(len(rows) - 0.5, -0.8)
    left.set(xlabel="accuracy")
    middle.set_xlabel("spikes in 1,000 steps")
    middle.set_xlim(-0.03 * max(middle.get_xlim()[1], 0.1), None)
    right.set(xlabel="% of visits outside\nφ's domain, in logged batches")
    right.set_xlim(-0.02 * max(right.get_xlim()[1], 0.1), None)
    headline(made, _spread(rows))
    return made


def _spread(rows: Sequence[Mapping[str, Any]]) -> str:
    values = [row["accuracy"]["value"] for row in rows]
    best, worst = (rows[int(at(values))] for at in (np.argmax, np.argmin))
    if max(values) == min(values):
        return f"Every divergence trains to an accuracy of {values[0]:.3f}"
    return (
        f"From the most accurate divergence ({best['title']}, {max(values):.3f}) to the least ({worst['title']}, "
        f"{min(values):.3f}) it is {100 * (max(values) - min(values)):.1f} points"
    )


def traces(study: Mapping[str, Any]) -> Figure:
    """Gradient norm against step for the first seed, before clipping: median and maximum of each piece."""
    rows = study["rows"]
    columns = 3
    lines = -(-len(rows) // columns)
    made, axes = figure(lines, columns, height=0.6 + 2.0 * lines, width=9.5, sharex=True, sharey=True, squeeze=False)
    for axis, row in zip(axes.flat, rows, strict=False):
        color, _ = COLORS[row["name"]]
        steps = row["trace"]["step"]
        axis.plot(steps, row["trace"]["maximum"], color=color, linewidth=0.8, alpha=0.6)
        axis.plot(steps, row["trace"]["median"], color=color, linewidth=2)
        axis.axvline(study["bc_steps"], color=PALETTE["grey"], linestyle=":", linewidth=1.2)
        axis.set(yscale="log")
        axis.set_title(row["title"], fontsize=11)
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    for line in axes:
        line[0].set_ylabel("gradient norm")
    piece = np.diff(rows[0]["trace"]["step"]).max(initial=1)
    ways = ((2.0, 1.0, f"thick: median of {piece} steps, first seed"), (0.8, 0.6, f"thin: maximum of {piece} steps"))
    for width, alpha, label in ways:
        axes[0][0].plot([], [], color=PALETTE["black"], linewidth=width, alpha=alpha, label=label)
    axes[0][0].plot([], [], color=PALETTE["grey"], linestyle=":", linewidth=1.2, label="behavioural cloning ends")
    made.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headline(made, _peaks(rows))
    return made


def _peaks(rows: Sequence[Mapping[str, Any]]) -> str:
    """The divergences with the highest and the lowest peak of the gradient norm, over all seeds."""
    ratios = [row["largest_ratio"] for row in rows]
    calm, wild = (rows[int(at(ratios))] for at in (np.argmin, np.argmax))
    return (
        f"After cloning the largest gradient norm is {wild['largest_ratio']:.1f} times its usual size with "
        f"{wild['title']}, {calm['largest_ratio']:.1f} times with {calm['title']}"
    )


def table(study: Mapping[str, Any]) -> pd.DataFrame:
    """The numbers behind `comparison`."""
    rows = study["rows"]
    return pd.DataFrame(
        {
            "accuracy": [_shown(row["accuracy"], 3) for row in rows],
            "accuracy, greedy": [_shown(row["greedy"], 3) for row in rows],
            "spikes / 1,000 steps": [_shown(row["spikes_per_1000"], 1) for row in rows],
            "spikes by seed": [", ".join(map(str, row["spikes"])) for row in rows],
            "largest norm / median": [f"{row['largest_ratio']:.1f}" for row in rows],
            "outside φ's domain": [f"{100 * np.mean(row['outside_domain']):.2f} %" for row in rows],
            "<bkspc>": [f"{100 * row['backspace_rate']:.1f} %" for row in rows],
        },
        index=pd.Index([row["title"] for row in rows], name="divergence"),
    )


def _shown(estimate: Mapping[str, Any], digits: int) -> str:
    value, high, low = estimate["value"], estimate["high"], estimate["low"]
    if high is None or low is None:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ± {max(high - value, value - low):.{digits}f}"


def phi_curves(x: np.ndarray, phi: Mapping[str, np.ndarray], slope: Mapping[str, np.ndarray]) -> Figure:
    """phi and its slope for each divergence, surrogates included; the slope multiplies every gradient.

    The slope of chi^2 is negative beyond 2, where a logarithmic axis ends it.

    Args:
        x: scaled rewards alpha r, [n]. phi, slope: by key of `COLORS`, [n].
    """
    made, (left, right) = figure(1, 2, height=4.3, width=9.0)
    for name in phi:
        color, _ = COLORS[name]
        style = {"color": color, "linestyle": DASHES[name], "linewidth": 3.0 if name == "js" else 1.8}
        left.plot(x, phi[name], label=TITLES[name], **style)
        right.plot(x, np.where(slope[name] > 0, slope[name], np.nan), **style)
    left.axhline(0, color=PALETTE["black"], linewidth=0.8)
    left.set(xlabel="α r", ylabel="φ(α r)", ylim=(-6, 3))
    right.axhline(1, color=PALETTE["black"], linewidth=0.8)
    right.set(xlabel="α r", ylabel="φ′(α r) where positive", yscale="log", ylim=(1e-2, 2e4))
    made.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=len(phi))
    at = int(np.argmin(np.abs(x + 0.6)))
    told = [f"{slope[name][at]:.1f} of those at 0 with {TITLES[name]}" for name in ("js", "chi2") if name in slope]
    headline(made, f"A visit at α r = {x[at]:.1f} weighs as much as {', '.join(told)}")
    return made

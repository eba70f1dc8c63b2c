"""Pictures of Tables 3 and 4: cost ratios beside the paper's, where the time goes, and how it scales."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.figures.style import PALETTE, figure, method_style

PARTS = {
    "packing": PALETTE["grey"],
    "forward": PALETTE["blue"],
    "loss": PALETTE["green"],
    "backward": PALETTE["sky"],
    "optimiser": PALETTE["orange"],
    "sampling": PALETTE["vermilion"],
}
HATCHES = dict(zip(PARTS, ("", "//", "", "\\\\", "..", "xx"), strict=True))
NAMES = {"mle": "MLE", "sm": "SequenceMatch", "dense": "SM in the\npaper's format"}
SHORT = {"mle": "MLE", "sm": "SM", "dense": "SM, paper's\nformat"}
SHAPES = ("arithmetic", "text")
PAPER = {"text": (5.3 / 1.5, 8.1 / 1.5), "arithmetic": (2.1 / 1.2, 2.16 / 1.2)}
"""(gradient step, amortised) of SM over MLE's gradient step in Tables 3 and 4. Table 4 prints 1.5 for MLE's amortised time,
where nothing is sampled and a step takes 1.2: the step is meant."""
AXES = {
    "context": "context length",
    "batch": "batch size",
    "noise": "noise level η",
    "rollout share": "share of examples with a rollout",
    "times seen": "times a rollout is used",
}


def ratios(tables: Mapping[str, Mapping[str, Any]], paper: Mapping[str, tuple[float, float]]) -> Figure:
    """SM over MLE, a gradient step and amortised, the paper's bar beside ours.

    Args:
        tables: runs of `tab3` and `tab4` by their title; paper: (gradient step, amortised) of the same titles.
    """
    made, axes = figure(height=3.4)
    labels, theirs, ours, low, high = [], [], [], [], []
    for title, run in tables.items():
        for place, what in enumerate(("step", "amortised")):
            entry = run[f"sm_over_mle_{what}"]
            labels.append(f"{title}\n{'gradient step' if what == 'step' else 'amortised'}")
            theirs.append(paper[title][place])
            ours.append(entry["value"])
            low.append(entry["value"] - entry["spread"][0])
            high.append(entry["spread"][1] - entry["value"])
    x = np.arange(len(labels))
    axes.bar(x - 0.2, theirs, 0.38, color="white", edgecolor=PALETTE["black"], label="paper")
    axes.bar(x + 0.2, ours, 0.38, color=PALETTE["blue"], label="here", yerr=[low, high])
    axes.axhline(1, color=PALETTE["grey"], linestyle=":", linewidth=1.5)
    axes.set(xticks=x, xticklabels=labels, ylabel="time of SM / time of MLE")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return made


def breakdown(parts: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Stacked bars of the parts of a gradient step, sampling amortised, a panel a shape.

    Args:
        parts: `{shape: {method: {part: seconds}}}`.
    """
    made, axes = figure(1, len(parts), height=3.6, squeeze=False)
    for ax, (shape, methods) in zip(axes[0], parts.items(), strict=True):
        names = [name for name in SHORT if name in methods]  # a result file has its own order
        base = np.zeros(len(names))
        for part, colour in PARTS.items():
            heights = np.array([1e3 * methods[name].get(part, 0.0) for name in names])
            ax.bar(names, heights, 0.7, bottom=base, color=colour, hatch=HATCHES[part], edgecolor="white", label=part)
            base += heights
        ax.set(title=shape, ylabel="ms a gradient step")
        ax.set_xticks(range(len(names)), [SHORT[name] for name in names], fontsize=9)
        ax.grid(axis="x", visible=False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    made.legend(handles[::-1], labels[::-1], loc="outside right center", fontsize=9)
    return made


def curves(measured: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A gradient step along each axis: milliseconds against context, elsewhere over MLE's step measured in turns with it.

    A ratio is free of the machine's slow moments, and costs that methods share cancel.
    """
    made, axes = figure(2, 3, height=5.6, width=9.5, squeeze=False)
    flat = list(axes.flat)
    for ax, axis in zip(flat, [axis for axis in AXES if axis in measured], strict=False):
        series = measured[axis]
        absolute = axis == "context"
        for name in ("mle", "sm", "dense"):
            if name in series:
                base = [1e-3] * len(series["x"]) if absolute else series["mle"]
                _line(ax, series["x"], [None if t is None else t / b for t, b in zip(series[name], base, strict=True)], name)
        if axis in ("context", "batch", "times seen"):
            ax.set_xscale("log", base=2)
            ax.set_xticks(series["x"], [f"{x:g}" for x in series["x"]])
            ax.minorticks_off()
        ax.set(xlabel=AXES[axis], ylabel="ms a step" if absolute else "step / MLE step", ylim=(0, 1.1 * ax.dataLim.y1))
        ax.tick_params(labelsize=9)
    for ax in flat[len(measured) :]:
        ax.set_axis_off()
    handles, labels = flat[0].get_legend_handles_labels()
    flat[-1].legend(handles, labels, loc="center")
    return made


def _line(ax: Any, x: Sequence[float], values: Sequence[float | None], name: str) -> None:
    """None stands for what was not measured."""
    known = [(a, b) for a, b in zip(x, values, strict=True) if b is not None]
    style = {"color": PALETTE["vermilion"], "marker": "X", "linestyle": "-."}
    if name != "dense":
        look = method_style(name)
        style = {"color": look.color, "marker": look.marker, "linestyle": look.linestyle}  # type: ignore[dict-item]
    ax.plot([a for a, _ in known], [b for _, b in known], label=NAMES[name], **style)


def targets(run: Mapping[str, Any]) -> pd.DataFrame:
    """Every entry of `smlib bench`: median, quartiles, number of turns, and the target where there is one."""
    rows = [
        {
            "entry": name,
            "median": entry["value"],
            "quartiles": f"{entry['spread'][0]:g} to {entry['spread'][1]:g}",
            "n": entry["n"],
            "target": entry.get("target", "—"),
            "reached": {True: "yes", False: "no"}.get(entry.get("reached"), "—"),
        }
        for name, entry in run.items()
    ]
    return pd.DataFrame(rows).set_index("entry")

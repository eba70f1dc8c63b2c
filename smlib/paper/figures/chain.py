"""Figure 1, drawn from its transition matrix, beside what the error rate does to each divergence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from smlib.paper.figures.style import PALETTE, figure

CURVES = {
    "chi2_q": ("χ² of App. B.3, (1−q)/q", PALETTE["vermilion"], "-."),
    "forward_kl": ("KL, −n log(1−ε)", PALETTE["black"], ":"),
    "tv": ("total variation, 1−q", PALETTE["green"], "--"),
    "chi2_mixture": ("χ²-mixture, (1−q)/(1+q)", PALETTE["blue"], "-"),
}
ARROWS = {
    "data": (PALETTE["green"], "-", "data, 1−ε"),
    "error": (PALETTE["vermilion"], "-", "error, ε"),
    "backspace": (PALETTE["purple"], "--", "<bkspc>, b"),
    "lost": (PALETTE["grey"], ":", "lost, 1−b"),
}


def _place(node: int, n: int) -> tuple[float, float]:
    """Chain nodes in a row, wrong ones above and to the right of where the error was made, the lost one on top."""
    if node <= n:
        return float(node), 0.0
    return (node - (n + 1) + 0.5, 1.0) if node <= 2 * n else (n / 2.0, 2.1)


def draw_chain(axes: Axes, drawing: Mapping[str, Any]) -> None:
    """Arrows as the transition matrix has them; the width grows with the probability."""
    n, named = int(drawing["n"]), set()
    for edge in drawing["edges"]:
        color, dashes, label = ARROWS[edge["kind"]]
        start, end = _place(edge["source"], n), _place(edge["target"], n)
        bend = {"error": -0.15, "backspace": -0.35}.get(edge["kind"], 0.0)
        axes.add_patch(
            FancyArrowPatch(
                start, end, arrowstyle="-|>", mutation_scale=11, shrinkA=9, shrinkB=9, color=color, linestyle=dashes,
                linewidth=0.9 + 1.3 * edge["probability"], connectionstyle=f"arc3,rad={bend}",
            )
        )  # fmt: skip
        if edge["kind"] not in named:
            axes.plot([], [], color=color, linestyle=dashes, label=label)
            named.add(edge["kind"])
    for node in range(2 * n + 2):
        x, y = _place(node, n)
        edge_style = "-" if node <= n else "--"
        axes.scatter(x, y, s=210, facecolor="white", edgecolor="black", linestyle=edge_style, zorder=3)
        text = str(node) if node <= n else ("×" if node <= 2 * n else "lost")
        axes.annotate(text, (x, y), ha="center", va="center", zorder=4, fontsize=9 if node <= 2 * n else 6)
    axes.set(xlim=(-0.5, n + 0.5), ylim=(-0.45, 2.5))
    axes.set_axis_off()
    axes.legend(loc="upper left", ncols=1, fontsize=9, handlelength=1.8)


def _curve(result: Mapping[str, Any], axis: str, backspace: float) -> Mapping[str, Any]:
    return next(c for c in result["curves"] if c["axis"] == axis and c["backspace"] == backspace)


def _shown(values: Sequence[float | None]) -> np.ndarray:
    return np.array([np.nan if v is None else v for v in values])


def figure_1(result: Mapping[str, Any]) -> Figure:
    """The chain and, for the example's epsilon and no backspace, every finite divergence against its length."""
    made, (left, right) = figure(1, 2, height=3.7, width=9.0, width_ratios=[1.1, 1.0])
    draw_chain(left, result["drawing"])
    left.set_title("the chain")
    curve = _curve(result, "n", 0.0)
    for name, (label, color, dashes) in CURVES.items():
        right.plot(curve["x"], _shown(curve["divergences"][name]), color=color, linestyle=dashes, label=label)
    longest = min(60, curve["x"][-1])
    right.set(xlim=(0, longest), ylim=(0, 3), xlabel="length n", ylabel="divergence (KL in nats)")
    right.set_title(f"an error rate of ε = {result['epsilon']:g}")
    right.legend(fontsize=9, title="q = (1−ε)ⁿ", title_fontsize=9, loc="lower right", bbox_to_anchor=(1.0, 0.36))
    return made


def slide(result: Mapping[str, Any]) -> Figure:
    """What an epsilon error does to each divergence, and to the probability of finishing in distribution."""
    made, (left, right) = figure(1, 2, height=3.9, width=9.0)
    curve = _curve(result, "epsilon", 0.0)
    for name, (label, color, dashes) in CURVES.items():
        left.plot(curve["x"], _shown(curve["divergences"][name]), color=color, linestyle=dashes, label=label)
    left.set(xscale="log", ylim=(0, 2.5), xlabel="error per step, ε", ylabel="divergence (KL in nats)")
    left.set_title(f"what training sees (n = {result['n']})")
    left.legend(fontsize=9, title="q = (1−ε)ⁿ", title_fontsize=9, loc="upper left")
    backspaces = sorted({c["backspace"] for c in result["curves"]})
    colors = (PALETTE["vermilion"], PALETTE["orange"], PALETTE["blue"])
    for backspace, color, dashes in zip(backspaces, colors, (":", "--", "-"), strict=True):
        curve = _curve(result, "epsilon", backspace)
        label = "no <bkspc>" if backspace == 0.0 else f"b = {backspace:g}"
        right.plot(curve["x"], curve["finish"], color=color, linestyle=dashes, label=label)
    right.set(xscale="log", ylim=(0, 1), xlabel="error per step, ε", ylabel="P(finish in the data)")
    right.set_title("what generation suffers")
    right.legend(loc="lower left")
    return made


def lengths(result: Mapping[str, Any]) -> Figure:
    """P(finish) against n: a backspace turns epsilon into epsilon (1 - b) / (1 - epsilon b) per step."""
    made, axes = figure(height=3.4)
    backspaces = sorted({c["backspace"] for c in result["curves"]})
    colors = (PALETTE["vermilion"], PALETTE["orange"], PALETTE["blue"])
    for backspace, color, dashes in zip(backspaces, colors, (":", "--", "-"), strict=True):
        curve = _curve(result, "n", backspace)
        axes.plot(curve["x"], curve["finish"], color=color, linestyle=dashes, label=f"b = {backspace:g}")
    axes.set(xlabel="length n", ylabel="P(finish in the data)", ylim=(0, 1), xlim=(0, None))
    axes.set_title(f"an error rate of ε = {result['epsilon']:g}")
    axes.legend()
    return made

"""Figure 1, drawn from its transition matrix, beside what the error rate does to each divergence."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch

from smlib.paper.figures.style import PALETTE, figure, headline

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
                start, end, arrowstyle="-|>", mutation_scale=11, shrinkA=9, shrinkB=17 if edge["kind"] == "lost" else 9,
                color=color, linestyle=dashes, linewidth=0.9 + 1.3 * edge["probability"],
                connectionstyle=f"arc3,rad={bend}",
            )
        )  # fmt: skip
        if edge["kind"] not in named:
            axes.plot([], [], color=color, linestyle=dashes, label=label)
            named.add(edge["kind"])
    for node in range(2 * n + 2):
        x, y = _place(node, n)
        edge_style = "-" if node <= n else "--"
        lost = node > 2 * n
        axes.scatter(x, y, s=900 if lost else 210, facecolor="white", edgecolor="black", linestyle=edge_style, zorder=3)
        text = str(node) if node <= n else "lost" if lost else "×"
        axes.annotate(text, (x, y), ha="center", va="center", zorder=4, fontsize=11 if lost else 9)
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
    last = list(curve["x"]).index(longest)
    kl, mixture = (_shown(curve["divergences"][name])[last] for name in ("forward_kl", "chi2_mixture"))
    headline(made, f"At length {longest} the KL divergence is {kl:.1f} nats, the χ²-mixture {mixture:.2f}")
    return made


def slide(result: Mapping[str, Any]) -> Figure:
    """What an epsilon error does to each divergence, and to the probability of finishing in distribution."""
    made, (left, right) = figure(1, 2, height=4.3, width=9.0)
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
    where = int(np.argmin(np.abs(np.array(curve["x"]) - 0.1)))
    ends = [_curve(result, "epsilon", b)["finish"][where] for b in (backspaces[0], backspaces[-1])]
    headline(
        made,
        f"At ε = {curve['x'][where]:.2g} deleting {100 * backspaces[-1]:.0f} % of the errors keeps "
        f"{100 * ends[1]:.0f} % of the generations in the data and not {100 * ends[0]:.0f} %",
    )
    return made


def lengths(result: Mapping[str, Any]) -> Figure:
    """The length at which half of the sequences have left the data, against epsilon, a curve for each b.

    A step is settled right with s = P(finish)^(1/n), from the measured curve; half are left at n = log 1/2 / log s.
    """
    made, axes = figure(height=3.8)
    backspaces = sorted({c["backspace"] for c in result["curves"]})
    colors = (PALETTE["vermilion"], PALETTE["orange"], PALETTE["blue"])
    at_example = {}
    for backspace, color, dashes in zip(backspaces, colors, (":", "--", "-"), strict=True):
        curve = _curve(result, "epsilon", backspace)
        errors, finish = np.array(curve["x"]), np.array(curve["finish"])
        inside = (finish > 0) & (finish < 1)
        halves = result["n"] * np.log(0.5) / np.log(finish[inside])
        axes.plot(errors[inside], halves, color=color, linestyle=dashes, label=f"b = {backspace:g}")
        at_example[backspace] = float(np.interp(result["epsilon"], errors[inside], halves))
        axes.plot(result["epsilon"], at_example[backspace], color=color, marker="o", linestyle="none")
        axes.annotate(
            f"{at_example[backspace]:.0f}", (result["epsilon"], at_example[backspace]),
            xytext=(6, 5) if backspace else (-12, -14), textcoords="offset points",
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="error per step, ε", ylabel="length that half survive")
    axes.legend(title="share of errors deleted", title_fontsize=10)
    longest, least = max(backspaces), min(backspaces)
    headline(
        made,
        f"Deleting {100 * longest:.0f} % of the errors makes sequences {at_example[longest] / at_example[least]:.1f} "
        f"times as long before half of them are lost (ε = {result['epsilon']:g})",
    )
    return made

"""Figure 2: the layouts of one trajectory, drawn from the computed arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from smlib.paper.figures.style import PALETTE, figure, headline


def layouts(item: Mapping[str, Any]) -> Figure:
    """The masks of Algorithm A and of the trie side by side: a filled square where the row's slot sees the column's."""
    shown = item["details"]["layouts"]
    titles = {"Algorithm A": "Algorithm A (the paper): copies \u201care\u201d", "trie": "trie: one slot a token"}
    keep = slice(0, -1)  # the terminal state of <eos> is left out, as in the paper's figure
    masks = {name: np.array(shown[name]["mask"])[keep, keep] for name in titles}
    sizes = [len(mask) for mask in masks.values()]
    made, axes = figure(1, 2, height=3.2, width=9.5, width_ratios=sizes)
    made.set_layout_engine("compressed")  # cells stay square, and no room is left around them
    for ax, (name, mask) in zip(axes, masks.items(), strict=True):
        part, n = shown[name], len(mask)
        edges = np.arange(n + 1) - 0.5
        colours = ListedColormap(["white", PALETTE["sky"]])
        ax.pcolormesh(edges, edges, mask, cmap=colours, vmin=0, vmax=1, edgecolors=PALETTE["grey"], linewidth=0.8)
        rows = zip(part["inputs"][keep], part["positions"][keep], strict=True)
        ax.set_xticks(range(n))
        ax.set_yticks(range(n), [f"{t}  p = {p}   {slot}" for slot, (t, p) in enumerate(rows)])
        ax.grid(False)
        ax.spines[:].set_visible(False)
        # Cells of one size in both panels: above the smaller mask stays the room of the rows that it lacks.
        ax.set(aspect="equal", xlim=(-0.55, n - 0.45), ylim=(n - 0.45, n - 0.55 - max(sizes)))
        ax.set_xlabel("key: slot that is seen", fontsize=11)
        ax.set_title(titles[name], fontsize=11, y=1.02 - (max(sizes) - n) / max(sizes))
        if "expiry" in part:
            for i, e in enumerate(part["expiry"][keep]):
                ax.text(n - 0.35, i, f"expires at {e}" if e <= n else "stays", va="center", fontsize=10)
    axes[0].set_ylabel("query: token, position p, slot", fontsize=11)
    handles = [Patch(facecolor=c, edgecolor=PALETTE["grey"]) for c in (PALETTE["sky"], "white")]
    labels = ["the query sees the key", "hidden from it"]
    made.legend(handles, labels, loc="outside lower center", ncols=2)
    return made


def slots_needed(item: Mapping[str, Any]) -> Figure:
    """Slots of the random trajectories of the comparison, Algorithm A against the trie."""
    slots = item["details"]["slots"]
    made, ax = figure(height=2.3)
    names = list(slots)
    ax.barh(names, [slots[n] for n in names], color=[PALETTE["orange"], PALETTE["blue"]])
    for i, n in enumerate(names):
        ax.text(slots[n], i, f" {slots[n]:,}", va="center")
    ax.set_xlabel("slots for the same trajectories (fewer is cheaper)")
    ax.set_xlim(0, 1.15 * max(slots.values()))
    most, least = max(slots, key=slots.__getitem__), min(slots, key=slots.__getitem__)
    headline(made, f"The {least} needs {100 * slots[least] / slots[most]:.0f} % of the slots of {most}")
    return made

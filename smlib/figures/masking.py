"""Figure 2: the layouts of one trajectory, drawn from the computed arrays."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from smlib.figures.style import PALETTE, figure


def layouts(item: Mapping[str, Any]) -> Figure:
    """The masks of Algorithm A and of the trie side by side: a filled square where the row's slot sees the column's."""
    shown = item["details"]["layouts"]
    made, axes = figure(1, 2, height=4.6, width=9.0)
    for ax, title in zip(axes, ("Algorithm A", "trie"), strict=True):
        part = shown[title]
        keep = slice(0, -1)  # the terminal state of <eos> is left out, as in the paper's figure
        mask = np.array(part["mask"])[keep, keep]
        ax.imshow(mask, cmap=ListedColormap(["white", PALETTE["sky"]]), vmin=0, vmax=1)
        n = mask.shape[0]
        labels = [f"{t}  p={p}" for t, p in zip(part["inputs"][keep], part["positions"][keep], strict=True)]
        ax.set_xticks(range(n), part["inputs"][keep], rotation=60, ha="right")
        ax.set_yticks(range(n), labels)
        ax.set_xticks(np.arange(-0.5, n), minor=True)
        ax.set_yticks(np.arange(-0.5, n), minor=True)
        ax.grid(False)
        ax.grid(True, which="minor", color=PALETTE["grey"], lw=0.8, alpha=1.0)
        ax.tick_params(which="minor", length=0)
        ax.set_title(
            "Algorithm A (the paper): copies \u201care\u201d" if title == "Algorithm A" else "trie: one slot a token"
        )
        if "expiry" in part:
            for i, e in enumerate(part["expiry"][keep]):
                ax.text(n - 0.35, i, f"expires at {e}" if e <= n else "stays", va="center", fontsize=10)
    return made


def slots_needed(item: Mapping[str, Any]) -> Figure:
    """Slots of the random trajectories of the comparison, Algorithm A against the trie."""
    slots = item["details"]["slots"]
    made, ax = figure(height=1.9)
    names = list(slots)
    ax.barh(names, [slots[n] for n in names], color=[PALETTE["orange"], PALETTE["blue"]])
    for i, n in enumerate(names):
        ax.text(slots[n], i, f" {slots[n]:,}", va="center")
    ax.set_xlabel("slots for the same trajectories (fewer is cheaper)")
    ax.set_xlim(0, 1.15 * max(slots.values()))
    return made

"""The tree of strings of a small edit MDP, with what each writer visits as the size of a node."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from smlib.paper.figures.style import PALETTE, figure
from smlib.paper.figures.words import OWN

LARGEST = 2_600.0
"""Area of a node that has all of the occupancy, in square points."""


def visits(
    strings: Sequence[Sequence[int]],
    names: Sequence[str],
    writers: Mapping[str, NDArray[np.float64]],
    known: Sequence[int],
) -> Figure:
    """One panel a writer: every string is a node, its area the share of the writer's time that is spent there.

    Args:
        strings: the nodes, as token ids; the first is the empty one. names: of the tokens.
        writers: title -> share of each node, in the order of `strings`; the ends of a string count as the string.
        known: indices of the nodes that the expert visits; the others are drawn in another colour, and hatched.
    """
    places = _places(strings)
    made, axes = figure(1, len(writers), height=3.8, width=3.2 * len(writers), squeeze=False)
    for ax, (title, shares) in zip(axes[0], writers.items(), strict=True):
        for string in strings[1:]:
            (x, y), (px, py) = places[tuple(string)], places[tuple(string[:-1])]
            ax.plot([px, x], [py, y], color=PALETTE["grey"], linewidth=1, zorder=1)
        for i, (string, share) in enumerate(zip(strings, shares, strict=True)):
            x, y = places[tuple(string)]
            inside = i in known
            ax.scatter(
                x,
                y,
                s=LARGEST * share,
                facecolor=PALETTE["sky"] if inside else PALETTE["vermilion"],
                edgecolor="black",
                hatch=None if inside else "////",
                zorder=2,
            )
            text = " ".join(names[token] for token in string) or "start"
            ax.text(x, y - 0.33, f"{text}\n{share:.2f}", ha="center", va="top", fontsize=11)
        off = sum(share for i, share in enumerate(shares) if i not in known)
        ax.set_title(f"{title}\noff the expert's paths: {off:.2f}", fontsize=12)
        ax.set(xlim=(-0.6, max(x for x, _ in places.values()) + 0.6), ylim=(-0.95, max(len(s) for s in strings) + 0.4))
        ax.axis("off")
    made.suptitle("A clone leaves the expert's paths; with a key that deletes it comes back", fontweight="bold")
    setattr(made, OWN, alt_text(writers, known))
    return made


def alt_text(writers: Mapping[str, NDArray[np.float64]], known: Sequence[int]) -> str:
    """The figure in words."""
    shares = [
        f"{title}: {sum(share for i, share in enumerate(values) if i not in known):.2f} of the time off the paths"
        for title, values in writers.items()
    ]
    return "Trees of strings, a node's area its share of the time. " + "; ".join(shares) + "."


def _places(strings: Sequence[Sequence[int]]) -> dict[tuple[int, ...], tuple[float, float]]:
    """Where the nodes are: the start on top, the longest strings in a row below, a parent above its children."""
    deepest = max(len(string) for string in strings)
    leaves = sorted(tuple(string) for string in strings if len(string) == deepest)
    found: dict[tuple[int, ...], tuple[float, float]] = {leaf: (float(i), 0.0) for i, leaf in enumerate(leaves)}
    for depth in range(deepest - 1, -1, -1):
        for string in {tuple(s) for s in strings if len(s) == depth}:
            below = [found[child] for child in found if len(child) == depth + 1 and child[:depth] == string]
            found[string] = (sum(x for x, _ in below) / len(below), float(deepest - depth))
    return found

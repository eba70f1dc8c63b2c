"""The picture of `00_overview`: how the chance of a faultless sequence falls with its length."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, figure, headline, readable


def compounding(lengths: Sequence[int] | np.ndarray, curves: Mapping[str, np.ndarray], epsilon: float) -> Figure:
    """P(the sequence of length n is still in the data) against n, a curve for each probability of a backspace.

    epsilon, the error per token that all curves share, goes into the title.
    """
    made, axes = figure(height=4.0)
    colours = (PALETTE["vermilion"], PALETTE["orange"], PALETTE["green"], PALETTE["blue"])
    for (label, curve), colour, dashes in zip(curves.items(), colours, (":", "--", "-.", "-"), strict=False):
        axes.plot(lengths, curve, color=colour, linestyle=dashes)
        axes.annotate(
            label, (lengths[-1], curve[-1]), xytext=(6, 0), textcoords="offset points", va="center",
            color=readable(colour),
        )  # fmt: skip
    axes.set(xlabel="length n of the sequence", ylabel="P(in the data)", ylim=(0, 1), xlim=(0, lengths[-1] * 1.22))
    axes.set_title(f"an error rate of ε = {epsilon:g}")
    (worst, low), *_, (best, high) = curves.items()
    headline(
        made,
        f"Of texts of {lengths[-1]} tokens {100 * low[-1]:.0f} % are without a wrong one where none is deleted "
        f"({worst}), {100 * high[-1]:.0f} % where nearly all are ({best})",
    )
    return made

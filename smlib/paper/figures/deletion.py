"""What learning to delete costs and what edits gain, by how `<bkspc>` is trained; and decoupled deletion's rivals."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.families import DECODINGS
from smlib.paper.figures.style import PALETTE, counted, figure, headline

WAYS = {
    "shared": "in the same weights (BC)",
    "weight=0.25": "same weights, labels count a quarter",
    "left out": "same weights, labels left out",
    "own head": "a head of its own, detached",
    "held row": "after writing: the row of <bkspc>",
    "held head": "after writing: a head of its own",
    "held adapters": "after writing: adapters of their own",
    "own network (bc)": "a network of its own (BC)",
    "own network (sm)": "a network of its own (SequenceMatch)",
    "own network (dagger)": "a network of its own (DAgger)",
    "closed form": "closed form, no training",
}
"""How `<bkspc>` is trained, in words."""

RULES = {"drawn": "drawn from P(<bkspc>)", "doubled": "P(<bkspc>) doubled", "threshold": "where P(<bkspc>) > ½"}
COLOURS = ("black", "green", "purple", "wine", "sky")
MARKERS = ("o", "s", "D", "^", "v")

Rows = Sequence[Mapping[str, Any]]


def cost_and_gain(rows: Rows) -> Figure:
    """Points lost by learning to delete, and points won by the edits, of each way of training; one colour a base.

    Args:
        rows: of `experiments.arithmetic.deletion_cost.study`, one at least.

    Raises:
        ValueError: no rows.
    """
    if not rows:
        raise ValueError("no run of the study is there: nothing to draw")
    ways = [way for way in WAYS if any(row["way"] == way for row in rows)]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    made, axes = figure(1, 2, height=2.1 + 0.45 * len(ways), width=9.0, sharey=True)
    seeds = counted(min(row["n_seeds"] for row in rows), "seed")
    titles = {"cost": "writing, lost to MLE", "gain": "won by edits"}
    for ax, (what, title) in zip(axes, titles.items(), strict=True):
        for n, shape in enumerate(shapes):
            style = {"color": PALETTE[COLOURS[n]], "marker": MARKERS[n], "linestyle": "none"}
            for row in rows:
                if row["shape"] != shape or what not in row:
                    continue
                at, found = ways.index(row["way"]) + 0.15 * (n - (len(shapes) - 1) / 2), row[what]
                value = 100 * found["difference"]
                ends = [[value - 100 * found["low"]], [100 * found["high"] - value]]
                ax.errorbar([value], [at], xerr=ends, **style)
            ax.plot([], [], label=f"{shape} (layers × width)", **style)
        ax.axvline(0.0, color=PALETTE["grey"], lw=1)
        ax.set_title(title, fontsize=12)
        ax.set_xlabel("points of accuracy")
    axes[0].set_yticks(range(len(ways)), [WAYS[way] for way in ways])
    axes[0].invert_yaxis()
    said = f"validation questions, 95 % intervals, at least {seeds}"
    if len(shapes) > 1:
        lines = axes[0].get_legend_handles_labels()
        made.legend(*lines, loc="outside lower center", ncols=3, title=said, title_fontsize=11)
    else:
        made.supxlabel(said, fontsize=11)
    headline(made, finding(rows))
    return made


def finding(rows: Rows) -> str:
    """The figure's title, of its first base: what edits win in the same weights, and in the best other way."""
    here = {row["way"]: row for row in rows if row["shape"] == rows[0]["shape"]}
    others = [row for way, row in here.items() if way != "shared"]
    wins = []
    if "shared" in here:
        gain, loss = (in_points(here["shared"][what]) for what in ("gain", "cost"))
        wins.append(f"{gain} points in the same weights, where the loss in writing is {loss},")
    if others:
        best = max(others, key=lambda row: float(row["gain"]["difference"]))
        wins.append(f"{in_points(best['gain'])} by {WAYS[best['way']]}")
    return f"A base of {rows[0]['shape']}: edits win {' and '.join(wins).removesuffix(',')}"


def decoupled_table(rows: Rows) -> pd.DataFrame:
    """Accuracy of decoupled deletion at temperature 1, and its lead over each rule for the writer alone, in points.

    Args:
        rows: of `experiments.arithmetic.decoupled.study`.
    """
    made: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        leads = {f"over {DECODINGS[rule]}": in_points(test) for rule, test in row["over"].items()}
        made[row["deleter"].upper(), RULES[row["rule"]]] = {
            "seeds": str(row["n_seeds"]),
            "accuracy": f"{row['accuracy']['value']:.3f}",
            **leads,
        }
    table = pd.DataFrame.from_dict(made, orient="index")
    if made:
        table.index = pd.MultiIndex.from_tuples(made, names=["deletes", "its deletions"])
    return table


def confirmation_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """Each way's accuracy on the test questions, and how far decoupled deletion is ahead of it, in points.

    Args:
        study: of `experiments.arithmetic.decoupled_confirmation.study`.
    """
    claims = {claim["over"]: claim for claim in study["claims"]}
    names = {title: name for name, title in study["rivals"].items()}
    return pd.DataFrame.from_dict(
        {
            title: {
                "its accuracy": f"{study['accuracy'][names[title]]['value']:.3f}",
                "decoupled deletion less that": in_points(claim),
                "p (Holm)": f"{claim['p_holm']:.2g}",
                "ahead": claim.get("outcome", "undecided"),
            }
            for title, claim in claims.items()
        },
        orient="index",
    )


def in_points(test: Mapping[str, Any]) -> str:
    """`+4.2 (+2.7 to +5.8)`: a paired difference with its interval, in points, as a table or a title has it."""
    low, middle, high = (100 * test[key] for key in ("low", "difference", "high"))
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"

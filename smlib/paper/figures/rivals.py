"""Rivals of deletion side by side, and how late a wrong digit becomes visible to a policy."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.deletion import in_points
from smlib.paper.figures.families import DECODINGS, ends
from smlib.paper.figures.style import PALETTE, counted, figure, headline, method_style

WAYS = {
    "mle": "MLE",
    "bc": "BC",
    "sm": "SequenceMatch",
    "soft": "soft deletion",
    "masked": "masked errors",
    "exact-tv": "exact critic, total variation",
    "exact-chi2": "exact critic, χ²-mixture",
    "exact-tv-noise": "exact critic, total variation, noisy rollouts",
    "exact-tv-append": "exact critic, total variation, no <bkspc>",
    "exact-chi2-append": "exact critic, χ²-mixture, no <bkspc>",
}
"""Name in `experiments.arithmetic.rivals_of_deletion` -> how it is trained, in words."""

LATE = {"dagger": "DAgger", "bc-burst": "BC, bursts of 3"}
"""More names, of `experiments.arithmetic.late_mistakes`."""

ORDERS = {"most_first": "most significant digit first", "least_first": "least significant digit first"}
KINDS = {"any": "another digit", "carry": "one more or less"}
FARTHEST = 5
"""Distances from the wrong digit that are drawn: few answers are longer."""

Study = Mapping[str, Any]


def rule(name: str) -> str:
    """A decoding rule in words: `delete_0.1` is `deletes below p = 0.1`."""
    for start, word in (("delete_", "deletes below p = "), ("resample_", "draws again below p = ")):
        if name.startswith(start):
            return word + name.removeprefix(start)
    return DECODINGS.get(name, name)


def answered(study: Study) -> list[Mapping[str, Any]]:
    """The rows of a study that were run."""
    return [row for row in study["rows"] if row["status"] == "run"]


def accuracy_and_recovery(study: Study) -> Figure:
    """Accuracy of each way under each rule, and the share of right answers after one to four wrong tokens.

    Args:
        study: of `experiments.arithmetic.rivals_of_deletion.latest`, with one run at least.

    Raises:
        ValueError: no run.
    """
    # Greedy answers of the others and drawing again, which answers what deleting answers, stand in the table.
    rows = [
        row
        for row in answered(study)
        if not row["decoding"].startswith("resample_") and (row["decoding"] != "greedy" or row["way"] == "mle")
    ]
    if not rows:
        raise ValueError("no run of the study is there: nothing to draw")
    made, axes = figure(1, 2, height=1.8 + 0.34 * len(rows), width=10.0, sharey=True)
    greys = dict(zip(("1", "2", "3", "4"), ("#000000", "#505050", "#808080", "#a8a8a8"), strict=True))  # no method's
    markers = dict(zip(greys, "osD^", strict=True))
    drawn: set[str] = set()
    for place, row in enumerate(rows):
        found = row["accuracy"]
        style = method_style(row["way"]) if row["way"] in ("mle", "bc", "sm") else None
        look = {"color": style.color, "marker": style.marker} if style else {"color": PALETTE["grey"], "marker": "s"}
        axes[0].errorbar([found["value"]], [place], xerr=ends(found), linestyle="none", **look)
        for depth, share in row.get("recovery", {}).items():
            label = f"{counted(int(depth), 'wrong token')}" if depth not in drawn else None
            drawn.add(depth)
            axes[1].plot([share["correct"]], [place], linestyle="none", color=greys[depth],
                         marker=markers[depth], label=label)  # fmt: skip
    writer = next((row for row in rows if row["way"] == "mle" and row["decoding"] == "t1"), None)
    if writer is not None:
        axes[0].axvline(writer["accuracy"]["value"], color=PALETTE["black"], linestyle=":", lw=1)
    axes[0].set_yticks(range(len(rows)), [named(row) for row in rows])
    axes[0].invert_yaxis()
    axes[0].set_xlabel("accuracy; bars are 95 % intervals")
    axes[1].set_xlabel("right answer after wrong tokens")
    axes[1].set_xlim(-0.03, 1.03)
    axes[1].legend(loc="best", fontsize=9)
    headline(made, finding(study))
    return made


def named(row: Mapping[str, Any]) -> str:
    """A row's way, its rule where that is not temperature 1, and its seeds."""
    by = "" if row["decoding"] == "t1" else f", {rule(row['decoding'])}"
    return f"{WAYS[row['way']]}{by} ({row['n_seeds']})"


def finding(study: Study) -> str:
    """The title: what each way answers at temperature 1. Which are told apart is for the paired tests to say."""
    rows = [row for row in answered(study) if row["decoding"] == "t1"]
    each = [f"{WAYS[row['way']]} {row['accuracy']['value']:.3f}" for row in rows]
    return f"At temperature 1: {', '.join(each)} (validation questions; seeds in brackets)"


def table(study: Study) -> pd.DataFrame:
    """Every way and rule: accuracy, lead over MLE in points, recovery, tokens and forward passes an answer.

    Args:
        study: of `experiments.arithmetic.rivals_of_deletion.latest`. A way without a run has `not run` in its row.
    """
    made: dict[tuple[str, str], dict[str, str]] = {}
    for row in study["rows"]:
        key = WAYS[row["way"]], rule(row["decoding"])
        if row["status"] != "run":
            made[key] = {"seeds": "not run"}
            continue
        after = row.get("recovery", {})
        made[key] = {
            "seeds": str(row["n_seeds"]),
            "accuracy": f"{row['accuracy']['value']:.3f}",
            "over MLE, points": in_points(row["over_mle"]) if "over_mle" in row else "",
            **{
                f"{depth} wrong: all deleted / right": f"{found['all_removed']:.2f} / {found['correct']:.2f}"
                for depth, found in after.items()
            },
            "tokens": f"{row['tokens']:.1f}",
            "forward passes": f"{row['passes']:.1f}",
        }
    shown = pd.DataFrame.from_dict(made, orient="index").fillna("")
    shown.index = pd.MultiIndex.from_tuples(list(made), names=["trained as", "answers by"])
    return shown


def visible(study: Study, deletes: str = "bc", writes: str = "mle") -> Figure:
    """What a policy notices of a wrong digit, by how many tokens it has written since: 2 x 2 panels.

    Above, P(`<bkspc>`) of the policy `deletes`; below, the probability that `writes` gives the right next token.
    Dotted: the same states without the mistake. A column a kind of mistake, a colour an order of the digits.

    Args:
        study: of `experiments.arithmetic.late_mistakes.latest`.

    Raises:
        ValueError: no run of either policy.
    """
    rows = {(row["order"], row["method"]): row for row in answered(study)}
    if not any((order, name) in rows for order in ORDERS for name in (deletes, writes)):
        raise ValueError(f"no run of {deletes} or {writes} is there: nothing to draw")
    made, axes = figure(2, 2, height=5.6, width=9.0, sharex=True, sharey="row")
    panels = ((deletes, "bkspc", "P(<bkspc>), {}"), (writes, "correct", "P(right next token), {}"))
    for line, (name, what, title) in enumerate(panels):
        for column, (kind, said) in enumerate(KINDS.items()):
            ax = axes[line, column]
            for (order, words), colour, marker in zip(ORDERS.items(), ("green", "purple"), "os", strict=True):
                if (order, name) not in rows:
                    continue
                found = [r for r in rows[order, name]["visible"][kind] if r["distance"] <= FARTHEST]
                at = [r["distance"] for r in found]
                style = {"color": PALETTE[colour], "marker": marker}
                ax.plot(at, [r[what] for r in found], label=words, **style)
                ax.plot(at, [r[f"{what}_clean"] for r in found], linestyle=":", fillstyle="none", **style)
            ax.set_ylim(-0.03, 1.03)
            if line == 0:
                ax.set_title(f"wrong digit: {said}", fontsize=12)
            else:
                ax.set_xlabel("tokens after the wrong digit")
                ax.set_xticks(range(1, FARTHEST + 1))
        axes[line, 0].set_ylabel(title.format(method_style(name).label))
    seen = next(ax for ax in axes.flat if ax.get_legend_handles_labels()[0])
    made.legend(*seen.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    headline(made, noticed(study, deletes))
    return made


def noticed(study: Study, deletes: str = "bc") -> str:
    """The title: how often a wrong digit is deleted right after it, and one token later, in each order."""
    said: list[str] = []
    for row in answered(study):
        if row["method"] != deletes:
            continue
        at = {kind: {r["distance"]: r["bkspc"] for r in row["visible"][kind]} for kind in KINDS}
        said.append(
            f"{ORDERS[row['order']]}: {at['any'][1]:.2f} for any digit and {at['carry'][1]:.2f} for one more or less"
        )
    if not said:
        return "What is right after a wrong digit, seen by a model that cannot delete"
    return f"P(<bkspc>) right after a wrong digit, {'; '.join(said)}"


def orders_table(study: Study) -> pd.DataFrame:
    """Accuracy of each method in each order of the digits, `not run` where there is no run."""
    made: dict[str, dict[str, str]] = {}
    rows: Sequence[Mapping[str, Any]] = study["rows"]
    for row in rows:
        shown = "not run"
        if row["status"] == "run":
            shown = f"{row['accuracy']['value']:.3f} ({counted(row['n_seeds'], 'seed')})"
        made.setdefault((WAYS | LATE)[row["method"]], {})[ORDERS[row["order"]]] = shown
    return pd.DataFrame.from_dict(made, orient="index").rename_axis(index="method")

"""Methods in rows, grouped by what they have in common: accuracy under a decoding rule, recovery after wrong tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, MethodStyle, counted, figure, headline, method_style

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "cloned": ("mle", "bc", "bc-burst=4", "iqlearn"),
    "SequenceMatch": ("sm-default", "sm-burst=4", "sm-rollout_noise=0.1", "sm-rollout_burst=4"),
    "DAgger": ("dagger", "dagger-rollout_noise=0.1", "dagger-rollout_burst=4"),
    "a critic, or none": ("gail", "direct", "direct-tv"),
}
"""The rows of a figure, top to bottom; what is named nowhere comes last, as `others`."""
DECODINGS = {
    "t1": "temperature 1",
    "greedy": "greedy",
    "greedy_exclude": "greedy, no repeats",
    "top_p": "top-p 0.9",
    "min_p": "min-p 0.1",
    "no_backspace": "temperature 1, <bkspc> forbidden",
    "truncation": "truncation, p²/(p + ηu)",
}
PANELS = {"t1": "temperature 1", "top_p": "top-p 0.9", "greedy": "greedy", "no_backspace": "<bkspc> forbidden"}
"""The rules that are drawn, a panel each; the others stand in the table."""
RATES = {
    "first_backspace": "first action is <bkspc>",
    "all_removed": "all wrong tokens deleted",
    "correct": "right answer",
}


def ends(record: Mapping[str, Any]) -> list[list[float]]:
    """Distances to the ends of an interval, [2][1]."""
    return [[record["value"] - record["low"]], [record["high"] - record["value"]]]


def look(name: str) -> MethodStyle:
    """The style of the method whose variant a name is: `sm-burst=4` looks as SequenceMatch does everywhere."""
    base = name if name in ("direct", "direct-tv") else name.partition("-")[0]
    known = ("mle", "bc", "sm", "dagger", "iqlearn", "gail", "direct", "direct-tv")
    return method_style(base) if base in known else MethodStyle(name, PALETTE["grey"], ".", "-")


def grouped(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """The rows of each family that has any, in its order."""
    by_name = {row["name"]: row for row in rows}
    found = {title: [by_name[name] for name in names if name in by_name] for title, names in FAMILIES.items()}
    placed = {name for names in FAMILIES.values() for name in names}
    found["others"] = [row for row in rows if row["name"] not in placed]
    return {title: group for title, group in found.items() if group}


def _rows(rows: Sequence[Mapping[str, Any]], panels: int) -> tuple[Figure, Any, dict[str, int]]:
    """A figure with a row a method and room between families, and the place of each row by its name."""
    places: dict[str, int] = {}
    labels: list[str] = []
    separators: list[float] = []
    for number, group in enumerate(grouped(rows).values()):
        if number:
            separators.append(len(labels) - 0.5)
        for row in group:
            places[row["name"]] = len(labels)
            labels.append(f"{row['title']} ({counted(row['n_seeds'], 'seed')})" if "n_seeds" in row else row["title"])
    made, axes = figure(1, panels, height=1.9 + 0.36 * len(labels), width=10.0, sharey=True, squeeze=False)
    for axis in axes[0]:
        for place in separators:
            axis.axhline(place, color=PALETTE["black"], linewidth=0.8)
    axes[0][0].set_yticks(range(len(labels)), labels, fontsize=10)
    axes[0][0].set_ylim(len(labels) - 0.5, -0.5)
    return made, axes[0], places


def methods(study: Mapping[str, Any]) -> Figure:
    """Validation accuracy of every method, a panel a decoding rule, 95 % intervals; hollow: one seed; dotted: MLE."""
    rows = study["methods"]
    rules = [rule for rule in PANELS if any(rule in row["accuracy"] for row in rows)]
    made, axes, places = _rows(rows, len(rules))
    mle = next((row for row in rows if row["name"] == "mle"), None)
    for axis, rule in zip(axes, rules, strict=True):
        if mle is not None:  # without backspaces forbidding them changes nothing
            reference = mle["accuracy"].get(rule, mle["accuracy"]["t1"])["value"]
            axis.axvline(reference, color=PALETTE["black"], linestyle=":", linewidth=1.2)
        for row in rows:
            if rule in row["accuracy"]:
                _mark(axis, row["accuracy"][rule], places[row["name"]], row["name"], hollow=row["n_seeds"] == 1)
        axis.set_title(PANELS[rule], fontsize=11)
        axis.set_xlabel("accuracy")
        axis.locator_params(axis="x", nbins=4)
    for axis in axes[1:]:
        axis.sharex(axes[0])
    for face, label in ((PALETTE["black"], "several seeds"), ("white", "one seed")):
        axes[0].plot([], [], color=PALETTE["black"], marker="o", markerfacecolor=face, linestyle="none", label=label)
    axes[0].plot([], [], color=PALETTE["black"], linestyle=":", linewidth=1.2, label="MLE")
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    if mle is not None:
        headline(made, _against(mle, [row for row in rows if row is not mle]))
    return made


def _against(mle: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """How many intervals lie above and below MLE's value at temperature 1."""
    value = mle["accuracy"]["t1"]["value"]
    found = [row["accuracy"]["t1"] for row in others if "t1" in row["accuracy"]]
    above, below = sum(f["low"] > value for f in found), sum(f["high"] < value for f in found)
    return (
        f"At temperature 1 the intervals of {below} of {len(found)} other methods lie below MLE's {value:.3f}, "
        f"of {above or 'none'} above it"
    )


def _mark(axis: Axes, record: Mapping[str, Any], y: float, name: str, hollow: bool) -> None:
    style = look(name)
    axis.errorbar(
        record["value"], y, xerr=ends(record), color=style.color, marker=style.marker, linestyle="none",
        markerfacecolor="white" if hollow else style.color,
    )  # fmt: skip


def recovery(study: Mapping[str, Any]) -> Figure:
    """What follows wrong tokens: the first action, whether all go, whether the answer is right; a row a method.

    Hollow and thin: after the fewest wrong tokens; filled: after the most.
    """
    rows = [row for row in study["methods"] if row["recovery"]]
    made, axes, places = _rows(rows, len(RATES))
    depths = sorted({int(depth) for row in rows for depth in row["recovery"]})
    few, many = str(depths[0]), str(depths[-1])
    for axis, (what, title) in zip(axes, RATES.items(), strict=True):
        for row in rows:
            y, found = places[row["name"]], row["recovery"]
            if few in found and many in found:
                pair = [found[few][what]["value"], found[many][what]["value"]]
                axis.plot(pair, [y - 0.14, y + 0.14], color=look(row["name"]).color, linewidth=1, alpha=0.6)
            for depth, shift in ((few, -0.14), (many, 0.14)):
                if depth in found:
                    _mark(axis, found[depth][what], y + shift, row["name"], hollow=depth == few)
        axis.set_title(title, fontsize=11)
        axis.set(xlim=(0, 1.02), xlabel="share of prompts")
    for face, wrong in (("white", depths[0]), (PALETTE["black"], depths[-1])):
        label = f"after {counted(wrong, 'wrong token')}"
        axes[0].plot([], [], color=PALETTE["black"], marker="o", markerfacecolor=face, linestyle="none", label=label)
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    shares = {row["name"]: row["recovery"][many]["all_removed"]["value"] for row in rows if many in row["recovery"]}
    best = max(shares, key=lambda name: shares[name])
    title = next(row["title"] for row in rows if row["name"] == best)
    beside = f"; BC: {100 * shares['bc']:.0f} %" if "bc" in shares and best != "bc" else ""
    headline(made, f"{title} deletes all of {many} wrong tokens most often, in {100 * shares[best]:.0f} %{beside}")
    return made

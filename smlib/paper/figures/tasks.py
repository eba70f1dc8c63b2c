"""Tables 5 to 7 as pictures and tables: MLE, BC and SequenceMatch beside the paper, and the tests between them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, counted, figure, headline, method_style

TITLES = {"mle": "MLE", "bc": "BC", "sm": "SM"}


def _ends(cell: Mapping[str, Any]) -> list[list[float]]:
    """Distances to the ends of an interval, [2][1]; zero where an end is open."""
    value = cell["value"]
    low, high = (value if cell[end] is None else cell[end] for end in ("low", "high"))
    return [[value - low], [high - value]]


def methods(study: Mapping[str, Any], quantity: str = "accuracy") -> Figure:
    """Our values beside the paper's, a group a noise level. Filled: ours, 95 % interval; hollow: as the paper prints.

    Both panels have one range where it shows both; where the values lie too far apart (other models, other data), two
    ranges of one length, so that a difference is as high in one panel as in the other.
    """
    cells = study["cells"]
    levels = sorted({cell["level"] for cell in cells})
    made, (left, right) = figure(1, 2, height=3.4, width=8.0)
    for cell in cells:
        style = method_style(cell["method"])
        x = levels.index(cell["level"]) + 0.18 * (list(TITLES).index(cell["method"]) - 1)
        drawn = {"color": style.color, "marker": style.marker, "linestyle": "none", "markersize": 7}
        first = cell["level"] == levels[0]
        left.errorbar(x, cell["value"], yerr=_ends(cell), label=style.label if first else None, **drawn)
        if cell["paper"] is not None:
            right.errorbar(x, cell["paper"], yerr=cell["paper_error"], markerfacecolor="white", **drawn)
    for axis, title in ((left, "rebuilt, 95 % intervals"), (right, "the paper, its error bars")):
        axis.set_xticks(range(len(levels)), [f"η = {level:g}" for level in levels])
        axis.set(ylabel=quantity, xlim=(-0.5, len(levels) - 0.5))
        axis.set_title(title, fontsize=11)
    _ranges(left, right)
    headline(made, judged(study))
    made.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


def _ranges(left: Axes, right: Axes) -> None:
    """One range for both panels, unless it would be over three times as long as either; then two of one length."""
    own = [left.get_ylim(), right.get_ylim()]
    longest = max(high - low for low, high in own)
    low, high = min(low for low, _ in own), max(high for _, high in own)
    for axis, (bottom, top) in zip((left, right), own, strict=True):
        if high - low <= 3 * longest:
            axis.set_ylim(low, high)
        else:
            axis.set_ylim((bottom + top - longest) / 2, (bottom + top + longest) / 2)


def judged(study: Mapping[str, Any]) -> str:
    """How many of the paper's claims were judged how, in one sentence."""
    found = Counter(c["outcome"] for c in study["comparisons"])
    said = ", ".join(f"{n} {outcome}" for outcome, n in found.most_common())
    return f"Of the paper's {len(study['comparisons'])} claims: {said}" if said else "No claim of the paper to judge"


def differences(study: Mapping[str, Any], quantity: str = "accuracy") -> Figure:
    """Every paired difference with its 95 % interval, filled where that excludes 0; beside it the paper's."""
    tests = study["tests"]
    paper = {(cell["method"], cell["level"]): cell["paper"] for cell in study["cells"]}
    made, axis = figure(height=1.4 + 0.4 * len(tests), width=7.5)
    stroke = {"color": PALETTE["grey"], "marker": "|", "markersize": 10, "markeredgewidth": 2, "linestyle": "none"}
    for y, test in enumerate(tests):
        sure = test["low"] > 0 or test["high"] < 0
        axis.errorbar(
            test["difference"], y,
            xerr=[[test["difference"] - test["low"]], [test["high"] - test["difference"]]],
            color=method_style(test["first"]).color, marker=method_style(test["first"]).marker,
            markerfacecolor=None if sure else "white", linestyle="none", markersize=7,
        )  # fmt: skip
        first, second = (paper.get((test[side], test["level"])) for side in ("first", "second"))
        if first is not None and second is not None:
            axis.plot(first - second, y + 0.28, **stroke)
    axis.axvline(0, color=PALETTE["black"], linewidth=1)
    titles = {method: method_style(method).label for method in TITLES}
    names = [f"{titles[t['first']]} − {titles[t['second']]}, η = {t['level']:g}" for t in tests]
    for face, label in ((PALETTE["black"], "0 excluded"), ("white", "0 not excluded")):
        axis.plot([], [], color=PALETTE["black"], marker="o", markerfacecolor=face, linestyle="none", label=label)
    axis.plot([], [], **stroke, label="the paper's values, their difference")
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=10, columnspacing=1.0)
    axis.set_yticks(range(len(tests)), names)
    axis.set_ylim(len(tests) - 0.5, -0.5)
    axis.set(xlabel=f"difference in {quantity}, paired")
    sure_ones = sum(test["low"] > 0 or test["high"] < 0 for test in tests)
    headline(made, f"{sure_ones} of {counted(len(tests), 'paired difference')} can be told from 0")
    return made


def sizes(study: Mapping[str, Any]) -> Figure:
    """Accuracy against the number of training questions, in equally many steps; hollow: one seed.

    Since the steps are equally many, a tenth of the questions is read ten times as often. The ticks say so.
    """
    rows = study["sizes"]
    made, axis = figure(height=4.0, width=6.5)
    seeds = {r["n_train"]: r["n_seeds"] for r in rows}
    for method, shift in zip(TITLES, (0.93, 1.0, 1.07), strict=True):
        for row in sorted((r for r in rows if r["method"] == method), key=lambda r: r["n_train"]):
            style = {**method_style(method).kwargs(), "linestyle": "none"}
            style["label"] = style["label"] if row["n_train"] == max(seeds) else None
            face = style["color"] if row["n_seeds"] > 1 else "white"
            axis.errorbar(shift * row["n_train"], row["value"], yerr=_ends(row), markerfacecolor=face, **style)
        chosen = sorted((r for r in rows if r["method"] == method), key=lambda r: r["n_train"])
        line = method_style(method)
        axis.plot(
            [shift * r["n_train"] for r in chosen], [r["value"] for r in chosen],
            color=line.color, linestyle=line.linestyle, linewidth=1.2,
        )  # fmt: skip
    axis.set(xscale="log", xlabel="training questions, equally many steps", ylabel="accuracy")
    most = max(seeds)
    axis.set_xticks(
        list(seeds),
        [
            f"{size:,}\n{counted(n, 'seed')}" + (f"\nread {most / size:g} × as often" if size < most else "")
            for size, n in seeds.items()
        ],
    )
    axis.set_xlim(0.6 * min(seeds), 1.6 * most)
    axis.minorticks_off()
    headline(made, _growth(rows))
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


def _growth(rows: Sequence[Mapping[str, Any]]) -> str:
    """What more questions do when the steps stay the same, and whether the intervals tell."""
    least, most = min(r["n_train"] for r in rows), max(r["n_train"] for r in rows)
    if least == most:
        return f"One number of questions, {most:,}: nothing to compare"
    cells = {(r["method"], r["n_train"]): r for r in rows}
    pairs = {method: (cells[method, least], cells[method, most]) for method in TITLES}
    said = ", ".join(f"{method_style(m).label} {a['value']:.3f} to {b['value']:.3f}" for m, (a, b) in pairs.items())
    closed = [(a, b) for a, b in pairs.values() if None not in (a["low"], a["high"], b["low"], b["high"])]
    apart = sum(a["low"] > b["high"] or b["low"] > a["high"] for a, b in closed)
    told = f"the intervals of {apart} of {len(pairs)} are apart" if apart else "but all the intervals overlap"
    return f"{most / least:g} times the questions in as many steps: {said}; {told}"


def cell_table(study: Mapping[str, Any], digits: int = 3) -> pd.DataFrame:
    """The table as the paper prints it, ours and the paper's in each cell."""
    cells = {(c["method"], c["level"]): c for c in study["cells"]}
    levels = sorted({level for _, level in cells})
    columns = {}
    for level in levels:
        chosen = [cells[method, level] for method in TITLES]
        columns[f"ours, η = {level:g}"] = [_with_error(c["value"], _half(c), digits) for c in chosen]
        columns[f"paper, η = {level:g}"] = [_with_error(c["paper"], c["paper_error"], None) for c in chosen]
    return pd.DataFrame(columns, index=pd.Index(list(TITLES.values()), name="method"))


def pair_table(study: Mapping[str, Any], digits: int = 3) -> pd.DataFrame:
    """Paired differences, their intervals and p-values (not corrected)."""
    tests = study["tests"]
    return pd.DataFrame(
        {
            "difference": [f"{t['difference']:+.{digits}f}" for t in tests],
            "95 % interval": [f"{t['low']:+.{digits}f} to {t['high']:+.{digits}f}" for t in tests],
            "p": [f"{t['p_value']:.3g}" for t in tests],
            "test": [t["method"] for t in tests],
        },
        index=pd.Index(
            [f"{TITLES[t['first']]} − {TITLES[t['second']]}, η = {t['level']:g}" for t in tests], name="pair"
        ),
    )


def greedy_table(study: Mapping[str, Any], digits: int = 3) -> pd.DataFrame:
    """Greedy decoding, a line a method and a column a noise level, with 95 % intervals."""
    cells = {(cell["method"], cell["level"]): cell for cell in study["greedy"]}
    levels = sorted({level for _, level in cells})
    columns = {
        f"greedy, η = {level:g}": [
            _with_error(cells[method, level]["value"], _half(cells[method, level]), digits) for method in TITLES
        ]
        for level in levels
    }
    return pd.DataFrame(columns, index=pd.Index(list(TITLES.values()), name="method"))


def claim_table(comparisons: Sequence[Mapping[str, Any]], digits: int = 3) -> pd.DataFrame:
    """The comparisons that a verdict rests on, with Holm's p-values and outcomes."""
    return pd.DataFrame(
        {
            "paper": ["—" if c["paper"] is None else f"{c['paper']:+g}" for c in comparisons],
            "ours": [f"{c['difference']:+.{digits}f}" for c in comparisons],
            "p": [f"{c['p_value']:.3g}" for c in comparisons],
            "p, Holm": [f"{c['p_holm']:.3g}" for c in comparisons],
            "outcome": [c["outcome"] for c in comparisons],
        },
        index=pd.Index([c["claim"] for c in comparisons], name="claim of the paper"),
    )


def claims_of(study: Mapping[str, Any], digits: int = 3) -> pd.DataFrame:
    """The comparisons of a study as a table."""
    return claim_table(study["comparisons"], digits)


def _half(cell: Mapping[str, Any]) -> float | None:
    if cell["low"] is None or cell["high"] is None:
        return None
    return float(max(cell["high"] - cell["value"], cell["value"] - cell["low"]))


def _with_error(value: float | None, error: float | None, digits: int | None) -> str:
    if value is None:
        return "—"
    shown = f"{value:g}" if digits is None else f"{value:.{digits}f}"
    if error is None:
        return shown
    return f"{shown} ± {error:g}" if digits is None else f"{shown} ± {error:.{digits}f}"


def edit_table(completions: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Translations with their edits in place, as the paper prints them."""
    columns = ["english", "written", "left", "reference"]
    rows = [[c["english"], "".join(c["actions"]), c["final"], c["reference"]] for c in completions]
    return pd.DataFrame(rows, columns=columns)

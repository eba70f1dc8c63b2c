"""The ablations in pictures: one small panel a sweep, the methods side by side, recovery after wrong tokens."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.families import DECODINGS, RATES, ends, methods, recovery
from smlib.paper.figures.style import PALETTE, counted, figure, headline, method_style
from smlib.paper.figures.words import MEANT

__all__ = [
    "DECODINGS", "DIRECT", "RATES", "direct", "direct_table", "finding_table", "method_table", "methods", "recovery",
    "regime_table", "regimes", "rivalry_table", "sweeps",
]  # fmt: skip


def sweeps(study: Mapping[str, Any], columns: int = 4) -> Figure:
    """Validation accuracy of each value, 95 % intervals; the default filled, BC and MLE as lines.

    The axis shows the values near BC, whose effects are small; what lies far below it is marked at the lower edge with
    an arrow and its value. A star: the paired difference from the default excludes 0. A panel and its BC are over the
    seeds that all its runs have, MLE is over all of its own.
    """
    found = study["sweeps"]
    lines = -(-len(found) // columns)
    made, axes = figure(lines, columns, height=1.6 + 2.0 * lines, width=10.0, sharey=True, squeeze=False)
    look = method_style("sm")
    point = {"color": look.color, "marker": look.marker, "linestyle": "none"}
    bc_line = {"color": method_style("bc").color, "linestyle": "--", "linewidth": 1.2}
    mle_line = {"color": method_style("mle").color, "linestyle": ":", "linewidth": 1.2}
    mle = study["reference"]["mle"]
    near = [p["accuracy"] for s in found for p in s["points"] if not _far(p["accuracy"], s["bc"])]
    lows, highs = ([r[end] for r in (*near, mle, *(s["bc"] for s in found))] for end in ("low", "high"))
    bottom, top = min(lows) - 0.03, max(highs) + 0.02
    for axis, sweep in zip(axes.flat, found, strict=False):
        bc = sweep["bc"]
        axis.axhspan(bc["low"], bc["high"], color=bc_line["color"], alpha=0.15, linewidth=0)
        axis.axhline(bc["value"], **bc_line)
        axis.axhline(mle["value"], **mle_line)
        for x, value in enumerate(sweep["points"]):
            record = value["accuracy"]
            if _far(record, bc):
                (mark,) = axis.plot(x, bottom + 0.012, color=look.color, marker="v", linestyle="none", clip_on=False)
                setattr(mark, MEANT, [(float(x), float(record["value"]))])
                axis.annotate(
                    f"{record['value']:.2f}{'*' if _sure(value) else ''}", (x, bottom + 0.03), ha="center", fontsize=10
                )
                continue
            face = look.color if value["default"] else "white"
            axis.errorbar(x, record["value"], yerr=ends(record), markerfacecolor=face, **point)
            if _sure(value):
                axis.annotate("*", (x, record["high"]), ha="center", va="bottom", fontsize=13)
        axis.set_xticks(range(len(sweep["points"])), [_tick(p["value"]) for p in sweep["points"]])
        axis.set_xlim(-0.5, len(sweep["points"]) - 0.5)
        axis.set_title(f"{sweep['title']}\n({counted(sweep['n_seeds'], 'seed')})", fontsize=10)
    axes[0][0].set_ylim(bottom, top)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("accuracy")
    first = axes[0][0]
    first.plot([], [], label="SequenceMatch, the default", **point)
    first.plot([], [], label="one setting changed", markerfacecolor="white", **point)
    first.plot([], [], color=look.color, marker="v", linestyle="none", label="below the axis, with its value")
    first.plot([], [], label="BC (shaded: its interval)", **bc_line)
    first.plot([], [], label="MLE", **mle_line)
    first.plot([], [], color="black", marker="$*$", linestyle="none", label="differs from the default, paired")
    made.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headline(made, _what_matters(found))
    return made


FAR = 0.2
"""So far below BC a value is off the axis: its distance would flatten all the others."""


def _far(record: Mapping[str, Any], bc: Mapping[str, Any]) -> bool:
    return bool(record["value"] < bc["value"] - FAR)


def _sure(point: Mapping[str, Any]) -> bool:
    """Whether a changed setting's paired difference from the default excludes 0."""
    return not point["default"] and "low" in point and (point["low"] > 0 or point["high"] < 0)


def _what_matters(found: Sequence[Mapping[str, Any]]) -> str:
    """The changed settings whose difference is sure, largest first, each with its difference."""
    changed = [(s["title"], p) for s in found for p in s["points"] if not p["default"]]
    sure = sorted((c for c in changed if _sure(c[1])), key=lambda c: -abs(c[1]["difference"]))
    named = ", ".join(f"{title} = {_tick(p['value'])} ({p['difference']:+.2f})" for title, p in sure[:5])
    more = f" and {len(sure) - 5} more" if len(sure) > 5 else ""
    share = f"{len(sure)} of {counted(len(changed), 'changed setting')}"
    return f"{share} differ from the default, each by itself: {named or 'none'}{more}"


def _tick(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def method_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """Accuracy by decoding, cost of a step, share of backspaces, and how often all of k wrong tokens are deleted."""
    rows = study["methods"]
    columns: dict[str, list[str]] = {"seeds": [str(row["n_seeds"]) for row in rows]}
    for decoding, title in DECODINGS.items():
        if any(decoding in row["accuracy"] for row in rows):
            columns[title] = [_shown(row["accuracy"].get(decoding)) for row in rows]
    columns["step / MLE's"] = [f"{row['cost']:.2f} ×" for row in rows]
    columns["<bkspc>"] = [f"{100 * row['backspace_rate']:.1f} %" for row in rows]
    for depth in sorted({d for row in rows for d in row["recovery"]}, key=int):
        columns[f"deletes {depth}"] = [_shown(row["recovery"].get(depth, {}).get("all_removed")) for row in rows]
    return pd.DataFrame(columns, index=pd.Index([row["title"] for row in rows], name="method"))


def rivalry_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """Differences between methods at temperature 1 and greedily, paired, with Holm's p-values over all of them."""
    rows = study["rivalries"]
    return pd.DataFrame(
        {
            "decoding": [DECODINGS[row["decoding"]] for row in rows],
            "seeds": [row["n_seeds"] for row in rows],
            "difference": [f"{row['difference']:+.3f}" for row in rows],
            "95 % interval": [f"{row['low']:+.3f} to {row['high']:+.3f}" for row in rows],
            "p, Holm": [f"{row['p_holm']:.3g}" for row in rows],
        },
        index=pd.Index([f"{row['first']} − {row['second']}" for row in rows], name="pair"),
    )


def finding_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """What each setting does, a line each."""
    said = [sweep["finding"].removeprefix(f"{sweep['title']}: ") for sweep in study["sweeps"]]
    setting = pd.Index([sweep["title"] for sweep in study["sweeps"]], name="setting")
    return pd.DataFrame({"accuracy of SequenceMatch": said}, index=setting)


def _shown(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "—"
    return f"{record['value']:.3f} ± {max(record['high'] - record['value'], record['value'] - record['low']):.3f}"


LOWEST = 3.0
"""Inches that title, legend and labels need beside a single row, as `quick` has it."""


def regimes(study: Mapping[str, Any], decoding: str = "t1") -> Figure:
    """Differences between methods in each regime, paired over seeds and questions, 95 % intervals."""
    rows = [row for row in study["regimes"] if row["decoding"] == decoding]
    made, axis = figure(height=max(1.2 + 0.5 * len(rows), LOWEST), width=8.0)
    pairs = {
        "sm-bc": ("SequenceMatch − BC", "blue", "D"),
        "sm-mle": ("SequenceMatch − MLE", "sky", "o"),
        "bc-mle": ("BC − MLE", "orange", "s"),
    }
    for offset, (pair, (label, color, marker)) in zip((-0.2, 0.0, 0.2), pairs.items(), strict=True):
        found = [row["differences"][pair] for row in rows]
        middle = np.array([f["difference"] for f in found])
        reach = np.abs(np.array([[f["low"], f["high"]] for f in found]).T - middle)
        axis.errorbar(
            middle, np.arange(len(rows)) + offset, xerr=reach, color=PALETTE[color], marker=marker, linestyle="none",
            label=label,
        )  # fmt: skip
    axis.axvline(0.0, color=PALETTE["black"], linewidth=0.8)
    axis.set_yticks(range(len(rows)), [f"{row['title']}\n(MLE {row['accuracy']['mle']['value']:.2f})" for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.locator_params(axis="x", nbins=5)
    seeds = counted(rows[0]["n_seeds"], "seed")
    axis.set(xlabel=f"difference in accuracy, {DECODINGS[decoding]},\nvalidation questions, {seeds}")
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headline(made, _surely_ahead([row["differences"] for row in rows]))
    return made


def _surely_ahead(found: Sequence[Mapping[str, Any]]) -> str:
    """In how many regimes SequenceMatch's interval lies above or below 0, against each of the others."""
    said = []
    for pair, other in (("sm-mle", "MLE"), ("sm-bc", "BC")):
        ahead, behind = sum(f[pair]["low"] > 0 for f in found), sum(f[pair]["high"] < 0 for f in found)
        said.append(f"ahead of {other} in {ahead or 'none'} and behind it in {behind or 'none'}")
    return f"Of {counted(len(found), 'setting')} SequenceMatch is surely {', '.join(said)}"


def regime_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """Accuracy of each method in each regime, by decoding rule."""
    return pd.DataFrame(
        [
            {"setting": row["title"], "decoding": DECODINGS[row["decoding"]]}
            | {m.upper(): _shown(record) for m, record in row["accuracy"].items()}
            for row in study["regimes"]
        ]
    ).set_index(["setting", "decoding"])


DIRECT = {"direct": "χ²-mixture", "direct-tv": "total variation"}
"""Direct matching of what."""
QUESTIONS = {"direct": "validation", "confirmation": "test"}


def direct(study: Mapping[str, Any], part: str = "direct") -> Figure:
    """Direct matching less likelihood, paired by seed and question, 95 % intervals; a line a regime and decoding.

    Args:
        part: `direct`, on validation questions, or `confirmation`, on test questions.
    """
    rows = study[part]
    made, axis = figure(height=1.3 + 0.6 * len(rows), width=8.0)
    for offset, (name, label) in zip((-0.12, 0.12), DIRECT.items(), strict=True):
        style = method_style(name)
        tests = [row["over_mle"][name] for row in rows]
        middle = np.array([t["difference"] for t in tests])
        reach = np.abs(np.array([[t["low"], t["high"]] for t in tests]).T - middle)
        axis.errorbar(
            middle, np.arange(len(rows)) + offset, xerr=reach, color=style.color, marker=style.marker, linestyle="none",
            label=f"{label} ({counted(tests[0]['n_seeds'], 'seed')})",
        )  # fmt: skip
    axis.axvline(0.0, color=PALETTE["black"], linewidth=0.8)
    places = [
        f"{row['title']}, {DECODINGS[row['decoding']]}\n(MLE {row['accuracy']['mle']['value']:.3f})" for row in rows
    ]
    axis.set_yticks(range(len(rows)), places)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set(xlabel=f"accuracy less that of MLE, {QUESTIONS[part]} questions")
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    headline(made, _beyond_zero(rows))
    return made


def _beyond_zero(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many differences from likelihood are sure, by decoding rule, and the range of those that are gains."""
    said = []
    for rule in dict.fromkeys(row["decoding"] for row in rows):
        tests = [test for row in rows if row["decoding"] == rule for test in row["over_mle"].values()]
        sure = [test["difference"] for test in tests if test["low"] > 0]
        ends = dict.fromkeys(f"+{100 * end:.1f}" for end in (min(sure), max(sure))) if sure else {}
        gains = f" ({' to '.join(ends)} points)" if sure else ""
        said.append(f"{DECODINGS[rule]}: {len(sure) or 'none'} of {len(tests)}{gains}")
    return f"Direct matching is surely ahead of MLE, {'; '.join(said)}"


def direct_table(study: Mapping[str, Any], part: str = "direct") -> pd.DataFrame:
    """Direct matching less likelihood, paired by seed and question, with Holm's p-values over all that was tested.

    Args:
        part: as for `direct`.
    """
    return pd.DataFrame(
        [
            {
                "setting": row["title"],
                "decoding": DECODINGS[row["decoding"]],
                "direct matching of": DIRECT[name],
                "MLE": _shown(row["accuracy"]["mle"]),
                "less MLE": f"{test['difference']:+.3f}",
                "95 % interval": f"{test['low']:+.3f} to {test['high']:+.3f}",
                "p, Holm": f"{test['p_holm']:.3g}" if "p_holm" in test else "not tested",
                "seeds": test["n_seeds"],
            }
            | ({"confirmed": _answer(test.get("confirmed"))} if part == "confirmation" else {})
            for row in study[part]
            for name, test in row["over_mle"].items()
        ]
    ).set_index(["setting", "decoding", "direct matching of"])


def _answer(value: bool | None) -> str:
    return "—" if value is None else "yes" if value else "no"

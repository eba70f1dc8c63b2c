"""The ablations in pictures: one small panel a sweep, the methods side by side, recovery after wrong tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, counted, figure

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "SequenceMatch": ("sm-default", "sm-burst=4", "sm-rollout_noise=0.1", "sm-rollout_burst=4"),
    "DAgger": ("dagger", "dagger-rollout_noise=0.1", "dagger-rollout_burst=4"),
    "a critic, or none": ("gail", "direct", "direct-tv"),
    "without rollouts": ("bc", "bc-burst=4", "iqlearn"),
}
"""A row of panels each; BC stands in all of them."""
STYLES: Mapping[str, tuple[str, str, Any]] = {
    "sm-default": (PALETTE["blue"], "D", "-"),
    "dagger": (PALETTE["vermilion"], "^", "-"),
    "bc": (PALETTE["orange"], "s", "--"),
    "iqlearn": (PALETTE["green"], "v", "-."),
    "gail": (PALETTE["grey"], "p", (0, (3, 1, 1, 1))),
    "burst=4": (PALETTE["purple"], "P", "-."),
    "rollout_noise=0.1": (PALETTE["sky"], "o", (0, (3, 1))),
    "rollout_burst=4": (PALETTE["black"], "X", ":"),
}
"""Of a method, or of what was changed in it."""
DECODINGS = {
    "t1": "temperature 1",
    "greedy": "greedy",
    "greedy_exclude": "greedy, no repeats",
    "top_p": "top-p 0.9",
    "min_p": "min-p 0.1",
    "no_backspace": "temperature 1, <bkspc> forbidden",
    "truncation": "truncation, p²/(p + ηu)",
}
RATES = {
    "first_backspace": "first action is <bkspc>",
    "all_removed": "all wrong tokens deleted",
    "correct": "right answer",
}


def _ends(record: Mapping[str, Any]) -> list[list[float]]:
    return [[record["value"] - record["low"]], [record["high"] - record["value"]]]


def sweeps(study: Mapping[str, Any], columns: int = 4) -> Figure:
    """Validation accuracy of each value, 95 % intervals; the default filled, BC as a dashed line with its interval.

    A panel is over the seeds that all its runs have.
    """
    found = study["sweeps"]
    lines = -(-len(found) // columns)
    made, axes = figure(lines, columns, height=0.9 + 2.0 * lines, width=10.0, sharey=True, squeeze=False)
    point = {"color": PALETTE["blue"], "marker": "D", "linestyle": "none"}
    for axis, sweep in zip(axes.flat, found, strict=False):
        bc = sweep["bc"]
        axis.axhspan(bc["low"], bc["high"], color=PALETTE["orange"], alpha=0.15, linewidth=0)
        axis.axhline(bc["value"], color=PALETTE["orange"], linestyle="--", linewidth=1.2)
        for x, value in enumerate(sweep["points"]):
            face = PALETTE["blue"] if value["default"] else "white"
            record = value["accuracy"]
            axis.errorbar(x, record["value"], yerr=_ends(record), markerfacecolor=face, **point)
        axis.set_xticks(range(len(sweep["points"])), [_tick(p["value"]) for p in sweep["points"]])
        axis.set_xlim(-0.5, len(sweep["points"]) - 0.5)
        axis.set_title(f"{sweep['title']}\n({counted(sweep['n_seeds'], 'seed')})", fontsize=10)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("accuracy")
    first = axes[0][0]
    first.plot([], [], label="SequenceMatch, the default", **point)
    first.plot([], [], label="one setting changed", markerfacecolor="white", **point)
    first.errorbar(
        [], [], [], color=PALETTE["orange"], linestyle="--", linewidth=1.2, label="BC (shaded: its interval)"
    )
    made.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


def _tick(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def methods(study: Mapping[str, Any]) -> Figure:
    """Validation accuracy of every method under every decoding rule, 95 % intervals."""
    order = ["mle", *(name for family in FAMILIES.values() for name in family)]
    rows = sorted(study["methods"], key=lambda row: order.index(row["name"]) if row["name"] in order else len(order))
    known = [d for d in DECODINGS if any(d in row["accuracy"] for row in rows)]
    names = ("blue", "orange", "green", "purple", "vermilion", "sky", "grey")
    shapes = dict(zip(known, ("o", "s", "D", "^", "v", "P", "X"), strict=False))
    colors = dict(zip(known, (PALETTE[name] for name in names), strict=False))
    made, axis = figure(height=0.9 + 0.65 * len(rows), width=8.0)
    for y, row in enumerate(rows):
        for i, decoding in enumerate(known):
            if decoding in row["accuracy"]:
                record = row["accuracy"][decoding]
                axis.errorbar(
                    record["value"], y + 0.11 * (i - (len(known) - 1) / 2), xerr=_ends(record),
                    color=colors[decoding], marker=shapes[decoding], markersize=5, linestyle="none",
                )  # fmt: skip
    for decoding in known:
        axis.plot([], [], color=colors[decoding], marker=shapes[decoding], linestyle="none", label=DECODINGS[decoding])
    axis.set_yticks(range(len(rows)), [f"{row['title']}\n({counted(row['n_seeds'], 'seed')})" for row in rows])
    axis.set_ylim(len(rows) - 0.45, -0.55)
    axis.set(xlabel="accuracy, validation questions")
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


def recovery(study: Mapping[str, Any]) -> Figure:
    """What follows k wrong tokens: the first action, whether all go, whether the answer is right; a row a family."""
    rows = {row["name"]: row for row in study["methods"] if row["recovery"]}
    found = {title: [name for name in names if name in rows] for title, names in FAMILIES.items()}
    found["others"] = [name for name in rows if name not in {n for names in FAMILIES.values() for n in names}]
    found = {title: names for title, names in found.items() if names}
    made, axes = figure(
        len(found), 3, height=0.6 + 2.3 * len(found), width=10.0, sharex=True, sharey=True, squeeze=False
    )
    for line, names in zip(axes, found.values(), strict=True):
        drawn = names if "bc" in names or "bc" not in rows else ["bc", *names]
        for axis, what in zip(line, RATES, strict=True):
            for place, name in enumerate(drawn):
                _recovery_line(axis, rows[name], what, shift=0.06 * (place - (len(drawn) - 1) / 2))
            axis.set(ylim=(0, 1.02))
        line[0].set_ylabel("share of prompts")
        line[2].legend(loc="center left", bbox_to_anchor=(1.02, 0.5), fontsize=9)
    for axis, title in zip(axes[0], RATES.values(), strict=True):
        axis.set_title(title, fontsize=11)
    for axis in axes[-1]:
        axis.set(
            xlabel="wrong tokens", xticks=sorted({int(depth) for row in rows.values() for depth in row["recovery"]})
        )
    return made


def _recovery_line(axis: Axes, row: Mapping[str, Any], what: str, shift: float) -> None:
    name = row["name"]
    color, marker, dashes = STYLES.get(name) or STYLES.get(name.partition("-")[2], (PALETTE["grey"], ".", "-"))
    depths = sorted(row["recovery"], key=int)
    records = [row["recovery"][depth][what] for depth in depths]
    axis.errorbar(
        [int(depth) + shift for depth in depths], [r["value"] for r in records],
        yerr=np.hstack([_ends(r) for r in records]), color=color, marker=marker, linestyle=dashes,
        label=row["title"].replace(", ", ",\n"), markersize=5, linewidth=1.5,
    )  # fmt: skip


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


def findings(study: Mapping[str, Any]) -> list[str]:
    """One sentence a sweep."""
    return [sweep["finding"] for sweep in study["sweeps"]]


def _shown(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return "—"
    return f"{record['value']:.3f} ± {max(record['high'] - record['value'], record['value'] - record['low']):.3f}"


def regimes(study: Mapping[str, Any], decoding: str = "t1") -> Figure:
    """Differences between methods in each regime, paired over seeds and questions, 95 % intervals."""
    rows = [row for row in study["regimes"] if row["decoding"] == decoding]
    made, axis = figure(height=1.2 + 0.5 * len(rows), width=8.0)
    pairs = {
        "sm-bc": ("SequenceMatch − BC", "blue", "D"),
        "sm-mle": ("SequenceMatch − MLE", "sky", "o"),
        "bc-mle": ("BC − MLE", "orange", "s"),
    }
    for offset, (pair, (label, color, marker)) in zip((-0.2, 0.0, 0.2), pairs.items(), strict=True):
        found = [row["differences"][pair] for row in rows]
        middle = np.array([f["difference"] for f in found])
        ends = np.abs(np.array([[f["low"], f["high"]] for f in found]).T - middle)
        axis.errorbar(
            middle, np.arange(len(rows)) + offset, xerr=ends, color=PALETTE[color], marker=marker, linestyle="none",
            label=label,
        )  # fmt: skip
    axis.axvline(0.0, color=PALETTE["black"], linewidth=0.8)
    axis.set_yticks(range(len(rows)), [f"{row['title']}\n(MLE {row['accuracy']['mle']['value']:.2f})" for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.locator_params(axis="x", nbins=5)
    seeds = counted(rows[0]["n_seeds"], "seed")
    axis.set(xlabel=f"difference in accuracy, {DECODINGS[decoding]},\nvalidation questions, {seeds}")
    made.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return made


def regime_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """Accuracy of each method in each regime, by decoding rule."""
    return pd.DataFrame(
        [
            {"regime": row["title"], "decoding": DECODINGS[row["decoding"]]}
            | {m.upper(): _shown(record) for m, record in row["accuracy"].items()}
            for row in study["regimes"]
        ]
    ).set_index(["regime", "decoding"])


DIRECT = {
    "direct": ("χ²-mixture", "green", "^"),
    "direct-tv": ("total variation", "purple", "v"),
}
"""Direct matching of what, and how it is drawn."""
QUESTIONS = {"direct": "validation", "confirmation": "test"}


def direct(study: Mapping[str, Any], part: str = "direct") -> Figure:
    """Direct matching less likelihood, paired by seed and question, 95 % intervals; a line a regime and decoding.

    Args:
        part: `direct`, on validation questions, or `confirmation`, on test questions.
    """
    rows = study[part]
    made, axis = figure(height=1.3 + 0.6 * len(rows), width=8.0)
    for offset, (name, (label, color, marker)) in zip((-0.12, 0.12), DIRECT.items(), strict=True):
        tests = [row["over_mle"][name] for row in rows]
        middle = np.array([t["difference"] for t in tests])
        ends = np.abs(np.array([[t["low"], t["high"]] for t in tests]).T - middle)
        axis.errorbar(
            middle, np.arange(len(rows)) + offset, xerr=ends, color=PALETTE[color], marker=marker, linestyle="none",
            label=f"{label} ({counted(tests[0]['n_seeds'], 'seed')})",
        )  # fmt: skip
    axis.axvline(0.0, color=PALETTE["black"], linewidth=0.8)
    places = [
        f"{row['title']}, {DECODINGS[row['decoding']]}\n(MLE {row['accuracy']['mle']['value']:.3f})" for row in rows
    ]
    axis.set_yticks(range(len(rows)), places)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set(xlabel=f"accuracy less that of MLE, {QUESTIONS[part]} questions")
    made.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return made


def direct_table(study: Mapping[str, Any], part: str = "direct") -> pd.DataFrame:
    """Direct matching less likelihood, paired by seed and question, with Holm's p-values over all that was tested.

    Args:
        part: as for `direct`.
    """
    return pd.DataFrame(
        [
            {
                "regime": row["title"],
                "decoding": DECODINGS[row["decoding"]],
                "direct matching of": DIRECT[name][0],
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
    ).set_index(["regime", "decoding", "direct matching of"])


def _answer(value: bool | None) -> str:
    return "—" if value is None else "yes" if value else "no"

"""The ablations in pictures: one small panel a sweep, the methods side by side, recovery after wrong tokens."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.figures.style import PALETTE, figure

METHOD_COLORS = {
    "mle": (PALETTE["black"], "o", ":"),
    "bc": (PALETTE["orange"], "s", "--"),
    "bc-burst=4": (PALETTE["orange"], "P", ":"),
    "sm-default": (PALETTE["blue"], "D", "-"),
    "sm-burst=4": (PALETTE["blue"], "X", ":"),
    "sm-rollout_noise=0.1": (PALETTE["sky"], "d", "-"),
    "sm-rollout_burst=4": (PALETTE["sky"], "X", ":"),
    "iqlearn": (PALETTE["green"], "v", "-."),
    "dagger": (PALETTE["vermilion"], "^", "-."),
    "dagger-rollout_noise=0.1": (PALETTE["purple"], "<", "-."),
    "dagger-rollout_burst=4": (PALETTE["purple"], ">", ":"),
}
DECODINGS = {
    "t1": "temperature 1",
    "greedy": "greedy",
    "greedy_exclude": "greedy, no repeats",
    "top_p": "top-p 0.9",
    "min_p": "min-p 0.1",
    "truncation": "truncation",
}
RATES = {
    "first_backspace": "first action is <bkspc>",
    "all_removed": "all wrong tokens deleted",
    "correct": "right answer",
}


def _ends(record: Mapping[str, Any]) -> list[list[float]]:
    return [[record["value"] - record["low"]], [record["high"] - record["value"]]]


def sweeps(study: Mapping[str, Any], columns: int = 3) -> Figure:
    """Validation accuracy of each value, 95 % intervals; the default filled, BC as a dashed line."""
    found = study["sweeps"]
    lines = -(-len(found) // columns)
    made, axes = figure(lines, columns, height=0.5 + 2.1 * lines, width=9.0, sharey=True, squeeze=False)
    for axis, sweep in zip(axes.flat, found, strict=False):
        for x, point in enumerate(sweep["points"]):
            axis.errorbar(
                x, point["accuracy"]["value"], yerr=_ends(point["accuracy"]), color=PALETTE["blue"], marker="D",
                markerfacecolor=PALETTE["blue"] if point["default"] else "white", linestyle="none",
            )  # fmt: skip
        axis.axhline(study["reference"]["bc"]["value"], color=PALETTE["orange"], linestyle="--", linewidth=1.2)
        axis.set_xticks(range(len(sweep["points"])), [_tick(p["value"]) for p in sweep["points"]])
        axis.set_xlim(-0.5, len(sweep["points"]) - 0.5)
        axis.set_title(sweep["title"], fontsize=11)
    for axis in axes.flat[len(found) :]:
        axis.set_visible(False)
    for line in axes:
        line[0].set_ylabel("accuracy")
    return made


def _tick(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def methods(study: Mapping[str, Any]) -> Figure:
    """Validation accuracy of every method under every decoding rule, 95 % intervals."""
    rows = study["methods"]
    known = [d for d in DECODINGS if any(d in row["accuracy"] for row in rows)]
    shapes = dict(zip(known, ("o", "s", "D", "^", "v", "X"), strict=False))
    colors = dict(zip(known, (PALETTE[c] for c in ("blue", "orange", "green", "purple", "vermilion", "grey")), strict=False))
    made, axis = figure(height=0.9 + 0.5 * len(rows), width=8.0)
    for y, row in enumerate(rows):
        for i, decoding in enumerate(known):
            if decoding in row["accuracy"]:
                record = row["accuracy"][decoding]
                axis.errorbar(
                    record["value"], y + 0.14 * (i - (len(known) - 1) / 2), xerr=_ends(record),
                    color=colors[decoding], marker=shapes[decoding], markersize=5, linestyle="none",
                )  # fmt: skip
    for decoding in known:
        axis.plot([], [], color=colors[decoding], marker=shapes[decoding], linestyle="none", label=DECODINGS[decoding])
    axis.set_yticks(range(len(rows)), [row["title"] for row in rows])
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set(xlabel="accuracy, validation questions")
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


def recovery(study: Mapping[str, Any]) -> Figure:
    """What follows k wrong tokens: the first action, whether all go, whether the answer is right."""
    rows = [row for row in study["methods"] if row["recovery"]]
    made, axes = figure(1, 3, height=3.9, width=10.0, sharey=True)
    for axis, (what, title) in zip(axes, RATES.items(), strict=True):
        for row in rows:
            depths = sorted(row["recovery"], key=int)
            records = [row["recovery"][d][what] for d in depths]
            color, marker, dashes = METHOD_COLORS[row["name"]]
            axis.errorbar(
                [int(d) for d in depths], [r["value"] for r in records], yerr=np.hstack([_ends(r) for r in records]),
                color=color, marker=marker, linestyle=dashes, label=row["title"], markersize=5, linewidth=1.5,
            )  # fmt: skip
        axis.set(xlabel="wrong tokens", ylim=(0, 1.02), xticks=[int(d) for d in depths])
        axis.set_title(title, fontsize=11)
    axes[0].set_ylabel("share of prompts")
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


def method_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """Accuracy by decoding, cost of a step, share of backspaces, and how often all of k wrong tokens are deleted."""
    rows = study["methods"]
    columns: dict[str, list[str]] = {}
    for decoding, title in DECODINGS.items():
        if any(decoding in row["accuracy"] for row in rows):
            columns[title] = [_shown(row["accuracy"].get(decoding)) for row in rows]
    columns["step / MLE's"] = [f"{row['cost']:.2f} ×" for row in rows]
    columns["<bkspc>"] = [f"{100 * row['backspace_rate']:.1f} %" for row in rows]
    for depth in sorted({d for row in rows for d in row["recovery"]}, key=int):
        columns[f"deletes {depth}"] = [_shown(row["recovery"].get(depth, {}).get("all_removed")) for row in rows]
    return pd.DataFrame(columns, index=pd.Index([row["title"] for row in rows], name="method"))


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
    axis.set_yticks(
        range(len(rows)), [f"{row['title']}\n(MLE {row['accuracy']['mle']['value']:.2f})" for row in rows]
    )
    axis.set_ylim(len(rows) - 0.5, -0.5)
    n = rows[0]["n_seeds"]
    axis.set(xlabel=f"difference in accuracy, {DECODINGS[decoding]}, validation questions, {n} seed{'s' if n > 1 else ''}")
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

"""Figure 3 and Table 1: accuracy against noise level, recovery after mistakes, completions with visible edits."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.families import DECODINGS
from smlib.paper.figures.style import METHODS, PALETTE, figure, headline, method_style
from smlib.paper.items import get_item

TITLES = {"ground_truth": "digit noise (\u201cground truth\u201d)", "random": "random tokens"}
PAPER_CHI2 = (0.85, 0.90)  # App. G.1: "85-90% for the chi^2-divergence"; Figure 3 itself prints no numbers


def accuracy_against_noise(item: Mapping[str, Any], decoding: str = "t1") -> Figure:
    """Figure 3 in the paper's layout: one panel a kind of noise, 95 % intervals over seeds and questions.

    The paper's range stands beside temperature 1 alone, in whose place it was put; no other rule is the paper's. The
    axis is the same for temperature 1 and for greedy decoding, so that the two figures can be laid side by side.
    """
    every = item["details"]["points"]
    points = every[decoding]
    kinds = [k for k in TITLES if any(p["kind"] == k for p in points)]
    made, axes = figure(1, len(kinds), height=4.2, sharey=True, squeeze=False)
    for ax, kind in zip(axes[0], kinds, strict=True):
        if decoding == "t1":
            ax.axhspan(*PAPER_CHI2, color=PALETTE["grey"], alpha=0.25, lw=0, label="paper, χ² (G.1)")
        for method in ("mle", "bc", "sm"):
            own = sorted((p for p in points if p["kind"] == kind and p["method"] == method), key=lambda p: p["level"])
            style = method_style(method).kwargs()
            if method == "mle":
                ax.axhline(own[0]["value"], color=style["color"], linestyle=":", lw=1.5)
            _errorbar(ax, own, style, shift={"mle": -0.004, "bc": -0.004, "sm": 0.004}[method])
        ax.set_title(TITLES[kind])
        ax.set_xlabel("noise level η")
        ax.set_xticks(sorted({p["level"] for p in points}))
    shown = [point for rule in dict.fromkeys(("t1", "greedy", decoding)) for point in every.get(rule, ())]
    low, high = min(p["low"] for p in shown), max(*PAPER_CHI2, *(p["high"] for p in shown))
    axes[0][0].set_ylim(low - 0.02, min(high + 0.01, 1.0))
    axes[0][0].set_ylabel(f"accuracy, {'temperature 1' if decoding == 't1' else decoding}")
    handles, labels = axes[0][0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    headline(made, _best_and_worst(points))
    return made


def _best_and_worst(points: Sequence[Mapping[str, Any]]) -> str:
    mle = next(p["value"] for p in points if p["method"] == "mle")
    noised = sorted((p for p in points if p["method"] != "mle"), key=lambda p: p["value"])
    ends = [
        f"{method_style(p['method']).label} {p['value']:.3f} ("
        + ("no noise)" if p["level"] == 0 else f"{TITLES[p['kind']].split(' (')[0]}, η = {p['level']:g})")
        for p in (noised[-1], noised[0])
    ]
    return f"MLE {mle:.3f}; of the policies that edit the best is {ends[0]}, the worst {ends[1]}"


def _errorbar(ax: Any, own: Sequence[Mapping[str, Any]], style: Mapping[str, Any], shift: float) -> None:
    x, y = [p["level"] + shift for p in own], [p["value"] for p in own]
    low = [p["value"] - p["low"] for p in own]
    high = [p["high"] - p["value"] for p in own]
    ax.errorbar(x, y, yerr=[low, high], **style)


def recovery(item: Mapping[str, Any]) -> Figure:
    """Three shares against the number of wrong tokens, BC beside SequenceMatch, and apart the paper's four examples."""
    table = item["details"]["rates"]
    titles = {
        "first_backspace": "first action is <bkspc>",
        "all_removed": "all wrong tokens deleted",
        "correct": "final answer right",
    }
    made, axes = figure(1, 3, height=3.8, sharey=True)
    for ax, (what, title) in zip(axes, titles.items(), strict=True):
        for method, by_depth in table.items():
            own = [{"level": int(d), **shares[what]} for d, shares in sorted(by_depth.items())]
            _errorbar(ax, own, method_style(method).kwargs(), shift={"bc": -0.05, "sm": 0.05}[method])
        ax.set_title(title, fontsize=11)
        ax.set_xlabel("wrong tokens k")
        ax.set_xticks([int(d) for d in table["sm"]])
        ax.set_ylim(0, 1)
    numbers = get_item("tab1").numbers
    depths = sorted(int(d) for d in table["sm"])
    beside = depths[-1] + 1.0
    for ax, share in ((axes[1], numbers["mistake deleted"].value), (axes[2], numbers["right answer"].value)):
        ax.plot(
            beside, share, color=PALETTE["grey"], marker="*", markersize=11, linestyle="none",
            label="the paper's four examples, no rate by k",
        )  # fmt: skip
    for ax in axes:
        ax.set_xticks([*depths, beside] if ax is not axes[0] else depths)
        if ax is not axes[0]:
            ax.axvline(beside - 0.5, color=PALETTE["grey"], lw=0.8)
            ax.set_xticklabels([*map(str, depths), "paper"])
        ax.set_ylim(0, 1.04)
    sm, bc = (table[m][str(depths[-1])]["all_removed"]["value"] for m in ("sm", "bc"))
    first = table["sm"][str(depths[0])]["all_removed"]["value"]
    headline(
        made,
        f"SequenceMatch deletes {depths[0]} wrong token in {100 * first:.0f} % of the prompts, {depths[-1]} of them in "
        f"{100 * sm:.0f} % (BC: {100 * bc:.0f} %)",
    )
    axes[0].set_ylabel("share of prompts")
    made.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return made


def completions(item: Mapping[str, Any], method: str = "sm") -> pd.DataFrame:
    """Table 1: the first test questions with wrong digits, the actions taken, the final state."""
    rows = []
    for c in item["details"]["completions"][method]:
        question = c["question"].removesuffix(" Solution: ")
        rows.append(
            {
                "question": question,
                "ground truth": c["answer"],
                "mistake": "".join(c["mistake"]),
                "completion actions": "".join(c["actions"]),
                "final state": _final([*c["mistake"], *c["actions"]]),
                "right": "yes" if c["correct"] else "no",
            }
        )
    return pd.DataFrame(rows).set_index("question")


def _final(tokens: Sequence[str]) -> str:
    kept: list[str] = []
    for token in tokens:
        if token == "<bkspc>":
            kept = kept[:-1]
        elif token != "<eos>":
            kept.append(token)
    return "".join(kept)


def decodings(item: Mapping[str, Any]) -> pd.DataFrame:
    """Accuracy of every cell of the grid (rows) under every decoding rule (columns), ± half a 95 % interval."""
    table: dict[str, dict[str, str]] = {}
    for row in item["rows"]:
        cell, decoding = row["label"].split(" / ")
        error = "" if row["error"] is None else f" ± {row['error']:.3f}"
        table.setdefault(cell, {})[decoding] = f"{row['ours']:.3f}{error}"
    shown = pd.DataFrame.from_dict(table, orient="index").fillna("—").rename_axis("run")
    return shown.rename(index=cell_title, columns=lambda rule: DECODINGS.get(rule, rule))


def predicted_gain(item: Mapping[str, Any]) -> pd.DataFrame:
    """What cloned backspaces should give BC over MLE by notebook 02, as points of accuracy, and what BC gained.

    The prediction is MLE's own gain from sampling by p^2 / (p + 0.1 u); beside it, the usual filters.
    """
    ours = {row["label"]: row["ours"] for row in item["rows"]}
    base = ours["mle / t1"]
    rules = {
        "truncation": "predicted for digit noise: MLE sampled from p²/(p + 0.1 u)",
        "min_p": "MLE, min-p 0.1",
        "top_p": "MLE, top-p 0.9",
        "greedy": "MLE, greedy",
    }
    gains = {title: ours[f"mle / {rule}"] - base for rule, title in rules.items() if f"mle / {rule}" in ours}
    for label, value in ours.items():
        if label.startswith("bc-") and label.endswith(" / t1"):
            _, kind, level = label.removesuffix(" / t1").split("-")
            noise = "digit" if kind == "ground_truth" else "random"
            gains[f"BC, temperature 1, {noise} noise η = {level}"] = value - base
    return pd.DataFrame({"points over MLE at temperature 1": {k: f"{100 * v:+.1f}" for k, v in gains.items()}})


def parts(item: Mapping[str, Any]) -> Figure:
    """Each editing policy's way from MLE: its language model, its edits, and what perfect edits would give."""
    rows = item["details"]["parts"]
    looks = {
        "model": ("<bkspc> forbidden, minus MLE", "black", "o"),
        "edits": ("own edits, minus <bkspc> forbidden", "green", "D"),
        "perfect": ("law of perfect digit edits, η = 0.1, minus <bkspc> forbidden", "purple", "s"),
    }
    made, ax = figure(height=1.4 + 0.42 * len(rows), width=8.0)
    ax.axvline(0, color=PALETTE["grey"], lw=1)
    for shift, (part, (title, colour, marker)) in zip((-0.22, 0.0, 0.22), looks.items(), strict=True):
        x = [row[part]["difference"] for row in rows]
        ends = [[row[part]["difference"] - row[part]["low"] for row in rows]]
        ends += [[row[part]["high"] - row[part]["difference"] for row in rows]]
        y = [i + shift for i in range(len(rows))]
        ax.errorbar(x, y, xerr=ends, color=PALETTE[colour], marker=marker, markersize=5, linestyle="none", label=title)
    ax.set_yticks(range(len(rows)), [cell_title(row["cell"]) for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.6)
    ax.set_xlabel("difference in accuracy at temperature 1")
    made.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=1)
    model, edits = (sorted(100 * row[part]["difference"] for row in rows) for part in ("model", "edits"))
    headline(
        made,
        f"With <bkspc> forbidden these policies lie up to {-model[0]:.1f} points below MLE; "
        f"their own edits return at most {edits[-1]:.1f}",
    )
    return made


def cell_title(cell: str) -> str:
    """A run of the grid in words: `bc-ground_truth-0.2` is `BC, digit noise, η = 0.2`."""
    if cell == "mle":
        return "MLE"
    method, kind, level = cell.split("-")
    noise = {"ground_truth": f"digit noise, η = {level}", "random": f"random tokens, η = {level}", "none": "no noise"}
    return f"{method.upper()}, {noise[kind]}"


def comparisons(item: Mapping[str, Any]) -> pd.DataFrame:
    """The paper's claims about Figure 3, our paired difference and what it says."""
    return pd.DataFrame(
        [
            {
                "claim": c["claim"],
                "difference": f"{c['difference']:+.3f}",
                "p (Holm)": f"{c['p_holm']:.2g}",
                "outcome": c["outcome"],
            }
            for c in item["details"]["comparisons"]
        ]
    ).set_index("claim")


def training_curves(item: Mapping[str, Any]) -> Figure:
    """The behavioural-cloning loss of each method's run with the most digit noise, first seed."""
    made, ax = figure(height=3.7)
    cells = item["details"]["training"]
    highest = max(float(cell.split("-")[2]) for cell in cells if "-ground_truth-" in cell)
    ends = {}
    for cell, history in cells.items():
        method = cell.split("-")[0]
        if method == "mle" or f"-ground_truth-{highest:g}-" in cell:
            y = history.get("bc") if method == "sm" else history.get("nll")
            if y:
                ax.plot(history["step"][-len(y) :], y, **{**method_style(method).kwargs(), "marker": ""})
                ends[method] = f"{method_style(method).label} {y[-1]:.2f}"
    ax.set_title(f"digit noise, η = {highest:g} (MLE: none), first seed")
    ax.set_xlabel("gradient step")
    ax.set_ylabel("negative log-likelihood\nof the labels (nats)")
    ax.legend()
    headline(made, f"What is left at the end: {', '.join(ends[method] for method in METHODS if method in ends)}")
    return made

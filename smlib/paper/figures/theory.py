"""Section 3 in pictures: where the methods differ, what a critic of its own sees, what cloned backspace does."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smlib.paper.figures.divergences import TITLES
from smlib.paper.figures.style import PALETTE, counted, figure, headline

NAMES = {
    "mle": "MLE",
    "direct forward_kl": "forward KL, direct",
    "direct chi2_mixture": "χ²-mixture, direct",
    "direct kl_to_mixture": "KL(data‖M), direct",
    "direct js": "JS, direct",
    "direct hellinger": "Hellinger, direct",
    "J chi2_mixture": "J, χ²-mixture",
    "J chi2": "J, χ²",
    "J js": "J, JS",
    "J hellinger": "J, Hellinger",
    "J forward_kl": "J, forward KL",
    "J reverse_kl": "J, reverse KL",
}
RECOVERY = {
    "bc": ("BC", PALETTE["orange"], "s", "--"),
    "sm": ("SequenceMatch (stationary point)", PALETTE["blue"], "D", "-"),
    "direct": ("χ²-mixture, direct", PALETTE["green"], "v", "-."),
}


def _mean_error(values: Sequence[float | None]) -> tuple[float, float]:
    """Mean and standard error of what is there: None, where a search had no start, is left out; nan without any."""
    array = np.asarray([value for value in values if value is not None], dtype=float)
    if array.size == 0:
        return float("nan"), float("nan")
    spread = array.std(ddof=1) / np.sqrt(array.size) if array.size > 1 else 0.0
    return float(array.mean()), float(spread)


def known_mean(values: Sequence[float | None]) -> float:
    """The mean over the data sets that have a fit; nan without any."""
    return _mean_error(values)[0]


def restricted(studies: Sequence[Mapping[str, Any]]) -> Figure:
    """P(stay in the data) of each method, a column a policy class; J's alphas by shade. Mean and s.e.

    Hollow: the search stopped with a gradient above 0.01 on some data set, or had no start, so this is no optimum.
    """
    methods = list(dict.fromkeys(row["method"] for study in studies for row in study["rows"]))
    made, axes = figure(1, len(studies), height=0.9 + 0.33 * len(methods), width=9.0, sharey=True, squeeze=False)
    alphas = sorted({row["alpha"] for study in studies for row in study["rows"] if row["method"].startswith("J ")})
    shades = dict(zip(alphas, (PALETTE["blue"], PALETTE["sky"], PALETTE["purple"]), strict=False))
    markers = dict(zip(alphas, ("D", "o", "v"), strict=False))
    for axis, study in zip(axes[0], studies, strict=True):
        for row in study["rows"]:
            y = methods.index(row["method"])
            mean, error = _mean_error(row["stay"])
            if np.isnan(mean):
                axis.annotate("no fit", (0.5, y), ha="center", va="center", fontsize=10)
                continue
            j = row["method"].startswith("J ")
            color = shades[row["alpha"]] if j else PALETTE["black"] if row["method"] == "mle" else PALETTE["green"]
            marker = markers[row["alpha"]] if j else "o" if row["method"] == "mle" else "s"
            solved = all(gradient is not None and gradient < 0.01 for gradient in row["gradient"])
            face = color if solved else "white"
            axis.errorbar(
                mean, y, xerr=error, color=color, marker=marker, linestyle="none", markersize=5, markerfacecolor=face
            )
        absent = set(methods) - {row["method"] for row in study["rows"]}
        for method in absent:
            axis.annotate("not run", (0.5, methods.index(method)), ha="center", va="center", fontsize=10)
        base = _mean_error(study["rows"][0]["stay"])[0]
        axis.axvline(base, color=PALETTE["black"], linestyle=":", linewidth=1)
        axis.set(xlim=(0, 1.02), xlabel="P(stay in the data)")
        axis.set_title(study["title"], fontsize=11)
    axes[0][0].set_yticks(range(len(methods)), [NAMES[method] for method in methods])
    axes[0][0].invert_yaxis()
    for alpha in alphas:
        axes[0][-1].plot([], [], color=shades[alpha], marker=markers[alpha], linestyle="none", label=f"α = {alpha:g}")
    hollow = {"color": PALETTE["grey"], "marker": "s", "markerfacecolor": "white", "linestyle": "none"}
    axes[0][-1].plot([], [], **hollow, label="hollow: search stopped short of an optimum")
    made.legend(*axes[0][-1].get_legend_handles_labels(), loc="outside lower center", ncols=4, columnspacing=1.2)
    headline(made, _kept(studies[0]))
    return made


def _kept(study: Mapping[str, Any]) -> str:
    """What stays in the data in one policy class: by likelihood, by the direct χ²-mixture, by the best J."""
    means = [(row["method"], known_mean(row["stay"])) for row in study["rows"]]
    known = {method: value for method, value in means if not method.startswith("J ")}
    fitted = [value for method, value in means if method.startswith("J ") and not np.isnan(value)]
    best = f"{100 * max(fitted):.0f} % by the best J" if fitted else "and no search for J found a fit"
    return (
        f"A policy that sees {study['title']} keeps {100 * known['direct chi2_mixture']:.0f} % of its strings in the "
        f"data by the χ²-mixture itself, {100 * known['mle']:.0f} % by likelihood, {best}"
    )


def critics(study: Mapping[str, Any]) -> Figure:
    """P(stay) and the divergence that the critic sees at MLE, against how many tokens the critic sees."""
    made, (left, right) = figure(1, 2, height=4.2, width=9.0)
    rows = study["rows"]
    base, _ = _mean_error(rows[0]["stay"])
    left.axhline(base, color=PALETTE["black"], linestyle=":", label="MLE")
    styles = {"chi2_mixture": ("χ²-mixture", PALETTE["blue"], "D"), "js": ("JS", PALETTE["vermilion"], "s")}
    for divergence, (label, color, marker) in styles.items():
        chosen = [r for r in rows if r["divergence"] == divergence and r["critic"]]
        if not chosen:
            continue
        k = [r["critic"] for r in chosen]
        stay = np.array([_mean_error(r["stay"]) for r in chosen])
        left.errorbar(k, stay[:, 0], yerr=stay[:, 1], color=color, marker=marker, label=f"{label} with a critic")
        direct = next(r for r in rows if r["divergence"] == divergence and r["critic"] is None)
        left.axhline(_mean_error(direct["stay"])[0], color=color, linestyle="--", linewidth=1, label=f"{label}, direct")
        right.plot(k, [known_mean(r["seen_at_mle"]) for r in chosen], color=color, marker=marker, label=label)
    left.set(xlabel="the critic sees position and last k tokens", ylabel="P(stay in the data)", ylim=(None, 1.0))
    right.set(xlabel="k", ylabel="divergence that it sees at MLE")
    for axis in (left, right):
        _legend_below(axis)
    seen = sorted((r for r in rows if r["divergence"] == "chi2_mixture" and r["critic"]), key=lambda r: r["critic"])
    if seen:
        few, many = ((r["critic"], known_mean(r["stay"])) for r in (seen[0], seen[-1]))
        headline(
            made,
            f"A critic that sees {counted(few[0], 'token')}, as the policy does, leaves P(stay) at {few[1]:.2f} "
            f"(MLE: {base:.2f}); one that sees {many[0]} raises it to {many[1]:.2f}",
        )
    return made


def _legend_below(axis: Axes, columns: int = 2) -> None:
    """Below an axis, where it hides nothing."""
    axis.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=columns)


def _sweep(axis: Axes, rows: Sequence[Mapping[str, Any]], centre: Mapping[str, float], over: str, eta: float) -> None:
    fixed = [name for name in ("epsilon", "alpha", "gamma") if name != over]
    for method, (label, color, marker, dashes) in RECOVERY.items():
        chosen = sorted(
            (r for r in rows if r["method"] == method and r["eta"] == eta and all(r[f] == centre[f] for f in fixed)),
            key=lambda r: r[over],
        )
        points = np.array([(r[over], *_mean_error(r["stay"])) for r in chosen])
        axis.errorbar(
            points[:, 0], points[:, 1], yerr=points[:, 2], color=color, marker=marker, linestyle=dashes, label=label
        )
    axis.set(ylim=(0, 1.05), ylabel="P(end in the data)")


def recovery(study: Mapping[str, Any]) -> Figure:
    """Recovery under execution noise, against epsilon, alpha, gamma without demonstrations of `<bkspc>`, and depth.

    Mean and standard error over data sets.
    """
    made, axes = figure(2, 3, height=5.6, width=10.0, sharey=True)
    rows, centre = study["rows"], study["centre"]
    for axis, over, title in zip(axes[0], ("epsilon", "alpha", "gamma"), ("noise ε", "α", "γ"), strict=True):
        _sweep(axis, rows, centre, over, 0.0)
        axis.set(xlabel=title, xscale="log" if over == "alpha" else "linear")
        axis.set_title("no demonstrations", fontsize=11)
    etas = sorted({r["eta"] for r in rows})
    for axis, eta in zip(axes[1], etas, strict=False):
        for method, (_, color, marker, dashes) in RECOVERY.items():
            row = next(
                r for r in rows if r["method"] == method and r["eta"] == eta and all(r[f] == centre[f] for f in centre)
            )
            depths = [int(k) for k in row["after_mistake"]]
            stay = np.array([_mean_error(v) for v in row["after_mistake"].values()])
            axis.errorbar(depths, stay[:, 0], yerr=stay[:, 1], color=color, marker=marker, linestyle=dashes)
        axis.set(xlabel="wrong tokens before the model acts", xticks=depths, ylim=(0, 1.05))
        axis.set_title("no demonstrations" if eta == 0.0 else f"demonstrations, η = {eta:g}", fontsize=11)
    axes[1][0].set_ylabel("P(end in the data)")
    _sweep(axes[1][2], rows, centre, "alpha", etas[-1])
    axes[1][2].set(xlabel="α", xscale="log", ylabel="")
    axes[1][2].set_title(f"demonstrations, η = {etas[-1]:g}", fontsize=11)
    for axis in (*axes[0][1:], axes[1][2]):
        axis.set_ylabel("")
    lines = [
        axes[0][0].plot([], [], color=color, marker=marker, linestyle=dashes, label=label)[0]
        for label, color, marker, dashes in RECOVERY.values()
    ]  # without the bars of `errorbar`, which are shorter than a marker
    made.legend(handles=lines, loc="outside lower center", ncols=3)
    headline(made, _deepest(rows, centre, etas))
    return made


def _deepest(rows: Sequence[Mapping[str, Any]], centre: Mapping[str, float], etas: Sequence[float]) -> str:
    """How SequenceMatch and BC end after the most wrong tokens, with the fewest demonstrations and with the most."""
    said, depth = [], ""
    for eta in (etas[0], etas[-1]):
        found = {r["method"]: r for r in rows if r["eta"] == eta and all(r[f] == centre[f] for f in centre)}
        depth = max(found["sm"]["after_mistake"], key=int)
        shares = (f"{100 * known_mean(found[m]['after_mistake'][depth]):.0f} %" for m in ("sm", "bc"))
        said.append(f"{' and '.join(shares)} {f'at η = {eta:g}' if eta else 'without demonstrations'}")
    return f"After {depth} wrong tokens SequenceMatch and BC come back in {', in '.join(said)}"


def cloned_backspace(study: Mapping[str, Any]) -> Figure:
    """The share of a token's probability that survives cloned backspace, and what that does to whole strings."""
    made, (left, right) = figure(1, 2, height=4.5, width=9.0)
    p = np.array(study["p"])
    colors = dict(zip(study["kept"], (PALETTE["blue"], PALETTE["vermilion"]), strict=False))
    shown = [eta for eta in next(iter(study["kept"].values())) if eta in ("0.02", "0.2")]
    for vocabulary, curves in study["kept"].items():
        for eta, dashes in zip(shown, ("--", "-"), strict=False):
            label = f"u = 1/{int(vocabulary):,}, η = {eta}"
            left.plot(p, np.array(curves[eta]) / p, color=colors[vocabulary], linestyle=dashes, label=label)
    left.set(xscale="log", xlabel="p(d|s)", ylabel="share of p(d|s) that survives", ylim=(0, 1.05))
    rows = study["rows"]
    for vocabulary, color in colors.items():
        for key, marker, label in (("exact", "", "exact"), ("simulated", "o", "simulated")):
            chosen = sorted({r["eta"] for r in rows})
            mean = [
                np.mean([r[key] for r in rows if r["eta"] == e and str(r["vocabulary"]) == vocabulary]) for e in chosen
            ]
            right.plot(
                chosen, mean, color=color, marker=marker or None, linestyle="-" if not marker else "none",
                label=f"u = 1/{int(vocabulary):,}, {label}", markersize=4,
            )  # fmt: skip
    for (name, color), dashes in zip(
        (("temperature 1", PALETTE["black"]), ("top-p 0.95", PALETTE["purple"]), ("min-p 0.1", PALETTE["green"])),
        (":", "--", "-."),
        strict=True,
    ):
        right.axhline(
            np.mean([r["decoders"][name] for r in rows]), color=color, linestyle=dashes, label=name, linewidth=1.4
        )
    right.set(xlabel="noise level η", ylabel="P(final string is a data string)", ylim=(None, 1.02))
    for axis in (left, right):
        _legend_below(axis)
    rare = int(np.argmin(np.abs(p - 0.01)))
    survives = [
        f"{100 * curves[shown[-1]][rare] / p[rare]:.0f} % if noise draws from {int(vocabulary):,} tokens"
        for vocabulary, curves in sorted(study["kept"].items(), key=lambda kept: int(kept[0]))
    ]
    headline(made, f"Cloned deletions (η = {shown[-1]}) leave of a token with p = {p[rare]:.2g}: {', '.join(survives)}")
    return made


def claims(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Every identity's error beside its bound, on one logarithmic axis; an error of exactly 0 hollow."""
    made, axes = figure(height=0.6 + 0.24 * len(rows), width=8.0)
    end = 1e-17
    for i, row in enumerate(rows):
        exact = row["value"] == 0.0
        face = "white" if exact else PALETTE["blue"]
        axes.plot(
            end if exact else row["value"], i, marker="o", color=PALETTE["blue"], markerfacecolor=face, linestyle="none"
        )
        if exact:
            axes.annotate("exactly 0", (end, i), xytext=(8, 0), textcoords="offset points", va="center", fontsize=9)
        axes.plot(row["bound"], i, marker="|", color=PALETTE["vermilion"], markersize=12, linestyle="none")
    axes.set_yticks(range(len(rows)), [f"{_named(row['claim'])} ({row['where']})" for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="difference of the two sides (bar: bound)")
    held = sum(row["value"] <= row["bound"] for row in rows)
    headline(
        made, f"{held} of {counted(len(rows), 'claim')} of the theory hold: the two sides differ by less than the bound"
    )
    return made


def _named(claim: str) -> str:
    """A claim with its divergence, if it ends in one, by the name that figures use."""
    head, _, last = claim.rpartition(": ")
    return f"{head}: {TITLES[last]}" if last in TITLES else claim

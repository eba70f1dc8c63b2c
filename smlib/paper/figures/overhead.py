"""Pictures of Tables 3 and 4: cost ratios beside the paper's, where the time goes, and how it scales."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, figure, headline, method_style
from smlib.paper.items import over_mle

PARTS = {
    "packing": PALETTE["grey"],
    "forward": PALETTE["blue"],
    "loss": PALETTE["green"],
    "backward": PALETTE["sky"],
    "optimiser": PALETTE["orange"],
    "sampling": PALETTE["vermilion"],
}
HATCHES = dict(zip(PARTS, ("", "//", "", "\\\\", "..", "xx"), strict=True))
NAMES = {"mle": "MLE", "sm": "SequenceMatch", "dense": "SequenceMatch,\npaper's format"}
SHAPES = ("arithmetic", "text")


_PRINTED = {
    shape: [over_mle(item, cell) for cell in ("gradient step", "amortised")]
    for shape, item in (("text", "tab3"), ("arithmetic", "tab4"))
}
_PRINTED["arithmetic,\nprompts shared"] = _PRINTED["arithmetic"]
PAPER = {shape: (cells[0][0], cells[1][0]) for shape, cells in _PRINTED.items()}
"""(gradient step, amortised) of SM over MLE's gradient step in Tables 3 and 4."""
PAPER_ERRORS = {shape: (cells[0][1], cells[1][1]) for shape, cells in _PRINTED.items()}
"""Of the ratios in `PAPER`."""
AXES = {
    "context": "context length",
    "batch": "batch size",
    "noise": "noise level η",
    "rollout share": "share of examples with a rollout",
    "times seen": "times a rollout is used",
}


def ratios(tables: Mapping[str, Mapping[str, Any]], paper: Mapping[str, tuple[float, float]]) -> Figure:
    """SM over MLE, a gradient step and amortised, the paper's bar beside ours: its errors, our quartiles over turns.

    Args:
        tables: runs of `tab3` and `tab4` by their title; paper: (gradient step, amortised) of the same titles.
    """
    made, axes = figure(height=3.8, width=9.0)
    labels, theirs, errors, ours, low, high = [], [], [], [], [], []
    for title, run in tables.items():
        for place, what in enumerate(("step", "amortised")):
            entry = run[f"sm_over_mle_{what}"]
            labels.append(f"{title}\n{'gradient step' if what == 'step' else 'amortised'}")
            theirs.append(paper[title][place])
            errors.append(PAPER_ERRORS[title][place])
            ours.append(entry["value"])
            low.append(entry["value"] - entry["spread"][0])
            high.append(entry["spread"][1] - entry["value"])
    x = np.arange(len(labels))
    bars = {"width": 0.38, "capsize": 3}
    hollow = {"color": "white", "edgecolor": PALETTE["black"], "label": "paper, its errors propagated"}
    axes.bar(x - 0.2, theirs, yerr=errors, **hollow, **bars)
    axes.bar(x + 0.2, ours, yerr=[low, high], color=PALETTE["blue"], label="here, quartiles over turns", **bars)
    axes.axhline(1, color=PALETTE["grey"], linestyle=":", linewidth=1.5)
    axes.set_xticks(x, labels, fontsize=9)
    axes.set(ylabel="time of SequenceMatch\n/ time of MLE")
    axes.grid(axis="x", visible=False)
    axes.legend()
    named = zip(labels[1::2], ours[1::2], theirs[1::2], strict=True)
    told = (f"{' '.join(name.split()[:-1])} {own:.1f} (the paper: {printed:.1f})" for name, own, printed in named)
    headline(made, f"SequenceMatch over MLE, sampling included: {'; '.join(told)}")
    return made


def breakdown(parts: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Stacked bars of the parts of a gradient step, sampling amortised, a panel a shape.

    Args:
        parts: `{shape: {method: {part: seconds}}}`.
    """
    made, axes = figure(1, len(parts), height=4.0, width=9.0, squeeze=False)
    for ax, (shape, methods) in zip(axes[0], parts.items(), strict=True):
        names = [name for name in NAMES if name in methods]  # a result file has its own order
        base = np.zeros(len(names))
        for part, colour in PARTS.items():
            heights = np.array([1e3 * methods[name].get(part, 0.0) for name in names])
            ax.bar(names, heights, 0.7, bottom=base, color=colour, hatch=HATCHES[part], edgecolor="white", label=part)
            base += heights
        ax.set(title=shape, ylabel="ms a gradient step")
        ax.set_xticks(range(len(names)), [NAMES[name] for name in names], fontsize=9)
        ax.grid(axis="x", visible=False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    made.legend(handles[::-1], labels[::-1], loc="outside right center", fontsize=9)
    dense = {shape: methods for shape, methods in parts.items() if "dense" in methods}
    slower = ", ".join(f"{_slower(methods):.1f} times as long on {shape}" for shape, methods in dense.items())
    sampled = " and ".join(f"{100 * _sampled(methods):.0f} % on {shape}" for shape, methods in parts.items())
    beside = f"The paper's format takes {slower}; " if dense else ""
    headline(made, f"{beside}sampling is {sampled} of a step of SequenceMatch")
    return made


def _slower(methods: Mapping[str, Mapping[str, float]]) -> float:
    """A step in the paper's format over one of ours."""
    return sum(methods["dense"].values()) / sum(methods["sm"].values())


def _sampled(methods: Mapping[str, Mapping[str, float]]) -> float:
    """The share of a step that is sampling."""
    return methods["sm"].get("sampling", 0.0) / sum(methods["sm"].values())


def curves(measured: Mapping[str, Mapping[str, Any]]) -> Figure:
    """A gradient step along each axis: milliseconds against context, elsewhere over MLE's step in the same turns.

    A ratio is free of the machine's slow moments, and costs that methods share cancel. Bars: quartiles over the turns,
    where the file has these; without them the point is a ratio of medians.
    """
    made, axes = figure(2, 3, height=6.2, width=9.5, squeeze=False)
    flat = list(axes.flat)
    for ax, axis in zip(flat, [axis for axis in AXES if axis in measured], strict=False):
        series = measured[axis]
        absolute = axis == "context"
        for name in NAMES:
            if name in series:
                _line(ax, series, name, absolute=absolute)
        if axis in ("context", "batch", "times seen"):
            ax.set_xscale("log", base=2)
            ax.set_xticks(series["x"], [f"{x:g}" for x in series["x"]])
            ax.minorticks_off()
        ratio = "amortised step / MLE step" if axis == "times seen" else "step / MLE step"
        ax.set(xlabel=AXES[axis], ylabel="ms a step" if absolute else ratio, ylim=(0, 1.1 * ax.dataLim.y1))
        ax.tick_params(labelsize=9)
    for ax in flat[len(measured) :]:
        ax.set_axis_off()
    handles, labels = flat[0].get_legend_handles_labels()
    flat[-1].legend(handles, labels, loc="center")
    told = [_least_and_most(axis, measured[axis]) for axis in ("context", "times seen") if axis in measured]
    headline(made, f"A step of SequenceMatch over one of MLE: {'; '.join(told)}")
    return made


def _least_and_most(axis: str, series: Mapping[str, Any]) -> str:
    """The ratio at the two ends of an axis."""
    known = [k for k, seconds in enumerate(series["sm"]) if seconds is not None]
    first, last = (_quartiles(series, "sm", k, absolute=False)[1] for k in (known[0], known[-1]))
    begin, end = series["x"][known[0]], series["x"][known[-1]]
    return f"{first:.1f} to {last:.1f} with {AXES[axis].removesuffix(' η')} {begin:g} to {end:g}"


def _line(ax: Any, series: Mapping[str, Any], name: str, *, absolute: bool) -> None:
    """One method along an axis; None stands for what was not measured."""
    known = [k for k, seconds in enumerate(series[name]) if seconds is not None]
    found = np.array([_quartiles(series, name, k, absolute=absolute) for k in known])  # [points, (low, median, high)]
    style: dict[str, Any] = {"color": PALETTE["vermilion"], "marker": "X", "linestyle": "-."}
    if name != "dense":
        look = method_style(name)
        style = {"color": look.color, "marker": look.marker, "linestyle": look.linestyle}
    ends = np.abs(found[:, [0, 2]] - found[:, [1]]).T
    ax.errorbar([series["x"][k] for k in known], found[:, 1], ends if ends.any() else None, label=NAMES[name], **style)


def _quartiles(series: Mapping[str, Any], name: str, k: int, *, absolute: bool) -> Sequence[float]:
    """Low, median and high of milliseconds or of the ratio to MLE, turn by turn; equal where only medians are known."""
    turns = series.get("turns")
    seconds, base = (np.array(turns[m][k] if turns else [series[m][k]]) for m in (name, "mle"))
    values: list[float] = np.quantile(1e3 * seconds if absolute else seconds / base, [0.25, 0.5, 0.75]).tolist()
    return values


RIVALS = {
    "mle": "MLE, ours",
    "trl_sft_packed": "SFTTrainer of TRL, packed",
    "trl_sft_padded": "SFTTrainer of TRL, padded",
    "sm": "SequenceMatch, ours: the gradient step",
    "sm_amortised": "SequenceMatch, ours: with its share of sampling",
    "sm_on_policy": "SequenceMatch, ours: new rollouts every step",
    "trl_gkd": "GKDTrainer of TRL: new continuations every step",
}


def peers(run: Mapping[str, Any]) -> pd.DataFrame:
    """The trainers of `smlib bench --peers`: a step, what it learns from and samples, tokens a second, peak memory."""
    rows = [
        {
            "trainer": title,
            "ms a step": 1e3 * run[f"peers_{name}_step"]["value"],
            "tokens a step": run[f"peers_{name}_step"]["tokens"],
            "of these sampled": run[f"peers_{name}_step"]["sampled"],
            "tokens a second": run[f"peers_{name}_tokens_per_s"]["value"],
            "peak memory, MiB": run.get(f"peers_{name}_peak_memory", {}).get("value", "—"),
        }
        for name, title in RIVALS.items()
    ]
    return pd.DataFrame(rows).set_index("trainer")


def processes(run: Mapping[str, Any]) -> pd.DataFrame:
    """`smlib bench --processes`: a step in milliseconds at each number of processes, and what it is in proportion."""
    rows = []
    for k, count in enumerate(run["x"]):
        mle, sm = (np.array(run["turns"][method][k]) for method in ("mle", "sm"))
        first = [np.array(run["turns"][method][0]) for method in ("mle", "sm")]
        rows.append(
            {
                "processes": count,
                "MLE, ms a step": 1e3 * run["mle"][k],
                "SequenceMatch, ms a step": 1e3 * run["sm"][k],
                "SequenceMatch / MLE": float(np.median(sm / mle)),
                f"MLE, over {run['x'][0]}": float(np.median(mle / first[0])),
                f"SequenceMatch, over {run['x'][0]}": float(np.median(sm / first[1])),
            }
        )
    return pd.DataFrame(rows).set_index("processes").round(2)


def targets(run: Mapping[str, Any]) -> pd.DataFrame:
    """Every entry of `smlib bench`: median, quartiles, unit, baseline, turns, and target and bound where there are."""
    rows = [
        {
            "entry": name,
            "median": entry["value"],
            "quartiles": f"{entry['spread'][0]:g} to {entry['spread'][1]:g}",
            "unit": entry["unit"],
            "baseline": entry["baseline"],
            "n": entry["n"],
            "target": entry.get("target", "—"),
            "bound": entry.get("bound", "—"),
            "reached": {True: "yes", False: "no"}.get(entry.get("reached"), "—"),
        }
        for name, entry in run.items()
    ]
    return pd.DataFrame(rows).set_index("entry")

"""The report in pictures and tables: verdicts, claims, open choices, errata."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, counted, figure, headline
from smlib.paper.tables import with_error

VERDICT_STYLES = {
    "reproduced": (PALETTE["green"], "o"),
    "direction only": (PALETTE["orange"], "s"),
    "not reproduced": (PALETTE["vermilion"], "X"),
    "not run": (PALETTE["grey"], "."),
}
OUTCOME_STYLES = {
    "confirmed": (PALETTE["green"], "o"),
    "same sign": (PALETTE["orange"], "s"),
    "opposite sign": (PALETTE["purple"], "v"),
    "contradicted": (PALETTE["vermilion"], "X"),
}


def verdicts(study: Mapping[str, Any]) -> Figure:
    """One mark an item, in the column of its verdict."""
    items, columns = study["items"], list(VERDICT_STYLES)
    heads = [item["title"].partition(": ")[0] for item in items]
    titles = [i["title"] if heads.count(head) > 1 else head for i, head in zip(items, heads, strict=True)]
    made, axis = figure(height=1.2 + 0.34 * len(items), width=8.5)
    for y, item in enumerate(items):
        color, marker = VERDICT_STYLES[item["verdict"]]
        axis.plot(columns.index(item["verdict"]), y, color=color, marker=marker, markersize=11, linestyle="none")
    axis.set_xticks(range(len(columns)), [name.replace(" ", "\n") for name in columns])
    axis.xaxis.tick_top()
    axis.set_yticks(
        range(len(items)), [f"{i['id']}: {title}" for i, title in zip(items, titles, strict=True)], fontsize=10
    )
    axis.set_ylim(len(items) - 0.5, -0.5)
    axis.set_xlim(-0.5, len(columns) - 0.5)
    found = [item["verdict"] for item in items]
    told = ", ".join(f"{found.count(name)} {name}" for name in columns if name in found)
    headline(made, f"Of {counted(len(items), 'item')}: {told}")
    return made


def claims(study: Mapping[str, Any]) -> Figure:
    """Every judged comparison with its 95 % interval, all intervals drawn equally long: one that misses 0 is sure.

    Differences of accuracies, BLEU and perplexities have no unit in common; scaled so, they have one. A comparison
    without spread (every question answered alike) is drawn at zero, without an interval.
    """
    found = [(item["id"], c) for item in study["items"] for c in item["comparisons"]]
    made, axis = figure(height=1.9 + 0.34 * max(len(found), 1), width=8.5)
    labels, before = [], None
    for y, (item, claim) in enumerate(found):
        color, marker = OUTCOME_STYLES[claim["outcome"]]
        units = _units(claim)
        length = None if claim["low"] in (None, claim["high"]) else 1
        axis.errorbar(units, y, xerr=length, color=color, marker=marker, linestyle="none", markersize=8)
        if before not in (None, item):
            axis.axhline(y - 0.5, color=PALETTE["black"], linewidth=0.8)
        labels.append(textwrap.fill(f"{item}: {claim['claim']}" if item != before else claim["claim"], 40))
        before = item
    axis.axvline(0, color=PALETTE["black"], linewidth=1)
    axis.set_yticks(range(len(found)), labels, fontsize=9)
    axis.set_ylim(max(len(found), 1) - 0.5, -0.5)
    axis.set_xticks([])
    axis.set(xlabel="← against the paper      as the paper says →\n(95 % intervals, all drawn equally long)")
    beside = axis.twinx()
    beside.set_ylim(axis.get_ylim())
    beside.set_yticks(range(len(found)), [_signed(c["difference"]) for _, c in found], fontsize=9)
    beside.tick_params(axis="y", length=0)
    beside.spines[:].set_visible(False)
    beside.grid(visible=False)
    for outcome, (color, marker) in OUTCOME_STYLES.items():
        axis.plot([], [], color=color, marker=marker, linestyle="none", label=outcome)
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    counts = Counter(claim["outcome"] for _, claim in found)
    said = ", ".join(f"{counts[outcome]} {outcome}" for outcome in OUTCOME_STYLES)
    headline(made, f"Of {len(found)} comparisons: {said}")
    return made


def _signed(difference: float) -> str:
    return "0" if abs(difference) < 1e-9 else f"{difference:+.3g}"


def _units(claim: Mapping[str, Any]) -> float:
    """The difference in half-widths of its interval: beyond 1 the interval excludes 0."""
    if claim["low"] is None or claim["high"] is None or claim["high"] == claim["low"]:
        return 0.0
    half = (claim["high"] - claim["low"]) / 2
    return float(np.clip(claim["difference"] / half, -20, 20))


def item_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """Paper's value, ours with error bar, seeds, preset, verdict and why."""
    items = study["items"]
    return pd.DataFrame(
        {
            "section": [i["section"] for i in items],
            "paper": [i["paper"] for i in items],
            "ours": [with_error(i["ours"], i["error"], 3) for i in items],
            "seeds": [i["n_seeds"] or "—" for i in items],
            "preset": [i["preset"] or "—" for i in items],
            "verdict": [i["verdict"] for i in items],
            "why": [i["why"] or "—" for i in items],
        },
        index=pd.Index([i["id"] for i in items], name="item"),
    )


def number_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """Every number that the paper prints and that was rebuilt, side by side."""
    rows = [(i["id"], row) for i in study["items"] for row in i["rows"]]
    return pd.DataFrame(
        {
            "item": [item for item, _ in rows],
            "what": [row["label"] for _, row in rows],
            "paper": [with_error(row["paper"]) for _, row in rows],
            "ours": [with_error(row["ours"], row["error"], 3) for _, row in rows],
        }
    )


def choice_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """What the paper leaves open, what is done here, and how much it matters."""
    return _records(study["choices"], {"question": "not said", "ours": "here", "sensitivity": "how much it matters"})


def erratum_table(study: Mapping[str, Any]) -> pd.DataFrame:
    """Where the paper disagrees with its own definitions, and the notebook that shows it."""
    names = {"place": "where", "printed": "as printed", "instead": "instead", "shown": "notebook"}
    return _records(study["errata"], names)


def gpu_table(rows: Sequence[Mapping[str, str]]) -> pd.DataFrame:
    """What a GPU measured beside what the machine of the committed results did."""
    return _records([dict(r) for r in rows], {"what": "what", "cpu": "here", "gpu": "on a GPU", "device": "device"})


def _records(records: list[dict[str, str]], names: Mapping[str, str]) -> pd.DataFrame:
    return pd.DataFrame([{title: record[key] for key, title in names.items()} for record in records])

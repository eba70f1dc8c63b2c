"""The report in pictures and tables: verdicts, claims, open choices, errata."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, figure
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
    made, axis = figure(height=0.8 + 0.34 * len(items), width=8.5)
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
    return made


def claims(study: Mapping[str, Any]) -> Figure:
    """Every judged comparison, in units of the half-width of its 95 % interval: beyond 1 it excludes zero by itself.

    A comparison without spread (every question answered alike) has no such unit and is drawn at zero.
    """
    found = [(item["id"], c) for item in study["items"] for c in item["comparisons"]]
    made, axis = figure(height=1.2 + 0.3 * max(len(found), 1), width=8.5)
    for y, (_, claim) in enumerate(found):
        color, marker = OUTCOME_STYLES[claim["outcome"]]
        axis.plot(_units(claim), y, color=color, marker=marker, linestyle="none", markersize=8)
    for x in (-1, 1):
        axis.axvline(x, color=PALETTE["grey"], linestyle=":", linewidth=1.2)
    axis.axvline(0, color=PALETTE["black"], linewidth=1)
    axis.set_yticks(range(len(found)), [f"{item}: {c['claim']}" for item, c in found], fontsize=10)
    axis.set_ylim(max(len(found), 1) - 0.5, -0.5)
    axis.set(xlabel="difference in the paper's direction,\nin half-widths of its 95 % interval")
    for outcome, (color, marker) in OUTCOME_STYLES.items():
        axis.plot([], [], color=color, marker=marker, linestyle="none", label=outcome)
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return made


def _units(claim: Mapping[str, Any]) -> float:
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

"""Figures and tables of `05_text_generation`, from the items' files."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.figures.style import PALETTE, figure, method_style
from smlib.items import get_item

COLUMNS: Mapping[str, str] = {
    "MLE": "MLE",
    "CS": "MLE + C.S.",
    "ULK": "MLE + ULK",
    "BC": "MLE + <bkspc>",
    "SM": "SequenceMatch",
    "IQL": "offline IQLearn",
}
"""The paper's columns, and the one that came after it."""

METRICS = ("MAUVE", "entropy", "diversity", "perplexity")
_HEADINGS = ("MAUVE (↑)", "n-gram H (↑)", "Diversity (↑)", "Perplexity (↓)")
_STYLES = {"MLE": "mle", "CS": "contrastive", "ULK": "unlikelihood", "BC": "bc", "SM": "sm", "IQL": "iqlearn"}

Item = Mapping[str, Any]


def table_2(item: Item) -> pd.DataFrame:
    """Table 2 in the paper's layout: two lines a metric, the paper's and ours; a dash for what does not exist."""
    ours = {row["label"]: row for row in item["rows"]}
    paper = get_item("tab2").numbers
    lines = []
    for metric, heading in zip(METRICS, _HEADINGS, strict=True):
        for source in ("paper", "ours"):
            cells: dict[str, str] = {}
            for short, long in COLUMNS.items():
                label = f"{short} / {metric}"
                if source == "paper":
                    cells[long] = str(paper[label]) if label in paper else "—"
                else:
                    cells[long] = _shown(ours.get(label))
            lines.append({"metric": heading, "source": source, **cells})
    return pd.DataFrame(lines).set_index(["metric", "source"])


def _shown(row: Item | None) -> str:
    if row is None:
        return "—"
    return f"{row['ours']:.2f}" if row["error"] is None else f"{row['ours']:.2f} ± {row['error']:.2f}"


def comparisons(item: Item) -> pd.DataFrame:
    """The paired tests behind a verdict."""
    columns = ["claim", "paper", "difference", "low", "high", "p_holm", "outcome"]
    return pd.DataFrame(item["details"]["comparisons"])[columns].set_index("claim").round(4)


def edits(item: Item) -> pd.DataFrame:
    """What each method did besides: backspaces, deleted tokens, lengths, exclusions."""
    methods = item["details"]["methods"]
    columns = ["backspace_rate", "deleted", "length", "ended", "perplexity_tokens_only", "too_short"]
    table = pd.DataFrame({m: {c: values[c] for c in columns} for m, values in methods.items()}).T
    return table.rename(columns={"deleted": "tokens deleted", "too_short": "excluded"}).astype(float).round(4)


def metrics(item: Item) -> Figure:
    """Ours against the paper's, a panel a metric; the perplexities on their own scales, since the models differ."""
    made, axes = figure(1, 4, height=3.4, width=9.0)
    ours = {row["label"]: row for row in item["rows"]}
    paper = get_item("tab2").numbers
    for axis, metric, heading in zip(np.ravel(axes), METRICS, _HEADINGS, strict=True):
        shorts = [short for short in COLUMNS if f"{short} / {metric}" in ours]
        for place, short in enumerate(shorts):
            row, style = ours[f"{short} / {metric}"], method_style(_STYLES[short])
            error = row["error"]
            ends = None if error is None else [[min(error, row["ours"])], [error]]  # none of these can be negative
            axis.errorbar(place, row["ours"], yerr=ends, color=style.color, marker=style.marker, linestyle="")
            label = f"{short} / {metric}"
            if label in paper and metric != "perplexity":
                axis.plot(place + 0.25, paper[label].value, color=PALETTE["grey"], marker="_", markersize=9)
        axis.set(title=heading, xlim=(-0.6, len(shorts) - 0.2))
        axis.set_xticks(range(len(shorts)), shorts, rotation=60)
    first = np.ravel(axes)[0]
    first.plot([], [], color=PALETTE["grey"], marker="_", markersize=9, linestyle="", label="the paper's value")
    made.legend(*first.get_legend_handles_labels(), loc="outside lower center")
    return made


def spurious_token(item: Item) -> Figure:
    """How often the last token of the prompt is deleted: a random one and the true one, by method."""
    rates = {row["label"]: row for row in item["rows"]}
    methods = [short for short in ("BC", "SM", "IQL") if f"{short} / random / at_once" in rates]
    made, axes = figure(1, 2, height=3.4, sharey=True)
    titles = ("deleted at once", f"deleted within {item['details']['actions']} actions")
    top = 0.0
    for axis, what, title in zip(np.ravel(axes), ("at_once", "removed"), titles, strict=True):
        for offset, kind, colour in ((-0.17, "random", "vermilion"), (0.17, "clean", "sky")):
            cells = [rates[f"{m} / {kind} / {what}"] for m in methods]
            places = np.arange(len(methods)) + offset
            axis.bar(places, [c["ours"] for c in cells], 0.32, color=PALETTE[colour], label=f"{kind} last token")
            shares, errors = (np.array([c[name] for c in cells], float) for name in ("ours", "error"))
            ends = [np.minimum(errors, shares), np.minimum(errors, 1.0 - shares)]
            top = max(top, float((shares + ends[1]).max()))
            axis.errorbar(places, shares, ends, color="black", linestyle="", capsize=3)
        axis.set(title=title, xlim=(-0.6, len(methods) - 0.4))
        axis.set_xticks(range(len(methods)), [COLUMNS[m] for m in methods], rotation=15)
    axes[0].set_ylim(0.0, 1.05 * top)  # shared: the longest bar of both panels
    axes[0].set_ylabel("share of prompts")
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return made


def learning(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Training loss of each method against the gradient step."""
    made, axis = figure(height=3.2)
    for method, history in sorted(histories.items()):
        style = method_style(method)
        axis.plot(
            history["step"][: len(history["loss"])], history["loss"], color=style.color, linestyle=style.linestyle
        )
        axis.plot([], [], label=style.label, color=style.color, linestyle=style.linestyle)
    axis.set(xlabel="gradient step", ylabel="training loss (nats)")
    axis.legend(ncols=2)
    return made


def table_8(item: Item, tail: int = 160) -> str:
    """Table 8 as HTML: the end of each prompt, the random token, and the completion with its deletions struck out."""
    forms = {
        "kept": "{}",
        "deleted": '<del style="opacity:.7">{}</del>',
        "noise": '<del style="color:#c22">{}</del>',
        "backspace": '<sup style="opacity:.6">{}</sup>',
    }
    lines = []
    for example in item["details"]["examples"]:
        prompt = example["prompt"]
        shown = ("… " if len(prompt) > tail else "") + prompt[-tail:]
        body = "".join(forms[part["kind"]].format(html.escape(part["text"])) for part in example["runs"])
        lines.append(
            f'<tr><td style="text-align:left;vertical-align:top">{html.escape(shown)}<b>{html.escape(example["token"])}'
            f'</b></td><td style="text-align:left;vertical-align:top">{body}</td></tr>'
        )
    head = "<tr><th>prompt, its last token replaced (bold)</th><th>actions</th></tr>"
    return f"<table>{head}{''.join(lines)}</table>"

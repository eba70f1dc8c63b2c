"""Figures and tables of `05_text_generation`, from the items' files."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, figure, headline, method_style
from smlib.paper.items import get_item

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
_VARIANTS = ("", "ours: unigrams, nats", "ours: each generation", "in units of MLE's own")
_PAPER: Mapping[str, Any] = {
    "color": PALETTE["grey"], "marker": "|", "markersize": 11, "markeredgewidth": 2, "linestyle": "",
}  # fmt: skip
_STYLES = {"MLE": "mle", "CS": "contrastive", "ULK": "unlikelihood", "BC": "bc", "SM": "sm", "IQL": "iqlearn"}

Item = Mapping[str, Any]


def table_2(item: Item) -> pd.DataFrame:
    """Table 2 in the paper's layout: two lines a metric, the paper's and ours; a dash for what does not exist. Below
    MAUVE what its package gives for each method by itself."""
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
        if metric == "MAUVE":
            beside = {long: _shown(ours.get(f"{short} / MAUVE by the package")) for short, long in COLUMNS.items()}
            lines.append({"metric": "MAUVE, the package alone", "source": "ours", **beside})
    return pd.DataFrame(lines).set_index(["metric", "source"])


def _shown(row: Item | None) -> str:
    if row is None:
        return "—"
    return f"{row['ours']:.2f}" if row["error"] is None else f"{row['ours']:.2f} ± {row['error']:.2f}"


def comparisons(item: Item) -> pd.DataFrame:
    """The paired tests behind a verdict."""
    columns = ["claim", "paper", "difference", "low", "high", "p_holm", "outcome"]
    table = pd.DataFrame(item["details"]["comparisons"])[columns].rename(columns={"p_holm": "p, Holm"})
    return table.set_index("claim").round(4)


def edits(item: Item) -> pd.DataFrame:
    """What each method did besides: backspaces, deleted tokens, lengths, exclusions."""
    methods = item["details"]["methods"]
    columns = {
        "backspace_rate": "share of <bkspc>",
        "deleted": "tokens deleted",
        "length": "length",
        "ended": "share that ended",
        "perplexity_tokens_only": "perplexity of tokens alone",
        "too_short": "excluded",
    }
    table = pd.DataFrame({method_style(m).label: {c: values[c] for c in columns} for m, values in methods.items()}).T
    return table.rename(columns=columns).astype(float).round(4)


def rate_table(rates: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """How often the last token of a prompt is deleted, by method and by the way it was counted, with intervals."""
    shown = {
        method_style(method).label: {
            _counting(key): f"{found.value:.3f} [{found.low:.3f}, {found.high:.3f}]" for key, found in every.items()
        }
        for method, every in rates.items()
    }
    return pd.DataFrame(shown).T


def _counting(key: str) -> str:
    kind, _, what = key.partition(" / ")
    ways = {
        "at_once": "deleted at once",
        "removed": "deleted within a few actions",
        "probability": "P(<bkspc>), not sampled",
    }
    return f"{'true' if kind == 'clean' else kind} token: {ways.get(what, what)}"


def metrics(item: Item) -> Figure:
    """Ours against the paper's, a panel a metric; bars end where a metric ends.

    Perplexities of different models share no scale, so each is drawn in units of its own source's MLE.
    """
    made, axes = figure(1, 4, height=4.0, width=10.0, sharey=True)
    ours = {row["label"]: row for row in item["rows"]}
    paper = get_item("tab2").numbers
    shorts = [short for short in COLUMNS if f"{short} / {METRICS[0]}" in ours]
    for axis, metric, title, unit in zip(np.ravel(axes), METRICS, _HEADINGS, _VARIANTS, strict=True):
        top = 1.0 if metric in ("MAUVE", "diversity") else np.inf
        base, their_base = 1.0, 1.0
        if metric == "perplexity" and f"MLE / {metric}" in ours:
            base, their_base = ours[f"MLE / {metric}"]["ours"], paper[f"MLE / {metric}"].value
        for place, short in enumerate(shorts):
            row, style = ours.get(f"{short} / {metric}"), method_style(_STYLES[short])
            if f"{short} / {metric}" in paper:
                number = paper[f"{short} / {metric}"]
                error = None if number.error is None else number.error / their_base
                axis.errorbar(number.value / their_base, place + 0.2, xerr=error, **_PAPER)
            if row is None:
                where = ("axes fraction", "data")
                axis.annotate("not measured", (0.5, place), xycoords=where, ha="center", va="center")
                continue
            error = 0.0 if row["error"] is None else row["error"]
            ends = [[min(error, row["ours"])], [max(min(error, top - row["ours"]), 0.0)]]  # none can be negative
            axis.errorbar(
                row["ours"] / base, place - 0.14, xerr=np.array(ends) / base,
                color=style.color, marker=style.marker, linestyle="",
            )  # fmt: skip
        axis.set(ylim=(len(shorts) - 0.4, -0.6))
        axis.set_xlabel(unit, fontsize=10)
        axis.set_title(title, fontsize=11)
    axes[0].set_yticks(range(len(shorts)), [method_style(_STYLES[short]).label for short in shorts])
    axes[0].plot([], [], **_PAPER, label="as the paper prints it")
    axes[0].plot([], [], color=PALETTE["black"], marker="o", linestyle="", label="rebuilt, with 95 % intervals")
    made.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    headline(made, _mauve(ours, shorts))
    return made


def _mauve(ours: Mapping[str, Item], shorts: Sequence[str]) -> str:
    """The order by the paper's first metric, best first."""
    order = sorted(shorts, key=lambda short: -float(ours[f"{short} / MAUVE"]["ours"]))
    said = ", ".join(f"{method_style(_STYLES[s]).label} {ours[f'{s} / MAUVE']['ours']:.2f}" for s in order)
    return f"MAUVE: {said}"


def spurious_token(item: Item) -> Figure:
    """How often the last token of a prompt is deleted, a random one and the true one, by method; the paper's share."""
    rates = {row["label"]: row for row in item["rows"]}
    methods = [short for short in ("BC", "SM", "IQL") if f"{short} / random / at_once" in rates]
    made, axes = figure(1, 2, height=3.6, sharey=True)
    titles = ("deleted at once", f"deleted within {item['details']['actions']} actions")
    for axis, what, title in zip(np.ravel(axes), ("at_once", "removed"), titles, strict=True):
        for offset, kind, colour in ((-0.17, "random", "vermilion"), (0.17, "clean", "sky")):
            cells = [rates[f"{m} / {kind} / {what}"] for m in methods]
            places = np.arange(len(methods)) + offset
            axis.bar(places, [c["ours"] for c in cells], 0.32, color=PALETTE[colour], label=f"{kind} last token")
            shares, errors = (np.array([c[name] for c in cells], float) for name in ("ours", "error"))
            ends = [np.minimum(errors, shares), np.minimum(errors, 1.0 - shares)]
            axis.errorbar(places, shares, ends, color="black", linestyle="", capsize=3)
        axis.set(title=title, xlim=(-0.6, len(methods) - 0.4), ylim=(0.0, 1.0))
        axis.set_xticks(range(len(methods)), [method_style(_STYLES[m]).label.replace(" ", "\n") for m in methods])
        axis.tick_params(axis="x", labelsize=10)
    if "SM" in methods:
        share = get_item("tab8").numbers["first action is backspace"].value
        mark = {**_PAPER, "marker": "_", "label": "the paper: a random one, 4 of 5 prompts"}
        axes[0].plot(methods.index("SM") - 0.17, share, **mark)
    axes[0].set_ylabel("share of prompts")
    handles, labels = axes[0].get_legend_handles_labels()  # the paper's mark comes last
    order = sorted(range(len(labels)), key=lambda i: labels[i].startswith("the paper"))
    made.legend(
        [handles[i] for i in order], [labels[i] for i in order],
        loc="outside lower center", ncols=3, fontsize=9, columnspacing=1.0,
    )  # fmt: skip
    headline(made, _deleted(rates, methods))
    return made


def _deleted(rates: Mapping[str, Item], methods: Sequence[str]) -> str:
    """How often the first action deletes a random token and a true one, by method."""
    said = [
        f"{method_style(_STYLES[m]).label} {100 * rates[f'{m} / random / at_once']['ours']:.0f} %"
        f" ({100 * rates[f'{m} / clean / at_once']['ours']:.1f} %)"
        for m in methods
    ]
    return f"A random last token is deleted at once, and in brackets a true one, by {', '.join(said)}"


def learning(histories: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Training loss of each method against the gradient step."""
    made, axis = figure(height=4.0)
    fallen = sum(history["loss"][-1] < history["loss"][0] for history in histories.values())
    for method, history in sorted(histories.items()):
        style = method_style(method)
        axis.plot(
            history["step"][: len(history["loss"])], history["loss"], color=style.color, linestyle=style.linestyle
        )
        axis.plot([], [], label=style.label, color=style.color, linestyle=style.linestyle)
    axis.set(xlabel="gradient step", ylabel="training loss (nats)")
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headline(made, f"The losses of {fallen} of {len(histories)} methods end lower than they began")
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

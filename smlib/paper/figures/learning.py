"""What fine-tuning teaches a base that has not read the task: accuracy against passes, samples beside greedy ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from smlib.paper.figures.arithmetic import cell_title
from smlib.paper.figures.style import PALETTE, counted, figure, headline, method_style
from smlib.paper.sentences.learning import KINDS, by_noise, headline_curves, noised, placed

Study = Mapping[str, Any]
RULES = {"t1": "temperature 1", "greedy": "greedy"}
TITLES = {
    "t1": "temperature 1",
    "greedy": "greedy",
    "greedy_exclude": "greedy, no repeats",
    "no_backspace": "temperature 1, <bkspc> forbidden",
    "top_p": "top-p 0.9",
    "truncation": "truncation, p²/(p + ηu)",
}


def curves(study: Study) -> Figure:
    """Validation accuracy against passes over the training questions: every seed thin, their mean thick.

    Args:
        study: of `experiments.arithmetic.learning`; of its cells the three of the claims are drawn.
    """
    made, axes = figure(1, len(RULES), height=3.8, sharey=True)
    chosen = [cell for cell in study["cells"] if _is_headline(cell["cell"], study)]
    for ax, (rule, title) in zip(axes, RULES.items(), strict=True):
        if study["base"]:
            ax.axhline(study["base"][rule], color=PALETTE["grey"], linestyle="--", lw=1.5, label="before")
        for cell in chosen:
            style = method_style(cell["cell"].split("-")[0]).kwargs()
            x = np.array(cell["curves"][0]["step"]) * study["passes"] / study["steps"]
            seeds = np.array([curve[rule] for curve in cell["curves"]])
            for own in seeds if len(seeds) > 1 else ():
                ax.plot(x, own, color=style["color"], lw=0.7, alpha=0.5)
            label = f"{style.pop('label')} ({counted(len(seeds), 'seed')})"
            ax.plot(x, seeds.mean(0), label=label, markersize=4, **style)
        ax.set_title(title)
        ax.set_ylim(bottom=0.0)
        ax.set_xlabel("passes over the questions")
    axes[0].set_ylabel("accuracy, validation")
    made.suptitle(finding(study), fontsize=11)
    handles, labels = axes[0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=2)
    return made


def against_noise(study: Study) -> Figure | None:
    """Lead over MLE with the same seeds against the noise level, a panel a kind of noise; None where no run has noise.

    Points with fewer seeds than planned are hollow. Bars are 95 % intervals, paired over seeds and questions. Those of
    two or three seeds can be ten times as long as the others, so a bar may leave the picture.
    """
    cells = noised(study)
    kinds = [kind for kind in KINDS if any(cell["kind"] == kind for cell in cells)]
    if not kinds:
        return None
    made, axes = figure(1, len(kinds), height=3.8, sharey=True, squeeze=False)
    levels = sorted({cell["level"] for cell in cells})
    leads = [100 * cell["lead"]["difference"] for cell in cells]
    fewer = any(cell["lead"]["n_seeds"] != study["seeds"] for cell in cells)
    for ax, kind in zip(axes[0], kinds, strict=True):
        ax.axhline(0, color=PALETTE["black"], linestyle=":", lw=1.5, label="MLE")
        for method, shift in (("bc", -0.004), ("sm", 0.004)):
            own = [cell for cell in cells if cell["method"] == method and cell["kind"] in (kind, "none")]
            style = method_style(method).kwargs()
            x, y = [cell["level"] + shift for cell in own], [100 * cell["lead"]["difference"] for cell in own]
            ax.plot(x, y, **{**style, "marker": ""})
            for at, cell in zip(x, own, strict=True):
                lead = {end: 100 * cell["lead"][end] for end in ("difference", "low", "high")}
                below, above = lead["difference"] - lead["low"], lead["high"] - lead["difference"]
                whole = cell["lead"]["n_seeds"] == study["seeds"]
                ax.errorbar(
                    at, lead["difference"], [[below], [above]], color=style["color"], marker=style["marker"],
                    markerfacecolor=style["color"] if whole else "white", linestyle="none",
                )  # fmt: skip
        ax.set_title(KINDS[kind])
        ax.set_xlabel("noise level η")
        ax.set_xticks(levels, [f"{level:g}" for level in levels])
        ax.set_xlim(levels[0] - 0.03, levels[-1] + 0.03)
        ax.set_ylim(min(0, *leads) - 5, max(0, *leads) + 5)
        if fewer:
            hollow = {"color": PALETTE["black"], "marker": "o", "markerfacecolor": "white", "linestyle": "none"}
            ax.plot([], [], **hollow, label="fewer seeds than planned")
    axes[0][0].set_ylabel("ahead of MLE, points, test")
    handles, labels = axes[0][0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    headline(made, by_noise(study))
    return made


def finding(study: Study) -> str:
    """A line for each of the plan's claims, with what is missing for a decision."""
    tested = [claim for claim in study["claims"] if "difference" in claim]
    if not tested:
        return f"{study['done']} of {study['planned']} planned runs are there: nothing to compare yet"
    shown = "\n".join(
        f"{c['claim']}: {100 * c['difference']:+.1f} points ({100 * c['low']:+.1f} to {100 * c['high']:+.1f})"
        + (f", {c['outcome']}" if "outcome" in c else "")
        for c in tested
    )
    if all(claim["decided"] for claim in study["claims"]):
        return shown
    few = min(claim["n_seeds"] for claim in study["claims"])
    return f"undecided, {counted(few, 'seed')} of {study['seeds']}\n{shown}"


def accuracies(study: Study) -> pd.DataFrame:
    """Test accuracy of every cell that is there under every decoding rule, ± half a 95 % interval."""
    rows = {}
    for cell in sorted(study["cells"], key=lambda cell: placed(cell["cell"])):
        values = {TITLES[rule]: _shown(estimate) for rule, estimate in cell["test"].items()}
        rows[cell_title(cell["cell"])] = {"seeds": f"{cell['n_seeds']} of {study['seeds']}", **values}
    return pd.DataFrame.from_dict(rows, orient="index").fillna("—").rename_axis("run")


def taught(study: Study) -> pd.DataFrame:
    """What fine-tuning teaches: before, after, and the gap between greedy answers and samples, validation questions."""
    rows: dict[str, Mapping[str, str]] = {}
    if study["base"]:
        rows["before"] = _gap([study["base"]["t1"]], [study["base"]["greedy"]])
    for cell in sorted(study["cells"], key=lambda cell: placed(cell["cell"])):
        last = {rule: [curve[rule][-1] for curve in cell["curves"]] for rule in RULES}
        rows[cell_title(cell["cell"])] = _gap(last["t1"], last["greedy"])
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")


def by_passes(study: Study) -> pd.DataFrame:
    """Validation accuracy of the claims' cells after so many passes, mean over seeds, samples and greedy answers."""
    made: dict[tuple[str, str], list[str]] = {}
    means = headline_curves(study)
    for rule, title in RULES.items():
        for method, curve in means.items():
            made[title, method_style(method).label] = [f"{value:.3f}" for value in curve[rule]]
    steps = next(iter(means.values()))["step"] if means else []
    index = [f"{step * study['passes'] / study['steps']:.1f}" for step in steps]
    return pd.DataFrame(made, index=index).rename_axis(index="passes")


def _gap(t1: Sequence[float], greedy: Sequence[float]) -> Mapping[str, str]:
    means = float(np.mean(t1)), float(np.mean(greedy))
    shown = {RULES["t1"]: means[0], RULES["greedy"]: means[1], "greedy − temperature 1": means[1] - means[0]}
    return {title: f"{value:.3f}" for title, value in shown.items()}


def _is_headline(cell: str, study: Study) -> bool:
    level = study["claims"][0]["level"]
    return cell == "mle" or cell.endswith(f"-ground_truth-{level}")


def _shown(estimate: Mapping[str, Any]) -> str:
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:.3f}"
    half = max(estimate["high"] - estimate["value"], estimate["value"] - estimate["low"])
    return f"{estimate['value']:.3f} ± {half:.3f}"

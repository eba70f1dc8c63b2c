"""What training curves look like when something is wrong, from committed runs; `docs/diverging.md` explains them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from smlib.paper.figures.style import PALETTE, figure, headline, method_style

Runs = Mapping[str, Any]
VALUES = {
    "sm-default": ("as it should be", "blue", "-"),
    "sm-initial_value=10.0": ("V started 10 too high", "vermilion", "--"),
    "sm-initial_value=-10.0": ("V started 10 too low", "orange", "--"),
    "sm-alpha=1.0": ("α = 1: squares outweigh the likelihood", "purple", "-."),
}
DECODINGS = {"t1": "temperature 1", "greedy": "greedy", "greedy_exclude": "greedy, what was\ndeleted excluded"}
DELETING = {"bc": "BC, η = 0.2", "sm-default": "SequenceMatch, η = 0.2",
            "sm-burst=4": "SequenceMatch, mistakes of 4 tokens"}  # fmt: skip
DEPTHS = {"bc": "BC, mistakes of 1 token", "sm-default": "SequenceMatch, mistakes of 1 token",
          "sm-burst=4": "SequenceMatch, mistakes of 4 tokens"}  # fmt: skip
HOLLOW = {"sm-burst=4"}
"""A method in another setting: its colour, and hollow."""


def value(runs: Runs) -> Figure:
    """V and the likelihood against the step: V may stand anywhere, and the likelihood does not tell."""
    made, (left, right) = figure(1, 2, height=3.8, width=9.5)
    for name, (label, color, dashes) in VALUES.items():
        history = runs[f"{name}-s0"]["history"]
        steps = np.array(history["step"])
        later = steps[len(steps) - len(history["value_data"]) :]
        left.plot(later, 2 * np.array(history["value_data"]), color=PALETTE[color], linestyle=dashes, label=label)
        cloning = [*history["nll"], *history["bc"]]
        right.plot(steps, cloning, color=PALETTE[color], linestyle=dashes)
    left.set(xlabel="step", ylabel="V(s₀), per discounted action")
    right.set(xlabel="step", ylabel="cloning loss (nats per action)", yscale="log")
    made.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    shifted = [runs[f"{name}-s0"]["history"] for name in VALUES if "alpha" not in name]
    ends = [2 * history["value_data"][-1] for history in shifted]
    losses = [[*history["nll"], *history["bc"]][-1] for history in shifted]
    headline(
        made,
        f"At three starts V ends up to {max(ends) - min(ends):.1f} apart, the cloning loss at most "
        f"{max(losses) - min(losses):.1g}: the likelihood does not tell",
    )
    return made


def spikes(details: Mapping[str, Any]) -> Figure:
    """Gradient norms before clipping at α = 0.1: Jensen-Shannon spikes where rewards leave its domain."""
    study = details["strong"]
    made, axes = figure(1, 2, height=3.6, width=9.5, sharey=True)
    rows = {row["name"]: row for row in study["rows"]}
    for axis, name, color in zip(axes, ("chi2_mixture", "js"), ("blue", "vermilion"), strict=True):
        trace = rows[name]["trace"]
        axis.plot(trace["step"], trace["maximum"], color=PALETTE[color], linewidth=0.8, alpha=0.7, label="maximum")
        axis.plot(trace["step"], trace["median"], color=PALETTE[color], label="median")
        axis.axvline(study["bc_steps"], color=PALETTE["grey"], linestyle=":", linewidth=1.2)
        axis.set(yscale="log", xlabel="step")
        axis.set_title(f"{rows[name]['title']}: {rows[name]['spikes_per_1000']['value']:.0f} spikes in 1,000 steps")
    axes[0].set(ylabel="gradient norm")
    axes[0].legend(loc="upper right")
    calm, wild = (rows[name]["spikes_per_1000"]["value"] for name in ("chi2_mixture", "js"))
    said = f"Jensen-Shannon spikes in {wild:.0f} of 1,000 steps, the χ²-mixture in {calm:.0f}"
    headline(made, f"At α = {study['alpha']:g} {said}")
    return made


def backspace(runs: Runs) -> Figure:
    """Share of prompts whose wrong tokens are all deleted: `<bkspc>` is learned as deep as the mistakes were."""
    made, axis = figure(height=4.2, width=7.0)
    deepest = {}
    for name, label in DEPTHS.items():
        recovery = runs[f"{name}-s0"]["recovery"]
        depths = sorted(recovery, key=int)
        shares = [100 * _share(recovery[depth]["all_removed"]) for depth in depths]
        look = method_style(name.partition("-")[0])
        face = "white" if name in HOLLOW else look.color
        axis.plot(
            [int(d) for d in depths], shares, color=look.color, marker=look.marker, markerfacecolor=face, label=label,
            linestyle="--" if name in HOLLOW else "-",
        )  # fmt: skip
        deepest[name] = shares[-1]
    axis.set(xlabel="wrong tokens in a row after the prompt", ylabel="all of them deleted (%)", ylim=(0, 100))
    axis.set_xticks([1, 2, 3, 4])
    axis.legend(loc="best")
    headline(
        made,
        f"After {depths[-1]} wrong tokens {deepest['sm-burst=4']:.0f} % of the prompts are cleared where "
        f"demonstrations had mistakes of 4, {deepest['sm-default']:.0f} % where they had mistakes of 1",
    )
    return made


def loops(runs: Runs) -> Figure:
    """Share of actions that delete, by decoding: greedy decoding inserts and deletes the same token."""
    made, axis = figure(height=4.2, width=8.0)
    width = 0.8 / len(DELETING)
    for k, (name, label) in enumerate(DELETING.items()):
        val = runs[f"{name}-s0"]["val"]
        places = np.arange(len(DECODINGS)) + (k - 1) * width
        look = method_style(name.partition("-")[0])
        face = "white" if name in HOLLOW else look.color
        rates = [100 * val[d]["backspace_rate"] for d in DECODINGS]
        hatch = "//" if name in HOLLOW else ""
        axis.bar(places, rates, width, color=face, edgecolor=look.color, hatch=hatch, label=label)
    axis.set_xticks(range(len(DECODINGS)), list(DECODINGS.values()))
    axis.set(ylabel="deletions among actions (%)")
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    sampled, greedy, without = (runs["sm-default-s0"]["val"][d]["backspace_rate"] for d in DECODINGS)
    headline(
        made,
        f"SequenceMatch deletes in {100 * sampled:.0f} % of its actions when sampled, in {100 * greedy:.0f} % when "
        f"greedy, in {100 * without:.0f} % when it does not repeat what it deleted",
    )
    return made


def _share(flags: str | Sequence[int]) -> float:
    return float(np.mean([int(flag) for flag in flags]))

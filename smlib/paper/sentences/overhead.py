"""What was measured of the costs (`06_overhead`), in sentences."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from smlib.paper.sentences.wording import bullets, percent

Runs = Mapping[str, Any]


def bench(runs: Runs) -> str:
    """What the entries of `smlib bench` say of targets that were missed."""
    found = runs["bench"]
    missed = [name for name, entry in found.items() if entry.get("reached") is False]
    named = ", ".join(f"`{name}`" for name in missed) or "none"
    wanted = sum("target" in entry for entry in found.values())
    step, share = found["sm_over_mle_step_arithmetic"], found["slots_sm_over_mle_text1024"]
    inside = [found[f"{part}_share_of_step"]["value"] for part in ("linear", "attention")]
    again = runs["tab4 shared"]["sm_over_mle_step"]
    return bullets(
        [
            f"Targets reached: {wanted - len(missed)} of {wanted}. Missed: {named}.",
            f"The ratio of Table 4 with prompts shared: {again['value']:.2f} in the measurement above, "
            f"{step['value']:.2f} in this one (quartiles {step['spread'][0]:.2f} to {step['spread'][1]:.2f}).",
            f"Slots of SequenceMatch over MLE's, text: {share['value']:.2f}.",
            f"Matrix products and attention take {percent(sum(inside))} of a step's CPU time.",
            "Sampling with a fifth of deletions over none: "
            f"{found['sample_with_20pct_backspaces_over_none']['value']:.2f}.",
        ]
    )


def peers(run: Runs) -> str:
    """How many times as long as ours the steps of TRL's trainers take, and what the on-policy one learns from."""

    def times(theirs: str, ours: str) -> str:
        found = run[f"peers_{theirs}_step_over_{ours}"]
        return f"{found['value']:.2f} (quartiles {found['spread'][0]:.2f} to {found['spread'][1]:.2f})"

    tokens = [run[f"peers_{name}_step"]["tokens"] for name in ("trl_gkd", "sm_on_policy")]
    return bullets(
        [
            f"A step of `SFTTrainer` over ours of MLE: packed {times('trl_sft_packed', 'mle')}, padded "
            f"{times('trl_sft_padded', 'mle')}. Without FlashAttention its packed batch is one row under a dense mask.",
            f"A step of `GKDTrainer`, wholly on-policy, over ours of SequenceMatch with new rollouts every step: "
            f"{times('trl_gkd', 'sm_on_policy')}. It learns from {tokens[0]:,} tokens, ours from {tokens[1]:,}.",
        ]
    )


def scaling(runs: Runs) -> str:
    """A gradient step of SequenceMatch over MLE's along the context, and what the machine varied meanwhile."""
    curves = runs["curves"]
    context, same = curves["context"], [*curves["noise"]["mle"], *curves["rollout share"]["mle"]]
    turns = zip(context["turns"]["sm"], context["turns"]["mle"], strict=True)
    ratios = [float(np.median(np.array(sm) / np.array(mle))) for sm, mle in turns]
    said = ", ".join(f"{ratio:.2f} at {length:,} tokens" for length, ratio in zip(context["x"], ratios, strict=True))
    return f"SequenceMatch over MLE along the context: {said}. One and the same batch took MLE {_times(same)}."


def processes(run: Runs) -> str:
    """How much of a step's time is left in the largest number of processes, and what a perfect share would leave."""
    first, last = run["x"][0], run["x"][-1]
    left = [
        float(np.median(np.array(run["turns"][method][-1]) / np.array(run["turns"][method][0])))
        for method in ("mle", "sm")
    ]
    return (
        f"In {last} processes a step takes {left[0]:.2f} of its time in {first} with MLE and {left[1]:.2f} with "
        f"SequenceMatch, on {run['cores']} cores; a perfect share would be {first / last:.2f}."
    )


def _times(seconds: list[float]) -> str:
    return f"{1e3 * min(seconds):.0f} to {1e3 * max(seconds):.0f} ms"

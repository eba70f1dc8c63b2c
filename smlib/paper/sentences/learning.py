"""What the learning regime says (`04_arithmetic`): a base model that has to learn the task, in sentences."""

from collections.abc import Mapping
from typing import Any

from smlib.paper.sentences.wording import among, percent, spread

NAMES = {"mle": "MLE", "bc": "BC", "sm": "SequenceMatch"}
SAID = {
    "confirmed": "confirmed",
    "contradicted": "contradicted",
    "same sign": "of that sign, but not significant",
    "opposite sign": "of the opposite sign, but not significant",
}


def headline(study: Mapping[str, Any]) -> str:
    """The plan's three claims in one paragraph: accuracy of each method, its lead, and whether that is decided.

    Args:
        study: of `experiments.arithmetic.learning.study`.
    """
    tested = [claim for claim in study["claims"] if "difference" in claim]
    if not tested:
        return "No run of the learning regime is there yet."
    level = tested[0]["level"]
    shown = []
    for cell in study["cells"]:
        method = cell["cell"].split("-")[0]
        if cell["cell"] == "mle" or cell["cell"].endswith(f"-ground_truth-{level}"):
            shown.append(f"{NAMES[method]} {percent(cell['test']['t1']['value'], 1)}")
    seeds = min(claim["n_seeds"] for claim in tested)
    of = str(seeds) if seeds == study["seeds"] else f"{seeds} of {study['seeds']}"
    before = f"answers {percent(study['base']['t1'])} before fine-tuning" if study["base"] else "has not read the task"
    claims = [f"{claim['claim']}: {spread(claim)}, {_said(claim)}" for claim in tested]
    return (
        f"The base model {before}. After {study['passes']:.0f} passes over the questions, at digit noise {level} and "
        f"temperature 1, over {of} seeds: {among(shown)} of the test questions. {'; '.join(claims)}."
    )


def _said(claim: Mapping[str, Any]) -> str:
    return SAID[claim["outcome"]] if "outcome" in claim else "undecided until every seed is there"

"""What the confirmation of decoupled deletion says (`04_arithmetic`), in sentences."""

from collections.abc import Mapping
from typing import Any

from smlib.paper.sentences.wording import among, bullets, percent, spread


def confirmation(study: Mapping[str, Any]) -> str:
    """What decoupled deletion answers, whom it is ahead of, and what it costs, claim by claim.

    Args:
        study: of `experiments.arithmetic.decoupled_confirmation.study`.
    """
    if not study["claims"]:
        return "The confirmation has not been run with this preset, nor with `full`."
    ours = study["accuracy"][study["ours"]]["value"]
    decided = all("outcome" in claim for claim in study["claims"])
    first = f"On the test questions MLE's writing with BC's deletions answers {percent(ours, 1)}"
    first += f", over {study['seeds']} of {study['planned']} seeds that chose nothing."
    leads = {claim["over"]: f"{claim['over']} ({spread(claim)})" for claim in study["claims"]}
    said = [first]
    if decided:
        groups: dict[str, list[str]] = {"confirmed": [], "same sign": [], "opposite sign": [], "contradicted": []}
        for claim in study["claims"]:
            groups[claim["outcome"]].append(leads[claim["over"]])
        said.append(f"**It is ahead of** {among(groups['confirmed'])}." if groups["confirmed"] else "")
        level = groups["same sign"] + groups["opposite sign"]
        said.append(f"Not told apart from it: {among(level)}." if level else "")
        said.append(f"**It is behind** {among(groups['contradicted'])}." if groups["contradicted"] else "")
    else:
        said.append(f"Undecided until every planned seed is there: its lead over {among(list(leads.values()))}.")
    passes = study["passes"]
    said.append(
        f"It reads {passes[study['ours']]:.1f} tokens an answer with each of its two networks, BC {passes['bc']:.1f} "
        f"and MLE {passes['mle']:.1f} with one."
    )
    return bullets(said)

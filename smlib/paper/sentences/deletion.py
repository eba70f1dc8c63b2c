"""What the studies of deletion say (`15_deletion`), in sentences: the confirmation, the rivals, late mistakes."""

from collections.abc import Mapping, Sequence
from typing import Any

from smlib.paper.figures.deletion import WAYS as TRAINED
from smlib.paper.figures.rivals import LATE, ORDERS, WAYS, answered, rule
from smlib.paper.figures.style import counted
from smlib.paper.sentences.wording import among, bullets, percent, spread

FEW = 3
"""Seeds from which a claim may be a verdict, as everywhere (`experiments.judging.verdicts.MIN_SEEDS`)."""
DEEP = "3"
"""Wrong tokens, of the recovery that is spoken of: more than any demonstration has in a row."""


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


def rivals(study: Mapping[str, Any]) -> str:
    """Which way of dealing with a wrong token is ahead of MLE at temperature 1, which recovers, and what was not run.

    Args:
        study: of `experiments.arithmetic.rivals_of_deletion.latest`.
    """
    rows = {row["way"]: row for row in answered(study) if row["decoding"] == "t1"}
    if not rows:
        return "No run of this study is there."
    said: list[str] = []
    groups: dict[str, list[str]] = {"ahead": [], "behind": [], "open": []}
    for way, row in rows.items():
        if way == "mle" or "over_mle" not in row:
            continue
        lead = row["over_mle"]
        group = "ahead" if lead["low"] > 0 else "behind" if lead["high"] < 0 else "open"
        groups[group].append(f"{WAYS[way]} ({spread(lead)}, {counted(row['n_seeds'], 'seed')})")
    if "mle" in rows:
        said.append(f"MLE answers {percent(rows['mle']['accuracy']['value'], 1)} of the validation questions.")
    said.append(f"Ahead of it: {among(groups['ahead'])}." if groups["ahead"] else "")
    said.append(f"Behind it: {among(groups['behind'])}." if groups["behind"] else "")
    said.append(f"Not told apart from it: {among(groups['open'])}." if groups["open"] else "")
    deep = {way: row["recovery"][DEEP] for way, row in rows.items() if DEEP in row.get("recovery", {})}
    if deep:
        each = [f"{WAYS[way]} {percent(r['correct'])} and {percent(r['all_removed'])}" for way, r in deep.items()]
        said.append(f"After three wrong tokens in a row, right and all three deleted: {among(each)}.")
    operators = [row for row in answered(study) if row["decoding"].startswith("delete_")]
    if operators:
        most = max(operators, key=lambda row: float(row["recovery"][DEEP]["correct"]))
        once, often = most["recovery"]["1"], most["recovery"][DEEP]
        said.append(
            f"No training is needed to notice much of it: MLE that {rule(most['decoding'])} is right after one wrong "
            f"token in {percent(once['correct'])} and after three in {percent(often['correct'])}, deletes them in "
            f"{percent(once['all_removed'])} and {percent(often['all_removed'])}, and answers "
            f"{percent(most['accuracy']['value'], 1)} of the questions."
        )
    missing = [WAYS[row["way"]] for row in study["rows"] if row["status"] != "run"]
    said.append(f"Not run: {among(list(dict.fromkeys(missing)))}." if missing else "")
    if min(row["n_seeds"] for row in rows.values()) < FEW:
        said.append(f"With fewer than {FEW} seeds these are leads and no verdicts.")
    return bullets(said)


def cost(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which ways of training the deletions the figure lacks, for each base that it has.

    Args:
        rows: of `experiments.arithmetic.deletion_cost.latest`.
    """
    if not rows:
        return "No run of this study is there."
    bases: dict[tuple[str, ...], list[str]] = {}  # what they lack -> they
    for shape in dict.fromkeys(row["shape"] for row in rows):
        there = {row["way"] for row in rows if row["shape"] == shape}
        bases.setdefault(tuple(words for way, words in TRAINED.items() if way not in there), []).append(shape)
    said = [
        f"Not run with {'a base' if len(shapes) == 1 else 'bases'} of {among(shapes)}: {among(lacks)}."
        for lacks, shapes in bases.items()
        if lacks
    ]
    return bullets(said) if said else "Every way was run with every base."


def late(study: Mapping[str, Any]) -> str:
    """How soon each order of the digits lets a mistake be noticed, and what that does to the methods' accuracies.

    Args:
        study: of `experiments.arithmetic.late_mistakes.latest`.
    """
    rows = {(row["order"], row["method"]): row for row in answered(study)}
    if not rows:
        return "No run of this study is there."
    said: list[str] = []
    for order, words in ORDERS.items():
        if (order, "bc") in rows:
            at = {kind: {r["distance"]: r for r in records} for kind, records in rows[order, "bc"]["visible"].items()}
            first, second = at["carry"][1], at["carry"].get(2)
            later = f", and {percent(second['bkspc'])} one token later" if second else ""
            said.append(
                f"{words.capitalize()}: BC deletes with probability {percent(at['any'][1]['bkspc'])} right after any "
                f"wrong digit. Where it is one more or less than the right one, {percent(first['bkspc'])}{later}; "
                f"after a right digit {percent(first['bkspc_clean'])}."
            )
        answers = {name: row["accuracy"]["value"] for (o, name), row in rows.items() if o == order}
        if answers:
            each = [f"{(WAYS | LATE)[name]} {percent(value, 1)}" for name, value in answers.items()]
            said.append(f"{words.capitalize()}, accuracy at temperature 1: {among(each)}.")
    for order, words in ORDERS.items():
        missing = [row["method"] for row in study["rows"] if row["status"] != "run" and row["order"] == order]
        said.append(f"Not run, {words}: {among([(WAYS | LATE)[name] for name in missing])}." if missing else "")
    return bullets(said)

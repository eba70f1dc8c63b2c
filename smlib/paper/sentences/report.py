"""What all of it adds up to (`12_report`), in sentences from the items' own files."""

import math
import os
from collections.abc import Mapping
from typing import Any

from smlib.files import ResultError, read_json, resolve
from smlib.paper.ledger import read_item
from smlib.paper.sentences.learning import headline
from smlib.paper.sentences.wording import bullets, percent, points, spread

Details = Mapping[str, Any]


def adds_up(study: Details, preset: str, results_dir: str | os.PathLike[str] = "results") -> str:
    """The count of verdicts, what the theory shows exactly, what networks did, and what deletions learned from noise
    do; what was never run is left out.

    Args:
        study: the report's own details, with the counts.
        preset: is read where nothing is committed.
    """
    counts = ", ".join(f"{n} {verdict}" for verdict, n in study["counts"].items() if n)
    theory, tab1, fig3, tab5 = (_details(name, preset, results_dir) for name in ("theory", "tab1", "fig3", "tab5"))
    return bullets(
        [
            f"**Verdicts.** Of {sum(study['counts'].values())} items: {counts}.",
            divergences(theory) if theory else "",
            objective(theory) if theory else "",
            learns(preset, results_dir),
            recovery(tab1) if tab1 else "",
            f"**Figure 3, from a base model that knows the task.** {bc_against_mle(fig3)}" if fig3 else "",
            edits(fig3) if fig3 else "",
            elsewhere(tab5) if tab5 else "",
        ]
    )


def learns(preset: str, results_dir: str | os.PathLike[str] = "results") -> str:
    """What the learning regime says, committed runs first; empty where it was never run."""
    for found in dict.fromkeys(("full", preset)):
        path = resolve(results_dir) / found / "learning.json"
        if path.is_file() and (study := read_json(path))["done"]:
            return f"**A base model that has to learn the task.** {headline(study)}"
    return ""


def noise(preset: str, results_dir: str | os.PathLike[str] = "results") -> str:
    """What trained networks made of noised answers, beside the law of a perfect clone."""
    fig3, tab5 = (_details(name, preset, results_dir) for name in ("fig3", "tab5"))
    said = [edits(fig3), random_tokens(fig3)] if fig3 else []
    return bullets([*said, elsewhere(tab5) if tab5 else ""])


def random_tokens(fig3: Details) -> str:
    """What random tokens cost in Figure 3, beside no noise at all."""
    cells = fig3["points"]["t1"]
    base = next(cell["value"] for cell in cells if cell["method"] == "mle")
    less = {
        method: sorted(
            c["value"] - base for c in cells if (c["method"], c["kind"]) == (method, "random") and c["level"]
        )
        for method in ("bc", "sm")
    }
    if not all(less.values()):
        return ""
    said = " and ".join(
        f"{points(found[0])} to {points(found[-1])} with {name}"
        for name, found in zip(("BC", "SequenceMatch"), less.values(), strict=True)
    )
    return f"**Random tokens in Figure 3.** Less MLE's accuracy, in points: {said}."


def divergences(theory: Details) -> str:
    """What a divergence of occupancies does for a restricted policy, minimised directly."""
    stays = _stays(theory)
    ahead = [row for row in stays if row["method"].startswith("direct") and row["method"] != "direct forward_kl"]
    more = sum(row["gain"] > 0 for row in ahead)
    first = next(row for row in ahead if row["method"] == "direct chi2_mixture")
    return (
        f"**The argument is right about divergences of occupancies.** Minimised directly, all but the forward KL keep "
        f"more of a restricted policy's text in the data than likelihood does, in {more} of {len(ahead)} cases; with "
        f"the χ²-mixture and a policy that sees {first['family']} it is {percent(first['stay'])} and not "
        f"{percent(first['mle'])}. The forward KL is likelihood."
    )


def objective(theory: Details) -> str:
    """What the trained loss does for the same policies."""
    gains = [row["gain"] for row in _stays(theory) if row["method"].startswith("J ")]
    return (
        f"**The loss that is trained is not that divergence.** Its critic is tied to the policy: it is γ-weighted "
        f"maximum likelihood with a penalty on squared rewards. At best it moves the same share by "
        f"{points(max(gains), 2)} points from likelihood, at worst by {points(min(gains))}."
    )


def recovery(tab1: Details) -> str:
    """How often networks delete the fewest and the most wrong tokens."""
    sm, bc = tab1["rates"]["sm"], tab1["rates"]["bc"]
    few, many = min(sm, key=int), max(sm, key=int)
    shares = {k: [percent(rates[k]["all_removed"]["value"]) for rates in (sm, bc)] for k in (few, many)}
    return (
        f"**What rollouts can buy is recovery.** At the optimum of a tabular policy it comes from states off the data, "
        f"several tokens deep. Networks whose base had to learn the task: SequenceMatch deletes {few} wrong token in "
        f"{shares[few][0]} of the prompts and all of {many} in {shares[many][0]}, BC {shares[few][1]} and "
        f"{shares[many][1]}."
    )


def edits(fig3: Details) -> str:
    """What deletions learned from digit noise return, what a perfect clone's would, and what learning them costs."""
    rows = [row for row in fig3["parts"] if "-ground_truth-" in row["cell"]]
    if not rows:
        return ""
    own, law, model = (sorted(row[part]["difference"] for row in rows) for part in ("edits", "perfect", "model"))
    sure = sum(row["edits"]["low"] > 0 for row in rows)
    return (
        f"**A perfect clone of noised answers only cuts the tail.** With digit noise that law would return "
        f"{_range(law)} points to the policies of Figure 3. Their own edits return {_range(own)}; {sure} of the "
        f"{len(own)} intervals {'lies' if sure == 1 else 'lie'} above 0. Learning them costs the language model "
        f"{_range([-m for m in reversed(model)])} points, which the formula leaves out. Where there is a gain, it has "
        f"to be compared with decoders that truncate."
    )


def elsewhere(tab5: Details) -> str:
    """What random tokens cost BC in translation, at the most noise."""
    tests = [test for test in tab5["tests"] if (test["first"], test["second"]) == ("bc", "mle")]
    if not tests:
        return ""
    most = max(tests, key=lambda test: float(test["level"]))
    return (
        f"**Random tokens are not free either.** In translation BC less MLE at η = {most['level']:g} is "
        f"{points(most['difference'] / 100)} BLEU, where the law says that random tokens of a large vocabulary change "
        f"nothing."
    )


def bc_against_mle(fig3: Details) -> str:
    """The paper's claim about BC with digit noise, as it came out."""
    claims = [claim for claim in fig3["comparisons"] if claim["claim"].startswith("BC > MLE")]
    return " ".join(f"{claim['claim']}: {spread(claim)}, {claim['outcome']}." for claim in claims)


def _details(name: str, preset: str, results_dir: str | os.PathLike[str]) -> Details | None:
    for found in dict.fromkeys(("full", preset)):
        try:
            item: Details = read_item(name, found, results_dir)
        except ResultError:
            continue
        details: Details = item["details"]
        return details
    return None


def _stays(theory: Details) -> list[dict[str, Any]]:
    """Rows with a solution, each with likelihood's share of the same family and the gain over it."""
    base = {row["family"]: row["stay"] for row in theory["restricted"] if row["method"] == "mle"}
    rows = [row for row in theory["restricted"] if row["solved"] and not math.isnan(row["stay"])]
    return [row | {"mle": base[row["family"]], "gain": row["stay"] - base[row["family"]]} for row in rows]


def _range(values: list[float]) -> str:
    return f"{100 * values[0]:.1f} to {100 * values[-1]:.1f}"

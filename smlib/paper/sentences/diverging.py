"""What was measured of runs that go wrong (`docs/diverging.md`), in sentences from the committed runs."""

from collections.abc import Mapping
from typing import Any

from smlib.paper.sentences.wording import among, percent

Record = Mapping[str, Any]
SPIKING = {"chi2_mixture": "the χ²-mixture", "js": "Jensen-Shannon"}
DEEP = "sm-burst=4"
DELETING = {"bc": "BC", "sm-default": "SequenceMatch", DEEP: "SequenceMatch, mistakes of four tokens"}
DECODINGS = {"t1": "at temperature 1", "greedy": "greedily", "greedy_exclude": "greedily, with `exclude_deleted`"}


def value(ablations: Record) -> str:
    """What accuracy says of a V that starts elsewhere, and of a large α.

    Args:
        ablations: details of the item.
    """
    sweeps = {sweep["title"]: sweep["points"] for sweep in ablations["sweeps"]}
    shifts, alphas = sweeps["V(s) at the start, shifted by"], sweeps["entropy weight α"]
    return (
        f"Accuracy on validation questions by where V started: {among([_at(p, '+.0f') for p in shifts])}. "
        f"By α: {among([_at(p, 'g') for p in alphas])}."
    )


def _at(point: Record, form: str) -> str:
    where = format(point["value"], form) if point["value"] else "0"
    return f"{percent(point['accuracy']['value'], 1)} at {where.replace('-', '−')}"


def spikes(g1: Record) -> str:
    """How often gradient norms spike, by divergence and α, and what accuracy does; details of App. G.1's item."""
    said = []
    for study in (g1["strong"], g1):
        rows = {row["name"]: row for row in study["rows"]}
        named = [f"{words} {_spiked(rows[name])}" for name, words in SPIKING.items()]
        said.append(f"At α = {study['alpha']:g}: {among(named)}.")
    outside = max(share for study in (g1["strong"], g1) for row in study["rows"] for share in row["outside_domain"])
    return (
        f"{' '.join(said)} The largest share of the data's visits outside φ's domain, over all divergences, is "
        f"{percent(outside, 2)}."
    )


def _spiked(row: Record) -> str:
    often = f"{row['spikes_per_1000']['value']:.0f} spikes in 1,000 steps"
    return f"{often}, accuracy {percent(row['accuracy']['value'], 1)}"


def deletion(ablations: Record, tab8: str) -> str:
    """How often a text model deletes a random last token, and how deep the policies of arithmetic delete.

    Args:
        ablations: details of the item. tab8: our value of Table 8.
    """
    rows = {row["name"]: row["recovery"] for row in ablations["methods"] if row["name"] in DELETING}
    said = []
    for name, words in DELETING.items():
        few, many = min(rows[name], key=int), max(rows[name], key=int)
        shares = [f"{percent(rows[name][d]['all_removed']['value'])} of the prompts with {d}" for d in (few, many)]
        said.append(f"{words}: {among(shares)}")
    return f"Table 8: {tab8}. Arithmetic, all of the wrong digits deleted: {'; '.join(said)}."


def loops(runs: Record) -> str:
    """How often policies delete, and how often they are right, by decoding rule.

    Args:
        runs: results of the ablations' runs by name.
    """
    said = []
    for name, words in DELETING.items():
        val = runs[f"{name}-s0"]["val"]
        each = [
            f"{percent(val[rule]['backspace_rate'])} {how} (accuracy {percent(val[rule]['accuracy'], 1)})"
            for rule, how in DECODINGS.items()
        ]
        said.append(f"{words}: {among(each)}")
    return f"Share of deletions among the actions, one seed each. {'. '.join(said)}."

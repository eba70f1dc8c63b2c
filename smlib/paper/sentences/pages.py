"""Everything that `smlib report-readme` writes into README.md and docs/ besides tables, from the committed results."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from smlib.paper.figures.committed import runs_behind
from smlib.paper.figures.walkthrough import alt_text
from smlib.paper.ledger import item_path, read_item
from smlib.paper.readme import Generated
from smlib.paper.sentences import diverging, outcome

PRESET = outcome.PRESET


def generated(rows: Sequence[Mapping[str, object]], results_dir: str | os.PathLike[str] = "results") -> Generated:
    """The words of README's picture and the paragraphs of each page; nothing where the items behind them are missing.

    Args:
        rows: of the ledger.
    """
    names = ("tab1", "tab8", "g1", "ablations", "report")
    found: dict[str, Any] = {
        item: read_item(item, PRESET, results_dir) for item in names if item_path(item, PRESET, results_dir).exists()
    }
    failures: dict[str, str] = {}
    if {"tab8", "g1", "ablations"} <= found.keys():
        study = found["ablations"]["details"]
        failures = {
            "V": diverging.value(study),
            "spikes": diverging.spikes(found["g1"]["details"]),
            "deletion": diverging.deletion(study, str(found["tab8"]["ours"])),
            "loops": diverging.loops(runs_behind(found["ablations"], PRESET, results_dir)),
        }
    bases = outcome.which_bases(results_dir)
    short = outcome.short(rows, bases, results_dir)
    return Generated(
        picture=alt_text(found["tab1"]) if "tab1" in found else None,
        short=short,
        full=outcome.full(short, bases, results_dir),
        choices=outcome.sensitivities(found["report"]["details"]) if "report" in found else "",
        failures=failures,
    )

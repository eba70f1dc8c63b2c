"""Committed figures and the result files they are redrawn from: what a reader sees is what `results/` holds."""

import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from smlib.files import ResultError, read_json, resolve
from smlib.paper.figures import (
    ablations,
    arithmetic,
    chain,
    divergences,
    diverging,
    masking,
    overhead,
    report,
    tasks,
    text,
    theory,
    walkthrough,
)
from smlib.paper.figures.style import save
from smlib.paper.ledger import read_item

Item = Mapping[str, Any]
Runs = Mapping[str, Any]
Draw = Callable[[Item, Runs], Figure]
"""From an item's file and the results of the runs that it names as its sources, by the runs' names."""


def _details(draw: Callable[..., Figure], **options: Any) -> Draw:
    return lambda item, runs: draw(item["details"], **options)


def _whole(draw: Callable[..., Figure], *options: Any) -> Draw:
    return lambda item, runs: draw(item, *options)


def _run(draw: Callable[[Any], Figure], name: str) -> Draw:
    return lambda item, runs: draw(runs[name])


def _restricted(item: Item, runs: Runs) -> Figure:
    studies = {run["title"]: run for name, run in runs.items() if name.startswith("restricted-")}
    order = dict.fromkeys(row["family"] for row in item["details"]["restricted"])
    return theory.restricted([studies[title] for title in order])


def _ratios(item: Item, runs: Runs) -> Figure:
    tables = (runs["tab3/table"], runs["as_trained"], runs["table"])
    return overhead.ratios(dict(zip(overhead.PAPER, tables, strict=True)), overhead.PAPER)


def _breakdown(item: Item, runs: Runs) -> Figure:
    return overhead.breakdown({shape: runs["breakdown"][shape] for shape in overhead.SHAPES})


def _learning(item: Item, runs: Runs) -> Figure:
    first = {name: run for name, run in runs.items() if name.endswith("-s0")}
    return text.learning({name.removesuffix("-s0"): run["history"] for name, run in first.items()})


BLEU = {"quantity": "BLEU"}
FIGURES: Mapping[str, tuple[str, Draw]] = MappingProxyType(
    {
        "fig1": ("fig1", _run(chain.figure_1, "chain")),
        "fig1_slide": ("fig1", _run(chain.slide, "chain")),
        "fig1_backspace": ("fig1", _run(chain.lengths, "chain")),
        "theory_claims": ("theory", lambda item, runs: theory.claims(runs["identities"]["claims"])),
        "theory_restricted": ("theory", _restricted),
        "theory_critic": ("theory", _run(theory.critics, "critic")),
        "theory_recovery": ("theory", _run(theory.recovery, "recovery")),
        "theory_cloning": ("theory", _run(theory.cloned_backspace, "cloning")),
        "fig2": ("fig2", _whole(masking.layouts)),
        "fig2_slots": ("fig2", _whole(masking.slots_needed)),
        "fig3": ("fig3", _whole(arithmetic.accuracy_against_noise)),
        "fig3_greedy": ("fig3", _whole(arithmetic.accuracy_against_noise, "greedy")),
        "fig3_parts": ("fig3", _whole(arithmetic.parts)),
        "fig3_training": ("fig3", _whole(arithmetic.training_curves)),
        "tab1": ("tab1", _whole(arithmetic.recovery)),
        "demo": ("tab1", _whole(walkthrough.walkthrough)),
        "tab2_metrics": ("tab2", _whole(text.metrics)),
        "tab2_learning": ("tab2", _learning),
        "tab8_spurious": ("tab8", _whole(text.spurious_token)),
        "tab34_ratios": ("tab4", _ratios),
        "tab34_breakdown": ("tab4", _breakdown),
        "tab34_curves": ("tab4", _run(overhead.curves, "curves")),
        "g1": ("g1", _details(divergences.comparison)),
        "g1_traces": ("g1", _details(divergences.traces)),
        "g1_alpha": ("g1", _details(lambda study: divergences.comparison(study["strong"]))),
        "tab5": ("tab5", _details(tasks.methods, **BLEU)),
        "tab5_differences": ("tab5", _details(tasks.differences, **BLEU)),
        "tab6": ("tab6", _details(tasks.methods)),
        "tab6_differences": ("tab6", _details(tasks.differences)),
        "tab6_sizes": ("tab6", _details(tasks.sizes)),
        "tab7": ("tab7", _details(tasks.methods)),
        "tab7_differences": ("tab7", _details(tasks.differences)),
        "tab7_sizes": ("tab7", _details(tasks.sizes)),
        "ablations_sweeps": ("ablations", _details(ablations.sweeps)),
        "ablations_methods": ("ablations", _details(ablations.methods)),
        "ablations_recovery": ("ablations", _details(ablations.recovery)),
        "ablations_direct": ("ablations", _details(ablations.direct)),
        "ablations_confirmation": ("ablations", _details(ablations.direct, part="confirmation")),
        "ablations_regimes": ("ablations", _details(ablations.regimes)),
        "diverging_value": ("ablations", lambda item, runs: diverging.value(runs)),
        "diverging_spikes": ("g1", _details(diverging.spikes)),
        "diverging_backspace": ("ablations", lambda item, runs: diverging.backspace(runs)),
        "diverging_loops": ("ablations", lambda item, runs: diverging.loops(runs)),
        "report_verdicts": ("report", _details(report.verdicts)),
        "report_claims": ("report", _details(report.claims)),
    }
)
"""Figure name -> the item whose file and runs it shows, and the function that draws them."""

FROM_FORMULAS: Mapping[str, str] = MappingProxyType(
    {"overview": "00_overview", "g1_phi": "07_divergences", "tree": "13_imitation_learning"}
)
"""Figures that rest on no result -> the notebook whose first cells, up to the one that saves it, draw it."""


def runs_behind(item: Item, preset: str, results_dir: str | os.PathLike[str] = "results") -> dict[str, Any]:
    """Results of the runs that an item names as its sources, by name; another item's as `<item>/<name>`."""
    found: dict[str, Any] = {}
    for source in item["provenance"]["sources"]:
        record = read_json(resolve(results_dir) / preset / source)
        keeper, name = source.split("/")[0], str(record["name"])
        found[name if keeper == item["id"] else f"{keeper}/{name}"] = record["result"]
    return found


def redraw(name: str, preset: str = "full", results_dir: str | os.PathLike[str] = "results") -> Figure:
    """A figure from result files alone; raises `ResultError` for an unknown name or an absent item."""
    if name not in FIGURES:
        raise ResultError(f"no figure {name!r} is redrawn from results; known: {', '.join(FIGURES)}")
    item_name, draw = FIGURES[name]
    item = read_item(item_name, preset, results_dir)
    return draw(item, runs_behind(item, preset, results_dir))


def main(names: list[str]) -> int:
    """`python -m smlib.paper.figures.committed [NAME ...]`: draw committed figures, and their words, again."""
    for name in names or FIGURES:
        save(redraw(name), name, "full")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

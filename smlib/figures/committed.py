"""Committed figures and the result files they are redrawn from: what a reader sees is what `results/` holds."""

import os
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from smlib.figures import ablations, divergences, report, tasks
from smlib.files import ResultError
from smlib.ledger import read_item

Draw = Callable[[Mapping[str, Any]], Figure]

FIGURES: Mapping[str, tuple[str, Draw]] = MappingProxyType(
    {
        "g1": ("g1", divergences.comparison),
        "g1_traces": ("g1", divergences.traces),
        "tab5": ("tab5", partial(tasks.methods, quantity="BLEU")),
        "tab5_differences": ("tab5", partial(tasks.differences, quantity="BLEU")),
        "tab6": ("tab6", tasks.methods),
        "tab6_differences": ("tab6", tasks.differences),
        "tab6_sizes": ("tab6", tasks.sizes),
        "tab7": ("tab7", tasks.methods),
        "tab7_differences": ("tab7", tasks.differences),
        "tab7_sizes": ("tab7", tasks.sizes),
        "ablations_sweeps": ("ablations", ablations.sweeps),
        "ablations_methods": ("ablations", ablations.methods),
        "ablations_recovery": ("ablations", ablations.recovery),
        "ablations_regimes": ("ablations", ablations.regimes),
        "report_verdicts": ("report", report.verdicts),
        "report_claims": ("report", report.claims),
    }
)
"""Figure name -> the item whose details it shows, and the function that draws them."""


def redraw(name: str, preset: str = "full", results_dir: str | os.PathLike[str] = "results") -> Figure:
    """A figure from its item's file alone; raises `ResultError` for an unknown name or an absent item."""
    if name not in FIGURES:
        raise ResultError(f"no figure {name!r} is redrawn from an item; known: {', '.join(FIGURES)}")
    item, draw = FIGURES[name]
    details = read_item(item, preset, results_dir)["details"]
    assert isinstance(details, Mapping)
    return draw(details)

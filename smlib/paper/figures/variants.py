"""Variants of a method in the learning regime, as a table: what was run, and what was not."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from smlib.paper.figures.deletion import in_points
from smlib.paper.figures.style import method_style


def variants_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Accuracy of each variant and its lead over SequenceMatch as the paper has it, in points.

    Args:
        rows: of `experiments.arithmetic.learning_variants.compared`.
    """
    made = {
        row["title"]: {
            "seeds": str(row["n_seeds"]) if row["status"] == "run" else "not run",
            "accuracy, validation": f"{row['accuracy']['value']:.3f}" if row["status"] == "run" else "",
            "over SequenceMatch, points": in_points(row["over"]) if "over" in row else "",
        }
        for row in rows
    }
    return pd.DataFrame.from_dict(made, orient="index").rename_axis(index="variant")


def tasks_table(rows: Sequence[Mapping[str, Any]], digits: int = 3) -> pd.DataFrame:
    """Each method at each noise level from a base that has to learn the task, `not run` where there is no run.

    Args:
        rows: of `experiments.tasks.in_learning.study`.
    """
    made: dict[str, dict[str, str]] = {}
    for row in rows:
        shown = "not run"
        if row["status"] == "run":
            shown = f"{row['value']:.{digits}f} ({row['n_seeds']} of {row['planned']} seeds)"
        made.setdefault(method_style(row["method"]).label, {})[f"η = {row['level']:g}"] = shown
    return pd.DataFrame.from_dict(made, orient="index").rename_axis(index="method")

"""Variants of a method in the learning regime, as a table: what was run, and what was not."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from smlib.paper.figures.deletion import in_points


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

"""Result files to tables: the rows behind an item, the ledger, and how a value with its error bar is printed."""

import os
from collections.abc import Mapping, Sequence

import pandas as pd

from smlib.files import ResultError
from smlib.paper.items import error_bar
from smlib.paper.ledger import ledger, read_item
from smlib.paper.readme import shown_value


def with_error(value: float | str | None, error: float | str | None = None, digits: int = 2) -> str:
    """`0.71 ± 0.02`, to `digits` decimals; a dash for what is missing, text as it is, an error in words in brackets."""
    if value is None:
        return "—"
    shown = value if isinstance(value, str) else f"{value:.{digits}f}"
    return f"{shown}{error_bar(error, f'.{digits}f')}"


def item_rows(item: str, preset: str, results_dir: str | os.PathLike[str] = "results", digits: int = 2) -> pd.DataFrame:
    """The table behind an item: a line a label, the paper's value beside ours with its error bar."""
    rows = read_item(item, preset, results_dir)["rows"]
    if not isinstance(rows, list) or not rows:
        raise ResultError(f"{item} ({preset}) has no rows, only the one value in `smlib status`")
    return pd.DataFrame(
        {
            "paper": [with_error(row["paper"], None, digits) for row in rows],
            "ours": [with_error(row["ours"], row["error"], digits) for row in rows],
        },
        index=pd.Index([row["label"] for row in rows], name=item),
    )


def ledger_table(results_dir: str | os.PathLike[str] = "results") -> pd.DataFrame:
    """The whole ledger: item, notebook, preset, the paper's value, ours, the verdict."""
    rows = ledger(results_dir)
    return pd.DataFrame(
        {
            "title": [row["title"] for row in rows],
            "notebook": [row["notebook"] for row in rows],
            "preset": [row["preset"] or "—" for row in rows],
            "paper": [row["paper"] for row in rows],
            "ours": [shown_value(row) for row in rows],
            "verdict": [row["verdict"] for row in rows],
        },
        index=pd.Index([row["id"] for row in rows], name="item"),
    )


def markdown(table: pd.DataFrame) -> str:
    """A table as GitHub-flavoured Markdown, index first."""
    header = [str(table.index.name or ""), *map(str, table.columns)]
    lines = [_line(header), _line(["---"] * len(header))]
    lines += [_line([str(label), *map(str, row)]) for label, row in zip(table.index, _values(table), strict=True)]
    return "\n".join(lines)


def from_records(records: Sequence[Mapping[str, object]], columns: Sequence[str]) -> pd.DataFrame:
    """Records to a table with exactly these columns in this order; raises `ResultError` if a record lacks one."""
    for number, record in enumerate(records):
        missing = [column for column in columns if column not in record]
        if missing:
            raise ResultError(f"record {number} lacks {', '.join(missing)}")
    return pd.DataFrame([{column: record[column] for column in columns} for record in records], columns=list(columns))


def _values(table: pd.DataFrame) -> list[list[object]]:
    return [list(row) for row in table.itertuples(index=False)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

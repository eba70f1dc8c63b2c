"""Tables from result files."""

from pathlib import Path

import pytest

from smlib.files import ResultError
from smlib.paper import tables
from smlib.paper.results import write_item


def test_values_are_printed_with_their_error_bars() -> None:
    assert tables.with_error(0.714, 0.0249) == "0.71 ± 0.02"
    assert tables.with_error(36.04, None, digits=1) == "36.0"
    assert tables.with_error(None) == "—"
    assert tables.with_error("3 of 4") == "3 of 4"
    assert tables.with_error("equal", "largest gap 3e-17") == "equal (largest gap 3e-17)"


def test_the_rows_of_an_item(tmp_path: Path) -> None:
    rows = [
        {"label": "MLE", "paper": 0.49, "ours": 0.5, "error": 0.031},
        {"label": "SM", "paper": 0.56, "ours": None, "error": None},
    ]
    write_item("tab6", "quick", ours=0.5, n_seeds=1, verdict="not reproduced", rows=rows, results_dir=tmp_path)
    table = tables.item_rows("tab6", "quick", tmp_path)
    assert table.loc["MLE", "ours"] == "0.50 ± 0.03"
    assert table.loc["SM", "ours"] == "—"
    text = tables.markdown(table)
    assert text.splitlines()[0] == "| tab6 | paper | ours |"
    assert text.splitlines()[2] == "| MLE | 0.49 | 0.50 ± 0.03 |"


def test_an_item_without_rows_says_so(tmp_path: Path) -> None:
    write_item("fig2", "quick", ours="equal", n_seeds=0, verdict="reproduced", results_dir=tmp_path)
    with pytest.raises(ResultError, match="has no rows"):
        tables.item_rows("fig2", "quick", tmp_path)


def test_the_ledger_as_a_table(tmp_path: Path) -> None:
    write_item("fig2", "quick", ours="equal", n_seeds=0, verdict="reproduced", results_dir=tmp_path)
    table = tables.ledger_table(tmp_path)
    assert table.loc["fig2", "verdict"] == "reproduced"
    assert (table["verdict"] == "not run").sum() == len(table) - 1


def test_records_keep_their_columns() -> None:
    table = tables.from_records([{"b": 1, "a": 2, "c": 3}], ["a", "b"])
    assert list(table.columns) == ["a", "b"]
    with pytest.raises(ResultError, match="record 0 lacks d"):
        tables.from_records([{"a": 1}], ["a", "d"])

"""Result files to tables: the rows behind an item, the ledger, and how a value with its error bar is printed."""

import html
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd
from pandas.io.formats.style import Styler

from smlib.files import ResultError
from smlib.paper.items import error_bar
from smlib.paper.ledger import ledger, read_item
from smlib.paper.readme import shown_value

# pandas escapes a plain table and not a styled one, in which `<bkspc>` and `<eos>` would be tags that show nothing.
pd.set_option("styler.format.escape", "html")

OWN = {
    "quick": "Your own run, preset quick: small and short.",
    "smoke": "Your own run, preset smoke: its numbers mean nothing.",
}
COMMITTED = "The committed result, preset full."


def styled(table: pd.DataFrame, white_space: str = "normal") -> Styler:
    """A table of words: left-aligned, its lines broken, and whatever stands in it shown and not obeyed, labels too.

    Args:
        white_space: `pre-wrap` keeps the spaces of text that a model wrote.
    """
    shown = table.rename_axis(index=_escaped, columns=_escaped).style.format(escape="html")
    for axis in (0, 1):
        shown = shown.format_index(escape="html", axis=axis)
    return shown.set_properties(**{"text-align": "left", "white-space": white_space, "vertical-align": "top"})


@dataclass(frozen=True)
class Beside:
    """The committed table over a reader's own, each under a line that says which it is."""

    committed: pd.DataFrame
    own: pd.DataFrame
    preset: str

    def _repr_html_(self) -> str:
        tables = ((COMMITTED, self.committed), (OWN[self.preset], self.own))
        return "".join(f"<p><em>{html.escape(said)}</em></p>{table.to_html()}" for said, table in tables)

    def __repr__(self) -> str:
        return f"{COMMITTED}\n{self.committed}\n\n{OWN[self.preset]}\n{self.own}"


def beside(
    draw: Callable[..., pd.DataFrame],
    own: Any,
    item: str,
    preset: str,
    results_dir: str | os.PathLike[str] = "results",
    *,
    whole: bool = False,
    **options: Any,
) -> pd.DataFrame | Beside:
    """A table of a reader's own run, and above it that of the committed result, whose numbers the text is about.

    Args:
        draw: makes a table of an item's details, as `own` are; of the whole item for `whole`.
        preset: with `full` and `paper`, and where no result is committed, the own table stands alone.
    """
    table = draw(own, **options)
    if preset not in OWN:
        return table
    try:
        kept = read_item(item, "full", results_dir)
    except ResultError:
        return table
    return Beside(draw(kept if whole else kept["details"], **options), table, preset)


Table: TypeAlias = pd.DataFrame | Styler | Beside


@dataclass(frozen=True)
class Folded:
    """A table that a page shows when its title is clicked, and that is printed in full where there is no page."""

    title: str
    table: Table

    def _repr_html_(self) -> str:
        shown = self.table.to_html() if isinstance(self.table, pd.DataFrame) else self.table._repr_html_()
        return f"<details><summary>{html.escape(self.title)}</summary>{shown}</details>"

    def __repr__(self) -> str:
        whole = self.table.data if isinstance(self.table, Styler) else self.table
        return f"{self.title}\n{whole}"


def folded(title: str, table: Table) -> Folded:
    """A table of details, closed: the open page keeps to what has to be seen.

    Args:
        title: says what is inside, such as `Every pair of methods, with its interval`.
    """
    return Folded(title, table)


@dataclass(frozen=True)
class Told:
    """Sentences made from a result's numbers, in Markdown."""

    text: str

    def _repr_markdown_(self) -> str:
        # Markdown takes a bare `<bkspc>` for HTML and shows nothing of it.
        return re.sub(r"(?<!`)<(bkspc|eos|bos)>(?!`)", r"`<\1>`", self.text)

    def __repr__(self) -> str:
        return self.text


def told(
    say: Callable[..., str],
    own: Any,
    item: str,
    preset: str,
    results_dir: str | os.PathLike[str] = "results",
    *,
    whole: bool = False,
    **options: Any,
) -> Told:
    """What a result says in sentences: the committed one where a reader's own run is too small to be read from.

    Args:
        say: makes Markdown of an item's details, as `own` are; of the whole item for `whole`.
    """
    if preset in OWN:
        with suppress(ResultError):  # nothing is committed
            kept = read_item(item, "full", results_dir)
            return Told(f"*{COMMITTED}*\n\n{say(kept if whole else kept['details'], **options)}")
        return Told(f"*{OWN[preset]}*\n\n{say(own, **options)}")
    return Told(say(own, **options))


def verdict(own: Mapping[str, Any], item: str, preset: str, results_dir: str | os.PathLike[str] = "results") -> str:
    """An item's verdict and why, the committed one first, and which preset each of them is of.

    Args:
        own: a study, with `verdict` and `why`, or an item's file, which has the reason among its details.
    """
    lines = [(preset, own)]
    if preset in OWN:
        with suppress(ResultError):  # nothing is committed
            lines.insert(0, ("full", read_item(item, "full", results_dir)))
    told = [(name, found["verdict"], found.get("why") or found["details"]["why"]) for name, found in lines]
    return "\n".join(": ".join(line) for line in told)


def with_error(value: float | str | None, error: float | str | None = None, digits: int = 2) -> str:
    """`0.71 ± 0.02`, to `digits` decimals; a dash for what is missing, text as it is, an error in words in brackets."""
    if value is None:
        return "—"
    shown = value if isinstance(value, str) else f"{value:.{digits}f}"
    return f"{shown}{error_bar(error, f'.{digits}f')}"


def item_rows(item: str, preset: str, results_dir: str | os.PathLike[str] = "results", digits: int = 2) -> pd.DataFrame:
    """The table behind an item: a line a label, the paper's value beside ours with its error bar."""
    return rows_of(read_item(item, preset, results_dir), digits)


def rows_of(item: Mapping[str, Any], digits: int = 2) -> pd.DataFrame:
    """The same, of an item's file that has been read."""
    rows = item["rows"]
    if not isinstance(rows, list) or not rows:
        raise ResultError(f"{item['id']} ({item['preset']}) has no rows, only the one value in `smlib status`")
    return pd.DataFrame(
        {
            "paper": [with_error(row["paper"], None, digits) for row in rows],
            "ours": [with_error(row["ours"], row["error"], digits) for row in rows],
        },
        index=pd.Index([row["label"] for row in rows], name=item["id"]),
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


def _escaped(name: Any) -> Any:
    return html.escape(name) if isinstance(name, str) else name


def _values(table: pd.DataFrame) -> list[list[object]]:
    return [list(row) for row in table.itertuples(index=False)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

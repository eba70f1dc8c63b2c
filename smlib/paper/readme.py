"""What `smlib report-readme` writes into README.md: the replication table, from the ledger, and the errata."""

from collections.abc import Mapping, Sequence

from smlib.files import ResultError
from smlib.paper.items import ITEMS, error_bar, get_item

BEGIN = "<!-- replication table: written by `smlib report-readme` -->"
END = "<!-- end of the replication table -->"
ERRATA_BEGIN = "<!-- errata: written by `smlib report-readme` from smlib/paper/experiments/report/errata.py -->"
ERRATA_END = "<!-- end of the errata -->"


def replication_table(rows: Sequence[Mapping[str, object]]) -> str:
    """A Markdown table, a line an item: paper item, notebook, preset, paper value, ours, verdict."""
    lines = [
        "| item | notebook | preset | paper | ours | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        item = get_item(str(row["id"]))
        notebook = f"[`{item.notebook}`](notebooks/{item.notebook}.ipynb)"
        cells = (
            f"`{item.id}` {item.title} ({item.section})",
            notebook,
            row["preset"] or "—",
            row["paper"],
            shown_value(row),
            row["verdict"],
        )
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def shown_value(row: Mapping[str, object]) -> str:
    """Our value with its error bar and number of seeds, as the README and the notebooks print it."""
    if row["ours"] is None:
        return "—"
    error, seeds = row["error"], row["n_seeds"]
    notes = [error] if isinstance(error, str) else []
    notes += [f"{seeds} seed{'s' if seeds != 1 else ''}"] if seeds else []
    bar = "" if isinstance(error, str) else error_bar(error, ".2g")  # type: ignore[arg-type]
    return f"{row['ours']}{bar}" + (f" ({'; '.join(notes)})" if notes else "")


def errata_list(errata: Sequence[Mapping[str, str]]) -> str:
    """A Markdown list: where, the notebook with the algebra, what is printed, and what it should be."""
    lines = []
    for erratum in errata:
        notebook = next(item.notebook for item in ITEMS.values() if item.notebook.startswith(erratum["shown"]))
        link = f"[{erratum['shown']}](notebooks/{notebook}.ipynb)"
        lines.append(
            f"- **{erratum['place']}** ({link}). *Printed:* {erratum['printed']}. *Instead:* {erratum['instead']}."
        )
    return "\n".join(lines)


def with_replication_table(text: str, rows: Sequence[Mapping[str, object]]) -> str:
    """`text` with the replication table between its markers; raises `ResultError` if they are not there once."""
    return _between(text, BEGIN, END, replication_table(rows))


def with_errata(text: str, errata: Sequence[Mapping[str, str]]) -> str:
    """`text` with the list of errata between its markers; raises `ResultError` if they are not there once."""
    return _between(text, ERRATA_BEGIN, ERRATA_END, errata_list(errata))


def _between(text: str, begin: str, end: str, body: str) -> str:
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ResultError(f"the README needs the two lines {begin!r} and {end!r}, once each and in this order")
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n\n{body}\n\n{end}{tail}"

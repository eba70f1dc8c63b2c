"""The replication table of README.md, made from the ledger and from nothing else."""

from collections.abc import Mapping, Sequence

from smlib.files import ResultError
from smlib.items import get_item

BEGIN = "<!-- replication table: written by `smlib report-readme` -->"
END = "<!-- end of the replication table -->"


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
    bar = row["error"]
    error = "" if bar is None else f" ± {bar:.2g}" if isinstance(bar, float) else f" ± {bar}"
    seeds = "" if not row["n_seeds"] else f" ({row['n_seeds']} seed{'s' if row['n_seeds'] != 1 else ''})"
    return f"{row['ours']}{error}{seeds}"


def with_replication_table(text: str, rows: Sequence[Mapping[str, object]]) -> str:
    """`text` with what lies between the markers replaced; raises `ResultError` if the markers are not there once."""
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ResultError(f"the README needs the two lines {BEGIN!r} and {END!r}, once each and in this order")
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n\n{replication_table(rows)}\n\n{END}{tail}"

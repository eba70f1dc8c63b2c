"""What `smlib report-readme` writes: the replication table of README.md, and four pages of docs/ with the details.

README has a line an item, short enough to be read; `docs/results.md` has the whole of what an item says, and
`docs/errata.md` the paper's errors. `docs/choices.md` and `docs/diverging.md` hold paragraphs with numbers. All of it
stands between markers, so that it shows what `results/` holds.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import fill
from types import MappingProxyType

from smlib.files import ResultError
from smlib.paper.items import ITEMS, JUDGED, error_bar, get_item

BEGIN = "<!-- replication table: written by `smlib report-readme` -->"
END = "<!-- end of the replication table -->"
DETAILS_BEGIN = "<!-- every item in full: written by `smlib report-readme` -->"
DETAILS_END = "<!-- end of the items -->"
ERRATA_BEGIN = "<!-- errata: written by `smlib report-readme` from smlib/paper/experiments/report/errata.py -->"
ERRATA_END = "<!-- end of the errata -->"

PICTURE = re.compile(r"!\[[^\]]*\]\((figures/demo\.png)\)")

SAID = "what came out"
CHOICES = "how much choices matter"


def markers(name: str) -> tuple[str, str]:
    """The two lines between which a paragraph is written.

    >>> markers("what came out")[1]
    '<!-- end of what came out -->'
    """
    return f"<!-- {name}: written by `smlib report-readme` -->", f"<!-- end of {name} -->"


@dataclass(frozen=True)
class Generated:
    """Paragraphs that are made from results (`smlib.paper.sentences.pages`); what has no result is empty.

    Attributes:
        picture: words for those who cannot see README's picture.
        short: of README. full: of `docs/results.md`. choices: of `docs/choices.md`.
        failures: of `docs/diverging.md`, by the name in their markers.
    """

    picture: str | None = None
    short: str = ""
    full: str = ""
    choices: str = ""
    failures: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


BRIEF_PAPER: Mapping[str, str] = MappingProxyType(
    {
        "fig1": "KL of order nε; χ² = P(in the data)²",
        "theory": "the objective is occupancy matching",
        "fig3": "SM above BC and MLE; 85–90 % with χ²",
        "tab2": "MAUVE: SM 0.91 > ULK > C.S. > MLE > BC 0.84",
        "g1": "JS 60 %, χ² 85–90 %; JS has gradient spikes",
    }
)
"""The paper's value in a README cell, where the item's own is too long for one."""

CLAUSES: Mapping[str, tuple[int, ...]] = MappingProxyType({"fig1": (0, -1), "g1": (0, 1)})
"""Which clauses of our value, between semicolons, stand in a README cell; the first where nothing is said."""


def replication_table(rows: Sequence[Mapping[str, object]]) -> str:
    """README's Markdown table, a line a judged item: title, the paper's value, ours, the verdict."""
    lines = ["| item | paper | ours | verdict |", "|---|---|---|---|"]
    judged = [row for row in rows if row["id"] in JUDGED]
    for row in judged:
        item = get_item(str(row["id"]))
        name = f"[`{item.id}`](notebooks/{item.notebook}.ipynb) {item.title}"
        lines.append(_line((name, BRIEF_PAPER.get(item.id, item.paper), brief_value(row), row["verdict"])))
    return "\n".join(lines)


def details(rows: Sequence[Mapping[str, object]]) -> str:
    """The table of `docs/results.md`: paper item, notebook, preset, the paper's value, ours with errors, verdict."""
    lines = ["| item | notebook | preset | paper | ours | verdict |", "|---|---|---|---|---|---|"]
    for row in rows:
        if row["id"] in JUDGED:
            item = get_item(str(row["id"]))
            notebook = f"[`{item.notebook}`](../notebooks/{item.notebook}.ipynb)"
            name = f"`{item.id}` {item.title} ({item.section})"
            lines.append(_line((name, notebook, row["preset"] or "—", row["paper"], shown_value(row), row["verdict"])))
    return "\n".join(lines)


def shown_value(row: Mapping[str, object]) -> str:
    """Our value with its error bar and number of seeds, as the notebooks and `docs/results.md` print it."""
    if row["ours"] is None:
        return "—"
    error, seeds = row["error"], row["n_seeds"]
    notes = [error] if isinstance(error, str) else []
    notes += [f"{seeds} seed{'s' if seeds != 1 else ''}"] if seeds else []
    bar = "" if isinstance(error, str) else error_bar(error, ".2g")  # type: ignore[arg-type]
    return f"{row['ours']}{bar}" + (f" ({'; '.join(notes)})" if notes else "")


def brief_value(row: Mapping[str, object]) -> str:
    """Our value in a README cell: the clauses that `CLAUSES` names, and errors only as a number."""
    if row["ours"] is None:
        return "—"
    parts = str(row["ours"]).split("; ")
    places = {i % len(parts) for i in CLAUSES.get(str(row["id"]), (0,)) if i < len(parts)}
    shown = "; ".join(parts[i] for i in sorted(places))
    shown = shown.replace("refuted: ", "the paper errs in ")
    error = row["error"]
    if isinstance(error, str):
        words = error.split()
        return f"{shown} (± {words[2]})" if words[:2] == ["each", "±"] else shown
    return shown + error_bar(error, ".2g")  # type: ignore[arg-type]


def errata_list(errata: Sequence[Mapping[str, str]]) -> str:
    """A Markdown list: where, the notebook with the algebra, what is printed, and what it should be."""
    lines = []
    for erratum in errata:
        notebook = next(item.notebook for item in ITEMS.values() if item.notebook.startswith(erratum["shown"]))
        link = f"[{erratum['shown']}](../notebooks/{notebook}.ipynb)"
        lines.append(
            f"- **{erratum['place']}** ({link}). *Printed:* {erratum['printed']}. *Instead:* {erratum['instead']}."
        )
    return "\n".join(lines)


def with_replication_table(text: str, rows: Sequence[Mapping[str, object]]) -> str:
    """`text` with README's table between its markers; raises `ResultError` if they are not there once."""
    return _between(text, BEGIN, END, replication_table(rows))


def with_paragraphs(text: str, name: str, said: str) -> str:
    """`text` with paragraphs between the markers of that name; as it is where nothing is said.

    Raises:
        ResultError: the markers are not there once.
    """
    return _between(text, *markers(name), "\n".join(_folded(line) for line in said.splitlines())) if said else text


def _folded(line: str) -> str:
    """A paragraph or a bullet in lines of at most 120 characters; no line begins with a `%`."""
    held = line.replace(" %", "\N{NO-BREAK SPACE}%")
    indent = "  " if line.startswith("- ") else ""
    return fill(held, 120, subsequent_indent=indent, break_on_hyphens=False).replace("\N{NO-BREAK SPACE}%", " %")


def with_details(text: str, rows: Sequence[Mapping[str, object]]) -> str:
    """`text` with the table of every item between its markers; raises `ResultError` if they are not there once."""
    return _between(text, DETAILS_BEGIN, DETAILS_END, details(rows))


def with_errata(text: str, errata: Sequence[Mapping[str, str]]) -> str:
    """`text` with the list of errata between its markers; raises `ResultError` if they are not there once."""
    return _between(text, ERRATA_BEGIN, ERRATA_END, errata_list(errata))


def with_picture(text: str, words: str | None) -> str:
    """`text` with these words for those who cannot see README's picture; as it is where there are none."""
    return text if words is None else PICTURE.sub(lambda found: f"![{words}]({found[1]})", text)


def pages(
    readme: Path,
    rows: Sequence[Mapping[str, object]],
    errata: Sequence[Mapping[str, str]],
    said: Generated = Generated(),
) -> dict[Path, tuple[str, str]]:
    """README and the generated pages of the `docs` folder beside it: what each holds, and what it should hold.

    Args:
        said: the paragraphs; a page of which nothing is said is left out.

    Raises:
        ResultError: a page that is missing or lacks its markers.
    """
    docs = readme.parent / "docs"

    def failures(text: str) -> str:
        for name, measured in said.failures.items():
            text = with_paragraphs(text, name, measured)
        return text

    rewrites: dict[Path, Callable[[str], str]] = {
        readme: lambda text: with_paragraphs(
            with_picture(with_replication_table(text, rows), said.picture), SAID, said.short
        ),
        docs / "results.md": lambda text: with_paragraphs(with_details(text, rows), SAID, said.full),
        docs / "errata.md": lambda text: with_errata(text, errata),
    }
    if said.choices:
        rewrites[docs / "choices.md"] = lambda text: with_paragraphs(text, CHOICES, said.choices)
    if said.failures:
        rewrites[docs / "diverging.md"] = failures
    found: dict[Path, tuple[str, str]] = {}
    for path, rewrite in rewrites.items():
        if not path.is_file():
            raise ResultError(f"{path} does not exist: this is for a checkout of the repository, see --readme")
        before = path.read_text(encoding="utf-8")
        found[path] = (before, rewrite(before))
    return found


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _between(text: str, begin: str, end: str, body: str) -> str:
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ResultError(f"the page needs the two lines {begin!r} and {end!r}, once each and in this order")
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return f"{head}{begin}\n\n{body}\n\n{end}{tail}"

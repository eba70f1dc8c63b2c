"""What a notebook shows: the saved picture, its words, the committed result above a reader's own, text as text."""

import base64
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
import numpy as np
import pandas as pd
import pytest

from smlib.paper import figures, tables
from smlib.paper.figures import committed, showing, words
from smlib.paper.results import write_item

ITEM = {"ours": 0.5, "n_seeds": 1, "verdict": "direction only"}
EVIL = "<script>alert(1)</script>"


def drawn(values: tuple[float, ...] = (0.5, 0.7)) -> Any:
    made, axes = figures.figure(1, 2)
    for method, y in zip(("mle", "sm"), values, strict=True):
        axes[0].errorbar([0.05, 0.2], [y, y + 0.1], yerr=0.1, **figures.method_style(method).kwargs())
    axes[0].set(xlabel="noise level η", ylabel="accuracy", title="digits")
    axes[0].set_xticks([0.05, 0.2])
    axes[1].barh([0, 1], values)
    axes[1].set_yticks([0, 1], ["MLE", r"$\chi^2$"])
    return made


def test_a_figure_is_told_in_the_values_that_are_drawn() -> None:
    said = words.in_words(drawn())
    assert said == (
        "2 panels. Panel 1: digits. accuracy against noise level η. MLE: 0.05: 0.5; 0.20: 0.6. "
        "SequenceMatch: 0.05: 0.7; 0.20: 0.8. Panel 2: MLE: 0.5; chi^2: 0.7."
    )
    assert words.in_words(drawn((0.5, 0.9))) != said


def test_long_curves_are_told_by_their_ends_and_extremes() -> None:
    made, axes = figures.figure()
    axes.plot(range(11), [abs(x - 5) for x in range(11)], label="BC")
    axes.axvline(3)  # a mark, and no data
    assert words.in_words(made) == "BC: 11 points from 5 at 0 to 5 at 10, between 0 and 5."


@pytest.mark.parametrize("name", committed.FIGURES)
def test_a_committed_figure_has_its_words_beside_it(name: str, repository: Path) -> None:
    kept = showing.alt_path(figures.figure_path(name, "full", repository / "figures"))
    said = words.in_words(committed.redraw(name, "full", repository / "results"))
    assert len(said) > 60
    assert kept.read_text(encoding="utf-8") == said + "\n", f"run: python -m smlib.paper.figures.committed {name}"


def test_every_picture_has_words(repository: Path) -> None:
    pictures = sorted((repository / "figures").glob("*.png"))
    assert pictures
    for picture in pictures:
        assert showing.alt_path(picture).read_text(encoding="utf-8").strip(), picture.name


def shown(figure: Any) -> tuple[Any, Any]:
    """What IPython is given as `image/png` and as `text/html`."""
    from IPython.core.formatters import DisplayFormatter

    class Shell:
        display_formatter = DisplayFormatter()

    showing.teach(Shell)
    data, metadata = Shell.display_formatter.format(figure, include=["image/png", "text/html"])
    return (data.get("image/png"), metadata.get("image/png")), data.get("text/html")


def test_a_notebook_shows_the_bytes_that_are_saved_with_their_words(tmp_path: Path) -> None:
    made = drawn()
    mpl.rcParams["xtick.labelsize"] = 40  # whatever a cell has set
    try:
        saved = figures.save(made, "fig3", "full", tmp_path)
        (png, metadata), html = shown(made)
    finally:
        mpl.rcdefaults()
    assert base64.b64decode(png) == saved.read_bytes()
    assert metadata["alt"] == words.in_words(made) == showing.alt_path(saved).read_text(encoding="utf-8").strip()
    assert metadata["width"] == 700
    assert html is None


def test_at_quick_the_committed_figure_comes_first_and_the_own_one_is_marked(tmp_path: Path) -> None:
    full, own = drawn(), drawn((0.1, 0.2))
    figures.save(own, "fig3", "quick", tmp_path)
    assert shown(own)[1] is None  # nothing is committed here
    kept = figures.save(full, "fig3", "full", tmp_path)
    (png, _), html = shown(own)
    assert png is None
    pictures = [base64.b64encode(path.read_bytes()).decode() for path in (kept, tmp_path / "quick" / "fig3.png")]
    assert html.index(pictures[0]) < html.index("The committed result, preset full") < html.index(pictures[1])
    assert html.index(pictures[1]) < html.index("Your own run, preset quick")
    assert html.count("alt=") == 2


def test_words_are_escaped_in_html(tmp_path: Path) -> None:
    for preset in ("full", "quick"):
        made, axes = figures.figure()
        axes.set_title(f'{EVIL} " <bkspc>')
        figures.save(made, "fig3", preset, tmp_path)
    html = shown(made)[1]
    assert "<script" not in html
    assert "&lt;bkspc&gt;" in html


def test_styled_tables_show_text_and_obey_none_of_it() -> None:
    table = pd.DataFrame({EVIL: ["<bkspc>", "a <eos> b"]}, index=pd.Index([EVIL, "x"], name=EVIL))
    for html in (tables.styled(table).to_html(), tables.styled(table, "pre-wrap").to_html()):
        assert "<script" not in html
        assert "&lt;bkspc&gt;" in html
        assert "a &lt;eos&gt; b" in html
    assert "<bkspc>" not in table.rename(columns={EVIL: "x"}).style.to_html()  # and where `styled` is forgotten
    assert np.isclose(float(tables.styled(pd.DataFrame({"a": [0.5]})).data.iloc[0, 0]), 0.5)


def test_every_notebook_with_a_styled_table_escapes_it(repository: Path) -> None:
    for path in sorted((repository / "notebooks").glob("*.ipynb")):
        code = "\n".join(cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code")
        if ".style." in code:
            assert re.search(r"smlib\.paper import .*tables", code), f"{path.name}: use tables.styled"
            assert ".style.format" not in code, f"{path.name}: a format of its own would not be escaped"


def test_tables_and_verdicts_show_the_committed_result_first(tmp_path: Path) -> None:
    details = {"accuracy": 0.7, "why": "<b>because</b>"}
    own = {"accuracy": 0.1, "verdict": "not reproduced", "why": "one seed"}
    draw = lambda study, digits=1: pd.DataFrame({"accuracy": [round(study["accuracy"], digits)]})  # noqa: E731
    alone = tables.beside(draw, own, "tab6", "quick", tmp_path)
    assert isinstance(alone, pd.DataFrame)
    assert tables.verdict(own, "tab6", "quick", tmp_path) == "quick: not reproduced: one seed"
    write_item("tab6", "full", **ITEM, details=details, results_dir=tmp_path)
    both = tables.beside(draw, own, "tab6", "quick", tmp_path)
    assert isinstance(both, tables.Beside)
    html = both._repr_html_()
    assert html.index("preset full") < html.index("0.7") < html.index("Your own run") < html.index("0.1")
    assert "0.7" in repr(both)
    assert tables.verdict(own, "tab6", "quick", tmp_path).splitlines() == [
        "full: direction only: <b>because</b>",
        "quick: not reproduced: one seed",
    ]
    assert isinstance(tables.beside(draw, own, "tab6", "full", tmp_path), pd.DataFrame)
    assert tables.verdict(own, "tab6", "full", tmp_path) == "full: not reproduced: one seed"


def test_a_folded_table_is_closed_on_a_page_and_whole_in_print() -> None:
    table = pd.DataFrame({EVIL: [1]}, index=pd.Index(["a"]))
    for shown in (table, tables.styled(table), tables.Beside(table, table, "quick")):
        closed = tables.folded(f"Details {EVIL}", shown)
        html = closed._repr_html_()
        assert html.startswith("<details><summary>Details &lt;script&gt;")
        assert html.endswith("</details>")
        assert "<script" not in html
        assert "<table" in html
        assert str(table) in repr(closed)


def test_sentences_are_of_the_committed_result_where_there_is_one(tmp_path: Path) -> None:
    say = lambda study, unit="%": f"It is **{study['accuracy']}**{unit}."  # noqa: E731
    own = {"accuracy": 0.1}
    alone = tables.told(say, own, "tab6", "quick", tmp_path)
    assert "Your own run" in repr(alone)
    assert "**0.1**" in alone._repr_markdown_()
    write_item("tab6", "full", **ITEM, details={"accuracy": 0.7}, results_dir=tmp_path)
    said = tables.told(say, own, "tab6", "smoke", tmp_path, unit=" of all")._repr_markdown_()
    assert said == "*The committed result, preset full.*\n\nIt is **0.7** of all."
    assert repr(tables.told(say, own, "tab6", "full", tmp_path)) == "It is **0.1**%."

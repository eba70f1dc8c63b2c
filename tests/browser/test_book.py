"""The book in a browser: pages without a complaint or a request to the network, links that lead somewhere, formulas,
search, a stepper's twin, details that open, and a button that reproduces a figure."""

import json
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import nbformat
import pandas as pd
import pytest

from smlib.objectives.methods import METHODS
from smlib.paper.book.build import CHAPTERS, build
from smlib.paper.reproduce import Reproduction, plan
from smlib.paper.tables import folded
from tests.support.contrast import contrast

EXECUTED = "00_overview"
FOLDED = "11_ablations"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book, every warning an error: notebook 00 executed at `smoke`, one with a folded table, the others without
    results, which take minutes."""
    pytest.importorskip("myst_nb", reason="the extra `book` is not installed")
    folder = tmp_path_factory.mktemp("book")
    executed = folder / "executed"
    shutil.copytree(Path(__file__).parents[2] / "notebooks", executed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMLIB_QUIET", "1")
        work = Reproduction(
            "smoke",
            results_dir=str(folder / "results"),
            figures_dir=str(folder / "figures"),
            runs_dir=folder / "runs",
        )
        [outcome] = work.run([task for task in plan() if task.name == EXECUTED])
    assert not outcome.failed, outcome.why
    shutil.copyfile(work.folder / f"{EXECUTED}.ipynb", executed / f"{EXECUTED}.ipynb")
    _fold(executed / f"{FOLDED}.ipynb")
    before = set(folder.iterdir())
    site = build(folder / "site", executed=executed).parent
    assert set(folder.iterdir()) - before == {site, folder / ".site-source"}  # and nothing beside it
    return site


def _fold(path: Path) -> None:
    """Gives the first cell with a folded table its output."""
    notebook = nbformat.read(path, as_version=4)
    cell = next(cell for cell in notebook.cells if cell.cell_type == "code" and "tables.folded(" in cell.source)
    shown = folded("Every cell", pd.DataFrame({"accuracy": [0.5]}))
    data = {"text/html": shown._repr_html_(), "text/plain": repr(shown)}
    cell.outputs = [nbformat.v4.new_output("execute_result", data, execution_count=1)]
    nbformat.write(notebook, path)


class Page(HTMLParser):
    """What a page links to, what it loads, and the places in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.places |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag in ("script", "img", "iframe", "source") and "src" in given:
            self.loaded.append(given["src"])
        elif tag == "link" and given.get("rel") not in ("canonical",):
            self.loaded.append(given.get("href", ""))


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.parts}


def test_the_site_has_every_chapter_and_method_and_loads_nothing_from_a_network(
    site: Path, pages: dict[Path, Page]
) -> None:
    assert len(list((site / "notebooks").glob("*.html"))) == len(CHAPTERS)
    assert {path.stem for path in (site / "methods").glob("*.html")} == set(METHODS)
    for path, page in pages.items():
        assert [place for place in page.loaded if urlsplit(place).scheme in ("http", "https")] == [], path


def broken(site: Path, pages: dict[Path, Page]) -> Iterator[str]:
    """Links to files and to places in them that are not there."""
    for path, page in pages.items():
        for link in {*page.links, *page.loaded}:
            parts = urlsplit(link)
            if parts.scheme or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            places = pages[target].places if target in pages else {unquote(parts.fragment)}
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in places):
                yield f"{path.relative_to(site)}: {link}"


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    assert sum(len(page.links) for page in pages.values()) > 1000
    assert list(broken(site, pages)) == []


def test_a_broken_link_would_be_found(site: Path, tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#there">1</a> <a href="c.html">2</a> <a href="b.html#here">3</a>')
    (tmp_path / "b.html").write_text('<p id="here"></p><a href="https://example.org">4</a><a href="#nowhere">5</a>')
    found = {path: Page(path) for path in tmp_path.glob("*.html")}
    assert sorted(broken(tmp_path, found)) == ["a.html: b.html#there", "a.html: c.html", "b.html: #nowhere"]


@pytest.fixture
def quiet(browser: Any) -> Iterator[Any]:
    """A page that fails its test if it complains, lacks a file, or asks for anything but files."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, permissions=["clipboard-write"])
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("requestfailed", lambda request: said.append(f"no {request.url}"))
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    yield page
    context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "about:"))] == []


def test_every_page_loads_without_a_complaint(site: Path, pages: dict[Path, Page], quiet: Any) -> None:
    for path in sorted(pages):
        quiet.goto(path.as_uri())
        quiet.wait_for_load_state("load")
    quiet.goto((site / "notebooks" / "14_loss_in_pytorch.html").as_uri())
    assert quiet.locator("math").count() > 5


def test_search_finds_occupancy(site: Path, quiet: Any, artefacts: Path) -> None:
    quiet.goto(f"{(site / 'search.html').as_uri()}?q=occupancy")
    quiet.wait_for_selector("#search-results li a", timeout=60_000)
    assert "imitation" in quiet.inner_text("#search-results").lower()
    quiet.screenshot(path=artefacts / "book-search.png")


def test_a_reader_without_a_kernel_steps_through_the_twin_of_a_notebook(
    site: Path, quiet: Any, artefacts: Path
) -> None:
    for scheme in ("light", "dark"):
        quiet.emulate_media(color_scheme=scheme)
        quiet.goto((site / "notebooks" / f"{EXECUTED}.html").as_uri())
        frame = quiet.locator("iframe")
        frame.scroll_into_view_if_needed()
        inside = quiet.frame_locator("iframe")
        before = inside.locator(".sm-count").text_content()
        while not inside.locator("del").count():
            inside.get_by_role("button", name="step", exact=True).click()
            assert not inside.get_by_text("The trajectory has ended.").count(), "nothing was deleted"
        assert inside.locator(".sm-count").text_content() != before
        assert inside.get_by_label("Type tokens yourself").count() == 0  # a recording cannot be changed
        assert inside.locator("body").evaluate("body => body.scrollWidth <= body.clientWidth")
        quiet.screenshot(path=artefacts / f"book-twin-{scheme}.png")
    assert quiet.evaluate("document.documentElement.scrollWidth") <= 1280


def test_details_are_closed_until_a_reader_opens_them(site: Path, quiet: Any) -> None:
    quiet.goto((site / "notebooks" / f"{FOLDED}.html").as_uri())
    for title, inside in (("Every cell", "table"), ("What each method is", "li")):
        details = quiet.locator("details", has_text=title)
        assert details.count() == 1
        assert not details.locator(inside).first.is_visible()
        details.locator("summary").click()
        assert details.locator(inside).first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_badge_has_its_file_its_commit_and_a_button_with_the_command(
    scheme: str, site: Path, quiet: Any, artefacts: Path
) -> None:
    quiet.emulate_media(color_scheme=scheme)
    quiet.goto((site / "notebooks" / "04_arithmetic.html").as_uri())
    badge = quiet.locator(".admonition.figure-source", has_text="fig3_greedy")
    file = (site / "notebooks" / badge.get_by_role("link", name="fig3.json").get_attribute("href")).resolve()
    assert json.loads(file.read_text(encoding="utf-8"))["id"] == "fig3"
    said = badge.get_by_text("computed at commit")
    button = badge.get_by_role("button", name="Reproduce this figure")
    page = quiet.locator("body").evaluate("node => getComputedStyle(node).backgroundColor")
    for part in (said, button):
        assert contrast(part.evaluate("node => getComputedStyle(node).color"), page) >= 4.5
    button.click()
    badge.get_by_text("The command is").wait_for()
    badge.scroll_into_view_if_needed()
    quiet.screenshot(path=artefacts / f"book-badge-{scheme}.png")
    assert badge.locator("pre").inner_text().strip() == "smlib reproduce --preset full --only fig3"

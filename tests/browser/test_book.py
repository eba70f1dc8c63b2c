"""The book in a browser: pages without a complaint or a request to the network, formulas, search."""

import re
from pathlib import Path
from typing import Any

import pytest

from smlib.paper.book.build import CHAPTERS, build


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The book of notebooks without results: the text, the pages and the reference, every warning an error."""
    pytest.importorskip("myst_nb", reason="the extra `book` is not installed")
    folder = tmp_path_factory.mktemp("book")
    return build(folder / "site", executed=Path(__file__).parents[2] / "notebooks").parent


def test_the_site_builds_without_a_warning_and_without_a_network(site: Path) -> None:
    assert len(list((site / "notebooks").glob("*.html"))) == len(CHAPTERS)
    for page in site.rglob("*.html"):
        loaded = re.findall(r"""<(?:script|link|img)[^>]*?(?:src|href)=["'](https?:[^"']+)""", page.read_text())
        assert [place for place in loaded if "canonical" not in place] == [], page


def test_the_pages_of_the_site_work_in_a_browser(site: Path, browser: Any) -> None:
    with browser.new_page() as page:
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("requestfailed", lambda request: said.append(f"no {request.url}"))
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for name in ("index", "notebooks/14_loss_in_pytorch", "methods/sm", "reference/objectives", "docs/running"):
            page.goto((site / f"{name}.html").as_uri())
            page.wait_for_load_state("load")
        page.goto((site / "notebooks" / "14_loss_in_pytorch.html").as_uri())
        assert page.locator("math").count() > 5
        page.goto(f"{(site / 'search.html').as_uri()}?q=occupancy")
        page.wait_for_selector("#search-results li a", timeout=60_000)
        assert "imitation" in page.inner_text("#search-results").lower()
    assert said == []
    assert [url for url in asked if not url.startswith("file:")] == []

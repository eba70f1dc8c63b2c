"""A browser that is installed, a folder for screenshots, and a page that must not complain. Nothing is downloaded."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTH, HEIGHT = 1280, 800


def installed_browser() -> str | None:
    """The browser that `SMLIB_BROWSER` names, or the first of the known names on PATH."""
    named = os.environ.get("SMLIB_BROWSER")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder is a browser test."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless, for one file of tests: playwright keeps an event loop running in this thread as long as it is open, and
    a later test that needs one of its own (`asyncio.run`) would be refused.
    """
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="browser tests need playwright: pip install -e '.[dev]'"
    )
    path = installed_browser()
    if path is None:
        named = os.environ.get("SMLIB_BROWSER")
        pytest.skip(
            f"SMLIB_BROWSER={named}: no such program"
            if named
            else f"no browser is installed: none of {', '.join(NAMES)} is on PATH, and SMLIB_BROWSER names none"
        )
    with sync_api.sync_playwright() as playwright:
        # A container has no user namespaces for the sandbox; these tests open this package's own pages alone.
        opened = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go: the folder that `SMLIB_SCREENSHOTS` names, or a temporary one."""
    named = os.environ.get("SMLIB_SCREENSHOTS")
    folder = Path(named) if named else tmp_path_factory.mktemp("screenshots")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


class Complaints:
    """What a page said on its console, and what it threw."""

    def __init__(self, page: Any) -> None:
        self.said: list[str] = []
        page.on("console", lambda message: self.said.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.said.append(str(error)))


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page that fails its test if it complains or asks for anything but files of this machine."""
    context = browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    opened = context.new_page()
    complaints = Complaints(opened)
    asked: list[str] = []
    opened.on("request", lambda request: asked.append(request.url))
    yield opened
    context.close()
    assert complaints.said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:", "about:"))] == []

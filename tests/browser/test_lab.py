"""JupyterLab in a browser: notebooks 00 and 04 run to their ends at `smoke`; the live stepper answers a click and a
digit, sliders move their figure, and the curves of a run grow."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest

from smlib.files import project_root
from smlib.paper.notebooks import KERNELSPEC

START = 300  # seconds for the server, and for the kernel, on a machine that does other things too
OVERVIEW, ARITHMETIC = "00_overview.ipynb", "04_arithmetic.ipynb"
TRAINING = 600  # seconds for a notebook that trains


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a server on this machine alone, and its folder: copies of two notebooks that run at `smoke`."""
    pytest.importorskip("jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    for name in (OVERVIEW, ARITHMETIC):
        _copy_at_smoke(name, folder)
    (folder / "results").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(project_root()), "SMLIB_QUIET": "1", "SMLIB_WORKERS": "1"}
    environment.pop("SMLIB_HEADLESS", None)
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        environment[name] = str(folder / ".own" / name.lower())  # a reader's own settings change nothing
    port = _free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token=", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.news_url=None"]
    log = (folder / "server.log").open("wb")
    server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{address}/api", server, folder / "server.log")
        yield address, folder
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        log.close()


def _copy_at_smoke(name: str, folder: Path) -> None:
    notebook = json.loads((project_root() / "notebooks" / name).read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            cell["source"] = [
                'preset = "smoke"\n',
                f"results_dir = {str(folder / 'results')!r}\n",
                f"figures_dir = {str(folder / 'figures')!r}",
            ]
    (folder / name).write_text(json.dumps(notebook), encoding="utf-8")


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.mark.slow
def test_the_live_stepper_answers_in_jupyterlab(browser: Any, lab: tuple[str, Path], artefacts: Path) -> None:
    address, folder = lab
    page = _run_all(browser, address, OVERVIEW)
    stepper = page.locator(".sm-stepper")
    _scroll_to(page, page.locator(".jp-CodeCell", has_text='explore("sm'), stepper)
    kept, struck = stepper.locator(".sm-kept"), stepper.locator("del")

    stepper.get_by_role("button", name="step", exact=True).click()
    stepper.get_by_text("action 1 of").wait_for()
    assert kept.count() == 1
    stepper.get_by_role("button", name="to the start").click()
    stepper.get_by_label("Type tokens yourself").fill("2")
    stepper.get_by_label("Type tokens yourself").press("Enter")
    stepper.locator(".sm-kept.sm-forced").wait_for()
    assert kept.all_text_contents() == ["2"]
    stepper.locator(".sm-bar.sm-delete").click()
    struck.first.wait_for()
    assert (kept.count(), struck.all_text_contents()) == (0, ["2"])
    page.screenshot(path=artefacts / "lab.png")
    stepper.get_by_label("Temperature").fill("0")
    stepper.get_by_label("Temperature").press("Tab")
    stepper.get_by_role("alert").wait_for()
    assert "temperature=0.0" in stepper.get_by_role("alert").text_content()

    outputs = _saved_without_errors(page, folder / OVERVIEW)
    widgets = [o["data"] for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})]
    twins = [data for data in widgets if "<iframe" in "".join(data.get("text/html", ""))]
    assert len(twins) == 1  # the stepper's; the sliders have none
    page.context.close()


@pytest.mark.slow
def test_the_main_experiment_runs_to_its_end_in_jupyterlab(
    browser: Any, lab: tuple[str, Path], artefacts: Path
) -> None:
    address, folder = lab
    page = _run_all(browser, address, ARITHMETIC)
    outputs = _saved_without_errors(page, folder / ARITHMETIC, TRAINING)
    shown = [output.get("data", {}) for output in outputs]
    assert sum("image/png" in data or "<img" in "".join(data.get("text/html", "")) for data in shown) >= 6
    assert (folder / "results" / "smoke" / "fig3.json").is_file()
    slider = page.locator(".widget-slider").first
    _scroll_to(page, page.locator(".jp-CodeCell", has_text="sliders.law()"), slider)
    page.locator('img[alt*="η = 0.20, u = 1/10"]').wait_for()
    slider.locator("[role=slider]").first.focus()
    page.keyboard.press("ArrowRight")
    page.locator('img[alt*="η = 0.21, u = 1/10"]').wait_for()
    page.screenshot(path=artefacts / "lab-sliders.png")
    page.context.close()


@pytest.mark.slow
def test_the_curves_of_a_run_grow_in_jupyterlab(browser: Any, lab: tuple[str, Path], artefacts: Path) -> None:
    address, folder = lab
    log = folder / "run" / "metrics.jsonl"
    log.parent.mkdir()
    log.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    code = f"from smlib.widgets.curves import watch\n\nwatch({str(log.parent)!r}, every=0.2)"
    cell = nbformat.v4.new_code_cell(code)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": KERNELSPEC}), folder / "curves.ipynb")
    page = _run_all(browser, address, "curves.ipynb")
    page.get_by_text("run: step 2", exact=False).wait_for()
    page.locator('img[alt="loss: 2 at step 1 to 1 at step 2."]').wait_for()
    with log.open("a") as growing:
        growing.write('{"step": 3, "loss": 0.5}\n')
    page.locator('img[alt="loss: 2 at step 1 to 0.5 at step 3."]').wait_for()
    page.screenshot(path=artefacts / "lab-curves.png")
    (log.parent / "policy").mkdir()
    page.get_by_text("finished after 3 steps", exact=False).wait_for()
    page.context.close()


def _run_all(browser: Any, address: str, name: str) -> Any:
    """A page with this notebook alone, of which all cells run.

    The workspace is its own: JupyterLab opens what was open in it before, and "Run All Cells" runs what is in front.
    """
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(1000 * START)
    page.goto(f"{address}/lab/workspaces/{Path(name).stem}/tree/{name}")
    page.locator(".jp-Notebook").wait_for()
    page.locator(".jp-mod-current[role=tab]", has_text=name).first.wait_for()
    page.get_by_text("Python 3 (ipykernel) | Idle", exact=False).first.wait_for(state="attached")
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    return page


def _scroll_to(page: Any, cell: Any, wanted: Any) -> None:
    """JupyterLab draws the cells in view alone, and an output when its cell has run."""
    until = time.monotonic() + 2 * START
    while not wanted.count():
        assert time.monotonic() < until, "the stepper was not drawn"
        if cell.count():
            cell.first.scroll_into_view_if_needed()
        else:
            page.locator(".jp-Notebook").hover()
            page.mouse.wheel(0, 500)
        page.wait_for_timeout(1000)
    wanted.scroll_into_view_if_needed()


def _saved_without_errors(page: Any, notebook: Path, patience: float = START) -> list[Any]:
    """Saves until every code cell has a number, and returns what was saved: JupyterLab draws only the cells in view."""
    until = time.monotonic() + patience
    while True:
        page.keyboard.press("Control+s")
        page.wait_for_timeout(1500)
        cells = _code_cells(notebook)
        outputs = [output for cell in cells for output in cell["outputs"]]
        errors = [output for output in outputs if output["output_type"] == "error"]
        assert not errors, errors[0]["traceback"]
        if cells and all(cell["execution_count"] for cell in cells):
            return outputs
        assert time.monotonic() < until, "the last cell has not run"


def _code_cells(notebook: Path) -> list[Any]:
    """Those of a notebook, none while the server is writing it."""
    try:
        stored = json.loads(notebook.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return []
    return [cell for cell in stored["cells"] if cell["cell_type"] == "code"]

"""Every committed notebook runs to its last cell at `smoke`, as `smlib reproduce` would run it."""

import json

import pytest

from smlib.files import project_root
from smlib.paper.ledger import item_path
from smlib.paper.reproduce import Reproduction, plan

NOTEBOOKS = sorted(p.name for p in (project_root() / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs_at_smoke(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SMLIB_QUIET", "1")
    monkeypatch.setenv("SMLIB_WORKERS", "1")
    tasks = [t for t in plan() if t.path is not None and t.path.name == name]
    assert len(tasks) == 1
    work = Reproduction(
        "smoke",
        results_dir=str(tmp_path / "results"),
        figures_dir=str(tmp_path / "figures"),
        runs_dir=tmp_path / "runs",
        execution_timeout=600,
    )
    [outcome] = work.run(tasks)
    assert outcome.status == "done", f"{outcome.where}: {outcome.why}"
    executed = json.loads((work.folder / name).read_text(encoding="utf-8"))
    outputs = [o.get("data", {}) for c in executed["cells"] if c["cell_type"] == "code" for o in c["outputs"]]
    assert not any("application/vnd.jupyter.widget-view+json" in data for data in outputs)  # it dies with the kernel
    if name == "00_overview.ipynb":  # the stepper's static twin
        [twin] = ["".join(data["text/html"]) for data in outputs if "<iframe" in "".join(data.get("text/html", ""))]
        assert "sm-arithmetic, seed 21." in twin
    for item in tasks[0].items:
        content = json.loads(item_path(item, "smoke", tmp_path / "results").read_text())
        assert content["verdict"] in ("reproduced", "direction only", "not reproduced")

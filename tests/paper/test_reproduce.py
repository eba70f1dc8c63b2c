"""The notebooks' driver, on tiny notebooks: what counts as success, and what is said about a failure."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from smlib.files import ResultError
from smlib.paper import reproduce
from smlib.paper.execution import OwnKernelManager
from smlib.paper.items import ITEMS, READ_ONLY_NOTEBOOKS
from smlib.paper.reproduce import Outcome, Reproduction, Task, plan
from tests.support.notebook_maker import write_notebook

WRITE = (
    "from smlib.paper import results\n"
    "results.write_item('fig3', preset, ours=0.5, n_seeds=1, verdict='direction only', results_dir=results_dir)"
)
FINISH = "results.finish(['fig3'], preset, results_dir)"


def execute(folder: Path, *cells: str, timeout: int | None = None, **options: str) -> Outcome:
    path = write_notebook(folder / "notebooks" / "04_arithmetic.ipynb", *cells, **options)
    work = Reproduction(
        "smoke",
        results_dir=str(folder / "results"),
        figures_dir=str(folder / "figures"),
        runs_dir=folder / "runs",
        execution_timeout=timeout,
    )
    (outcome,) = work.run([Task("04_arithmetic", ("fig3",), path)])
    return outcome


def test_a_notebook_that_reaches_its_last_cell_is_done(tmp_path: Path) -> None:
    outcome = execute(tmp_path, WRITE, FINISH)
    assert (outcome.status, outcome.where, outcome.why) == ("done", "", "")
    assert json.loads((tmp_path / "results/smoke/fig3.json").read_text())["ours"] == 0.5
    executed = json.loads((tmp_path / "runs/smoke/04_arithmetic.ipynb").read_text())
    assert "direction only" in json.dumps(executed["cells"][-1]["outputs"])


def test_an_exception_is_reported_with_its_line(tmp_path: Path) -> None:
    outcome = execute(tmp_path, WRITE, "x = 1\nraise ValueError('no such thing\\nsecond line')", FINISH)
    assert outcome.status == "failed"
    assert outcome.why == "ValueError: no such thing"
    assert outcome.where.startswith("In [4] `raise ValueError(")


def test_an_early_exit_is_a_failure_and_last_weeks_marker_does_not_help(tmp_path: Path) -> None:
    """`sys.exit(0)` counts as success for papermill."""
    assert execute(tmp_path, WRITE, FINISH).status == "done"
    outcome = execute(tmp_path, "import sys\nsys.exit(0)", WRITE, FINISH)
    assert outcome.status == "failed"
    assert "without reaching smlib.paper.results.finish" in outcome.why


def test_a_cell_over_its_time_is_a_failure(tmp_path: Path) -> None:
    """Papermill's metadata says `completed` after this."""
    outcome = execute(tmp_path, "import time\ntime.sleep(60)", FINISH, timeout=2)
    assert (outcome.status, outcome.why) == ("failed", "a cell ran longer than 2 s")


def test_a_dead_kernel_is_a_failure(tmp_path: Path) -> None:
    outcome = execute(tmp_path, "import os\nos.kill(os.getpid(), 9)", FINISH)
    assert outcome.status == "failed"
    assert "kernel died" in outcome.why


def test_a_parameter_the_notebook_does_not_take_is_a_failure(tmp_path: Path) -> None:
    outcome = execute(tmp_path, FINISH, parameters='preset = "quick"\nresults_dir = "results"')
    assert outcome.status == "failed"
    assert outcome.why == "unknown parameter figures_dir; it takes preset, results_dir"


@pytest.mark.parametrize("asked", [None, "1"])
def test_two_notebooks_side_by_side_share_the_cores_and_take_no_more_than_was_asked_for(
    asked: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    cells = ("import os\nprint('threads', os.environ['OMP_NUM_THREADS'])", WRITE, FINISH)
    paths = [write_notebook(tmp_path / f"0{n}_side.ipynb", *cells) for n in (1, 2)]
    work = Reproduction("smoke", jobs=2, results_dir=str(tmp_path / "results"), runs_dir=tmp_path / "runs")
    heard: list[str] = []
    tasks = [Task(path.stem, (), path) for path in paths]
    outcomes = work.run(tasks, lambda outcome: heard.append(outcome.task.name))
    assert [outcome.status for outcome in outcomes] == ["done", "done"]
    assert sorted(heard) == ["01_side", "02_side"]
    threads = asked or max(1, len(os.sched_getaffinity(0)) // 2)
    assert f"threads {threads}" in (tmp_path / "runs/smoke/01_side.ipynb").read_text()


def test_what_measures_time_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reproduce, "ALONE", ("01_timed",))
    stamp = "import time\nprint('from', time.time())\ntime.sleep(1)\nprint('to', time.time())"
    names = ("01_timed", "02_side", "03_side")
    tasks = [Task(n, (), write_notebook(tmp_path / f"{n}.ipynb", stamp, WRITE, FINISH)) for n in names]
    work = Reproduction("smoke", jobs=2, results_dir=str(tmp_path / "results"), runs_dir=tmp_path / "runs")
    assert [outcome.status for outcome in work.run(tasks)] == ["done"] * 3
    spans = {}
    for name in names:
        text = (tmp_path / f"runs/smoke/{name}.ipynb").read_text()
        spans[name] = [float(re.search(rf"{end} (\d+\.\d+)", text)[1]) for end in ("from", "to")]  # type: ignore[index]
    timed = spans.pop("01_timed")
    assert all(timed[0] > other[1] or timed[1] < other[0] for other in spans.values())


def test_one_failure_does_not_stop_the_others(tmp_path: Path) -> None:
    bad = write_notebook(tmp_path / "01_bad.ipynb", "1 / 0", FINISH)
    good = write_notebook(tmp_path / "02_good.ipynb", WRITE, FINISH)
    work = Reproduction("smoke", results_dir=str(tmp_path / "results"), runs_dir=tmp_path / "runs")
    outcomes = work.run([Task("01_bad", (), bad), Task("02_good", (), good), Task("03_none", ("fig2",), None)])
    assert [outcome.status for outcome in outcomes] == ["failed", "done", "no notebook"]
    assert [outcome.failed for outcome in outcomes] == [True, False, True]
    assert outcomes[0].why == "ZeroDivisionError: division by zero"


def test_a_fresh_call_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round that finished runs have to belong to stays that of the first call until all is done."""
    ends = {"04_arithmetic": "done", "06_overhead": "interrupted"}
    seen: list[str | None] = []

    def execute(self: Reproduction, task: Task) -> Outcome:
        seen.append(self._environment(task).get("SMLIB_FRESH_ROUND"))
        return Outcome(task, ends[task.name])

    def call(*names: str, fresh: bool = True) -> str | None:
        seen.clear()
        Reproduction("smoke", fresh=fresh, results_dir=str(tmp_path), runs_dir=tmp_path / "runs").run(
            [Task(name, (), None) for name in names]
        )
        assert len(set(seen)) == 1
        return seen[0]

    monkeypatch.setattr(Reproduction, "execute", execute)
    marker = tmp_path / "smoke" / ".fresh-since"
    assert call(*ends, fresh=False) is None
    assert not marker.exists()
    first = call(*ends)
    assert first is not None
    assert call(*ends) == first
    assert call(*ends, fresh=False) is None
    ends["06_overhead"] = "done"
    assert call("06_overhead") == first  # a part of what was asked for
    assert marker.exists()
    with pytest.raises(ResultError, match="not finished"):
        call("07_divergences")
    assert call(*ends) == first
    assert not marker.exists()
    assert call(*ends) != first


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_kernel_and_its_workers_and_says_so(tmp_path: Path, signum: signal.Signals) -> None:
    pid_file = tmp_path / "pids"
    sleep = (
        "import multiprocessing, os, time\n"
        "from concurrent.futures import ProcessPoolExecutor\n"
        "pool = ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('spawn'))\n"
        "naps = [pool.submit(time.sleep, 300) for _ in range(2)]\n"
        "pids = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]\n"
        f"print(*pids, file=open({str(pid_file)!r}, 'w'), flush=True)\n"
        "naps[0].result()\n"
    )
    notebook = write_notebook(tmp_path / "01_sleep.ipynb", sleep, FINISH)
    program = (
        "import signal, sys\n"
        "from pathlib import Path\n"
        "from smlib.paper.reproduce import Reproduction, Task\n"
        # Whoever runs the tests in the background of a shell hands down an ignored SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"work = Reproduction('smoke', runs_dir=Path({str(tmp_path / 'runs')!r}))\n"
        f"(outcome,) = work.run([Task('01_sleep', (), Path({str(notebook)!r}))])\n"
        "print(outcome.status, '-', outcome.why)\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 300  # a busy machine is slow to start a kernel
    while not (pid_file.exists() and pid_file.read_text().endswith("\n")) and time.monotonic() < deadline:
        time.sleep(0.05)
    driver.send_signal(signum)
    said, _ = driver.communicate(timeout=300)
    assert said.strip() == "interrupted - stopped by the user"
    pids = [int(pid) for pid in pid_file.read_text().split()]
    assert len(pids) == 3
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_plan_knows_every_item_and_puts_the_report_last(repository: Path) -> None:
    tasks = plan()
    assert {item for task in tasks for item in task.items} == set(ITEMS)
    assert [task.name for task in tasks[-2:]] == ["12_report", "00_overview"]
    written = {path.stem for path in (repository / "notebooks").glob("*.ipynb")}
    assert {task.name for task in tasks if task.path} == written


def test_only_picks_the_notebooks_of_the_items(tmp_path: Path) -> None:
    for name in ("00_overview", "04_arithmetic", "06_overhead", "12_report"):
        write_notebook(tmp_path / f"{name}.ipynb", FINISH)
    assert [task.name for task in plan(["tab1", "fig3"], tmp_path)] == ["04_arithmetic"]
    assert [task.name for task in plan(["tab4", "fig3"], tmp_path)] == ["04_arithmetic", "06_overhead"]
    assert [task.name for task in plan(["report"], tmp_path)] == ["12_report", "00_overview"]
    with pytest.raises(ResultError, match="unknown item 'fig9'; known: fig1, theory"):
        plan(["fig9"], tmp_path)
    with pytest.raises(ResultError, match=r"tab5 has no notebook: 08_translation.ipynb does not exist in"):
        plan(["tab5"], tmp_path)
    with pytest.raises(ResultError, match="no notebooks in"):
        plan([], tmp_path / "elsewhere")


def test_bad_options_are_refused() -> None:
    with pytest.raises(ResultError, match="unknown preset 'fast'; known: smoke"):
        Reproduction("fast")
    with pytest.raises(ResultError, match="jobs is 0"):
        Reproduction("smoke", jobs=0)


def test_a_kernel_that_is_shut_down_is_not_interrupted_first() -> None:
    # It would say "KeyboardInterrupt caught in kernel" on the terminal whenever it is still busy with its last message.
    async def signals() -> tuple[list[int], list[int]]:
        manager, sent = OwnKernelManager(), []
        await manager.start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert manager.provisioner is not None
        send = manager.provisioner.send_signal

        async def recorded(number: int) -> None:
            sent.append(number)
            await send(number)

        manager.provisioner.send_signal = recorded  # type: ignore[method-assign]
        await manager.interrupt_kernel()
        running = list(sent)
        await manager.shutdown_kernel()
        return running, sent

    running, sent = asyncio.run(signals())
    assert running == [signal.SIGINT]
    assert sent.count(signal.SIGINT) == 1


def test_kernels_keep_what_they_compile_where_python_was_told_to_keep_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = (
        "import pathlib, subprocess, sys\n"
        "shown = subprocess.check_output([sys.executable, '-c', 'import sys; print(sys.pycache_prefix)'], text=True)\n"
        f"pathlib.Path({str(tmp_path / 'said')!r}).write_text(f'{{sys.pycache_prefix}} {{shown}}')"
    )
    for told, prefix in ((True, str(tmp_path / "runs" / "smoke" / ".compiled")), (False, "None")):
        monkeypatch.setattr(sys, "dont_write_bytecode", told)
        monkeypatch.delenv("PYTHONPYCACHEPREFIX", raising=False)
        assert execute(tmp_path, WRITE, cell, FINISH).status == "done"
        assert (tmp_path / "said").read_text().split() == [prefix, prefix]


def test_read_only_notebooks_belong_to_known_items() -> None:
    assert set(READ_ONLY_NOTEBOOKS.values()) <= set(ITEMS)

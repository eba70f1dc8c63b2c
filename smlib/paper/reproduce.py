"""Rebuild figures and tables by executing their notebooks with papermill, and say plainly what worked.

A notebook has succeeded when it reached its last cell, `smlib.paper.results.finish(...)`, which writes a marker that
was not there before. Papermill's metadata says `completed` after a timed-out cell and after `sys.exit(0)`, so it is not
asked. Executed notebooks land in `runs/<preset>/`.
"""

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import papermill
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.clientwrap import PapermillNotebookClient
from papermill.exceptions import PapermillExecutionError

from smlib.files import ResultError, project_root, read_json
from smlib.paper.execution import KernelEngine, Watch, failing_line, line_of
from smlib.paper.fresh import ROUND, begin_fresh
from smlib.paper.items import ITEMS, READ_ONLY_NOTEBOOKS, check_preset, get_item

KERNEL_START_SECONDS = 300
KERNEL_START_ATTEMPTS = 3
LAST = ("12_report", "00_overview")
"""Notebooks that read what the others write, in the order they run."""
PLACE = "SMLIB_PROGRESS"
"""Where trainings leave their latest line, see `smlib.training.progress`, which would load torch here."""
ALONE = ("06_overhead",)
"""Notebooks that measure time: nothing runs beside them, whatever `jobs` is."""


@dataclass(frozen=True)
class Task:
    """One notebook to execute: its name without suffix, the items it writes, and its file (None: not written yet)."""

    name: str
    items: tuple[str, ...]
    path: Path | None

    @property
    def label(self) -> str:
        return ", ".join(self.items) or READ_ONLY_NOTEBOOKS.get(self.name, self.name)


@dataclass(frozen=True)
class Outcome:
    """How a notebook ended: `done`, `failed`, `interrupted` or `no notebook`, after how long, and where and why."""

    task: Task
    status: str
    seconds: float = 0.0
    where: str = ""
    why: str = ""
    runs: tuple[str, ...] = ()
    """What it says of the runs that it read from the cache, an entry an item."""

    @property
    def failed(self) -> bool:
        return self.status != "done"


Listener = Callable[[Task, int, int], None]
"""Called with a task, the cells it has finished and the cells it has."""


def plan(only: Sequence[str] = (), notebooks_dir: Path | None = None) -> list[Task]:
    """The notebooks that rebuild the items in `only` (all if empty), those that read the others last.

    Raises `ResultError` for an unknown id, a folder without notebooks, or an id asked for whose notebook is absent.
    """
    wanted = {get_item(item).id for item in only}
    folder = notebooks_dir or project_root() / "notebooks"
    files = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.ipynb"))}
    if not files:
        raise ResultError(f"no notebooks in {folder}: run smlib from the repository")
    items: dict[str, tuple[str, ...]] = dict.fromkeys(READ_ONLY_NOTEBOOKS, ())
    for item in ITEMS.values():
        items[item.notebook] = (*items.get(item.notebook, ()), item.id)
    for name in files:
        items.setdefault(name, ())
    tasks = [Task(name, items[name], files.get(name)) for name in sorted(items)]
    if wanted:
        tasks = [task for task in tasks if wanted & {*task.items, READ_ONLY_NOTEBOOKS.get(task.name)}]
        if all(task.path is None for task in tasks):
            missing = ", ".join(f"{task.name}.ipynb" for task in tasks)
            raise ResultError(f"{', '.join(only)} has no notebook: {missing} does not exist in {folder}")
    return sorted(tasks, key=lambda task: LAST.index(task.name) if task.name in LAST else -1)


class Reproduction:
    """One call of `smlib reproduce`: executes tasks on `jobs` threads and can be stopped at any time."""

    def __init__(
        self,
        preset: str,
        *,
        jobs: int = 1,
        fresh: bool = False,
        results_dir: str = "results",
        figures_dir: str = "figures",
        runs_dir: Path | None = None,
        execution_timeout: int | None = None,
        listener: Listener = lambda task, finished, total: None,
        waiting: Callable[[Mapping[str, str]], None] = lambda running: None,
    ) -> None:
        """`fresh` repeats what was finished before it began, which may have been in a call that was killed
        (`smlib.paper.fresh.FreshRound`); `execution_timeout` limits a cell, in seconds (None: no limit); `waiting` is
        called about twice a second with the notebooks that run and the latest line of a training in each."""
        self.preset = check_preset(preset)
        if jobs < 1:
            raise ResultError(f"jobs is {jobs}; at least one notebook has to run at a time")
        self.jobs = jobs
        self.fresh = fresh
        self.fresh_name: str | None = None
        self.parameters = {"preset": preset, "results_dir": results_dir, "figures_dir": figures_dir}
        self.folder = (runs_dir or project_root() / "runs") / preset
        self.execution_timeout = execution_timeout
        self.listener = listener
        self.waiting = waiting
        self._stopped = threading.Event()
        self._kernels: dict[str, PapermillNotebookClient] = {}
        self._running: set[Future[Outcome]] = set()

    def run(self, tasks: Sequence[Task], report: Callable[[Outcome], None] = lambda outcome: None) -> list[Outcome]:
        """Execute the tasks and return their outcomes in order; `report` hears of each as it ends.

        Ctrl-C and SIGTERM end the kernels; what was unfinished is `interrupted`, and finished runs stay cached.
        Raises `ResultError` if another `--fresh` is unfinished.
        """
        names = [task.name for task in tasks]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise ResultError(
                f"executed notebooks go to {self.folder}, which cannot be written: {error.strerror or error}; name "
                "another folder with --runs-dir"
            ) from error
        fresh = begin_fresh(names, self.preset, self.parameters["results_dir"]) if self.fresh else None
        self.fresh_name = fresh.name if fresh else None
        outcomes: dict[str, Outcome] = {}
        with ThreadPoolExecutor(self.jobs) as pool, _terminate_like_interrupt():
            try:
                single = [task for task in tasks if task.name in ALONE + LAST]
                first = [task for task in tasks if task not in single]
                for group, width in ((first, self.jobs), *(([task], 1) for task in single)):
                    for outcome in self._run_group(pool, group, width):
                        outcomes[outcome.task.name] = outcome
                        report(outcome)
            except KeyboardInterrupt:
                self.stop()
        for task in tasks:
            outcomes.setdefault(task.name, Outcome(task, "interrupted", why="stopped by the user"))
        if fresh and not any(outcome.failed for outcome in outcomes.values()) and set(names) >= set(fresh.notebooks):
            fresh.end()
        return [outcomes[name] for name in names]

    def _run_group(self, pool: ThreadPoolExecutor, group: Sequence[Task], width: int) -> Iterator[Outcome]:
        waiting = list(group)
        while waiting or self._running:
            while waiting and len(self._running) < width:
                self._running.add(pool.submit(self.execute, waiting.pop(0)))
            # A finite wait: a blocked main thread would not see Ctrl-C.
            finished, self._running = wait(self._running, timeout=0.5, return_when=FIRST_COMPLETED)
            for future in finished:
                yield future.result()
            self.waiting({name: self._line(name) for name in list(self._kernels)})

    def stop(self) -> None:
        """End every kernel with its workers, and wait until `execute` has returned for each of them."""
        self._stopped.set()
        running = self._running
        while running:
            for client in list(self._kernels.values()):
                with suppress(Exception):  # it may be starting or ending: then there is nothing to kill yet
                    _kill(client)
            _, running = wait(running, timeout=0.5)

    def execute(self, task: Task) -> Outcome:
        """Execute one notebook, starting its kernel again if it does not come up; never raises for a failure in it."""
        if task.path is None:
            return Outcome(task, "no notebook", why="not written yet")
        started = time.monotonic()
        where, why = "", ""
        for attempt in range(1, KERNEL_START_ATTEMPTS + 1):
            watch = Watch(lambda finished, total: self.listener(task, finished, total))
            try:
                where, why = self._attempt(task, task.path, watch)
            except Exception as error:  # a failed notebook must not take the others down
                where, why = watch.where, f"{type(error).__name__}: {line_of(str(error), -1)}"
                if isinstance(error, RuntimeError) and not watch.started and attempt < KERNEL_START_ATTEMPTS:
                    continue  # the kernel did not start; nothing of the notebook has run
            break
        seconds = time.monotonic() - started
        if self._stopped.is_set() and why:
            return Outcome(task, "interrupted", seconds, where, "stopped by the user")
        runs = () if why else self._runs(task)
        return Outcome(task, "failed" if why else "done", seconds, where if why else "", why, runs)

    def _line(self, name: str) -> str:
        """What a training inside a notebook said last."""
        try:
            return self._progress(name).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def _progress(self, name: str) -> Path:
        return self.folder / "markers" / f"{name}.progress"

    def _marker(self, task: Task) -> Path:
        return self.folder / "markers" / f"{task.name}.json"

    def _runs(self, task: Task) -> tuple[str, ...]:
        """What `finish` said of the runs behind the items."""
        said = read_json(self._marker(task)).get("runs", {})
        assert isinstance(said, dict)
        return tuple(f"{item}: {text}" for item, text in said.items() if text)

    def _attempt(self, task: Task, path: Path, watch: Watch) -> tuple[str, str]:
        """Where and why it failed; two empty strings if it did not."""
        if self._stopped.is_set():
            return "", "stopped by the user"
        known = papermill.inspect_notebook(str(path))
        unknown = [name for name in self.parameters if name not in known]
        if unknown:
            return "parameters cell", f"unknown parameter {', '.join(unknown)}; it takes {', '.join(known) or 'none'}"
        marker = self._marker(task)
        for old in (marker, self._progress(task.name)):
            old.unlink(missing_ok=True)
        marker.parent.mkdir(parents=True, exist_ok=True)
        try:
            papermill.execute_notebook(
                str(path),
                str(self.folder / f"{task.name}.ipynb"),
                parameters=self.parameters,
                engine_name=KernelEngine.NAME,
                progress_bar=False,
                start_timeout=KERNEL_START_SECONDS,
                execution_timeout=self.execution_timeout,
                environment=self._environment(task),
                kernels=self._kernels,
                kernel_key=task.name,
                watch=watch,
            )
        except PapermillExecutionError as error:
            why = f"{error.ename}: {line_of(error.evalue, 0)}"
            return failing_line(error, watch), why
        except CellTimeoutError:
            return watch.where, f"a cell ran longer than {self.execution_timeout} s"
        except DeadKernelError:
            return watch.where, "the kernel died (killed, or out of memory)"
        if not marker.exists():
            return watch.where, "it ended without reaching smlib.paper.results.finish(...) in its last cell"
        return "", ""

    def _environment(self, task: Task) -> dict[str, str]:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        share = cores if task.name in ALONE else max(1, cores // self.jobs)
        asked = os.environ.get("OMP_NUM_THREADS", "")
        threads = str(min(share, int(asked)) if asked.isdigit() and int(asked) > 0 else share)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, threads), "SMLIB_FINISH_MARKER": str(self._marker(task))}
        environment[PLACE] = str(self._progress(task.name))
        # Nobody looks on: the static twin of a widget, and not its state, which dies with the kernel.
        environment["SMLIB_HEADLESS"] = "1"
        # What a reader's own IPython and Python run at their start would run in every notebook.
        environment["IPYTHONDIR"] = str(self.folder / ".ipython")
        if sys.dont_write_bytecode:
            # Every kernel and every worker would compile torch and transformers anew, 20 s each.
            environment.pop("PYTHONDONTWRITEBYTECODE", None)
            environment["PYTHONPYCACHEPREFIX"] = str(self.folder / ".compiled")
        for name in ("PYTHONSTARTUP", ROUND):
            environment.pop(name, None)
        if self.fresh_name is not None:
            environment[ROUND] = self.fresh_name
        return environment


def _kill(client: PapermillNotebookClient) -> None:
    """Kill a kernel and the processes that it started: jupyter gives each kernel a process group of its own."""
    kernel = client.km.provisioner
    if kernel.pgid and kernel.pgid != os.getpgrp():
        os.killpg(kernel.pgid, signal.SIGKILL)
    else:
        os.kill(kernel.pid, signal.SIGKILL)


@contextmanager
def _terminate_like_interrupt() -> Iterator[None]:
    """Treat SIGTERM as Ctrl-C, so that a batch system's stop ends the kernels as well."""

    def interrupt(signum: int, frame: object) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)

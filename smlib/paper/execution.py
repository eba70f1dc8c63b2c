"""How papermill executes one notebook here: an environment for each kernel, a handle to stop it, and its place."""

import logging
import sys
from collections.abc import Callable
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError, strip_color

from smlib.files import project_root


class Watch:
    """Which cell a notebook is at."""

    def __init__(self, listener: Callable[[int, int], None]) -> None:
        self.listener = listener
        self.started = False
        self.source = ""

    def cell_start(self, cell: Any, index: int, total: int) -> None:
        self.started = True
        if cell.cell_type == "code":
            self.source = cell.source
        self.listener(index, total)

    @property
    def where(self) -> str:
        return f"`{line_of(self.source, 0)}`" if self.source.strip() else ""


class OwnKernelManager(AsyncKernelManager):
    """Starts kernels with the interpreter that runs this, and not with whatever is installed under the name `python3`.

    A kernel of that name on JUPYTER_PATH, or of the user's, can belong to another environment.
    """

    @property
    def kernel_spec(self) -> KernelSpec:
        # `-m` and not a script, whose first line names a path; no user's startup file, see `Reproduction._environment`.
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python", interrupt_mode="signal")

    async def _async_interrupt_kernel(self) -> None:
        # A kernel that is being shut down would be interrupted first. Between two messages it says so on the terminal,
        # "KeyboardInterrupt caught in kernel", as if something had failed. The message that ends it is enough.
        if not self.shutting_down:
            await super()._async_interrupt_kernel()


class KernelEngine(NBClientEngine):
    """Papermill's own engine, plus an environment of its own for each kernel and a handle to stop it by."""

    NAME = "smlib"

    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> Any:
        watch = options["watch"]
        papermill_start = nb_man.cell_start

        def cell_start(cell: Any, cell_index: int) -> None:
            papermill_start(cell, cell_index)
            watch.cell_start(cell, cell_index, len(nb_man.nb.cells))

        nb_man.cell_start = cell_start
        client = PapermillNotebookClient(
            nb_man,
            kernel_name=kernel_name,
            timeout=options["execution_timeout"],
            startup_timeout=options["start_timeout"],
            log=logging.getLogger("papermill"),
            kernel_manager_class=OwnKernelManager,
            # No warning about TCP: the kernel is on this machine.
            extra_arguments=["--IPKernelApp.log_level=40", "--IPKernelApp.exec_PYTHONSTARTUP=False"],
        )
        options["kernels"][options["kernel_key"]] = client
        try:
            return client.execute(env=options["environment"], cwd=str(project_root()))
        finally:
            options["kernels"].pop(options["kernel_key"], None)


papermill_engines.register(KernelEngine.NAME, KernelEngine)
logging.getLogger("papermill").setLevel(logging.ERROR)


def line_of(text: str, number: int) -> str:
    """Line `number` of a text without its blank ends; empty if the text is."""
    lines = text.strip().splitlines()
    return lines[number].strip() if lines else ""


def failing_line(error: PapermillExecutionError, watch: Watch) -> str:
    """`In [n]` and the line of the cell that raised."""
    for line in strip_color("\n".join(error.traceback)).splitlines():
        if line.lstrip().startswith("-") and "> " in line[:12]:
            code = line.split(None, 2)[-1].strip()
            return f"In [{error.exec_count}] `{code}`"
    return f"In [{error.exec_count}] {watch.where}"

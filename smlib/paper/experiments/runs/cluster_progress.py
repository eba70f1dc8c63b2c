"""How far runs on a cluster are, told where somebody waits for them, as runs on this machine tell it themselves.

A training writes its latest line to the file that `SMLIB_PROGRESS` names (`smlib.training.progress`). On a worker a
thread reads that file (`telling`) and puts what is new on a board, an actor of the cluster; the process that sent the
runs out looks there while it waits (`Listener`).
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from smlib.paper.experiments.runs.board import Board
from smlib.training.progress import EVERY, PLACE, tell

LOOK = 1.0
"""Seconds between two looks at a file or at the board."""


def new_board() -> Any:
    """A board on this machine, which takes none of its cores; elsewhere where this one computes nothing."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here: Any = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    board: Any = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Board)
    return board.remote()


@contextmanager
def telling(board: Any) -> Iterator[None]:
    """What a training tells inside goes to the board; None for nowhere."""
    if board is None:
        yield
        return
    before, over = os.environ.get(PLACE), threading.Event()
    with tempfile.TemporaryDirectory(prefix="smlib-progress-") as folder:
        place = Path(folder, "line")
        reader = threading.Thread(target=_pass_on, args=(place, board, over), daemon=True, name="smlib-progress")
        os.environ[PLACE] = str(place)
        reader.start()
        try:
            yield
        finally:
            over.set()
            reader.join()
            del os.environ[PLACE]
            if before is not None:
                os.environ[PLACE] = before


def _pass_on(place: Path, board: Any, over: threading.Event) -> None:
    said = ""
    while not over.wait(LOOK):
        with suppress(OSError, UnicodeDecodeError):  # it has said nothing yet, or is writing
            line = place.read_text(encoding="utf-8").strip()
            if line and line != said:
                said = line
                board.put.remote(line)


class Listener:
    """Tells how many of the runs have ended, and what one of the others said last.

    Args:
        board: see `new_board`. runs: how many there are.
    """

    def __init__(self, board: Any, runs: int) -> None:
        self.board, self.runs = board, runs
        self.asked: Any = None
        self.line, self.said = "", ""
        self.told = time.monotonic()

    def look(self, ended: int) -> None:
        """Asks the board, and tells what is new: at once where it goes to a file, else now and then."""
        self._ask()
        now = time.monotonic()
        text = f"{ended} of {self.runs} runs on the cluster have ended" + (f"; {self.line}" if self.line else "")
        if text == self.said or os.environ.get("SMLIB_QUIET"):
            return
        if os.environ.get(PLACE) or now - self.told >= EVERY:
            self.said, self.told = text, now
            tell(text)

    def _ask(self) -> None:
        """Takes the answer to the last question, if it is there, and asks the next one; never waits."""
        import ray

        if self.asked is not None and not ray.wait([self.asked], timeout=0)[0]:
            return
        with suppress(ray.exceptions.RayError):  # the machine with the board is lost: it begins again elsewhere
            if self.asked is not None:
                self.line = ray.get(self.asked)
        self.asked = self.board.latest.remote()

"""The process that samples rollouts beside training: `smlib.training.background` starts it, and speaks with it.

It reads a policy once, and then tasks, one after another; each names the file of the weights that it is to be sampled
with. It ends with the process that started it, however that ends: when the pipe to it closes.
"""

import os
import pickle
import queue
import shutil
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

READY, DONE, FAILED = "ready", "done", "failed"


def main(pipe: Connection, folder: str) -> None:
    """Serves the process at the other end of the pipe, until that closes it.

    Args:
        folder: in which files of weights are, and which goes when nobody needs it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends training, and that ends this
    given: queue.Queue[bytes] = queue.Queue()
    threading.Thread(target=_listen, args=(pipe, given, Path(folder)), daemon=True, name="smlib-listener").start()
    due: int | None = None
    try:
        settings, structure = pickle.loads(given.get())
        sampler = _Sampler(settings, structure, Path(folder))
        pipe.send((READY, None, None))
        while True:
            due, task, file = pickle.loads(given.get())
            step = sampler.refresh(file)
            pipe.send((DONE, due, (step, task.sampled(sampler.policy))))
    except BrokenPipeError:
        os._exit(0)
    except BaseException as error:
        pipe.send((FAILED, due, _told(error)))
        raise SystemExit(1) from None


class _Sampler:
    """The copy of the policy, and which weights are in it."""

    def __init__(self, settings: dict[str, Any], structure: bytes, folder: Path) -> None:
        import torch

        from smlib.training.policy_copy import rebuilt

        torch.set_num_threads(1)
        torch.set_default_dtype(settings["dtype"])
        torch.set_float32_matmul_precision(settings["precision"])
        torch.use_deterministic_algorithms(settings["deterministic"])
        device = settings["device"]
        self.folder, self.free = folder, settings["free"]
        self.policy = rebuilt(structure, folder / settings["file"], None if device is None else torch.device(device))
        (folder / settings["file"]).unlink()
        self.file, self.step = "", 0

    def refresh(self, file: str) -> int:
        """Reads a file of weights, unless they are there; the step that they are of."""
        from smlib.training.policy_copy import read_into

        if self.free:
            self.step = read_into(self.policy, self.folder / file)
        elif file != self.file:
            self.file, self.step = file, read_into(self.policy, self.folder / file)
            (self.folder / file).unlink()
        return self.step


def _listen(pipe: Connection, given: "queue.Queue[bytes]", folder: Path) -> None:
    """Reads what comes, also while something is sampled, so that the other side never waits to have sent it."""
    try:
        while True:
            given.put(pipe.recv_bytes())
    except (EOFError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(0)


def _told(error: BaseException) -> tuple[str, str, str]:
    """An error as training passes it on: itself, where it happened, and the whole traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    place = f"{Path(last.filename).name}, line {last.lineno}, in {last.name}: {last.line}" if last else "no traceback"
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}", place, "".join(traceback.format_exception(error))

"""A process beside training that samples rollouts, with its own copy of the policy (`smlib.training.worker`).

Weights go to it by files in a private folder under TMPDIR, tasks and rollouts through a pipe. The process is a fresh
interpreter that imports smlib and nothing of the program that trains, so that a script needs no guard around its
lines. It runs on one thread, and on a device of its own where it is given one.
"""

import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from smlib.edits.actions import Trajectory
from smlib.policies.policy import Policy
from smlib.training.checkpoints import reason
from smlib.training.policy_copy import moving, structure, write
from smlib.training.rollouts import SamplingTask
from smlib.training.worker import DONE, FAILED

BEGIN = (
    "import json, sys; descriptor, folder, sys.path[:] = json.loads(sys.argv[1]); "
    "from smlib.training.worker import Connection, main; main(Connection(descriptor), folder)"
)
"""What the process runs; it finds modules where this one does."""
POLICY, NEWEST = "policy.safetensors", "newest.safetensors"
PATIENCE = 5.0
"""Seconds that a process is given to end before it is killed."""


class RolloutWorkerError(RuntimeError):
    """The process that samples rollouts beside training failed, or is gone; the message says why."""


class BackgroundEngine:
    """Samples in a process beside this one.

    Args:
        policy: is trained here, and copied there when the engine starts.
        free: a task is sampled with the newest weights when its turn comes, and not with those that were the newest
            when it was submitted.
        device: of the copy; the policy's own when omitted.

    Raises:
        ValueError: a device that this machine does not have.
    """

    def __init__(self, policy: Policy, free: bool = False, device: str | None = None) -> None:
        check_device(device)
        self.policy, self.free, self.device = policy, free, device
        self.process: subprocess.Popen[bytes] | None = None
        self.pipe: Connection | None = None
        self.folder: Path | None = None
        self.newest = ""
        self.waiting: set[int] = set()
        self.found: dict[int, tuple[int, list[Trajectory]]] = {}

    def start(self) -> None:
        """Starts the process, which is ready some seconds later; training need not wait for that.

        Raises:
            TypeError, ValueError: a policy that cannot be copied. RolloutWorkerError: its weights cannot be written.
        """
        self.folder = Path(tempfile.mkdtemp(prefix="smlib-rollouts-"))
        try:
            whole = self._writing(lambda: structure(self.policy, self.folder / POLICY))
            here, there = socket.socketpair()
            with there:
                self.process = launched(there, self.folder)
            self.pipe = Connection(here.detach())
            settings = {
                "dtype": torch.get_default_dtype(),
                "precision": torch.get_float32_matmul_precision(),
                "deterministic": torch.are_deterministic_algorithms_enabled(),
                "device": self.device,
                "free": self.free,
                "file": POLICY,
            }
            self._send((settings, whole))
        except BaseException:
            self.close()
            raise

    def check(self) -> None:
        """Takes what has arrived.

        Raises:
            RolloutWorkerError: the process failed or is gone.
        """
        if self.pipe is not None:
            self._receive(wait=False)

    def refresh(self, step: int) -> None:
        """Writes the weights as they are now."""
        assert self.folder is not None
        self.newest = NEWEST if self.free else f"weights-{step}.safetensors"
        target = self.folder / self.newest
        self._writing(lambda: write(moving(self.policy), target, step))

    def submit(self, due: int, task: SamplingTask) -> None:
        """Sends a task; raises TypeError for a noise law that cannot be sent."""
        self.waiting.add(due)
        self._send((due, task, self.newest))

    def ready(self, due: int) -> bool:
        """Whether its rollouts have arrived."""
        self.check()
        return due in self.found

    def collect(self, due: int) -> tuple[int, list[Trajectory]]:
        """Waits for rollouts; raises RolloutWorkerError if they will not come."""
        while due not in self.found:
            self._receive(wait=True)
        return self.found.pop(due)

    def close(self) -> None:
        """Ends the process, whatever it is doing, and removes its folder."""
        if self.pipe is not None:
            self.pipe.close()
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.process = self.pipe = self.folder = None
        self.waiting.clear()
        self.found.clear()

    def _send(self, message: Any) -> None:
        try:
            given = pickle.dumps(message)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise TypeError(
                f"the noise law of the data cannot be sent to another process ({error}): train with "
                "rollout_engine=in_process"
            ) from error
        assert self.pipe is not None
        try:
            self.pipe.send_bytes(given)
        except OSError:
            self._receive(wait=True)  # what it said before it ended; else that it is gone
            raise RolloutWorkerError(self._gone()) from None

    def _receive(self, wait: bool) -> None:
        """Takes all that has arrived, and waits for something if asked to."""
        assert self.pipe is not None
        try:
            while self.pipe.poll(None if wait else 0):
                wait = False
                kind, due, what = self.pipe.recv()
                if kind == FAILED:
                    self._fail(due, *what)
                if kind == DONE:
                    self.waiting.discard(due)
                    self.found[due] = what
        except (EOFError, OSError):
            raise RolloutWorkerError(self._gone()) from None

    def _fail(self, due: int | None, said: str, place: str, whole: str) -> None:
        doing = "reading the policy" if due is None else f"sampling the rollouts of step {due}"
        error = RolloutWorkerError(f"the process that samples rollouts failed while {doing}: {said} ({place})")
        error.add_note(f"Its own traceback:\n{whole}")
        raise error

    def _gone(self) -> str:
        assert self.process is not None
        status = self.process.wait()
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
        killed = ", as the system does when memory is short" if status == -signal.SIGKILL else ""
        doing = f" before it had sampled the rollouts of step {min(self.waiting)}" if self.waiting else ""
        return (
            f"the process that samples rollouts ended {how}{killed}{doing}; training stops, and goes on from its last "
            "checkpoint when it is started again"
        )

    def _writing(self, work: Any) -> Any:
        try:
            return work()
        except (OSError, SafetensorError) as error:
            raise RolloutWorkerError(
                f"the weights for the process that samples rollouts cannot be written to {self.folder}: "
                f"{reason(error)}; set TMPDIR to a folder with more space"
            ) from error


def check_device(name: str | None) -> None:
    """Raises ValueError for a device that this machine does not have, before a process is started for it."""
    if name is None:
        return
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"rollout_device={name!r}: expected the name of a device, such as cuda:1 or cpu") from None
    there = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= there:
        known = f"cuda:0 to cuda:{there - 1}" if there else "cpu alone, no CUDA device"
        raise ValueError(f"rollout_device={name!r}: this machine has {known}. Name another, or leave it out")


def launched(pipe: socket.socket, folder: Path) -> "subprocess.Popen[bytes]":
    """A fresh interpreter that serves a pipe, on one thread."""
    told = json.dumps([pipe.fileno(), str(folder), [path for path in sys.path if path]])
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    # A group of its own: Ctrl-C in a terminal is for the process that trains, which ends this one.
    return subprocess.Popen(
        [sys.executable, "-c", BEGIN, told],
        pass_fds=[pipe.fileno()],
        process_group=0,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **threads},
    )

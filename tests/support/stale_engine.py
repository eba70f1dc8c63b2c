"""The slow and obvious engine, which keeps copies of the policy in this process; and workers that start at once."""

import copy
import os
import subprocess
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from smlib.policies.policy import Policy
from smlib.training import worker
from tests.support.processes import SERVER


class KeptCopies:
    """A copy of the whole policy at every refresh; a task is sampled with the one that was the newest then."""

    def __init__(self, policy):
        self.policy, self.step, self.tasks = policy, 0, {}
        self.newest = None
        self.made = []

    def start(self):
        pass

    def check(self):
        pass

    def refresh(self, step):
        critic, self.policy.critic = self.policy.critic, None
        self.newest, self.step = copy.deepcopy(self.policy), step
        self.policy.critic = critic
        self.made.append(step)

    def submit(self, due, task):
        self.tasks[due] = (self.step, self.newest, task)

    def ready(self, due):
        return due in self.tasks

    def collect(self, due):
        step, kept, task = self.tasks.pop(due)
        return step, task.sampled(kept)

    def close(self):
        self.tasks.clear()


def forked(pipe, folder):
    """`smlib.training.background.launched` from a process that has imported all of it: the worker starts at once."""
    own = Connection(os.dup(pipe.fileno()))
    process = SERVER.Process(target=worker.main, args=(own, str(folder)), daemon=True)
    process.start()
    own.close()
    return Started(process)


@dataclass
class Started:
    """What is asked of a `subprocess.Popen`, of a `multiprocessing.Process`."""

    process: Any

    def __post_init__(self):
        self.pid, self.terminate, self.kill = self.process.pid, self.process.terminate, self.process.kill

    def wait(self, seconds=None):
        self.process.join(seconds)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("worker", seconds)
        return self.process.exitcode


class Brittle(Policy):
    """A policy that cannot be sampled from in another process."""

    def logits(self, hidden, positions):
        if os.getpid() != self.made_in:
            raise OSError("the head has come\noff")
        return super().logits(hidden, positions)


def alive(pid):
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False

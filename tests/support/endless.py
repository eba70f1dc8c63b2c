"""A run that somebody ends. It imports no more than the run needs: a fresh interpreter starts it."""

import json
from pathlib import Path

import torch

from smlib.files import write_atomically
from smlib.training import background
from smlib.training.algorithm_1 import train
from tests.support.copying import Copying, config, policy


def endless(folder: Path) -> None:
    """`worker.json` in the folder says which process the run has started, and its private folder."""
    launched = background.launched

    def told(pipe, private):
        process = launched(pipe, private)
        write_atomically(folder / "worker.json", json.dumps([process.pid, str(private)]))
        return process

    background.launched = told
    torch.set_num_threads(1)
    asked = config("sm", steps=100_000, checkpoint_every=0, rollout_engine="background")
    train(policy(), Copying(), asked, folder / "run", progress=False)

"""Jobs of two processes that split the model between them, see `tests.support.processes`."""

import os

import numpy as np

from tests.support import processes


def ask(**more):
    """Sets what `accelerate launch --use_fsdp --fsdp_version 2` would, and more of it."""
    os.environ.update({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **more})


def some_cases(folder):
    """Every case that is compared by default."""
    ask()
    for name in os.environ.get("CASES", "mle-full").split():
        found = processes.run(name, folder)
        np.savez(folder / f"{name}-{processes.rank()}.npz", allow_pickle=False, **found)

"""Runs for a cluster under test. They are importable by name, as the workers of a cluster need it."""

import os
import time
from pathlib import Path
from typing import Any

from smlib.files import ResultError
from smlib.paper import results
from smlib.paper.experiments.runs.finetuning import fine_tune
from smlib.training.progress import tell


def marked_fine_tune(marks: str, **call: Any) -> results.Run:
    """`fine_tune`, which leaves a file named after its node once it has begun to compute."""
    if "smlib-run-" in str(call["results_dir"]):  # on a worker, and not where the cache is read
        import ray

        where = ray.get_runtime_context().get_node_id()
        Path(marks, f"{where}-{call['name']}-{os.getpid()}").touch()
    return fine_tune(**call)


def simple(name: str, preset: str, results_dir: str | Path, marks: str, seconds: float = 0.0) -> results.Run:
    """A run without a model: `bad` fails, `slow` takes a while."""

    def compute(scratch: Path) -> dict[str, object]:
        Path(marks, f"{name}-{os.getpid()}").touch()
        time.sleep(seconds)
        if name == "bad":
            raise ValueError("this run is bad")
        if name == "refused":
            raise ResultError("this run is refused")
        return {"value": len(name)}

    return results.run_cached(
        "fig3", name, {"n": 1}, compute, preset=preset, seeds=[0], version_key="data", results_dir=results_dir
    )


def keeping(keep: Path, **call: Any) -> results.Run:
    """A run that leaves more than its result."""
    return simple(**call)


def talking(name: str, preset: str, results_dir: str | Path, heard: str) -> results.Run:
    """A run that tells how far it is, and ends once the file of whoever sent it says so."""

    def compute(scratch: Path) -> dict[str, object]:
        tell("sm: step 3 of 9")
        for _ in range(600):
            if "step 3 of 9" in Path(heard).read_text():
                return {"value": 3}
            time.sleep(0.1)
        raise AssertionError("nobody heard")

    return results.run_cached(
        "fig3", name, {"n": 1}, compute, preset=preset, seeds=[0], version_key="data", results_dir=results_dir
    )

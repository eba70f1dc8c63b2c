"""`python -m smlib.paper.experiments.gpu`: everything that waits for a GPU, in one call that is made when there is one.

Every part runs in a process of its own and leaves `results/gpu/<part>.json` when it ends, so that what kills one leaves
the others alone: an error of the device, its memory, the end of the time that was lent. A second call repeats the parts
that failed and goes on with the runs of the regime study; `--fresh` repeats all.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from smlib.files import resolve
from smlib.paper.experiments.gpu import records
from smlib.paper.experiments.gpu.budget import Budget

_TABLES = "smlib/paper/experiments/gpu/tables.py"
HALVES = {
    "tests": "run the tests alone on the device, with --only tests",
    "tables": f"half the batch of tab4, or half the chunk of both, in SHAPES of {_TABLES}, takes half as much",
    "sampler": f"half the batch of each size, in sampler of {_TABLES}, takes half as much",
    "regime": "half the batch_size in smlib/paper/experiments/gpu/regime.py takes half as much",
}
"""What takes less of the device's memory, for each part."""

SHORTEST = 15.0  # seconds: a part is not begun with fewer


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts and says how each ended.

    Returns:
        The exit status: 0 when every part that was begun succeeded.
    """
    parser = argparse.ArgumentParser(prog="python -m smlib.paper.experiments.gpu", description=__doc__)
    parser.add_argument("--dry", action="store_true", help="on the CPU with tiny shapes, to see that it works")
    parser.add_argument("--results-dir", help="results by default, runs/gpu-dry with --dry")
    parser.add_argument("--weights-dir", default="runs/gpu", help="of policies and checkpoints; runs/gpu by default")
    parser.add_argument("--only", choices=records.PARTS, action="append", help="a part; give it again for another")
    parser.add_argument("--minutes", type=float, default=8.0, help="time in all; 8 by default")
    parser.add_argument("--at-once", type=int, default=1, help="runs of the regime study side by side; 1 by default")
    parser.add_argument("--fresh", action="store_true", help="repeat the parts that have succeeded already")
    parser.add_argument("--here", action="store_true", help="in this process and not in one a part")
    given = parser.parse_args(arguments)
    if given.minutes <= 0:
        parser.error(f"--minutes {given.minutes}: expected a positive number of minutes")
    if given.at_once < 1:
        parser.error(f"--at-once {given.at_once}: expected at least one run at a time")
    if given.results_dir is None:
        given.results_dir = "runs/gpu-dry" if given.dry else "results"
    if given.dry and given.weights_dir == "runs/gpu":
        given.weights_dir = "runs/gpu-dry/weights"
    if not given.dry and not _cuda():
        parser.error(
            "torch finds no CUDA device. With --dry everything runs on the CPU with tiny shapes; its numbers mean "
            "nothing and are kept apart"
        )
    budget = Budget(given.minutes, kept=0.0 if given.dry else 20.0)
    failed = 0
    for part in given.only or records.PARTS:
        if not given.fresh and part != "regime" and _there(part, given.dry, given.results_dir):
            print(f"{part}: there already", flush=True)
        elif not budget.allows(SHORTEST):
            print(f"{part}: not begun, the time is over", flush=True)
        elif given.here:
            failed += not run_part(part, given, budget)
        else:
            failed += not _in_a_process(part, given, budget)
    return 1 if failed else 0


def run_part(part: str, given: argparse.Namespace, budget: Budget) -> bool:
    """Runs one part in this process and writes its file; whether it succeeded."""
    began = time.monotonic()
    error, found = "", dict[str, Any]()
    from smlib.training.memory import room

    try:
        with room(f"in the part {part}", HALVES[part]):
            found = _work(part, given, budget)()
        if found.get("failed"):
            error = "; ".join(f"{name}: {why}" for name, why in found["failed"].items())
    except Exception as reason:  # whatever it is, the other parts go on
        error = f"{type(reason).__name__}: {reason}"
        found = getattr(reason, "found", {})
    seconds = time.monotonic() - began
    path = records.write(part, found, dry=given.dry, seconds=seconds, results_dir=given.results_dir, error=error)
    said = f"failed, {error}" if error else str(path)
    print(f"{part}: {seconds:.0f} s, {said}", flush=True)
    return not error


def _work(part: str, given: argparse.Namespace, budget: Budget) -> Callable[[], dict[str, Any]]:
    """What a part does, imported when it is its turn."""
    if part == "tests":
        from smlib.paper.experiments.gpu.device_tests import device_tests

        return lambda: device_tests(given.dry)
    if part == "regime":
        from smlib.paper.experiments.gpu.regime import regime

        return lambda: regime(given.dry, budget, given.results_dir, resolve(given.weights_dir), _tell, given.at_once)
    from smlib.paper.experiments.gpu import tables

    return lambda: (tables.tables if part == "tables" else tables.sampler)(given.dry)


def _in_a_process(part: str, given: argparse.Namespace, budget: Budget) -> bool:
    """The same in a process that ends with the time; whether it succeeded."""
    command = [sys.executable, "-m", "smlib.paper.experiments.gpu", "--here", "--only", part, "--fresh"]
    command += ["--results-dir", str(given.results_dir), "--weights-dir", str(given.weights_dir)]
    command += ["--at-once", str(given.at_once)]
    left = max(budget.left, 1.0)
    command += ["--minutes", f"{(left + budget.kept) / 60.0:.4f}", *(["--dry"] if given.dry else [])]
    began = time.monotonic()
    try:
        status = subprocess.run(command, check=False, timeout=left + budget.kept / 2).returncode
        why = f"its process ended with {status}"
    except subprocess.TimeoutExpired:
        status, why = -1, "the time was over before it ended"
    written = records.path_of(part, given.results_dir)
    if status not in (0, 1) and not (written.is_file() and written.stat().st_mtime > time.time() - 5):
        seconds = time.monotonic() - began
        records.write(part, {}, dry=given.dry, seconds=seconds, results_dir=given.results_dir, error=why)
        print(f"{part}: failed, {why}", flush=True)
    return status == 0


def _there(part: str, dry: bool, results_dir: str | Path) -> bool:
    record = records.finished(part, results_dir)
    return record is not None and record["dry"] == dry


def _cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _tell(line: str) -> None:
    print(f"  {line}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

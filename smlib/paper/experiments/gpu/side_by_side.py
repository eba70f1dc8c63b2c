"""Runs of the regime study side by side on one device, each in a process of its own.

A model of 135 million parameters leaves most of a GPU idle while Python prepares its next kernel. Several processes
fill it, and a visit of minutes holds more runs. Their seconds say how long a run took among the others, not alone.
"""

import subprocess
import time
from collections.abc import Callable, Sequence

from smlib.paper.experiments.gpu.budget import Budget

PAUSE = 0.2  # seconds between two looks at the processes


def side_by_side(
    names: Sequence[str],
    at_once: int,
    *,
    needs: Callable[[str], Sequence[str]],
    command: Callable[[str], Sequence[str]],
    lasts: Callable[[str], float],
    succeeded: Callable[[str], bool],
    budget: Budget,
    ended: Callable[[str, float, str], None],
) -> list[str]:
    """Runs commands in the order of their names, `at_once` at a time, as long as the time allows.

    Args:
        needs: names that must have succeeded before this one is begun; one whose need failed is never begun.
        command: of a name. lasts: seconds that it is expected to take. succeeded: whether its result is there.
        ended: is told a name, its seconds and why it failed, empty where it did not.

    Returns:
        the names that were not begun, or that were stopped since the time was over.

    Raises:
        ValueError: fewer than one at a time.
    """
    if at_once < 1:
        raise ValueError(f"at least one run at a time, got {at_once}")
    waiting, failed, left = list(names), set[str](), list[str]()
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            for name, (process, began) in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    why = "" if succeeded(name) else f"its process ended with {process.returncode}"
                    failed.update([name] if why else [])
                    ended(name, time.monotonic() - began, why)
            if budget.left <= 0:
                break
            for name in list(waiting):
                if len(running) == at_once:
                    break
                needed = needs(name)
                late = not budget.allows(lasts(name))
                if late or any(n in failed or n in left for n in needed):
                    waiting.remove(name)
                    left.append(name)
                elif all(succeeded(n) for n in needed):
                    waiting.remove(name)
                    running[name] = subprocess.Popen(command(name)), time.monotonic()
            time.sleep(PAUSE)
    finally:  # also when this process is told to end
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    return [name for name in names if name in left or name in running or name in waiting]

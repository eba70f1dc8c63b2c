"""Timing on a machine that others use too: rivals take turns, and a ratio is formed within each turn.

A slow moment then hits both sides of a ratio, and the median over turns drops the turns that it hit unevenly.

With one thread on a CPU (`OMP_NUM_THREADS=1`) the clock counts this process's CPU seconds, which others on the machine
hardly change; with more threads, or on a GPU, it is the wall's. Every entry says which.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

T = TypeVar("T")


@dataclass(frozen=True)
class Times:
    """Seconds of each rival in each turn: `seconds[name][turn]`."""

    seconds: Mapping[str, list[float]]

    def median(self, name: str) -> float:
        """Median seconds of a rival."""
        return float(np.median(self.seconds[name]))

    def ratio(self, name: str, baseline: str) -> list[float]:
        """Seconds of `name` over seconds of `baseline`, turn by turn."""
        return [a / b for a, b in zip(self.seconds[name], self.seconds[baseline], strict=True)]


def in_turns(
    rivals: Mapping[str, Callable[[], object]],
    turns: int,
    warmup: int = 1,
    measure: Callable[[Callable[[], object]], float] | None = None,
) -> Times:
    """Runs every rival once a turn, in alternating order, after `warmup` turns that do not count.

    Args:
        measure: seconds of a call; `seconds_of` when omitted.

    Raises:
        ValueError: no rival, or fewer than one turn.
    """
    if not rivals or turns < 1:
        raise ValueError(f"expected at least one rival and one turn, got {len(rivals)} and {turns}")
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(-warmup, turns):
        names = list(rivals) if turn % 2 == 0 else list(rivals)[::-1]
        for name in names:
            spent = (measure or seconds_of)(rivals[name])
            if turn >= 0:
                seconds[name].append(spent)
    return Times(seconds)


def clock() -> tuple[str, Callable[[], float]]:
    """`cpu` or `wall`, and the function that reads it in seconds."""
    if torch.get_num_threads() == 1 and not torch.cuda.is_available():
        return "cpu", time.process_time
    return "wall", time.perf_counter


def stopwatch(work: Callable[[], T]) -> tuple[float, T]:
    """Seconds of one call, device work included, and what it returned; the garbage collector waits until afterwards."""
    _, seconds = clock()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        _synchronise()
        begin = seconds()
        out = work()
        _synchronise()
        return seconds() - begin, out
    finally:
        if was_enabled:
            gc.enable()


def seconds_of(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    return stopwatch(work)[0]


def wall_seconds_of(work: Callable[[], object]) -> float:
    """Seconds of one call by the wall's clock, where other processes take part in it."""
    begin = time.perf_counter()
    work()
    _synchronise()
    return time.perf_counter() - begin


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def figure(values: list[float], unit: str, baseline: str, by: str | None = None) -> dict[str, object]:
    """A benchmark's entry: median, unit, what it is measured against, n, the quartiles as the spread, the clock.

    Args:
        by: the clock, where it is not that of `clock`.
    """
    low, high = np.quantile(values, [0.25, 0.75])
    return {
        "value": _rounded(np.median(values)),
        "unit": unit,
        "baseline": baseline,
        "n": len(values),
        "spread": [_rounded(low), _rounded(high)],
        "clock": by or clock()[0],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")

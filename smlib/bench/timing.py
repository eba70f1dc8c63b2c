"""Timing on a machine that others use too: rivals take turns, and a ratio is formed within each turn.

A slow moment then hits both sides of a ratio, and the median over turns drops the turns that it hit unevenly.
"""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch


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


def in_turns(rivals: Mapping[str, Callable[[], object]], turns: int, warmup: int = 1) -> Times:
    """Runs every rival once a turn, in alternating order, after `warmup` turns that do not count.

    Raises:
        ValueError: no rival, or fewer than one turn.
    """
    if not rivals or turns < 1:
        raise ValueError(f"expected at least one rival and one turn, got {len(rivals)} and {turns}")
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for turn in range(-warmup, turns):
        names = list(rivals) if turn % 2 == 0 else list(rivals)[::-1]
        for name in names:
            spent = stopwatch(rivals[name])
            if turn >= 0:
                seconds[name].append(spent)
    return Times(seconds)


def stopwatch(work: Callable[[], object]) -> float:
    """Wall seconds of one call, device work included; the garbage collector waits until afterwards."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        _synchronise()
        begin = time.perf_counter()
        work()
        _synchronise()
        return time.perf_counter() - begin
    finally:
        if was_enabled:
            gc.enable()


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def figure(values: list[float], unit: str, baseline: str) -> dict[str, object]:
    """A benchmark's entry: median, unit, what it is measured against, n, and the quartiles as the spread."""
    low, high = np.quantile(values, [0.25, 0.75])
    return {
        "value": _rounded(np.median(values)),
        "unit": unit,
        "baseline": baseline,
        "n": len(values),
        "spread": [_rounded(low), _rounded(high)],
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")

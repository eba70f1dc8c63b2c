"""What a sweep says, in one sentence made from its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from smlib.paper.experiments.judging.verdicts import LEVEL, holm


def finding(title: str, points: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on a sweep, from its numbers: what differs significantly from the default, Holm over the sweep.

    What is excluded follows from the 95 % interval of each difference by itself, not of all of them together.
    """
    default = next(p for p in points if p["default"])
    others = [p for p in points if not p["default"]]
    adjusted = holm([p["p_value"] for p in others])
    sure = [p for p, a in zip(others, adjusted, strict=True) if a < LEVEL]
    start = f"{title}: {default['accuracy']['value']:.3f} at the default ({default['value']})"
    if not sure:
        widest = max(max(abs(p["low"]), abs(p["high"])) for p in others)
        return (
            f"{start}; no other value differs significantly, differences beyond {widest:.3f} are excluded (95 %, each "
            "comparison by itself)"
        )
    changes = ", ".join(f"{p['difference']:+.3f} at {p['value']}" for p in sure)
    return f"{start}; significantly different: {changes}"


def summary(sweeps: Sequence[Mapping[str, Any]]) -> str:
    """Which of several sweeps move the accuracy significantly, Holm over every point of all of them: a correction
    within each would give every sweep its own chance of a false alarm."""
    tests = [(s["title"], p["p_value"]) for s in sweeps for p in s["points"] if not p["default"]]
    adjusted = holm([p for _, p in tests])
    sure = {title for (title, _), a in zip(tests, adjusted, strict=True) if a < LEVEL}
    moved = [s["title"] for s in sweeps if s["title"] in sure]
    over = f"(Holm over all {len(tests)} comparisons)"
    return (
        f"matters: {', '.join(moved)} {over}"
        if moved
        else f"none of {len(sweeps)} sweeps moves it significantly {over}"
    )

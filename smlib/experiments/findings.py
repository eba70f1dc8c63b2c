"""What a sweep says, in one sentence made from its numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from smlib.experiments.verdicts import LEVEL, holm


def finding(title: str, points: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on a sweep, from its numbers: what differs significantly from the default, Holm over the sweep."""
    default = next(p for p in points if p["default"])
    others = [p for p in points if not p["default"]]
    adjusted = holm([p["p_value"] for p in others])
    sure = [p for p, a in zip(others, adjusted, strict=True) if a < LEVEL]
    start = f"{title}: {default['accuracy']['value']:.3f} at the default ({default['value']})"
    if not sure:
        widest = max(max(abs(p["low"]), abs(p["high"])) for p in others)
        return f"{start}; no other value differs significantly, differences beyond {widest:.3f} are excluded"
    changes = ", ".join(f"{p['difference']:+.3f} at {p['value']}" for p in sure)
    return f"{start}; significantly different: {changes}"


def summary(sweeps: Sequence[Mapping[str, Any]]) -> str:
    """Which of several sweeps move the accuracy significantly."""
    moved = [s["title"] for s in sweeps if "significantly different" in s["finding"]]
    return f"matters: {', '.join(moved)}" if moved else f"none of {len(sweeps)} sweeps moves it significantly"

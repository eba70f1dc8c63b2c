"""How a number is written in a sentence."""

from collections.abc import Mapping, Sequence
from typing import Any


def percent(share: float, digits: int = 0) -> str:
    """`83 %`, of a share in [0, 1]."""
    return f"{100 * share:.{digits}f} %"


def points(difference: float, digits: int = 1) -> str:
    """`+2.6`: a difference of shares, in percentage points."""
    shown = f"{100 * difference:+.{digits}f}"
    return f"{0:.{digits}f}" if float(shown) == 0 else shown.replace("-", "−")


def spread(test: Mapping[str, Any], digits: int = 1) -> str:
    """`−0.5 points (95 %: −1.6 to +0.7)`: a paired difference of shares with its interval."""
    low, high = (points(test[end], digits) for end in ("low", "high"))
    return f"{points(test['difference'], digits)} points (95 %: {low} to {high})"


def among(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def bullets(sentences: Sequence[str]) -> str:
    """A Markdown list of what is there; a line that says so where nothing is."""
    return "\n".join(f"- {sentence}" for sentence in sentences if sentence) or "This preset has no run of it."

"""How a number is written in a sentence."""

import re
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


def verb(difference: float, more: str, less: str) -> str:
    """`loses 4.6` or `gains 1.4`: a difference in points, its sign said by the verb."""
    return f"{less if points(difference).startswith('−') else more} {points(abs(difference)).removeprefix('+')}"


def among(names: Sequence[str]) -> str:
    """`a, b and c`; `a; b, c; and d` where a name has a comma of its own outside of brackets."""
    if len(names) < 2:
        return "".join(names)
    if any("," in _outside_brackets(name) for name in names):
        return f"{'; '.join(names[:-1])}; and {names[-1]}"
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _outside_brackets(text: str) -> str:
    """The text without what stands in round brackets, which may be nested."""
    shorter = re.sub(r"\([^()]*\)", "", text)
    return shorter if shorter == text else _outside_brackets(shorter)


def bullets(sentences: Sequence[str]) -> str:
    """A Markdown list of what is there; a line that says so where nothing is."""
    return "\n".join(f"- {sentence}" for sentence in sentences if sentence) or "This preset has no run of it."

"""Exercises that take the reader's own answer and give a hint where it is wrong.

The answers, hints and solutions are in `exercises.toml` beside this module, apart from the notebooks that ask.
"""

import math
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from numbers import Real
from pathlib import Path
from typing import Any

from smlib.files import ResultError

SOURCE = Path(__file__).with_suffix(".toml")
SMALLEST = 1e-9
"""How far an answer may be from a right answer of 0."""


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        asks: in which form the answer is given.
        answer: a number, a text, or a list of these.
        hints: what is said after the first, the second and the third wrong answer.
        solution: Markdown. within: how far a number may be off, as a share of the right one.
    """

    asks: str
    answer: Any
    hints: tuple[str, ...]
    solution: str
    within: float = 0.01


class NotYetError(AssertionError):
    """An answer that is missing or wrong; the message has the next hint."""


_tried: Counter[str] = Counter()


@lru_cache(maxsize=1)
def exercises() -> Mapping[str, Exercise]:
    """All exercises by number, such as `03.1` for the first of notebook 03."""
    stored = tomllib.loads(SOURCE.read_text(encoding="utf-8"))
    known = {field.name for field in fields(Exercise)}
    return {
        number: Exercise(**{**{k: v for k, v in entry.items() if k in known}, "hints": tuple(entry["hints"])})
        for number, entry in stored.items()
    }


def get_exercise(number: str) -> Exercise:
    """The exercise of that number; raises `ResultError` with the known ones for another."""
    if number not in exercises():
        raise ResultError(f"there is no exercise {number!r}; known: {', '.join(exercises())}")
    return exercises()[number]


def check(number: str, answer: object = ...) -> None:
    """Says whether an answer is right, and gives one hint more each time that it is not.

    Args:
        number: of the exercise. answer: yours; `...` stands for none.

    Raises:
        ResultError: an unknown exercise.

    >>> check("13.1", 0.2)
    13.1: right.
    >>> check("13.1", 0.36)
    13.1: not yet. Hint 1 of 3: Which texts are not the expert's? `aa` and `bb`.
    """
    try:
        require(number, answer)
    except NotYetError as error:
        print(error)


def require(number: str, answer: object = ...) -> None:
    """As `check`, and ends the notebook where the answer is missing or wrong: the copies for students use it.

    Raises:
        NotYetError: no answer, or a wrong one; with the next hint. ResultError: an unknown exercise.
    """
    exercise = get_exercise(number)
    if answer is ...:
        raise NotYetError(f"{number} waits for your answer: {exercise.asks}. Put it in the place of the dots.")
    if is_right(answer, exercise.answer, exercise.within):
        _tried.pop(number, None)
        print(f"{number}: right.")
        return
    _tried[number] += 1
    n = min(_tried[number], len(exercise.hints))
    more = "" if n < len(exercise.hints) else f' The solution: solution("{number}").'
    raise NotYetError(f"{number}: not yet. Hint {n} of {len(exercise.hints)}: {exercise.hints[n - 1]}{more}")


def solution(number: str) -> Any:
    """The solution, as Markdown that a notebook shows; raises `ResultError` for an unknown exercise."""
    from IPython.display import Markdown

    return Markdown(get_exercise(number).solution)


def is_right(given: object, wanted: object, within: float) -> bool:
    """Whether an answer is the right one: numbers within a share of it, texts but for case and space, lists in order.

    >>> is_right([0.021, "BC"], [0.02, "bc"], within=0.1)
    True
    >>> is_right(0.021, 0.02, within=0.01)
    False
    """
    if isinstance(wanted, str):
        return isinstance(given, str) and given.strip().casefold() == wanted.casefold()
    if isinstance(wanted, Sequence):
        values = _values(given)
        pairs = zip(values, wanted, strict=True) if values is not None and len(values) == len(wanted) else None
        return pairs is not None and all(is_right(a, b, within) for a, b in pairs)
    assert isinstance(wanted, Real)
    if hasattr(given, "item"):  # a scalar of NumPy or torch
        try:
            given = given.item()
        except (ValueError, RuntimeError):
            return False
    if isinstance(given, bool) or not isinstance(given, Real) or not math.isfinite(given):
        return False
    return abs(float(given) - float(wanted)) <= max(within * abs(float(wanted)), SMALLEST)


def _values(given: object) -> list[object] | None:
    """The members of a list, tuple or array; None for anything else."""
    if hasattr(given, "tolist"):
        given = given.tolist()
    return list(given) if isinstance(given, list | tuple) else None

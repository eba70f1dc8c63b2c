"""DeepMind's own question generator (Saxton et al. 2018, package `mathematics-dataset`) behind a seedable
stream.

Three of its modules are used: `add_or_sub_in_base` (Sec. 6.1), `mul` (App. G.3) and `list_prime_factors`
(App. G.4). Their difficulty levels are the generator's own curriculum: `easy`, `medium` and `hard` are the
lower, middle and upper third of the training entropy range (its train-easy, train-medium and train-hard
splits), `all` is the whole range.

The generator draws from the global `random` and `numpy.random`. Here every chunk of questions is seeded by
(task, difficulty, seed, chunk), and the global states are put back afterwards: a stream can be resumed at any
index, and nothing else that uses the global generators notices.
"""

import importlib
import math
import random
import re
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import count
from typing import Any

import numpy as np

MATHEMATICS_TASKS = ("add_or_sub_in_base", "mul", "list_prime_factors")
DIFFICULTIES: Mapping[str, tuple[int, int]] = types.MappingProxyType(
    {"easy": (0, 3), "medium": (1, 3), "hard": (2, 3), "all": (0, 1)}
)
MAX_BASE = 10  # App. E: Llama-2 has no single tokens for the digits above 9, so the paper filters the others out
CHUNK = 256  # accepted questions per seed

SOLUTION = " Solution: "
"""Between a question and its answer (App. E)."""

_BASE_QUESTION = re.compile(r"In base (\d+), what is (-?\w+) ([+-]) (-?\w+)\?")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Example:
    """One question: `prompt` is `{question} Solution: ` with its last space, `answer` the bare solution.

    The text that the paper trains on (App. E) is `prompt + answer`. `meta` holds at least `key`, which two
    questions share iff they ask the same thing (see `question_key`), and for add_or_sub_in_base the `base`.
    """

    prompt: str
    answer: str
    meta: Mapping[str, Any] = field(default_factory=dict, compare=False)


def stream(
    name: str,
    difficulty: str = "all",
    seed: int = 0,
    exclude: frozenset[str] = frozenset(),
    *,
    start: int = 0,
    purpose: str = "stream",
) -> Iterator[Example]:
    """Endless questions of a task, with repetition, in an order fixed by the arguments.

    Args:
        name: one of `MATHEMATICS_TASKS`.
        difficulty: one of `DIFFICULTIES`.
        seed: selects the stream.
        exclude: question keys that must not occur, such as `Task.keys()` of the evaluation splits.
        start: index of the first example; the stream continues there as if it had been read from 0 (at the
            cost of at most one chunk), provided that `exclude` is the same.
        purpose: streams of different purpose are independent even when they share a seed.

    Raises:
        ValueError: unknown task or difficulty, negative start.
    """
    sampler = _sampler(name, difficulty)
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    first, skip = divmod(start, CHUNK)
    for chunk in count(first):
        examples = _chunk(name, sampler, f"{name}/{difficulty}/{purpose}/{seed}/{chunk}", exclude)
        yield from examples[skip:]
        skip = 0


def as_prompt(question: str) -> str:
    """A question as the tasks put it, with ` Solution: ` behind it, whether it was there or not; an empty one is kept.

    >>> as_prompt("In base 7, what is 12 + 34?")
    'In base 7, what is 12 + 34? Solution: '
    """
    asked = question.strip().removesuffix(SOLUTION.strip()).rstrip()
    return f"{asked}{SOLUTION}" if asked else question


def question_key(name: str, question: str) -> str:
    """Canonical form by which splits are kept apart: questions with one key have the same answer for the same
    reason.

    Sums and products are unordered and the wording of the template is ignored, so `Multiply 3 and 0.5.` and
    `0.5*3` share a key, as do `In base 4, what is 1 + 2?` and `In base 4, what is 2 + 1?`. Differences keep
    their order.
    """
    if name == "add_or_sub_in_base":
        match = _BASE_QUESTION.fullmatch(question)
        if match is None:
            raise ValueError(f"not an add_or_sub_in_base question: {question!r}")
        base, p, sign, q = match.groups()
        operands = sorted((p, q)) if sign == "+" else [p, q]
        return f"base {base}: {operands[0]} {sign} {operands[1]}"
    numbers = _NUMBER.findall(question.replace("*-", "* -"))
    expected = 2 if name == "mul" else 1
    if len(numbers) != expected:
        raise ValueError(f"expected {expected} number(s) in a {name} question, got {question!r}")
    return " * ".join(sorted(numbers))


def _chunk(name: str, sampler: Callable[[], Any], seed: str, exclude: frozenset[str]) -> list[Example]:
    examples: list[Example] = []
    rejected = 0
    with _seeded(seed):
        while len(examples) < CHUNK:
            problem = sampler()
            question, answer = str(problem.question), str(problem.answer)
            meta: dict[str, Any] = {}
            if name == "add_or_sub_in_base":
                meta["base"] = int(question[8 : question.index(",")])  # "In base 7, ..."
                if meta["base"] > MAX_BASE:
                    continue
            meta["key"] = question_key(name, question)
            if meta["key"] in exclude:
                rejected += 1
                if rejected > 1000 * CHUNK:
                    raise ValueError(f"{len(exclude):,} excluded questions leave (almost) nothing of {name} to draw")
                continue
            examples.append(Example(f"{question}{SOLUTION}", answer, meta))
    return examples


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Seeds the two global generators that DeepMind's code draws from, and restores their states."""
    state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        random.seed(seed)
        np.random.seed(random.getrandbits(32))  # noqa: NPY002
        yield
    finally:
        random.setstate(state)
        np.random.set_state(numpy_state)  # noqa: NPY002


def _sampler(name: str, difficulty: str) -> Callable[[], Any]:
    if name not in MATHEMATICS_TASKS:
        raise ValueError(f"unknown mathematics task {name!r}: known are {', '.join(MATHEMATICS_TASKS)}")
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"unknown difficulty {difficulty!r}: known are {', '.join(DIFFICULTIES)}")
    module = _generator()["numbers" if name == "list_prime_factors" else "arithmetic"]
    sampler: Callable[[], Any] = module.train(partial(_entropy_third, *DIFFICULTIES[difficulty]))[name]
    return sampler


def _entropy_third(level: int, levels: int, entropy: tuple[float, float]) -> tuple[float, float]:
    # generate._make_entropy_fn of the package, whose module needs absl flags and every other question module
    low, width = entropy[0], entropy[1] - entropy[0]
    return low + level / levels * width, low + (level + 1) / levels * width


@lru_cache(maxsize=1)
def _generator() -> Mapping[str, types.ModuleType]:
    """The generator's `arithmetic` and `numbers` modules, adapted to today's sympy.

    `base_solution_linear` moved inside sympy. Two calls are replaced by exact integer arithmetic, which
    changes no draw and triples the speed: the gcd of two integers, and the digits of an integer in a base.
    """
    try:
        package = importlib.import_module("sympy.solvers.diophantine")
        package.base_solution_linear = importlib.import_module(  # type: ignore[attr-defined]
            "sympy.solvers.diophantine.diophantine"
        ).base_solution_linear
        modules = {n: importlib.import_module(f"mathematics_dataset.modules.{n}") for n in ("arithmetic", "numbers")}
        number = importlib.import_module("mathematics_dataset.sample.number")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the arithmetic tasks need DeepMind's generator ({error}): pip install mathematics-dataset"
        ) from error
    display = modules["arithmetic"].display

    class NumberInBase(display.NumberInBase):
        def __init__(self, value: Any, base: int) -> None:
            self._value, self._base, self._str = value, base, in_base(int(value), base)

    number.sympy = _overlay(number.sympy, gcd=lambda a, b: math.gcd(int(a), int(b)))  # type: ignore[attr-defined]
    modules["arithmetic"].display = _overlay(display, NumberInBase=NumberInBase)  # type: ignore[attr-defined]
    return modules


def _overlay(module: types.ModuleType, **replacements: Any) -> types.SimpleNamespace:
    return types.SimpleNamespace(**{**vars(module), **replacements})


def in_base(value: int, base: int) -> str:
    """Digits of an integer in a base from 2 to 36, with a leading minus where negative.

    Raises:
        ValueError: a base outside 2..36.
    """
    if not 2 <= base <= 36:
        raise ValueError(f"base must be between 2 and 36, got {base}")
    digits = []
    rest = abs(value)
    while True:
        rest, digit = divmod(rest, base)
        digits.append("0123456789abcdefghijklmnopqrstuvwxyz"[digit])
        if rest == 0:
            break
    return ("-" if value < 0 else "") + "".join(reversed(digits))

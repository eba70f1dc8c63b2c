"""Questions of *other* modules of DeepMind's generator: what a base model reads that is to learn a task later.

The paper's Llama knows numbers and has never been drilled on the task that it is fine-tuned on. A mixture of the
generator's other modules puts a small model in that place: sums and differences in decimal notation, conversions of
bases and places of digits for arithmetic in base b, and so on (`MIXTURES`).

Modules that ask for the same thing as the task, or for a part of its answer, are not allowed (`GIVEAWAYS`). Others
may still ask one of the task's questions in other words: a decimal sum is a question of base 10, and an exact
division is a product read backwards. `task_keys` translates such a question into the keys of the task, and `stream`
leaves out what has a key of the task's splits.
"""

import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from types import MappingProxyType
from typing import Any

from smlib.data import mathematics
from smlib.data.mathematics import CHUNK, DIFFICULTIES, MATHEMATICS_TASKS, Example, question_key

MODULES = (
    "add_or_sub", "add_sub_multiple", "add_or_sub_in_base", "mul", "div", "base_conversion", "place_value",
    "round_number",
)  # fmt: skip
GIVEAWAYS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "add_or_sub_in_base": ("add_or_sub_in_base",),
        "mul": ("mul", "mul_div_multiple", "mixed"),
        "list_prime_factors": ("list_prime_factors", "is_prime", "is_factor", "gcd", "lcm"),
    }
)
"""Modules that no base of a task may read. For prime factors also those that tell whether one number divides another:
each of their answers is a part of a list of prime factors."""

_INTEGER = re.compile(r"-?\d+")
_POINT = re.compile(r"\d\.\d")


@dataclass(frozen=True)
class Mixture:
    """What a base model reads.

    Attributes:
        shares: module -> share of the questions, as pairs.
        decimals: share of the sums and differences with a decimal point that are kept. The generator makes most of them
            so, and the tasks have few or none.
        longest_question, longest_answer: in characters; longer ones are left out.
        apart: the base stays apart from the task's first so many training questions, its validation questions and its
            test questions.
    """

    shares: tuple[tuple[str, float], ...]
    decimals: float = 0.3
    longest_question: int = 60
    longest_answer: int = 20
    apart: int = 50_000

    def __post_init__(self) -> None:
        names = [name for name, _ in self.shares]
        unknown = sorted(set(names) - set(MODULES))
        if unknown or not names:
            raise ValueError(
                f"a mixture of {', '.join(unknown) or 'nothing'}: expected modules of the generator out of "
                f"{', '.join(MODULES)}"
            )
        if len(set(names)) < len(names):
            raise ValueError(f"a mixture names each module once, got {', '.join(names)}")
        if any(not share > 0.0 for _, share in self.shares) or abs(sum(s for _, s in self.shares) - 1.0) > 1e-9:
            raise ValueError(f"the shares of a mixture are positive and add up to 1, got {dict(self.shares)}")
        if not 0.0 <= self.decimals <= 1.0:
            raise ValueError(f"decimals is a share, got {self.decimals}")
        for name in ("longest_question", "longest_answer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.apart < 0:
            raise ValueError(f"apart must not be negative, got {self.apart}")

    def check(self, task: str) -> None:
        """Raises ValueError for a mixture that holds the task itself or what gives its answers away."""
        if task not in GIVEAWAYS:
            raise ValueError(f"no mixture is known to be apart from {task!r}: known are {', '.join(MATHEMATICS_TASKS)}")
        shared = sorted({name for name, _ in self.shares} & set(GIVEAWAYS[task]))
        if shared:
            raise ValueError(
                f"a base model for {task} that reads {', '.join(shared)} knows the task: leave out "
                f"{', '.join(GIVEAWAYS[task])}"
            )


MIXTURES: Mapping[str, Mixture] = MappingProxyType(
    {
        "add_or_sub_in_base": Mixture(
            (
                ("add_or_sub", 0.55),
                ("mul", 0.10),
                ("base_conversion", 0.15),
                ("place_value", 0.10),
                ("add_sub_multiple", 0.10),
            )
        ),
        # Division is the inverse of what is to be learned: without the facts that the task asks for, by key.
        "mul": Mixture(
            (
                ("add_or_sub", 0.45),
                ("add_or_sub_in_base", 0.10),
                ("div", 0.15),
                ("base_conversion", 0.10),
                ("place_value", 0.05),
                ("add_sub_multiple", 0.15),
            )
        ),
        # Products and quotients, of none of the numbers that the task asks for.
        "list_prime_factors": Mixture(
            (
                ("add_or_sub", 0.30),
                ("mul", 0.40),
                ("div", 0.20),
                ("place_value", 0.10),
            )
        ),
    }
)
"""Of each task's base model."""


def stream(
    task: str,
    mixture: Mixture,
    difficulty: str = "all",
    seed: int = 0,
    exclude: Collection[str] = frozenset(),
) -> Iterator[Example]:
    """Endless questions of a mixture, with repetition, in an order fixed by the arguments.

    Args:
        task: for which the base model is.
        exclude: keys of the task's questions; a question that asks one of them in other words is left out.

    Raises:
        ValueError: unknown difficulty; a mixture that is not apart from the task.
    """
    mixture.check(task)
    if difficulty not in DIFFICULTIES:
        raise ValueError(f"unknown difficulty {difficulty!r}: known are {', '.join(DIFFICULTIES)}")
    samplers = _samplers(mixture, difficulty)
    for chunk in count():
        yield from _chunk(task, mixture, samplers, f"mixture/{task}/{difficulty}/{seed}/{chunk}", exclude)


def task_keys(task: str, module: str, question: str, answer: str) -> frozenset[str]:
    """Keys of the questions of a task that a question of some module asks, in whatever words; mostly none.

    Decided by value and not by template: numbers whose sum, difference or product the answer is, whatever their signs.
    So it finds a little more than is the same, and misses nothing.
    """
    if module == task:
        return frozenset({question_key(task, question)})
    found = _INTEGER.findall(question)
    if module == "add_or_sub_in_base" or _POINT.search(question) or not _INTEGER.fullmatch(answer):
        return frozenset()
    numbers, value = [abs(int(n)) for n in found], int(answer)
    if task == "add_or_sub_in_base":
        return _sums(numbers, value) if module in ("add_or_sub", "add_sub_multiple") else frozenset()
    if module == "div" and len(numbers) == 2:  # p / q = answer asks for answer * q = p
        return _products(value, numbers[1]) if task == "mul" else frozenset({str(numbers[0])})
    if module == "mul" and task == "list_prime_factors":
        return frozenset({str(abs(value))})
    return frozenset()


def check_apart(task: str, examples: Iterable[Example], keys: Collection[str]) -> None:
    """That no question of a mixture is among a task's questions.

    Args:
        examples: of `stream`. keys: of the task's questions.

    Raises:
        ValueError: one is; it is named, with how many there are.
    """
    shared = [(e, same) for e in examples for same in [_of(task, e) & frozenset(keys)] if same]
    if shared:
        example, same = shared[0]
        raise ValueError(
            f"{len(shared):,} questions of the base model are among those of {task}: {example.prompt.strip()!r} asks "
            f"for {min(same)!r}. Draw them with exclude=task.keys(), and train the base model again"
        )


def _of(task: str, example: Example) -> frozenset[str]:
    question = example.prompt.removesuffix(" Solution: ")
    return task_keys(task, example.meta["module"], question, example.answer)


def _sums(numbers: list[int], value: int) -> frozenset[str]:
    """Keys in base 10 of every a + b and a - b with this value."""
    if len(numbers) != 2:
        return frozenset()
    keys = set()
    for (p, q), s, t in product((numbers, numbers[::-1]), (1, -1), (1, -1)):
        a, b = s * p, t * q
        keys |= {f"base 10: {' + '.join(sorted((str(a), str(b))))}"} if a + b == value else set()
        keys |= {f"base 10: {a} - {b}"} if a - b == value else set()
    return frozenset(keys)


def _products(p: int, q: int) -> frozenset[str]:
    """Keys of the products of two numbers, whatever their signs."""
    return frozenset(" * ".join(sorted((str(s * p), str(t * q)))) for s, t in product((1, -1), (1, -1)))


def _samplers(mixture: Mixture, difficulty: str) -> dict[str, Callable[[], Any]]:
    modules = mathematics._generator()
    entropy = partial(mathematics._entropy_third, *DIFFICULTIES[difficulty])
    every = {**modules["arithmetic"].train(entropy), **modules["numbers"].train(entropy)}
    return {name: every[name] for name, _ in mixture.shares}


def _chunk(
    task: str, mixture: Mixture, samplers: Mapping[str, Callable[[], Any]], seed: str, exclude: Collection[str]
) -> list[Example]:
    names, shares = zip(*mixture.shares, strict=True)
    examples: list[Example] = []
    rejected = 0
    with mathematics._seeded(seed):
        while len(examples) < CHUNK:
            (name,) = random.choices(names, shares)
            problem = samplers[name]()
            question, answer = str(problem.question), str(problem.answer)
            if len(question) > mixture.longest_question or len(answer) > mixture.longest_answer:
                continue
            if name == "add_or_sub" and _POINT.search(question) and random.random() >= mixture.decimals:
                continue
            same = task_keys(task, name, question, answer)
            if any(key in exclude for key in same):
                rejected += 1
                if rejected > 1000 * CHUNK:
                    raise ValueError(
                        f"{len(exclude):,} excluded questions leave (almost) nothing of the mixture to draw"
                    )
                continue
            examples.append(Example(f"{question} Solution: ", answer, {"key": f"{name}: {question}", "module": name}))
    return examples

"""DeepMind's generator: right answers, seeds, and the adapted calls against the original ones."""

import importlib
import itertools
import math
import random
import re
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smlib.data import mathematics
from smlib.data.mathematics import CHUNK, DIFFICULTIES, MATHEMATICS_TASKS, in_base, question_key, stream


def first(n, *args, **kwargs):
    return list(itertools.islice(stream(*args, **kwargs), n))


def question(example):
    return example.prompt.removesuffix(" Solution: ")


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_base_answers_are_right_and_bases_at_most_ten(difficulty):
    bases = set()
    for example in first(300, "add_or_sub_in_base", difficulty, 3):
        base, p, sign, q = re.fullmatch(r"In base (\d+), what is (\S+) ([+-]) (\S+)\?", question(example)).groups()
        base = int(base)
        bases.add(base)
        assert example.meta["base"] == base
        value = int(p, base) + int(q, base) if sign == "+" else int(p, base) - int(q, base)
        assert int(example.answer, base) == value
        assert in_base(value, base) == example.answer
    assert bases == set(range(2, 11))


def test_products_are_exact_with_decimals_and_several_templates():
    examples = first(500, "mul", "all", 0)
    templates = set()
    for example in examples:
        text = question(example).replace("*-", "* -")
        numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
        assert Decimal(numbers[0]) * Decimal(numbers[1]) == Decimal(example.answer)
        templates.add(re.sub(r"-?\d+(?:\.\d+)?", "#", text))
    assert any("." in example.answer for example in examples)
    assert len(templates) >= 9  # the generator's nine wordings


def test_prime_factors_are_the_distinct_primes():
    for example in first(300, "list_prime_factors", "all", 0):
        (n,) = map(int, re.findall(r"\d+", question(example)))
        factors = list(map(int, example.answer.split(", ")))
        assert factors == sorted(set(factors))
        for p in factors:
            assert all(p % d for d in range(2, math.isqrt(p) + 1))
            while n % p == 0:
                n //= p
        assert n == 1


def test_difficulty_is_the_generators_curriculum():
    """Operand digits (a proxy of entropy) grow from easy to hard, and `all` covers both ends."""
    size = {
        d: np.mean([len(re.sub(r"\D", "", e.meta["key"])) for e in first(500, "list_prime_factors", d, 0)])
        for d in DIFFICULTIES
    }
    assert size["easy"] < size["medium"] < size["hard"]
    assert size["easy"] < size["all"] < size["hard"]


@pytest.mark.parametrize("name", MATHEMATICS_TASKS)
def test_stream_is_deterministic_and_resumes_at_any_index(name):
    n = CHUNK + 60
    whole = first(n, name, "easy", 5)
    assert whole == first(n, name, "easy", 5)
    assert whole != first(n, name, "easy", 6)
    assert whole != first(n, name, "easy", 5, purpose="other")
    for start in (0, 1, CHUNK - 1, CHUNK, CHUNK + 17):
        assert first(20, name, "easy", 5, start=start) == whole[start : start + 20]


def test_global_generators_are_left_alone_and_have_no_influence():
    a = first(30, "mul", "all", 0)
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    expected = random.random(), np.random.random()  # noqa: NPY002
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    assert first(30, "mul", "all", 0) == a
    assert np.random.random() == expected[1]  # noqa: NPY002
    # The run-time type checker of the test suite draws from `random` itself, hence this one without it.
    random.seed(1)
    with mathematics._seeded("x"):
        random.random()
    assert random.random() == expected[0]


def test_excluded_questions_never_occur():
    seen = frozenset(e.meta["key"] for e in first(400, "add_or_sub_in_base", "easy", 0))
    fresh = first(2000, "add_or_sub_in_base", "easy", 0, seen)
    assert not seen & {e.meta["key"] for e in fresh}
    assert first(30, "add_or_sub_in_base", "easy", 0, seen, start=700) == fresh[700:730]


def test_adapted_calls_change_no_draw():
    """The exact-integer gcd and base digits give the very questions of the package's own code."""
    adapted = mathematics._generator()
    number = importlib.import_module("mathematics_dataset.sample.number")
    display = importlib.import_module("mathematics_dataset.util.display")
    sympy = importlib.import_module("sympy")
    for name, module in (
        ("add_or_sub_in_base", "arithmetic"),
        ("mul", "arithmetic"),
        ("list_prime_factors", "numbers"),
    ):
        sampler = adapted[module].train(lambda entropy: entropy)[name]
        with mathematics._seeded("x"):
            fast = [tuple(map(str, sampler())) for _ in range(150)]
        with pytest.MonkeyPatch.context() as patch, mathematics._seeded("x"):
            patch.setattr(number, "sympy", sympy)
            patch.setattr(adapted["arithmetic"], "display", display)
            assert [tuple(map(str, sampler())) for _ in range(150)] == fast


@given(st.integers(-(10**12), 10**12), st.integers(2, 36))
def test_in_base_inverts_int(value, base):
    assert int(in_base(value, base), base) == value


def test_question_key_ignores_wording_and_the_order_of_sums_and_products():
    assert question_key("mul", "Multiply 3 and -0.5.") == question_key("mul", "-0.5*3") == question_key("mul", "3*-0.5")
    assert question_key("mul", "3*0.5") != question_key("mul", "3*-0.5")
    base = "add_or_sub_in_base"
    assert question_key(base, "In base 4, what is 1 + -2?") == question_key(base, "In base 4, what is -2 + 1?")
    assert question_key(base, "In base 4, what is 1 - 2?") != question_key(base, "In base 4, what is 2 - 1?")
    assert question_key(base, "In base 4, what is 1 + 2?") != question_key(base, "In base 5, what is 1 + 2?")


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="unknown mathematics task 'div': known are add_or_sub_in_base, mul"):
        next(stream("div"))
    with pytest.raises(ValueError, match="unknown difficulty 'trivial': known are easy, medium, hard, all"):
        next(stream("mul", "trivial"))
    with pytest.raises(ValueError, match="start"):
        next(stream("mul", start=-1))
    with pytest.raises(ValueError, match="base must be"):
        in_base(3, 1)

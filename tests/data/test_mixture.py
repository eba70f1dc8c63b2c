"""Mixtures of other modules: apart from the task by key, in whatever words its questions are asked."""

import dataclasses
from itertools import islice

import pytest

from smlib.data.mathematics import Example
from smlib.data.mixture import GIVEAWAYS, MIXTURES, Mixture, check_apart, stream, task_keys
from smlib.data.tasks import load_task


@pytest.mark.parametrize("task", MIXTURES)
def test_no_question_of_the_task_is_in_its_mixture(task):
    plain = list(islice(stream(task, MIXTURES[task], "easy", 1), 400))
    asked = [task_keys(task, e.meta["module"], e.prompt.removesuffix(" Solution: "), e.answer) for e in plain]
    keys = frozenset().union(*asked[:200])  # a task that asks what half of them ask in other words
    assert len(keys) > 20
    with pytest.raises(ValueError, match=rf"questions of the base model are among those of {task}"):
        check_apart(task, plain, keys)
    own = list(islice(stream(task, MIXTURES[task], "easy", 1, keys), 400))
    check_apart(task, own, keys)
    assert {e.meta["module"] for e in own} == {name for name, _ in MIXTURES[task].shares}
    assert all(len(e.prompt) <= 60 + len(" Solution: ") and len(e.answer) <= 20 for e in own)


def test_a_mixture_is_the_same_for_the_same_arguments():
    first, again, other = (list(islice(stream("mul", MIXTURES["mul"], "easy", seed), 300)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_decimal_sum_is_a_question_of_base_10_in_any_words():
    def keys(question, answer, module="add_or_sub"):
        return task_keys("add_or_sub_in_base", module, question, answer)

    assert "base 10: 3 + 4" in keys("Put together 4 and 3.", "7")
    assert "base 10: -2 - 64" in keys("-2 - 64", "-66")
    assert "base 10: 64 - 2" in keys("What is 2 less than 64?", "62")
    assert "base 10: 64 - 2" in keys("What is the difference between 2 and 64?", "62")
    assert not keys("What is 0.5 plus 4?", "4.5")
    assert not keys("What is 3 - 4 + 2?", "1", "add_sub_multiple")
    assert not keys("What is 31 (base 4) in base 8?", "15", "base_conversion")


def test_every_decimal_question_of_the_task_is_found_in_the_words_of_the_other_module():
    found = 0
    for example in load_task(n_train=500, n_val=0, n_test=0, difficulty="easy").train:
        if example.meta["base"] != 10:
            continue
        asked = example.prompt.removeprefix("In base 10, what is ").removesuffix("? Solution: ")
        assert example.meta["key"] in task_keys("add_or_sub_in_base", "add_or_sub", asked, example.answer)
        found += 1
    assert found > 30


def test_divisions_and_products_give_away_products_and_factors():
    assert "-14 * -263" in task_keys("mul", "div", "Divide 3682 by -14.", "-263")
    assert not task_keys("mul", "div", "Divide 3 by 5.", "3/5")
    assert task_keys("list_prime_factors", "div", "What is -8740 divided by 4370?", "-2") == {"8740"}
    assert task_keys("list_prime_factors", "mul", "Multiply 31 and -3.", "-93") == {"93"}
    assert not task_keys("list_prime_factors", "mul", "0.1*30", "3") - {"3"}


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((("mul", 0.5), ("sqrt", 0.5)), "a mixture of sqrt: expected modules of the generator"),
        ((), "a mixture of nothing"),
        ((("mul", 0.5), ("mul", 0.5)), "names each module once"),
        ((("mul", 0.5), ("div", 0.6)), "add up to 1"),
        ((("mul", 1.5), ("div", -0.5)), "are positive"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(shares, message):
    with pytest.raises(ValueError, match=message):
        Mixture(shares)


@pytest.mark.parametrize("task", MIXTURES)
def test_modules_that_give_the_task_away_are_refused(task):
    known = [name for name in GIVEAWAYS[task] if name in ("mul", "add_or_sub_in_base")]
    for name in known:
        with pytest.raises(ValueError, match=f"a base model for {task} that reads {name} knows the task"):
            next(stream(task, Mixture(((name, 1.0),)), "easy"))
    with pytest.raises(ValueError, match="no mixture is known to be apart from 'translation'"):
        MIXTURES[task].check("translation")


def test_shares_and_sizes_are_checked():
    with pytest.raises(ValueError, match=r"decimals is a share, got 1\.5"):
        dataclasses.replace(MIXTURES["mul"], decimals=1.5)
    with pytest.raises(ValueError, match="longest_answer must be at least 1, got 0"):
        dataclasses.replace(MIXTURES["mul"], longest_answer=0)
    with pytest.raises(ValueError, match="unknown difficulty 'hardest'"):
        next(stream("mul", MIXTURES["mul"], "hardest"))


def test_an_overlap_names_the_question_and_the_cure():
    example = Example("What is 64 plus 2? Solution: ", "66", {"key": "x", "module": "add_or_sub"})
    with pytest.raises(ValueError, match=r"1 questions? .*'What is 64 plus 2\? Solution:' asks for 'base 10: 2 \+ 64'"):
        check_apart("add_or_sub_in_base", [example], {"base 10: 2 + 64"})

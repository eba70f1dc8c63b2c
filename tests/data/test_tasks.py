"""Tasks: splits without a common question, noise laws of Sec. 6.1, exact correctness."""

import itertools

import numpy as np
import pytest

from smlib.data import load_task, stream
from smlib.data.mathematics import MATHEMATICS_TASKS

SMALL = {"n_train": 300, "n_val": 100, "n_test": 150}


@pytest.mark.parametrize("name", MATHEMATICS_TASKS)
@pytest.mark.parametrize("difficulty", ["easy", "all"])
def test_splits_share_no_question(name, difficulty):
    task = load_task(name, **SMALL, difficulty=difficulty)
    assert (len(task.train), len(task.val), len(task.test)) == (300, 100, 150)
    everything = [*task.train, *task.val, *task.test]
    assert len({e.prompt for e in everything}) == len(task.keys()) == 550
    assert task.keys("val") | task.keys("test", "train") == task.keys()
    fresh = itertools.islice(stream(name, difficulty, 0, task.keys()), 1000)
    assert not task.keys() & {e.meta["key"] for e in fresh}


def test_tasks_are_deterministic_and_training_sets_nest():
    a = load_task(**SMALL)
    assert a == load_task(**SMALL)
    larger = load_task(**{**SMALL, "n_train": 400})
    assert larger.train[:300] == a.train
    assert (larger.val, larger.test) == (a.val, a.test)
    other = load_task(**SMALL, seed=1)
    assert other.test != a.test


def test_prompt_ends_where_the_solution_starts():
    task = load_task(**SMALL)
    for example in task.test[:50]:
        prompt, answer = task.prompt_ids(example), task.answer_ids(example)
        assert (prompt[0], answer[-1]) == (task.space.bos, task.space.eos)
        assert example.prompt.endswith("? Solution: ")
        assert task.tokenizer.decode([*prompt, *answer]) == example.prompt + example.answer
        assert task.is_correct(task.tokenizer.decode(answer), example)
        assert task.is_correct(f" {example.answer}\n", example)
        assert not task.is_correct(example.answer + "0", example)
        assert not task.is_correct("", example)


def test_noise_laws():
    task = load_task(**SMALL)
    digits = [task.tokenizer.id(d) for d in "0123456789"]
    for example in task.train[:40]:
        law = task.noise("ground_truth", example)
        assert law.tokens.tolist() == digits[: example.meta["base"]]
        np.testing.assert_allclose(law.probs, 1 / example.meta["base"])
    anything = task.noise("random", task.train[0])
    assert anything.tokens.tolist() == list(range(3, task.space.vocab_size))
    assert task.noise("none", task.train[0]).tokens.size == 0
    mul = load_task("mul", **SMALL)
    assert mul.noise("ground_truth", mul.train[0]).tokens.tolist() == digits


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="unknown task 'sums': known are add_or_sub_in_base, mul, list_prime_factors"):
        load_task("sums")
    with pytest.raises(ValueError, match="unknown difficulty"):
        load_task(difficulty="impossible")
    with pytest.raises(ValueError, match="at least 0"):
        load_task(n_val=-1)
    task = load_task(**SMALL)
    with pytest.raises(ValueError, match="unknown noise kind 'digits': known are ground_truth, random, none"):
        task.noise("digits", task.train[0])


def test_a_pretrained_models_tokenizer_serves():
    """Digits as single tokens: ground-truth noise; specials and rows beyond the tokeniser: never noise."""
    from transformers import PreTrainedTokenizerFast

    from smlib.data.tokenizers import PretrainedTokenizer, train_bpe

    texts = [e.prompt + e.answer for e in itertools.islice(stream("mul"), 300)]
    fast = PreTrainedTokenizerFast(
        tokenizer_object=train_bpe(texts, 300).backend, eos_token="<eos>", bos_token="<bos>", pad_token="<pad>"
    )
    task = load_task("mul", **SMALL, tokenizer=PretrainedTokenizer(fast, vocab_size=320))
    law = task.noise("ground_truth", task.train[0])
    assert [task.tokenizer.token(int(i)) for i in law.tokens] == list("0123456789")
    assert task.noise("random", task.train[0]).tokens.tolist() == list(range(3, 300))
    assert task.space.vocab_size == 320

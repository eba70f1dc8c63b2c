"""The arithmetic vocabulary: exact round trips, single digits, Llama-2's layout."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smlib.data.mathematics import MATHEMATICS_TASKS, stream
from smlib.data.tokenizers import SPECIALS, arithmetic_tokenizer

TOKENIZER = arithmetic_tokenizer()
# Surrogates are no characters: they cannot be encoded as UTF-8.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(TEXT)
def test_any_text_round_trips(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@given(st.lists(st.sampled_from(["In", " base", " ", "-", "7", "40", "<eos>", "<0x41>", "Solution:", "\n", "é"])))
def test_pieces_of_the_vocabulary_round_trip(pieces):
    text = "".join(pieces)
    ids = TOKENIZER.encode(text)
    assert TOKENIZER.decode(ids) == text
    assert min(ids, default=3) >= len(SPECIALS), "no text encodes to a special token"


@given(st.text("0123456789-", min_size=1), st.text("0123456789-", min_size=1))
def test_numbers_are_encoded_sign_by_sign_and_split_anywhere(a, b):
    assert [TOKENIZER.token(i) for i in TOKENIZER.encode(a)] == list(a)
    assert TOKENIZER.encode(a + b) == TOKENIZER.encode(a) + TOKENIZER.encode(b)


@pytest.mark.parametrize("name", MATHEMATICS_TASKS)
def test_vocabulary_covers_every_question(name):
    byte_ids = set(range(3, 3 + 256))
    for example in itertools.islice(stream(name, "all", 0), 1500):
        ids = TOKENIZER.encode(example.prompt + example.answer)
        assert not byte_ids & set(ids)
        assert ids == TOKENIZER.encode(example.prompt) + TOKENIZER.encode(example.answer)


def test_layout_follows_llama_2():
    assert [TOKENIZER.token(i) for i in range(4)] == ["<pad>", "<bos>", "<eos>", "<0x00>"]
    assert (TOKENIZER.pad, TOKENIZER.bos, TOKENIZER.eos, TOKENIZER.vocab_size) == (0, 1, 2, 305)
    assert TOKENIZER.token(3 + 255) == "<0xFF>"
    assert [TOKENIZER.id(d) for d in "0123456789"] == list(range(259, 269))
    assert [TOKENIZER.token(i) for i in TOKENIZER.encode("In base 7, what is -12 + 3? Solution: ")] == [
        "In base ", "7", ", what is ", "-", "1", "2", " + ", "3", "? Solution: ",
    ]  # fmt: skip


def test_backspace_prints_but_has_no_text():
    assert TOKENIZER.token(TOKENIZER.vocab_size) == "<bkspc>"
    with pytest.raises(ValueError, match="has no text"):
        TOKENIZER.decode([TOKENIZER.vocab_size])
    with pytest.raises(ValueError, match="no action"):
        TOKENIZER.token(TOKENIZER.vocab_size + 1)
    with pytest.raises(KeyError, match="no token 'zebra'"):
        TOKENIZER.id("zebra")
    assert TOKENIZER.decode([TOKENIZER.bos, *TOKENIZER.encode("42"), TOKENIZER.eos]) == "42"
    assert TOKENIZER.encode_batch(["42", "7"]) == [TOKENIZER.encode("42"), TOKENIZER.encode("7")]

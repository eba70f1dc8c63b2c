"""What is written in a text is text: no control ids, no lost characters in silence, no number without a token."""

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from smlib.cli.workbench import write_text
from smlib.data.boundaries import SENTENCE, cut_levels
from smlib.data.continuations import Continuations, inner_decoder, token_law
from smlib.data.cutting import Article, cover
from smlib.data.encoding import continuation, encoding, lost_characters
from smlib.data.tasks import load_task
from smlib.data.tokenizers import FixedTokenizer, PretrainedTokenizer, arithmetic_tokenizer, check_tokenizer
from smlib.generation.sampling import SamplingConfig
from smlib.training.preflight import say_coverage
from tests.support.models import control_tokenizer, saved_model, words_tokenizer

CONTROL = ["<|endoftext|>", "<s>", "</s>", "<|backspace|>"]
ROUND = {kind: PretrainedTokenizer(control_tokenizer(kind)) for kind in ("bytes", "fallback")}
PIECES = st.lists(st.sampled_from([*CONTROL, "<", "s>", ">", " ", "the", "1", "é", "\n", "<bkspc>", "<0x41>"]))


@pytest.mark.parametrize("kind", ROUND)
@settings(deadline=None)
@given(pieces=PIECES)
def test_control_tokens_in_a_text_stay_text(kind, pieces):
    tokenizer, text = ROUND[kind], "".join(pieces)
    ids = tokenizer.encode(text)
    assert not set(ids) & set(range(4))
    assert inner_decoder(tokenizer)(continuation(tokenizer, "1", text)) == text
    found = tokenizer.encode_with_spans(text)
    assert found.ids == ids
    for (_, end), (begin, _) in zip(found.spans, found.spans[1:], strict=False):
        assert begin <= end + 1 <= len(text) + 1
    assert not lost_characters(tokenizer, text)


def test_a_control_token_that_is_a_word_of_the_model_is_parted():
    tokenizer = PretrainedTokenizer(control_tokenizer("words"))
    for text in ("a <s> b", "a <|endoftext|> b", "</s>"):
        ids = tokenizer.encode(text)
        assert not set(ids) & set(range(4)), text
        assert tokenizer.backend.convert_ids_to_tokens(ids).count("<unk>") == 0
    named = [tokenizer.backend.convert_tokens_to_ids(t) for t in ("a", "<", "s>", "b")]
    assert tokenizer.encode("a <s> b") == named
    assert [("a <s> b")[a:b] for a, b in tokenizer.encode_with_spans("a <s> b").spans] == ["a", "<", "s>", "b"]


def test_a_fixed_vocabulary_spells_its_specials_out_however_they_are_registered():
    backend = Tokenizer(
        models.WordLevel({"<pad>": 0, "<bos>": 1, "<eos>": 2, "<": 3, "eos>": 4, "a": 5, "1": 7}, "<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    plain = FixedTokenizer(backend)
    assert (plain.vocab_size, plain.special_ids) == (8, frozenset({0, 1, 2, 6}))
    assert plain.token(6) == "<unused 6>"
    assert plain.encode("a <eos>") == [5, 3, 4]
    assert plain.encode_batch(["a <eos>", "a"]) == [[5, 3, 4], [5]]
    state = arithmetic_tokenizer().backend
    registered = Tokenizer.from_str(state.to_str())
    registered.add_special_tokens(["<pad>", "<bos>", "<eos>"])
    assert FixedTokenizer(registered).encode("In base <eos> 7") == arithmetic_tokenizer().encode("In base <eos> 7")


def test_a_training_text_with_control_tokens_has_no_end_inside():
    tokenizer = ROUND["bytes"]
    text = "the <s> tag and <|endoftext|> in a text about tokenisers " * 8
    data = Continuations.from_texts([text], tokenizer, context=64, max_prompt=8)
    assert tokenizer.decode(np.concatenate(data.texts)) == text


# --- holes ---------------------------------------------------------------------------------------------------------


def test_a_vocabulary_with_holes_has_all_its_tokens_and_no_others():
    raw = control_tokenizer("bytes")
    used = set(raw.get_vocab().values())
    assert max(used) >= len(raw)  # what `len` says is no bound of the ids
    tokenizer = PretrainedTokenizer(raw)
    assert tokenizer.vocab_size == max(used) + 1
    assert not tokenizer.special_ids & {raw.convert_tokens_to_ids("the")}
    law = set(token_law(tokenizer, "vocabulary").tokens.tolist())
    assert law == used - set(raw.all_special_ids)
    wider = PretrainedTokenizer(raw, max(used) + 10)
    assert set(token_law(wider, "vocabulary").tokens.tolist()) == law
    assert wider.decode([*wider.encode("the"), 102, max(used) + 5]) == "the"
    with pytest.raises(ValueError, match=rf"vocab_size {len(raw)} is below the {max(used) + 1} ids"):
        PretrainedTokenizer(raw, len(raw))


def test_a_task_draws_noise_from_the_tokens_that_there_are():
    raw = control_tokenizer("bytes")
    task = load_task("mul", n_train=4, n_val=0, n_test=0, difficulty="easy", tokenizer=PretrainedTokenizer(raw))
    drawn = set(task.noise("random", task.train[0]).tokens.tolist())
    assert drawn == set(raw.get_vocab().values()) - set(raw.all_special_ids)


# --- characters ----------------------------------------------------------------------------------------------------


def test_characters_that_are_dropped_are_counted():
    tokenizer = PretrainedTokenizer(control_tokenizer("lossy"))
    text = "naïve café ☃"
    assert tokenizer.decode(tokenizer.encode(text)) == "nave caf "  # in silence
    assert lost_characters(tokenizer, text) == {"ï": 1, "é": 1, "☃": 1}
    data = Continuations.from_texts([text + "plain words to keep the share up"], tokenizer, context=64, max_prompt=8)
    assert data.coverage.without_token.total() == 3
    assert "3 of 36 visible characters have no token in this vocabulary ('ï' 1 times, 'é' 1 times" in str(data.coverage)
    with pytest.warns(UserWarning, match="3 of 10 visible characters"):
        Continuations.from_texts([text], tokenizer, context=64, max_prompt=8)


def test_a_prompt_that_the_model_does_not_see_is_told_of(tmp_path, capsys):
    folder = saved_model(tmp_path / "model")
    write_text(str(folder), "w1 щи w2", SamplingConfig(max_new_tokens=2), [0])
    assert f"the vocabulary of {folder} has no token for 'щ', 'и': the model does not see it" in capsys.readouterr().err


def test_a_run_says_how_much_of_the_texts_it_is_trained_on(capsys):
    say_coverage(Continuations.from_texts(["w1 w2 w3 ", ""], ROUND["bytes"], context=8, max_prompt=2))
    told = capsys.readouterr().err
    assert told == "texts: 9 of 9 tokens (100 %) of 1 documents are in 2 passages; 1 blank documents are left out\n"


def test_the_unknown_token_stands_for_no_character():
    assert lost_characters(PretrainedTokenizer(words_tokenizer()), "w1 щи w2") == {"щ": 1, "и": 1}


# --- the wrong tokeniser, and one of one's own ---------------------------------------------------------------------


def test_what_to_call_around_a_raw_tokeniser():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        for call in (
            lambda raw: check_tokenizer(raw),
            lambda raw: cover([Article("a", "b c")], raw, 8),
            lambda raw: load_task("mul", n_train=1, n_val=0, n_test=0, tokenizer=raw),
        ):
            with pytest.raises(
                TypeError, match=r"without bos, eos.* PretrainedTokenizer\(tokenizer\) around one of tran"
            ):
                call(words_tokenizer())
            with pytest.raises(
                TypeError, match=r"PreTrainedTokenizerFast\(tokenizer_object=tokenizer, eos_token=...\)"
            ):
                call(words_tokenizer().backend_tokenizer)
        with pytest.raises(
            TypeError, match=r"wraps a tokeniser of transformers, not a Tokenizer, here transformers.PreT"
        ):
            PretrainedTokenizer(words_tokenizer().backend_tokenizer)
        with pytest.raises(TypeError, match="wraps a tokeniser of transformers, not a PretrainedTokenizer"):
            PretrainedTokenizer(ROUND["bytes"])
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


class Plain:
    """A tokeniser of one's own, of which no more is known than the protocol asks for."""

    vocab_size, bos, eos, pad = 305, 1, 2, 0
    special_ids = frozenset(range(3))

    def encode(self, text):
        return arithmetic_tokenizer().encode(text)

    def decode(self, ids):
        return arithmetic_tokenizer().decode(ids)

    def token(self, action):
        return arithmetic_tokenizer().token(action)


def test_without_places_of_the_tokens_texts_are_cut_all_the_same():
    text = "Calculate the product. In base 7 the times are prime. Multiply and List. " * 6
    told, guessed = encoding(arithmetic_tokenizer(), text), encoding(Plain(), text)
    assert guessed == told
    assert (cut_levels(text, guessed.spans) == SENTENCE).sum() > 12
    data = Continuations.from_texts([text], Plain(), context=32, max_prompt=4)
    assert np.concatenate(data.texts).tolist() == told.ids


# --- printing ------------------------------------------------------------------------------------------------------


def test_a_token_that_is_written_like_the_action_is_told_apart():
    raw = control_tokenizer("bytes")
    raw.add_tokens(["<bkspc>"])
    tokenizer = PretrainedTokenizer(raw)
    assert tokenizer.token(raw.convert_tokens_to_ids("<bkspc>")) == r"\<bkspc>"
    assert tokenizer.token(tokenizer.vocab_size) == "<bkspc>"

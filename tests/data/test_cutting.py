"""Texts of every kind are kept whole, and cut where people would cut them."""

import csv
import hashlib
import io
from collections import Counter
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import smlib.data.cutting
from smlib.data.boundaries import CHARACTER, INSIDE, LINE, SENTENCE, best_cuts, cut_levels, line_ends, sentence_ends
from smlib.data.continuations import Continuations
from smlib.data.cutting import RULES, Article, Coverage, cover, passages
from smlib.data.encoding import encoding
from smlib.data.text import load_corpus
from smlib.data.tokenizers import PretrainedTokenizer, arithmetic_tokenizer, train_bpe
from tests.support.models import words_tokenizer

BYTES = arithmetic_tokenizer()  # no merges: nearly every character outside its templates is a byte or several
ENGLISH = (
    "The committee met on Monday. It had not met before! Who had called it? Nobody knew, e.g. because of the storm. "
)
BPE = train_bpe([ENGLISH * 3 + "\n\t  def f(x):\n    return x\n" * 20], 320)
RUSSIAN = "Он вышел из дома. Шёл дождь, и улицы были пусты! Куда идти? Никто не знал."
TEXTS = {
    "log": "".join(
        f"2024-05-{d % 28 + 1:02d} 12:{d % 60:02d}:07,{d:03d} info worker[{d}] request /a/b?c={d} took {d} ms\n"
        for d in range(120)
    ),
    "csv": "".join(f"{i},{i * i % 97},name-{i},0.{i}\n" for i in range(250)),
    "russian": "\n".join([RUSSIAN] * 25),
    "chinese": "他走出了家门。外面下着雨，街上空无一人！去哪里呢？没有人知道。" * 25,
    "japanese": "彼は「行く」と言った。雨が降っていた。" * 25,
    "arabic": "خرج من البيت. كان المطر يهطل، والشوارع خالية! إلى أين يذهب؟ لم يعرف أحد. " * 25,
    "hindi": "वह घर से निकला। बारिश हो रही थी और सड़कें खाली थीं। कहाँ जाए? किसी को पता नहीं था। " * 25,
    "greek": "Βγήκε από το σπίτι. Έβρεχε και οι δρόμοι ήταν άδειοι! Πού να πάει; Κανείς δεν ήξερε. " * 25,
    "spanish": "¿Adónde iba? ¡Nadie lo sabía! ¿Por qué salió? «Ítaca espera». Él calló. " * 25,
    "german": "Ärger lag in der Luft. Öfter kam das nicht vor. Überall war es still. " * 25,
    "lower": "this is how some people write. no capitals at all, ever. it goes on like that. " * 25,
    "verse": "the sea is calm tonight\n  the tide is full, the moon lies fair\nupon the straits\n\n" * 25,
    "python": Path(smlib.data.cutting.__file__).read_text(encoding="utf-8"),
    "one line": "x" * 1500,
    "emoji": "👩‍👩‍👧‍👦 🇩🇪 é é " * 100,
}


@pytest.fixture
def as_a_user_calls():
    """Without the types that the tests check: they would stop a wrong argument before the library can."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@lru_cache(maxsize=1)
def articles_bpe():
    return train_bpe([a.text for a in load_corpus().train[:12]], 1024)


def whole(cut):
    return [int(i) for p in cut for i in p.ids]


# --- nothing is lost -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [3, 8, 64, 1024])
@pytest.mark.parametrize("kind", TEXTS)
def test_a_text_of_any_kind_is_kept_whole(kind, context):
    text = TEXTS[kind]
    data = Continuations.from_texts([text], BYTES, context=context, max_prompt=2)
    assert np.concatenate(data.texts).tolist() == BYTES.encode(text)
    assert max(ids.size for ids in data.texts) <= max(context - 1, 3)
    assert min(ids.size for ids in data.texts) >= 2
    assert (data.coverage.share, data.coverage.tokens) == (1.0, len(BYTES.encode(text)))


@settings(deadline=None, max_examples=150)
@given(
    st.text(st.one_of(st.sampled_from(".!?。\n\r ¿Aa।؟;Ω\u0301👧<s>"), st.characters(exclude_categories=["Cs"]))),
    st.integers(3, 40),
    st.integers(1, 2),
    st.sampled_from([BYTES, BPE]),
)
def test_passages_together_are_the_text(text, length, min_length, tokenizer):
    ids = tokenizer.encode(text)
    cut, told = cover([Article("a", text)], tokenizer, length, min_length=min_length)
    if len(ids) >= min_length:
        assert whole(cut) == ids
        assert [p.ended for p in cut] == [False] * (len(cut) - 1) + [True] * bool(cut)
        assert all(min_length <= p.ids.size <= length for p in cut)
    assert (told.tokens, told.kept) == (len(ids), len(whole(cut)))


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 12), st.integers(1, 6))
def test_the_best_cut_is_the_one_that_a_search_finds(levels, length, min_length):
    """The oracle looks at every place in turn."""
    min_length = min(min_length, length)
    worth = np.array(levels, np.int8)
    cuts = best_cuts(worth, length, min_length)
    assert cuts[0] == 0
    assert cuts[-1] == len(levels)
    for a, b in pairwise(cuts):
        assert 1 <= b - a <= length
        if length >= 2 * min_length - 1 and len(levels) >= min_length:
            assert b - a >= min_length
        if b == len(levels):
            continue
        rest_fits = [k for k in range(a + min_length, a + length + 1) if len(levels) - k >= min_length]
        late = [k for k in rest_fits if k - a >= (length + 1) // 2]
        if late and max(worth[late]) > INSIDE:
            assert worth[b] == max(worth[late])
            assert b == max(k for k in late if worth[k] == worth[b])


# --- where a text is cut -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four.", ["One. ", "Two! ", "Three? ", "Four."]),
        ('He said "no." Then (yes!) “So.” It… (A.)', ['He said "no." ', "Then (yes!) ", "“So.” ", "It… ", "(A.)"]),
        ("So e.g. this, etc. and 3.5 of a.b. stay", ["So e.g. this, etc. and 3.5 of a.b. stay"]),
        ("In 1999. 42 came.", ["In 1999. ", "42 came."]),
        ("Он вышел. Шёл дождь! «Куда?» Никто.", ["Он вышел. ", "Шёл дождь! ", "«Куда?» ", "Никто."]),
        ("他走了。下雨！「去哪？」没人。", ["他走了。", "下雨！", "「去哪？」", "没人。"]),
        ("到了！！真的？！好。", ["到了！！", "真的？！", "好。"]),
        ("أين يذهب؟ لم يعرف. كان", ["أين يذهب؟ ", "لم يعرف. ", "كان"]),
        ("वह निकला। बारिश थी॥ अब", ["वह निकला। ", "बारिश थी॥ ", "अब"]),
        ("Πού; Κανείς. Έβρεχε", ["Πού; ", "Κανείς. ", "Έβρεχε"]),
        ("It rained; However; so", ["It rained; However; so"]),
        ("Sí. ¿Por qué? ¡No! Él", ["Sí. ", "¿Por qué? ", "¡No! ", "Él"]),
        ("“Wer?” „Nie“, er.\n他：“去。”她。\n她", ["“Wer?” ", "„Nie“, er.\n", "他：“去。”", "她。\n", "她"]),
        ("Ja. Ärger. Öde. Übel.", ["Ja. ", "Ärger. ", "Öde. ", "Übel."]),
    ],
)  # fmt: skip
def test_sentences_of_many_scripts(text, sentences):
    ends = [0, *sentence_ends(text)[:, 1].tolist(), len(text)]
    assert [text[a:b] for a, b in pairwise(ends) if b > a] == sentences


def test_lines_end_before_what_the_next_is_indented_by():
    assert line_ends("a\n\n  b\r\nc\u2028d").tolist() == [[1, 3], [6, 8], [9, 10]]


def test_a_cut_is_worth_what_ends_there():
    text = "Ab. Cd\n  e é"
    ids, spans = encoding(BYTES, text)
    assert len(ids) == len(text) + 1  # é has two bytes
    levels = cut_levels(text, spans).tolist()
    assert [i for i, v in enumerate(levels) if v == SENTENCE] == [0, 3, 4]  # before the space and after it
    assert [i for i, v in enumerate(levels) if v == LINE] == [6, 7]
    assert [i for i, v in enumerate(levels) if v == INSIDE] == [12]
    assert levels.count(CHARACTER) == len(levels) - 6


@pytest.mark.parametrize(
    ("kind", "marks", "length"),
    [
        ("russian", ".!?\n", 120), ("chinese", "。！？", 120), ("arabic", ".!؟", 120), ("hindi", "।?", 200),
        ("greek", ".!;", 120), ("spanish", ".!?", 80), ("german", ".", 80), ("log", "\n", 200), ("csv", "\n", 60),
        ("verse", "\n", 80),
    ],
)  # fmt: skip
def test_passages_end_where_sentences_or_lines_do(kind, marks, length):
    cut = passages([Article(kind, TEXTS[kind])], BYTES, length)
    ends = [BYTES.decode(p.ids).rstrip(" »«")[-1:] for p in cut[:-1]]
    assert Counter(e in marks for e in ends) == {True: len(cut) - 1}
    for p in cut:
        assert TEXTS[kind][p.start :].startswith(BYTES.decode(p.ids))


def test_source_code_is_cut_at_lines():
    code = "".join(f"def f{i}(x):\n    y = [x, {i}]\n    return y\n" for i in range(100))
    cut = passages([Article("code", code)], BPE, 50)
    shown = [BPE.decode(p.ids) for p in cut]
    assert len(shown) > 20
    assert all(a.endswith("\n") or b.startswith("\n") for a, b in pairwise(shown))


def test_characters_stay_whole_where_they_can():
    for p in passages([Article("emoji", TEXTS["emoji"])], BYTES, 16):
        assert "\ufffd" not in BYTES.decode(p.ids)


def test_a_line_of_marks_takes_no_time():
    for text in ("." * 300_000, ". " * 150_000, "。" * 300_000, '"' * 300_000, "." + " " * 300_000, "\n" * 300_000):
        cut_levels(text, [(i, i + 1) for i in range(0, len(text), 7)])


# --- the other rules -----------------------------------------------------------------------------------------------


def digest(cut):
    seen = hashlib.sha256()
    for p in cut:
        seen.update(f"{p.title}/{p.start}/{p.ended}/{p.ids.dtype}/{p.ids.size};".encode() + p.ids.tobytes())
    return len(cut), seen.hexdigest()[:16]


@pytest.mark.parametrize(
    ("split", "length", "stride", "expected"),
    [
        ("val", 1024, None, (80, "a511b7fe3cba75fd")),
        ("test", 128, 96, (1345, "66c9bd69b8260684")),
        pytest.param("train", 128, None, (4656, "4793d7ac48bc0c6f"), marks=pytest.mark.slow),
        pytest.param("train", 48, None, (9209, "cf2d286a836ef3f2"), marks=pytest.mark.slow),
    ],
)
def test_passages_of_the_committed_corpus_are_what_they_were(split, length, stride, expected):
    """Hashes of what `passages` cut when the committed results were made, before there were rules."""
    corpus = load_corpus()
    cut = passages(getattr(corpus, split), articles_bpe(), length, rule="ascii", stride=stride)
    assert digest(cut) == expected


def test_nothing_in_the_corpus_is_a_special_token():
    """So the encoding of specials as text changed no committed number."""
    corpus = load_corpus()
    text = "\n".join(a.text for part in (corpus.train, corpus.val, corpus.test) for a in part)
    assert not any(mark in text for mark in ("<", ">", "[PAD]", "\ufeff", "\r"))


@pytest.mark.parametrize("kind", [k for k in TEXTS if k != "one line"])
def test_windows_for_prompts_start_at_sentences_in_any_script(kind):
    text = TEXTS[kind]
    cut = passages([Article(kind, text)], BYTES, 100, rule="sentences")
    starts = {0, *sentence_ends(text)[:, 1].tolist(), *line_ends(text)[:, 1].tolist()} - {len(text)}
    assert sum(p.ids.size for p in cut) > 0.3 * len(BYTES.encode(text))
    # Code has lines longer than these windows, and after the last start there is only what is left of a sentence.
    if kind not in ("lower", "emoji", "python"):
        assert {p.start for p in cut if p.start <= max(starts)} <= starts
    for p in cut[:-1]:
        assert p.ids.size == 100


@pytest.mark.parametrize("rule", RULES)
def test_a_limit_gives_the_first_passages(rule):
    articles = [Article(str(i), TEXTS[kind]) for i, kind in enumerate(TEXTS)]
    whole_list = passages(articles, BYTES, 20, rule=rule)
    for limit in (0, 1, 5, len(whole_list), len(whole_list) + 1, None):
        cut = passages(articles, BYTES, 20, rule=rule, limit=limit)
        assert [(p.title, p.start, p.ids.tolist()) for p in cut] == [
            (p.title, p.start, p.ids.tolist()) for p in whole_list[:limit]
        ]
    with pytest.raises(ValueError, match="limit must be 0 or more, or None for all passages, got -1"):
        passages(articles, BYTES, 20, rule=rule, limit=-1)


@pytest.mark.usefixtures("as_a_user_calls")
def test_rules_have_names():
    with pytest.raises(ValueError, match="unknown rule 'words' for passages: known are covering, sentences, ascii"):
        passages([Article("a", "b c")], BYTES, 8, rule="words")
    with pytest.raises(ValueError, match="stride=4: rule='covering' takes each token once; choose rule='sentences'"):
        passages([Article("a", "b c")], BYTES, 8, stride=4)
    with pytest.raises(TypeError, match=r"PretrainedTokenizer\(tokenizer\)"):
        passages([Article("a", "b c")], words_tokenizer(), 8)


# --- documents -----------------------------------------------------------------------------------------------------


def test_marks_and_line_breaks_of_files_do_not_reach_the_tokens():
    table = io.StringIO(newline="")
    csv.writer(table).writerows([[i, i * i] for i in range(50)])
    assert "\r\n" in table.getvalue()
    for text in ("\ufeff" + table.getvalue(), "one\r\n\r\ntwo\rthree\n" * 20):
        data = Continuations.from_texts([text], BYTES, context=32, max_prompt=8)
        got = BYTES.decode(np.concatenate(data.texts))
        assert got == text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


@pytest.mark.usefixtures("as_a_user_calls")
def test_what_is_no_list_of_documents_is_named(tmp_path):
    file = tmp_path / "my-text.txt"
    file.write_text(RUSSIAN, encoding="utf-8")

    def made(documents):
        return Continuations.from_texts(documents, BYTES, context=32, max_prompt=8)

    for path in (file, str(file)):
        with pytest.raises(TypeError, match=r"texts is the path '.*my-text.txt': expected .*read_text\(encoding"):
            made(path)
        with pytest.raises((TypeError, ValueError), match=r"document 1 is the path '.*my-text.txt': expected the text"):
            made([RUSSIAN, path])
    assert len(made(["去" * 300, "a\0b" * 9]).texts) > 2  # no names of files, and no errors of asking for them
    with pytest.raises(TypeError, match="one string, which would be read letter by letter"):
        made(RUSSIAN)
    with pytest.raises(TypeError, match="texts is a int: expected a list of documents"):
        made(3)
    for blank in ([""], ["  \n\t "], ["\ufeff"]):
        with pytest.raises(ValueError, match="the document is empty or blank"):
            made(blank)
    with pytest.raises(ValueError, match="all of 3 documents are empty or blank"):
        made(["", " ", "\n\n"])
    with pytest.raises(ValueError, match=r"document 0 holds '\\udcff' at character 3, .* its own encoding"):
        made(["abc\udcff"])


def test_blank_documents_are_left_out_and_counted():
    data = Continuations.from_texts(f"{ENGLISH}\n\n\n\n{RUSSIAN}\n\n".split("\n\n"), BYTES, context=64, max_prompt=8)
    assert (data.coverage.documents, data.coverage.blank, data.coverage.share) == (2, 2, 1.0)
    assert str(data.coverage).endswith("passages; 2 blank documents are left out")


def test_a_loss_is_counted_and_below_nine_tenths_a_warning():
    tokenizer = PretrainedTokenizer(words_tokenizer())
    fine = Continuations.from_texts(["w1 " * 20, "w2"], tokenizer, context=16, max_prompt=4)
    assert (fine.coverage.short, fine.coverage.kept, fine.coverage.tokens) == (1, 20, 21)
    with pytest.warns(UserWarning, match=r"3 of 8 tokens \(37.5 %\) .*5 of 6 documents are shorter than two tokens"):
        Continuations.from_texts(["w1 w2 w3", *["w4"] * 5], tokenizer, context=16, max_prompt=4)
    with pytest.warns(UserWarning, match=r"7 of 9 visible characters have no token .*\('щ' 7 times\)"):
        Continuations.from_texts(["w1 " + "щ" * 7], tokenizer, context=16, max_prompt=4)
    assert Coverage(0, 0, 0, 0).readable == 1.0


# --- what is learnt at a cut ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("context", [3, 9, 40])
def test_every_token_is_a_label_once_and_no_cut_is_an_end(context):
    """Without noise the labels are the text's tokens and one `<eos>` per document, if it fits the context."""
    documents = [TEXTS["russian"][:300], TEXTS["verse"][:200]]
    data = Continuations.from_texts(documents, BYTES, context=context, max_prompt=2)
    made = [data.demonstration(i, np.random.default_rng(0), 0.0, 1) for i in range(len(data))]
    labels = [int(a) for t in made for a in t.labels if a != BYTES.eos]
    if context > 3:  # a context of three reads two tokens, and a passage may need three to come out even
        assert labels == [i for d in documents for i in BYTES.encode(d)]
    for t, ended in zip(made, [p.ended for p in data.passages], strict=True):
        assert t.realised[-1] == BYTES.eos
        assert t.prompt.size + len(t) <= max(context, 4)
        assert ended or BYTES.eos not in t.labels


def test_a_noisy_demonstration_of_a_cut_passage_ends_with_its_true_label():
    data = Continuations.from_texts([TEXTS["german"]], BYTES, context=400, max_prompt=8)
    for seed in range(20):
        t = data.demonstration(0, np.random.default_rng(seed), 0.3, 2)
        assert t.realised[-1] == BYTES.eos
        assert BYTES.eos not in t.labels
        assert (t.realised[:-1] != BYTES.eos).all()

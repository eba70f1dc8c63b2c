"""Markup removal by example and on the whole dump; splits, passages and prompts; the BPE tokeniser."""

import re
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smlib.data import text as text_module
from smlib.data.cutting import Article, passages
from smlib.data.text import evaluation_set, load_corpus, prompt_and_answer, wikipedia_articles
from smlib.data.tokenizers import FixedTokenizer, PretrainedTokenizer, train_bpe
from smlib.data.wikitext import prose
from smlib.edits.actions import ActionSpace, final_state
from smlib.edits.noise import NoiseLaw, expert_trajectory

CORPUS = load_corpus()


@lru_cache(maxsize=1)
def bpe():
    return train_bpe([a.text for a in CORPUS.train[:12]], 1024)


# --- wikitext ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("'''Bold''' and ''italic'' [[link]]s, [[target|shown]] words.", "Bold and italic links, shown words."),
        ("It stands.<ref name=x>{{cite book|title=a.b}}</ref> It fell.<ref name=x/>", "It stands. It fell."),
        ("A tree {{convert|5|km|mi}} away, {{lang|fr|arbre}} in French.", "A tree 5 km away, arbre in French."),
        ("Paris ({{IPAc-en|p|a}}; {{lang-fr|Paris}}) is a city.", "Paris is a city."),
        ("Kept. Here $x$ is <math>x^2</math> and dropped. Kept too.", "Kept. Kept too."),
        ("Seen.{{citation needed|date=May 2014}} Next&nbsp;one &ndash; last.", "Seen. Next one – last."),
        ("[[File:a.jpg|thumb|A [[cat]] here.]]Text stays.", "Text stays."),
        ("Site [http://a.b shown text] and text.", "Site shown text and text."),
        ("Water<!-- no --> is H<sub>2</sub>O.", "Water is H2O."),
        ("First line\nand the second one.", "First line and the second one."),
        ('He said "stop." Then [he] left.', 'He said "stop." Then [he] left.'),
    ],
)
def test_markup_by_example(source, expected):
    filler = " A sentence long enough to make this line a paragraph of prose."
    assert prose(source + filler) == expected + filler


def test_what_is_no_prose_goes():
    source = """{{Infobox person|name={{nowrap|A B}}|born=1900}}
The first paragraph is kept because it is made of whole sentences.

== History ==
{| class="wikitable"
! head
|-
| a sentence in a table that is long enough to look like a paragraph of prose.
|}
* a list item that is long enough to look like a paragraph of the article itself.
The second paragraph is kept as well, since it stands in a proper section.

== See also ==
A line under an appendix heading that should not be seen by anyone at all.
=== Deeper ===
Still inside the appendix, and still not to be seen by anyone who reads on.

== Legacy ==
The third paragraph follows the appendix and belongs to the article again.
[[Category:People]]
[[fr:Personne]]
"""
    assert prose(source).split("\n") == [
        "The first paragraph is kept because it is made of whole sentences.",
        "The second paragraph is kept as well, since it stands in a proper section.",
        "The third paragraph follows the appendix and belongs to the article again.",
    ]


def test_no_markup_is_left_in_the_articles():
    articles = wikipedia_articles()
    assert len(articles) > 90
    assert sum(len(a.text) for a in articles) > 2_000_000
    for article in articles:
        assert not re.search(
            r"[{}|<>\x00]|\[\[|\]\]|''|==|&\w+;|https?:|__|\(\s*\)|\bISBN\b|Category:|File:", article.text
        )
        for paragraph in article.text.split("\n"):
            assert len(paragraph) >= 60
            assert re.search(r"[.!?][\"”’)]*$", paragraph)
            assert "  " not in paragraph
    (lincoln,) = (a for a in articles if a.title == "Abraham Lincoln")
    assert lincoln.text.startswith("Abraham Lincoln ")


# --- corpus --------------------------------------------------------------------------------------------------------


def test_splits_are_by_article_and_near_their_shares():
    titles = [{a.title for a in split} for split in (CORPUS.train, CORPUS.val, CORPUS.test)]
    assert sum(map(len, titles)) == len(set().union(*titles)) == len(wikipedia_articles())
    total = sum(len(a.text) for a in wikipedia_articles())
    for split, share in ((CORPUS.val, 0.08), (CORPUS.test, 0.17)):
        assert sum(len(a.text) for a in split) / total == pytest.approx(share, abs=0.04)  # within one long article
    assert load_corpus() == CORPUS
    assert load_corpus(seed=1).test != CORPUS.test


def test_openwebtext_goes_through_datasets_rows():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": [f"Document {i} has one sentence." for i in range(40)]})
    corpus = load_corpus("openwebtext", documents=rows, n_documents=30)
    assert sum(len(s) for s in (corpus.train, corpus.val, corpus.test)) == 30
    assert corpus.train[0].text.startswith("Document ")
    streamed = load_corpus("openwebtext", documents=rows.to_iterable_dataset(), n_documents=30)
    assert streamed == corpus


def test_corpus_bad_input_is_named(monkeypatch):
    with pytest.raises(ValueError, match="unknown corpus 'ptb': known are wikipedia, openwebtext"):
        load_corpus("ptb")
    with pytest.raises(ValueError, match="leave some training text"):
        load_corpus(fractions=(0.5, 0.5))
    with pytest.raises(ValueError, match="too few for three splits"):
        load_corpus("openwebtext", documents=[{"text": "One."}])
    wikipedia_articles.cache_clear()
    monkeypatch.setattr(text_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps 'gensim>=4\.4'"):
        load_corpus()


# --- passages and prompts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [None, 40])
def test_passages_are_slices_that_start_at_sentences(stride):
    articles = CORPUS.val[:2]
    cut = passages(articles, bpe(), 100, rule="ascii", stride=stride)
    by_title = {a.title: a.text for a in articles}
    previous = None
    for p in cut:
        text = by_title[p.title]
        assert 2 <= p.ids.size <= 100
        assert text[p.start :].startswith(bpe().decode(p.ids))
        assert p.start == 0 or text[p.start - 1].isspace()
        assert p.start == 0 or re.search(r"[.!?][\"”’)]*$", text[: p.start].rstrip())
        assert p.ended == (p.start + len(bpe().decode(p.ids)) == len(text))
        if previous is not None and previous.title == p.title:
            step = bpe().decode(previous.ids[: stride or 100])
            assert p.start >= previous.start + len(step)
        previous = p
    covered = sum(p.ids.size for p in cut)
    total = sum(len(bpe().encode(a.text)) for a in articles)
    if stride is None:
        assert 0.7 < covered / total <= 1  # what is lost are the ends of sentences that a passage cut
    else:
        assert covered > total


def test_evaluation_set_is_prompt_and_what_followed():
    cut = passages(CORPUS.val, bpe(), 60, rule="ascii")
    e = evaluation_set(cut, bpe(), 50, prompt_len=20, continuation_len=40)
    assert e.n_too_short == sum(p.ids.size < 60 for p in cut)
    texts = {a.title: a.text for a in CORPUS.val}
    for prompt, continuation, title in zip(e.prompts, e.continuations, e.titles, strict=True):
        assert (prompt[0], prompt.size, continuation.size) == (bpe().bos, 21, 40)
        assert bpe().decode([*prompt, *continuation]) in texts[title]
    again = evaluation_set(cut, bpe(), 50, prompt_len=20, continuation_len=40)
    np.testing.assert_array_equal(np.stack(again.prompts), np.stack(e.prompts))
    with pytest.raises(
        ValueError, match=rf"only {len(cut) - e.n_too_short} of {len(cut)} passages hold 20 \+ 40 tokens"
    ):
        evaluation_set(cut, bpe(), 10_000, prompt_len=20, continuation_len=40)
    with pytest.raises(ValueError, match="a token each"):
        evaluation_set(cut, bpe(), 1, prompt_len=0, continuation_len=40)
    with pytest.raises(ValueError, match="1 <= min_length <= length"):
        passages(CORPUS.val, bpe(), 0)


def test_an_unfinished_passage_is_forced_to_end_with_its_true_label():
    """Sec. 4.2, last paragraph: the label stays the true next token, <eos> is executed."""
    space = ActionSpace(bpe().vocab_size, eos=bpe().eos, bos=bpe().bos)
    context = 32
    passage = passages(CORPUS.val[:1], bpe(), context + 1, rule="ascii")[0]
    root, answer = prompt_and_answer(passage, bpe(), 10)
    law = NoiseLaw.none()
    t = expert_trajectory(root, answer, law, 0.0, np.random.default_rng(0), space, max_len=context)
    assert root.size + len(t) == context
    assert t.realised[-1] == space.eos
    assert t.labels[-1] == passage.ids[10 + len(t) - 1]
    np.testing.assert_array_equal(final_state(t, space), passage.ids[10 : 10 + len(t) - 1])
    with pytest.raises(ValueError, match="too short for a prompt of 40"):
        prompt_and_answer(passage, bpe(), 40)


# --- tokenisers ----------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_bpe_round_trips_any_text(text):
    assert bpe().decode(bpe().encode(text)) == text
    assert min(bpe().encode(text), default=3) >= 3, "no text encodes to a special token"


def test_bpe_is_deterministic_splits_digits_and_saves(tmp_path):
    again = train_bpe([a.text for a in CORPUS.train[:12]], 1024)
    sentence = "In 1809, 42 people came. <eos>"
    assert again.backend.to_str() == bpe().backend.to_str()
    assert bpe().vocab_size == 1024
    shown = [bpe().token(i) for i in bpe().encode(sentence)]
    assert "".join(shown) == sentence
    assert [s for s in shown if s.strip().isdigit()] == list("180942")
    assert bpe().token(1024) == "<bkspc>"
    path = tmp_path / "tokenizer.json"
    bpe().save(path)
    assert FixedTokenizer.load(path).encode(sentence) == bpe().encode(sentence)
    path.write_text("{}")
    with pytest.raises(ValueError, match="no tokeniser saved by"):
        FixedTokenizer.load(path)
    with pytest.raises(ValueError, match="at least 259"):
        train_bpe(["a"], 100)
    with pytest.raises(ValueError, match="yield only"):
        train_bpe(["a b"], 400)


@pytest.mark.parametrize("kind", ["fixed", "pretrained"])
def test_a_backspace_is_printed_and_never_dropped_from_a_text(kind):
    from transformers import PreTrainedTokenizerFast

    tokenizer = bpe()
    if kind == "pretrained":
        fast = PreTrainedTokenizerFast(tokenizer_object=bpe().backend, eos_token="<eos>", bos_token="<bos>")
        tokenizer = PretrainedTokenizer(fast, vocab_size=1088)
    size = tokenizer.vocab_size
    assert tokenizer.token(size) == "<bkspc>"
    for ids in ([5, size], np.array([size, 5])):
        with pytest.raises(ValueError, match=rf"id {size} \(<bkspc>\) has no text: .*replay the edits first"):
            tokenizer.decode(ids)
    for other in (size + 1, -1):
        with pytest.raises(ValueError, match="has no text"):
            tokenizer.decode([other])
        with pytest.raises(ValueError, match="no action"):
            tokenizer.token(other)


def test_any_transformers_tokenizer_serves():
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=bpe().backend, eos_token="<eos>", bos_token="<bos>")
    wrapped = PretrainedTokenizer(fast, vocab_size=1088)
    assert (wrapped.vocab_size, wrapped.eos, wrapped.bos) == (1088, 2, 1)
    text = "Aruba is an island, with 42 beaches."
    assert wrapped.encode(text) == bpe().encode(text)
    assert wrapped.decode([1, *wrapped.encode(text), 2]) == text
    assert wrapped.token(1088) == "<bkspc>"
    assert Article("a", wrapped.token(wrapped.encode("island")[0])).text
    assert wrapped.decode([*wrapped.encode(text), 1087]) == text  # a row of the head without a token
    with pytest.raises(ValueError, match="below the"):
        PretrainedTokenizer(fast, vocab_size=10)
    with pytest.raises(ValueError, match="has no <eos>"):
        PretrainedTokenizer(PreTrainedTokenizerFast(tokenizer_object=bpe().backend))

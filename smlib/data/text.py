"""Articles of prose, split by article, and prompts with continuations from their passages (Sec. 6.2).

By default the Wikipedia articles that the `gensim` package ships with its test data (about 90 long articles
whose titles start with A, CC BY-SA); openwebtext, the paper's corpus, streams through `datasets` where asked
for.
"""

import bz2
import hashlib
import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np

from smlib.data.cutting import Article, Passage
from smlib.data.tokenizers import TextTokenizer
from smlib.data.wikitext import prose
from smlib.edits.actions import Ids

CORPORA = ("wikipedia", "openwebtext")
SPLITS = ("train", "val", "test")
_WIKIPEDIA = "test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


@dataclass(frozen=True)
class Corpus:
    """Articles in three splits; no article is in two of them."""

    name: str
    train: tuple[Article, ...]
    val: tuple[Article, ...]
    test: tuple[Article, ...]


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """Prompts and what people wrote next (App. E).

    Attributes:
        prompts: `<bos>` and `prompt_len` tokens each, int32 [1 + prompt_len].
        continuations: the next `continuation_len` tokens, int32 [continuation_len].
        titles: article of each.
        n_too_short: passages left out because they hold fewer tokens than both.
    """

    prompts: tuple[Ids, ...]
    continuations: tuple[Ids, ...]
    titles: tuple[str, ...]
    n_too_short: int

    def first(self, n: int) -> "EvaluationSet":
        """The first n prompts with their continuations; all of them if there are fewer."""
        return EvaluationSet(self.prompts[:n], self.continuations[:n], self.titles[:n], self.n_too_short)


def load_corpus(
    name: str = "wikipedia",
    *,
    seed: int = 0,
    fractions: tuple[float, float] = (0.08, 0.17),
    n_documents: int = 20_000,
    documents: Iterable[Mapping[str, str]] | None = None,
) -> Corpus:
    """A corpus split by article.

    Articles are put in an order fixed by a hash of (seed, title); the first ones form the test split, the
    next ones the validation split, each up to its share of the characters.

    Args:
        name: one of `CORPORA`.
        fractions: shares of the characters for validation and test.
        n_documents: how many documents to stream; openwebtext only.
        documents: rows with a `text`, instead of the download; openwebtext only.

    Raises:
        ValueError: unknown corpus, impossible fractions, a split left empty.
        ModuleNotFoundError: the package that brings the corpus is missing.
    """
    if name not in CORPORA:
        raise ValueError(f"unknown corpus {name!r}: known are {', '.join(CORPORA)}")
    if min(fractions) <= 0 or sum(fractions) >= 1:
        raise ValueError(
            f"fractions for validation and test must be positive and leave some training text: {fractions}"
        )
    articles = wikipedia_articles() if name == "wikipedia" else tuple(_openwebtext(n_documents, documents))
    ordered = sorted(articles, key=lambda a: hashlib.sha256(f"{seed}/{a.title}".encode()).digest())
    total = sum(len(a.text) for a in ordered)
    test_until, val_until = fractions[1] * total, sum(fractions) * total
    splits: dict[str, list[Article]] = {split: [] for split in SPLITS}
    read = 0
    for article in ordered:
        splits["test" if read < test_until else "val" if read < val_until else "train"].append(article)
        read += len(article.text)
    if not all(splits.values()):
        raise ValueError(f"{len(ordered)} articles are too few for three splits of shares {fractions}")
    return Corpus(name, tuple(splits["train"]), tuple(splits["val"]), tuple(splits["test"]))


@lru_cache(maxsize=1)
def wikipedia_articles(min_chars: int = 1000) -> tuple[Article, ...]:
    """Prose of the Wikipedia articles in gensim's test data; lists and disambiguation pages fall below
    `min_chars`.

    Raises:
        ModuleNotFoundError: gensim is missing, or installed without its test data.
    """
    # Found, not imported: only the file is wanted, not gensim and its own dependencies.
    spec = importlib.util.find_spec("gensim")
    folders = spec.submodule_search_locations if spec is not None else None
    path = Path(folders[0], _WIKIPEDIA) if folders else None
    if path is None or not path.exists():
        raise ModuleNotFoundError(
            "the Wikipedia articles come with gensim's test data: pip install --no-deps 'gensim>=4.4'"
        )
    articles = []
    with bz2.open(path) as dump:
        for title, source in _pages(dump):
            if not re.match(r"\s*#redirect", source, re.I) and len(text := prose(source)) >= min_chars:
                articles.append(Article(title, text))
    return tuple(articles)


def _pages(dump: bz2.BZ2File) -> Iterator[tuple[str, str]]:
    for _, element in ElementTree.iterparse(dump):
        if element.tag.endswith("}page"):
            space = element.tag.removesuffix("page")
            yield element.findtext(f"{space}title") or "", element.findtext(f"{space}revision/{space}text") or ""
            element.clear()


def _openwebtext(n: int, documents: Iterable[Mapping[str, str]] | None) -> Iterator[Article]:
    if documents is None:
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("openwebtext streams through datasets: pip install -e '.[text]'") from error
        documents = datasets.load_dataset("Skylion007/openwebtext", split="train", streaming=True)
    for i, row in enumerate(islice(documents, n)):
        yield Article(f"openwebtext-{i}", row["text"])


def evaluation_set(
    source: Sequence[Passage],
    tokenizer: TextTokenizer,
    n: int,
    *,
    prompt_len: int,
    continuation_len: int,
    seed: int = 0,
) -> EvaluationSet:
    """n prompts of `prompt_len` tokens with the human continuations of `continuation_len` tokens (256 and 256
    in App. E).

    Raises:
        ValueError: fewer than n passages hold prompt and continuation; a length below 1.
    """
    if prompt_len < 1 or continuation_len < 1:
        raise ValueError(f"prompt and continuation need a token each, got lengths {prompt_len} and {continuation_len}")
    need = prompt_len + continuation_len
    enough = [p for p in source if p.ids.size >= need]
    if len(enough) < n:
        raise ValueError(
            f"only {len(enough)} of {len(source)} passages hold {prompt_len} + {continuation_len} tokens, "
            f"{n} asked for: shorten the lengths, lower n, or cut the passages with a smaller stride"
        )
    chosen = [enough[i] for i in np.random.default_rng(seed).permutation(len(enough))[:n]]
    return EvaluationSet(
        prompts=tuple(np.concatenate([[tokenizer.bos], p.ids[:prompt_len]]).astype(np.int32) for p in chosen),
        continuations=tuple(p.ids[prompt_len:need] for p in chosen),
        titles=tuple(p.title for p in chosen),
        n_too_short=len(source) - len(enough),
    )


def prompt_and_answer(passage: Passage, tokenizer: TextTokenizer, prompt_len: int) -> tuple[Ids, Ids]:
    """A passage as root state and correct actions, for `noise.expert_trajectory`.

    A passage that its article continues still gets an `<eos>` here. Cut it one token longer than the context
    that training uses and pass that context as `max_len`: then the last label is the true next token while
    `<eos>` is executed, as Sec. 4.2 says of over-long sequences.

    Returns:
        (`<bos>` and `prompt_len` tokens, the rest and `<eos>`), int32.

    Raises:
        ValueError: the passage is not longer than the prompt.
    """
    if not 0 <= prompt_len < passage.ids.size:
        raise ValueError(
            f"a passage of {passage.ids.size} tokens ({passage.title}) is too short for a prompt of {prompt_len}"
        )
    root = np.concatenate([[tokenizer.bos], passage.ids[:prompt_len]]).astype(np.int32)
    return root, np.concatenate([passage.ids[prompt_len:], [tokenizer.eos]]).astype(np.int32)

"""Documents cut into passages: all of a text for training, or windows that start at sentences for prompts."""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from smlib.data.boundaries import best_cuts, cut_levels, line_ends, sentence_ends
from smlib.data.encoding import encoding, lost_characters
from smlib.data.tokenizers import TextTokenizer, check_tokenizer
from smlib.edits.actions import Ids

RULES = ("covering", "sentences", "ascii")
_ASCII_START = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"”’)]))\s+(?=[\"“‘(]*[A-Z0-9])")


@dataclass(frozen=True)
class Article:
    """One document: paragraphs of prose separated by newlines."""

    title: str
    text: str


@dataclass(frozen=True, eq=False)
class Passage:
    """Consecutive tokens of one article.

    Attributes:
        ids: tokens without `<bos>` and `<eos>`, int32 [n].
        ended: whether the article ends here; otherwise the last token is followed by more text.
        title: the article.
        start: character offset of the passage in the article.
    """

    ids: Ids
    ended: bool
    title: str
    start: int


@dataclass(frozen=True)
class Coverage:
    """How much of some documents their passages hold; `str` of it is a line for a log.

    Attributes:
        documents, passages: how many; blank documents are not counted.
        tokens, kept: of the documents, and of those in passages.
        short: documents of which nothing is kept, being shorter than a passage may be.
        blank: documents without a visible character, left out.
        characters: visible ones of the documents.
        without_token: those of them that the vocabulary has no token for, and how often.
    """

    documents: int
    passages: int
    tokens: int
    kept: int
    short: int = 0
    blank: int = 0
    characters: int = 0
    without_token: Counter[str] = field(default_factory=Counter)

    @property
    def share(self) -> float:
        """Share of the tokens that the passages hold."""
        return self.kept / self.tokens if self.tokens else 0.0

    @property
    def readable(self) -> float:
        """Share of the visible characters that tokens stand for."""
        return 1.0 - self.without_token.total() / self.characters if self.characters else 1.0

    def reasons(self) -> list[str]:
        """What is missing and why, one sentence each; empty where nothing is."""
        told = []
        if self.short:
            told.append(f"{self.short:,} of {self.documents:,} documents are shorter than two tokens")
        if self.without_token:
            shown = ", ".join(f"{c!r} {n:,} times" for c, n in self.without_token.most_common(5))
            more = len(self.without_token) - 5
            told.append(
                f"{self.without_token.total():,} of {self.characters:,} visible characters have no token in this "
                f"vocabulary ({shown}{f' and {more:,} others' if more > 0 else ''})"
            )
        return told

    def __str__(self) -> str:
        line = (
            f"{self.kept:,} of {self.tokens:,} tokens ({100 * self.share:.4g} %) of {self.documents:,} documents are "
            f"in {self.passages:,} passages"
        )
        blank = [f"{self.blank:,} blank documents are left out"] if self.blank else []
        return "; ".join([line, *self.reasons(), *blank])


def cover(
    articles: Sequence[Article], tokenizer: TextTokenizer, length: int, *, min_length: int = 2
) -> tuple[list[Passage], Coverage]:
    """Cuts articles into runs of at most `length` tokens which together are the article's tokens, each once.

    A cut prefers a sentence's end to a line's end, that to any other place between two characters, and a later place to
    an earlier one; it lies in the second half of what a passage may hold. Nothing is left out but articles shorter than
    `min_length` (and, where `length < 2 * min_length - 1`, the end of an article that does not come out even).

    Returns:
        The passages, and how much of the articles they hold.

    Raises:
        ValueError: length or min_length out of range.
    """
    check_tokenizer(tokenizer)
    if not 1 <= min_length <= length:
        raise ValueError(f"expected 1 <= min_length <= length, got {min_length} and {length}")
    found: list[Passage] = []
    tokens = kept = short = characters = 0
    lost: Counter[str] = Counter()
    for article in articles:
        encoded = encoding(tokenizer, article.text)
        spans = encoded.spans or []
        cuts = best_cuts(cut_levels(article.text, spans), length, min_length)
        whole = np.array(encoded.ids, np.int32)
        runs = [(a, b) for a, b in pairwise(cuts) if b - a >= min_length]
        found += [Passage(whole[a:b], b == whole.size, article.title, spans[a][0] if a else 0) for a, b in runs]
        tokens, kept, short = tokens + whole.size, kept + sum(b - a for a, b in runs), short + (not runs)
        characters += sum(not c.isspace() for c in article.text)
        lost += lost_characters(tokenizer, article.text, encoded)
    told = Coverage(len(articles), len(found), tokens, kept, short, 0, characters, lost)
    return found, told


def passages(
    articles: Sequence[Article],
    tokenizer: TextTokenizer,
    length: int,
    *,
    rule: str = "covering",
    stride: int | None = None,
    min_length: int = 2,
    limit: int | None = None,
) -> list[Passage]:
    """Cuts articles into runs of up to `length` tokens.

    Args:
        length: tokens per passage, at most.
        rule: of `RULES`. `covering`: every token of an article is in one passage, see `cover`; for training.
            `sentences`: full windows that start at a sentence, or at a line or anywhere if none starts soon, in any
            script; for prompts. What lies between a window's end and the next start is left out. `ascii`: the same with
            sentences as English writes them, and nothing after the last of them; the committed results were made with
            it.
        stride: tokens from one start to the next sentence that may start another passage; `length` (no
            overlap) if omitted. Not for `covering`.
        min_length: shorter remainders are dropped.
        limit: the first so many passages alone; None for all. `sentences` and `ascii` then stop cutting, `covering`
            cuts everything first.

    Raises:
        TypeError: a tokeniser that is none. ValueError: an unknown rule; length, stride, min_length or limit out of
            range.
    """
    check_tokenizer(tokenizer)
    if rule not in RULES:
        raise ValueError(f"unknown rule {rule!r} for passages: known are {', '.join(RULES)}")
    if limit is not None and limit < 0:
        raise ValueError(f"limit must be 0 or more, or None for all passages, got {limit}")
    if rule == "covering":
        if stride is not None:
            raise ValueError(f"stride={stride}: rule='covering' takes each token once; choose rule='sentences'")
        return cover(articles, tokenizer, length, min_length=min_length)[0][:limit]
    stride = length if stride is None else stride
    if not 1 <= min_length <= length or stride < 1:
        raise ValueError(f"expected 1 <= min_length <= length and stride >= 1, got {min_length}, {length}, {stride}")
    cut: list[Passage] = []
    for article in articles:
        if limit is not None and len(cut) >= limit:
            break
        start, starts = 0, _Starts(article.text, rule)
        while start < len(article.text):
            ids, ended, read = _first_tokens(article.text, start, length, tokenizer)
            if len(ids) >= min_length:
                cut.append(Passage(np.array(ids, np.int32), ended, article.title, start))
            if ended:
                break
            start = starts.after(start, start + len(tokenizer.decode(ids[:stride])), read)
    return cut[:limit]


class _Starts:
    """Where a window may start in a text."""

    def __init__(self, text: str, rule: str) -> None:
        self.end = len(text)
        self.anywhere = rule == "sentences"
        if self.anywhere:
            self.kinds = [sentence_ends(text)[:, 1].tolist(), line_ends(text)[:, 1].tolist()]
        else:
            self.kinds = [[m.end() for m in _ASCII_START.finditer(text)]]

    def after(self, start: int, position: int, width: int) -> int:
        """The next start after `start`, from `position` on; with `sentences` one within `width` characters of it."""
        position = max(position, start + 1)
        for places in self.kinds:
            i = bisect_left(places, position)
            if i < len(places) and (not self.anywhere or places[i] <= position + width):
                return int(places[i])
        return position if self.anywhere else self.end


def _first_tokens(text: str, start: int, length: int, tokenizer: TextTokenizer) -> tuple[list[int], bool, int]:
    """Up to `length` tokens from `start`, whether the text ends with them, and how many characters they are, about."""
    width = 8 * length  # characters; a token of English prose has about four
    while True:
        end = min(start + width, len(text))
        ids = tokenizer.encode(text[start:end])
        if len(ids) > length or end == len(text):
            return ids[:length], end == len(text) and len(ids) <= length, (end - start) * length // max(len(ids), 1)
        width *= 2

"""A text as ids and nothing but text: no control ids, whatever is written in it, and a count of what has no token.

A tokeniser looks for its special tokens in what it is given, so a `<s>` or `<|endoftext|>` in somebody's text would
become the id that ends a document. Here it is spelled out, and decodes to what was written.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from smlib.data.boundaries import Span


class Encoding(NamedTuple):
    """Ids of a text, and where each of them stands in it, if the tokeniser tells."""

    ids: list[int]
    spans: list[Span] | None


@runtime_checkable
class Encodes(Protocol):
    """What is asked of a tokeniser here."""

    def encode(self, text: str) -> list[int]: ...
    def decode(self, ids: Iterable[int | np.integer]) -> str: ...


def spell_out(encode: Callable[[str], Encoding], text: str, control: Mapping[int, str]) -> Encoding:
    """The encoding of a text, in which no string of `control` becomes its id.

    Where one does, the text is encoded in pieces that part after the first character of each such string. A piece is
    read after a digit, which is taken off again: some tokenisers put a space before the first word of what they read.

    Args:
        encode: of the tokeniser. control: strings of the control ids.
    """
    whole = encode(text)
    if control.keys().isdisjoint(whole.ids):
        return whole
    # Where such strings stand as they are, and where a tokeniser that changes letters has found one.
    strings = sorted({s for s in control.values() if len(s) > 1}, key=len, reverse=True)
    parts = {m.start() + 1 for m in re.finditer("|".join(map(re.escape, strings)), text)} if strings else set()
    for i, (begin, end) in zip(whole.ids, whole.spans or (), strict=False):
        visible = begin + len(text[begin:end]) - len(text[begin:end].lstrip())
        if i in control and visible + 1 < end:
            parts.add(visible + 1)
    ids: list[int] = []
    spans: list[Span] | None = []
    for begin, end in pairwise([0, *sorted(parts), len(text)]):
        piece = encode(text[begin:end]) if begin == 0 else _inside(encode, text[begin:end])
        ids += piece.ids
        if piece.spans is None:
            spans = None
        elif spans is not None:
            spans += [(a + begin, b + begin) for a, b in piece.spans]
    return Encoding(ids, spans)


def _inside(encode: Callable[[str], Encoding], piece: str) -> Encoding:
    head, whole = encode("1"), encode("1" + piece)
    n = len(head.ids)
    if whole.ids[:n] != head.ids:
        return encode(piece)
    spans = None if whole.spans is None else [(max(a - 1, 0), max(b - 1, 0)) for a, b in whole.spans[n:]]
    return Encoding(whole.ids[n:], spans)


def encoding(tokenizer: Encodes, text: str) -> Encoding:
    """Ids of a text with their places, which are told by decoding where the tokeniser does not tell them itself."""
    with_spans = getattr(tokenizer, "encode_with_spans", None)
    found: Encoding = with_spans(text) if with_spans is not None else Encoding(tokenizer.encode(text), None)
    return found if found.spans is not None else Encoding(found.ids, _spans_by_decoding(tokenizer, found.ids, text))


def _spans_by_decoding(tokenizer: Encodes, ids: Sequence[int], text: str, block: int = 32) -> list[Span]:
    """Near enough to cut by: what a decoder adds or leaves out shifts all that follows."""
    ends = []
    base = 0
    for begin in range(0, len(ids), block):
        first = max(begin - 1, 0)  # decoders treat the first token of a text otherwise
        shown = len(tokenizer.decode(ids[first:begin]))
        ends += [
            base + len(tokenizer.decode(ids[first : i + 1])) - shown for i in range(begin, min(begin + block, len(ids)))
        ]
        base = ends[-1]
    steady = np.minimum(np.maximum.accumulate([0, *ends]), len(text)).tolist()
    return list(pairwise(steady))


def lost_characters(tokenizer: Encodes, text: str, encoded: Encoding | None = None) -> Counter[str]:
    """Visible characters of a text that no token stands for, or the token for what is unknown alone, and how often.

    Args:
        encoded: what `encoding` gave of this text, if it is at hand.
    """
    ids, spans = encoded or encoding(tokenizer, text)
    unknown = getattr(tokenizer, "unk", None)
    held = np.zeros(len(text) + 1, np.int64)
    for i, (begin, end) in zip(ids, spans or (), strict=False):
        if i != unknown:
            held[begin] += 1
            held[end] -= 1
    bare = Counter(text[i] for i in np.flatnonzero(np.cumsum(held)[:-1] == 0) if not text[i].isspace())
    if not bare or unknown is not None:
        return bare
    # A model without a token for what is unknown leaves such characters out, and the places after one are shifted:
    # then the characters that have no token on their own are the ones.
    alone = {c for c in set(text) if not c.isspace() and not tokenizer.encode(c)}
    return Counter(c for c in text if c in alone) or bare


def continuation(tokenizer: Encodes, before: str, text: str) -> list[int]:
    """Ids of `text` as it stands right after `before`, whose own ids do not change with it.

    The ids of the whole text after those of `before`, if that is where these end. If not (Llama-2's `-4` after a space
    is the space's token twice), the ids of `text` after a digit, and if a digit merges with it too, on its own.
    """
    for head in (before, "1"):
        start, whole = tokenizer.encode(head), tokenizer.encode(head + text)
        if whole[: len(start)] == start:
            return whole[len(start) :]
    return tokenizer.encode(text)

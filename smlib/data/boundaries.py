"""Where a text may be cut: after a sentence, after a line, between two characters; in any script.

A boundary is a zone of the text, from the last mark of what ends to the first letter of what begins: a token may hold
the space between them, may start with it, or may leave it out, and a cut anywhere in the zone is the same cut.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Span = tuple[int, int]
"""Where a token's text starts and ends, in characters."""
Zones = NDArray[np.int64]
"""Starts and ends, [n, 2], in the order of the text."""

INSIDE, CHARACTER, LINE, SENTENCE = range(4)
"""Worth of a cut: inside a character, between two, after a line, after a sentence."""

_OPENERS = r"\"'“”‘’„‚«»‹›(\[{<¿¡—–\-*_"
_CLOSERS = r"\"'”’“»«›)\]}*_"
# A mark that ends sentences where a space follows, and then no small letter: an abbreviation goes on with one. One mark
# and few closers only, so that a line of dots costs no more than its length.
_SPACED = re.compile(rf"[.!?…;\u037e][{_CLOSERS}]{{0,4}}(\s+)(?=[{_OPENERS}]{{0,4}}([^\W_]))")
# Full stops of scripts without capitals: Chinese and Japanese, Arabic, Urdu, Devanagari, Ethiopic, Armenian, Khmer ...
_WIDE = "。！？｡．‼⁇⁈⁉؟۔।॥።፧։។៕᠃߹။"
_WIDE_CLOSERS = _CLOSERS + "」』）】》〉］｝"
_CLOSED = re.compile(rf"[{_WIDE}][{_WIDE_CLOSERS}]{{0,4}}(?![{_WIDE}{_WIDE_CLOSERS}])(\s*)")
_LINES = re.compile(r"[\r\n\x0b\x0c\x85\u2028\u2029]+")


def sentence_ends(text: str) -> Zones:
    """After each sentence: from its last mark to the next sentence's first letter or opening mark.

    A sentence ends with `.`, `!`, `?` or `…` before a space and no small letter (of any alphabet), with `;` before a
    Greek capital, or with a full stop of a script that has no capitals, such as `。`, `؟` and `।`.
    """
    found = [m.span(1) for m in _SPACED.finditer(text) if _starts_one(text[m.start()], m[2])]
    found += [m.span(1) for m in _CLOSED.finditer(text)]
    return _zones(found)


def line_ends(text: str) -> Zones:
    """After each line: the line breaks, without what the next line is indented by."""
    return _zones([m.span() for m in _LINES.finditer(text)])


def _starts_one(mark: str, letter: str) -> bool:
    if letter.islower():
        return False
    return mark not in ";\u037e" or "\u0370" <= letter <= "\u03ff" or "\u1f00" <= letter <= "\u1fff"


def _zones(found: list[Span]) -> Zones:
    return np.array(sorted(found), np.int64).reshape(-1, 2)


def cut_levels(text: str, spans: Sequence[Span]) -> NDArray[np.int8]:
    """What a cut before each token is worth, of `INSIDE`, `CHARACTER`, `LINE`, `SENTENCE`.

    Args:
        text: the text. spans: of its tokens, [n].

    Returns:
        int8 [n]; the first, before the whole text, is worth a sentence's end.
    """
    bounds = np.array(spans, np.int64).reshape(-1, 2)
    levels = np.full(len(bounds), SENTENCE, np.int8)
    if len(bounds) < 2:
        return levels
    # What no token holds, between the end of one and the start of the next: [gap[0], gap[1]], often empty.
    before, after = np.maximum.accumulate(bounds[:, 1])[:-1], bounds[1:, 0]
    levels[1:] = np.where(before <= after, CHARACTER, INSIDE)
    for worth, zones in ((LINE, line_ends(text)), (SENTENCE, sentence_ends(text))):
        if len(zones):
            last = np.searchsorted(zones[:, 0], after, side="right") - 1  # the last zone that starts by then
            meets = (last >= 0) & (before <= zones[np.maximum(last, 0), 1]) & (before <= after)
            levels[1:][meets] = worth
    return levels


def best_cuts(levels: NDArray[np.int8], length: int, min_length: int) -> list[int]:
    """Cuts n tokens into runs of at most `length`: starts of the runs, and n.

    Each cut is the last of the best ones in the second half of what a run may hold. No run is shorter than `min_length`
    where that can be had: for `length >= 2 * min_length - 1` and `n >= min_length`.
    """
    cuts, n = [0], len(levels)
    while n - (start := cuts[-1]) > length:
        until = min(start + length, n - min_length)
        if until - start < min_length:  # nothing fits: the shorter run is the last one
            until = start + length
        least = min(start + min_length, until)
        half = min(max(start + (length + 1) // 2, least), until)
        here = levels[half : until + 1]
        if here.max() == INSIDE:
            half = least
            here = levels[half : until + 1]
        cuts.append(until - int(np.argmax(here[::-1] == here.max())))
    return [*cuts, n] if n else cuts

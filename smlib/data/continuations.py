"""Running text as the data set of Algorithm 1 (Sec. 6.2): the whole text from `<bos>`, rollouts from inside it.

A demonstration starts at `<bos>`, is cut at the context length with its last action executed as `<eos>`, and carries
mistakes at rate eta, tokens drawn from a law over the vocabulary. A rollout starts after a random number of the same
text's tokens, so it is a branch of the text's trie and shares those slots in a packed row (`smlib.edits.packing`). That
prompt's squared rewards are no part of the rollout's loss ("we mask the prompt when calculating the regularization",
App. E); its values are, and make every trajectory start at `<bos>` (`smlib.objectives.losses`).
"""

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from smlib.data.cutting import Article, Coverage, Passage, cover
from smlib.data.tokenizers import TextTokenizer, check_tokenizer
from smlib.edits.actions import ActionSpace, Ids, Trajectory, as_ids
from smlib.edits.noise import NoiseLaw, expert_trajectory

LAWS = ("vocabulary", "unigram")
LOW = 0.9
"""Share of a text below which its loss is a warning."""


class Continuations:
    """Passages of text with demonstrations, noise and prompts for rollouts.

    Args:
        source: passages. Where a passage's text goes on, the label of the last visit is the true next token while
            `<eos>` is executed (Sec. 4.2).
        tokenizer: of the passages.
        context: largest number of tokens of a state, `<bos>` included. The paper: 1,024.
        max_prompt: largest number of tokens of a rollout's prompt after `<bos>`. The paper: 256.
        noise: `vocabulary`, every ordinary token alike; `unigram`, tokens as often as in the passages.

    Raises:
        ValueError: no passages, or one too short for a prompt and a continuation; ids that are none of the tokeniser's,
            or `<eos>` inside a passage; lengths or a noise law out of range.
        TypeError: texts in place of passages; a tokeniser that is none; lengths that are no integers.

    >>> from smlib.data.tokenizers import train_bpe
    >>> text = "A model wrote a word. It saw that the word was wrong. It deleted the word and went on."
    >>> data = Continuations.from_texts([text], train_bpe([text], 270), context=32, max_prompt=8)
    >>> len(data) > 0
    True
    """

    branches = True
    coverage: Coverage | None = None
    """How much of the texts is trained on; of `from_texts`."""

    def __init__(
        self,
        source: Sequence[Passage],
        tokenizer: TextTokenizer,
        *,
        context: int = 1024,
        max_prompt: int = 256,
        noise: str = "vocabulary",
    ) -> None:
        check_tokenizer(tokenizer)
        if not source:
            raise ValueError("there is no text to train on: every document was shorter than two tokens")
        _check_lengths(context=context, max_prompt=max_prompt)
        if context < 3 or not 1 <= max_prompt < context:
            raise ValueError(
                f"expected context >= 3 and 1 <= max_prompt < context, got context={context}, max_prompt={max_prompt}"
            )
        for passage in source:
            _check_passage(passage, tokenizer)
        self._settle(tokenizer, context, max_prompt, token_law(tokenizer, noise, [p.ids for p in source]))
        self.passages: Sequence[Passage] = list(source)

    def _settle(self, tokenizer: TextTokenizer, context: int, max_prompt: int, law: NoiseLaw) -> None:
        """All but the passages."""
        self.tokenizer = tokenizer
        self.space = ActionSpace(tokenizer.vocab_size, eos=tokenizer.eos, bos=tokenizer.bos)
        self.context, self.max_prompt, self.law = context, max_prompt, law
        self._root = np.array([tokenizer.bos], np.int32)
        self._end = np.array([tokenizer.eos], np.int32)

    @property
    def texts(self) -> list[Ids]:
        """Tokens of each passage, int32 [n]."""
        return [p.ids for p in self.passages]

    def check_passage(self, passage: Passage) -> None:
        """Raises ValueError or TypeError for what cannot be learned from, see the class."""
        _check_passage(passage, self.tokenizer)

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], tokenizer: TextTokenizer, *, context: int = 1024, **options: object
    ) -> "Continuations":
        """From documents as strings, cut into passages that hold all of them; options as for the class.

        Every token of a document is the label of one visit. A byte order mark at the start is dropped, and all line
        breaks become `\\n`. Blank documents are left out. `coverage` counts what is trained on; a share below `LOW` is
        a warning.

        Raises:
            TypeError: what the class raises; one string, a path, or no strings, in place of a list of documents.
            ValueError: what the class raises; the name of a file as a document, nothing but blank documents, characters
                that are none.
        """
        check_tokenizer(tokenizer)
        _check_lengths(context=context)
        if isinstance(texts, str | os.PathLike):
            raise TypeError(_no_list(texts))
        if not isinstance(texts, Iterable):
            raise TypeError(f"texts is a {type(texts).__name__}: expected a list of documents as strings")
        documents = [_document(i, text) for i, text in enumerate(texts)]
        written = [d for d in documents if not d.text.isspace() and d.text]
        if documents and not written:
            raise ValueError(
                f"there is no text to train on: all of {len(documents)} documents are empty or blank"
                if len(documents) > 1
                else "there is no text to train on: the document is empty or blank"
            )
        # The context holds <bos> as well, and the last token of a passage is a label alone.
        cut, coverage = cover(written, tokenizer, max(context - 1, 3))
        data = cls(cut, tokenizer, context=context, **options)  # type: ignore[arg-type]
        data.coverage = replace(coverage, blank=len(documents) - len(written))
        if min(coverage.share, coverage.readable) < LOW:
            warnings.warn(f"much of the texts is not trained on: {data.coverage}", stacklevel=2)
        return data

    def __len__(self) -> int:
        return len(self.passages)

    def demonstration(self, index: int, rng: np.random.Generator, eta: float, burst: int) -> Trajectory:
        """The text of passage `index` from `<bos>`, with mistakes of rate eta and their deletions."""
        passage = self.passages[index]
        ids = passage.ids
        cut_short = not passage.ended and ids.size < self.context
        answer = np.concatenate([ids[:-1] if cut_short else ids, self._end])
        made = expert_trajectory(self._root, answer, self.law, eta, rng, self.space, burst=burst, max_len=self.context)
        if cut_short:  # the passage ends and its text does not: <eos> is executed and the next token is right
            made = replace(made, labels=np.where(made.labels == self.space.eos, ids[-1], made.labels))
        return made

    def rollout_prompt(self, index: int, rng: np.random.Generator) -> Ids:
        """`<bos>` and a random number of the passage's first tokens, 1 to `max_prompt`, one at least left over."""
        ids = self.passages[index].ids
        most = min(self.max_prompt, ids.size - 1, self.context - 2)
        return np.concatenate([self._root, ids[: int(rng.integers(1, most + 1))]])

    def reference(self, index: int) -> Ids:
        """Raises ValueError: DAgger's expert and the exact critic need the one right answer, which a text has not."""
        raise ValueError(
            "a prompt of running text has no single right continuation, which DAgger's expert and the exact critic need"
        )

    def noise_law(self, index: int) -> NoiseLaw:
        """The law of the noise tokens, the same for all."""
        return self.law


def _no_list(texts: str | os.PathLike[str]) -> str:
    if isinstance(texts, os.PathLike) or _names_file(texts):
        return (
            f"texts is the path {str(texts)!r}: expected a list of documents as strings, such as "
            f'[Path({str(texts)!r}).read_text(encoding="utf-8")]'
        )
    return "texts is one string, which would be read letter by letter: expected a list of documents, such as [text]"


def _names_file(text: str) -> bool:
    # `os.path` and not `Path`: a text that is too long for a name, or holds a NUL, is none and no error.
    return 0 < len(text) < 1024 and not any(c.isspace() for c in text) and os.path.isfile(text)


def _document(i: int, text: object) -> Article:
    """Document `i` without byte order mark and foreign line breaks."""
    if isinstance(text, os.PathLike) or (isinstance(text, str) and _names_file(text)):
        raise (ValueError if isinstance(text, str) else TypeError)(
            f"document {i} is the path {str(text)!r}: expected the text in it, "
            f'Path({str(text)!r}).read_text(encoding="utf-8")'
        )
    if not isinstance(text, str):
        raise TypeError(f"document {i} is a {type(text).__name__}: expected a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"document {i} holds {text[error.start]!r} at character {error.start}, which is half of a character: read "
            "the file in its own encoding, without errors='surrogateescape'"
        ) from error
    return Article(f"document {i}", text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))


def _check_lengths(**lengths: int) -> None:
    for name, length in lengths.items():
        if not isinstance(length, int | np.integer):
            raise TypeError(f"{name}={length!r}: expected an integer")


def _check_passage(passage: Passage, tokenizer: TextTokenizer) -> None:
    if not isinstance(passage, Passage):
        raise TypeError(
            f"a passage is a {type(passage).__name__}: expected what smlib.data.cutting cuts; texts as they are go to "
            "Continuations.from_texts"
        )
    ids = as_ids(f"the ids of {passage.title}", passage.ids)
    if ids.size and (ids.min() < 0 or ids.max() >= tokenizer.vocab_size):
        worst = int(ids.min() if ids.min() < 0 else ids.max())
        raise ValueError(f"{passage.title} contains id {worst}: the tokeniser has those below {tokenizer.vocab_size}")
    if tokenizer.eos in ids:
        raise ValueError(f"{passage.title} contains <eos> (id {tokenizer.eos}): split it there")
    if passage.ids.size < 2:
        raise ValueError(
            f"a passage of {passage.ids.size} tokens ({passage.title}) is shorter than a prompt of one token and a "
            "continuation of one"
        )


def token_law(tokenizer: TextTokenizer, kind: str, texts: Sequence[Ids] = ()) -> NoiseLaw:
    """A law over ordinary tokens; special ones are never inserted.

    Args:
        kind: `vocabulary` (uniform) or `unigram` (frequencies in `texts`).

    Raises:
        ValueError: an unknown kind; no texts for `unigram`.
    """
    if kind not in LAWS:
        raise ValueError(f"unknown noise law {kind!r}; known: {', '.join(LAWS)}")
    special = tokenizer.special_ids | {tokenizer.eos, tokenizer.bos}
    ordinary = np.array([i for i in range(tokenizer.vocab_size) if i not in special], np.int32)
    if kind == "vocabulary":
        return NoiseLaw.uniform(ordinary)
    counts = np.zeros(tokenizer.vocab_size)
    for ids in texts:
        counts += np.bincount(ids, minlength=tokenizer.vocab_size)
    counts[list(special)] = 0
    if not counts.any():
        raise ValueError("the unigram law needs texts to count tokens in")
    seen = np.flatnonzero(counts)
    return NoiseLaw(seen.astype(np.int32), counts[seen] / counts.sum())


def inner_decoder(tokenizer: TextTokenizer) -> Callable[[list[int]], str]:
    """Decodes a run of tokens from the middle of a text, its first space kept (SentencePiece drops it at the start)."""
    anchor = tokenizer.encode("a")[-1:]
    shown = len(tokenizer.decode(anchor))
    return lambda ids: tokenizer.decode([*anchor, *ids])[shown:]

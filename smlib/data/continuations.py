"""Running text as the data set of Algorithm 1 (Sec. 6.2): the whole text from `<bos>`, rollouts from inside it.

A demonstration starts at `<bos>`, is cut at the context length with its last action executed as `<eos>`, and carries
mistakes at rate eta, tokens drawn from a law over the vocabulary. A rollout starts after a random number of the same
text's tokens, so it is a branch of the text's trie and shares those slots in a packed row (`smlib.edits.packing`). That
prompt's squared rewards are no part of the rollout's loss ("we mask the prompt when calculating the regularization",
App. E); its values are, and make every trajectory start at `<bos>` (`smlib.objectives.losses`).
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from smlib.data.text import Article, Passage, passages
from smlib.data.tokenizers import TextTokenizer, check_tokenizer
from smlib.edits.actions import ActionSpace, Ids, Trajectory, as_ids
from smlib.edits.noise import NoiseLaw, expert_trajectory

LAWS = ("vocabulary", "unigram")


class Continuations:
    """Passages of text with demonstrations, noise and prompts for rollouts.

    Args:
        source: passages, `context` tokens long where their text goes on: then the label of the last visit is the
            true next token while `<eos>` is executed (Sec. 4.2).
        tokenizer: of the passages.
        context: largest number of tokens of a state, `<bos>` included. The paper: 1,024.
        max_prompt: largest number of tokens of a rollout's prompt after `<bos>`. The paper: 256.
        noise: `vocabulary`, every ordinary token alike; `unigram`, tokens as often as in the passages.

    Raises:
        ValueError: no passages, or one too short for a prompt and a continuation; ids that are none of the tokeniser's,
            or `<eos>` inside a passage; lengths or a noise law out of range.
        TypeError: texts in place of passages; a tokeniser that is none; lengths that are no integers.
    """

    branches = True

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
        short = next((p for p in source if p.ids.size < 2), None)
        if short is not None:
            raise ValueError(
                f"a passage of {short.ids.size} tokens ({short.title}) is shorter than a prompt of one token and a "
                "continuation of one"
            )
        self.space = ActionSpace(tokenizer.vocab_size, eos=tokenizer.eos, bos=tokenizer.bos)
        self.context, self.max_prompt = context, max_prompt
        self.texts = [p.ids for p in source]
        self.law = token_law(tokenizer, noise, self.texts)
        self._root = np.array([tokenizer.bos], np.int32)
        self._end = np.array([tokenizer.eos], np.int32)

    @classmethod
    def from_texts(
        cls, texts: Iterable[str], tokenizer: TextTokenizer, *, context: int = 1024, **options: object
    ) -> "Continuations":
        """From documents as strings, cut into passages at sentences; options as for the class.

        Raises:
            TypeError, ValueError: what the class raises; one string, or no strings, in place of a list of them.
        """
        check_tokenizer(tokenizer)
        _check_lengths(context=context)
        if isinstance(texts, str):
            raise TypeError("texts is one string, which would be read letter by letter: expected a list of documents")
        documents = []
        for i, text in enumerate(texts):
            if not isinstance(text, str):
                raise TypeError(f"document {i} is a {type(text).__name__}: expected a string")
            documents.append(Article(f"document {i}", text))
        return cls(passages(documents, tokenizer, context), tokenizer, context=context, **options)  # type: ignore[arg-type]

    def __len__(self) -> int:
        return len(self.texts)

    def demonstration(self, index: int, rng: np.random.Generator, eta: float, burst: int) -> Trajectory:
        """The text of passage `index` from `<bos>`, with mistakes of rate eta and their deletions."""
        answer = np.concatenate([self.texts[index], self._end])
        return expert_trajectory(self._root, answer, self.law, eta, rng, self.space, burst=burst, max_len=self.context)

    def rollout_prompt(self, index: int, rng: np.random.Generator) -> Ids:
        """`<bos>` and a random number of the passage's first tokens, 1 to `max_prompt`, one at least left over."""
        most = min(self.max_prompt, self.texts[index].size - 1, self.context - 2)
        return np.concatenate([self._root, self.texts[index][: int(rng.integers(1, most + 1))]])

    def reference(self, index: int) -> Ids:
        """Raises ValueError: DAgger's edit expert needs the one right answer, which a text does not have."""
        raise ValueError("a prompt of running text has no single right continuation, which DAgger's expert needs")

    def noise_law(self, index: int) -> NoiseLaw:
        """The law of the noise tokens, the same for all."""
        return self.law


def _check_lengths(**lengths: int) -> None:
    for name, length in lengths.items():
        if not isinstance(length, int | np.integer):
            raise TypeError(f"{name}={length!r}: expected an integer")


def _check_passage(passage: Passage, tokenizer: TextTokenizer) -> None:
    if not isinstance(passage, Passage):
        raise TypeError(
            f"a passage is a {type(passage).__name__}: expected what smlib.data.passages cuts; texts as they are go to "
            "Continuations.from_texts"
        )
    ids = as_ids(f"the ids of {passage.title}", passage.ids)
    if ids.size and (ids.min() < 0 or ids.max() >= tokenizer.vocab_size):
        worst = int(ids.min() if ids.min() < 0 else ids.max())
        raise ValueError(f"{passage.title} contains id {worst}: the tokeniser has those below {tokenizer.vocab_size}")
    if tokenizer.eos in ids:
        raise ValueError(f"{passage.title} contains <eos> (id {tokenizer.eos}): split it there")


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

"""Question-answer tasks with noise laws and splits that share no question."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from smlib.data import translation
from smlib.data.encoding import continuation
from smlib.data.mathematics import MATHEMATICS_TASKS, Example, stream
from smlib.data.tokenizers import (
    DIGITS,
    FixedTokenizer,
    TextTokenizer,
    arithmetic_tokenizer,
    check_tokenizer,
    train_bpe,
)
from smlib.edits.actions import ActionSpace, Ids
from smlib.edits.noise import NoiseLaw

TASKS = (*MATHEMATICS_TASKS, "translation", "opus_books")
NOISE_KINDS = ("ground_truth", "random", "none")
ORDERS = ("most_first", "least_first")
"""Of the digits of an answer; the first is the generator's."""
MAX_SIDE_TOKENS = 64  # translation pairs have fewer tokens on both sides (App. G.2)
_BPE_PAIRS = {"translation": 2000, "opus_books": 20_000}  # training pairs that the vocabulary is made from
_BPE_SIZE = {"translation": 1024, "opus_books": 8192}


@dataclass(frozen=True)
class Task:
    """A tokeniser, three splits without a common question, and the noise that goes with them.

    Attributes:
        name, difficulty, seed: what `load_task` was asked for.
        tokenizer: text to ids and back.
        train, val, test: examples; by `Example.meta["key"]` no two of them ask the same question.
    """

    name: str
    difficulty: str
    seed: int
    tokenizer: TextTokenizer
    train: tuple[Example, ...]
    val: tuple[Example, ...]
    test: tuple[Example, ...]
    _laws: dict[tuple[str, int], NoiseLaw] = field(default_factory=dict, repr=False, compare=False)

    @property
    def space(self) -> ActionSpace:
        """The tokeniser's vocabulary and `<bkspc>`."""
        return ActionSpace(self.tokenizer.vocab_size, eos=self.tokenizer.eos, bos=self.tokenizer.bos)

    def prompt_ids(self, example: Example) -> Ids:
        """`<bos>` and the question up to the point where the solution starts, int32 [P]."""
        return np.array([self.tokenizer.bos, *self.tokenizer.encode(self._head(example))], np.int32)

    def answer_ids(self, example: Example) -> Ids:
        """The solution and `<eos>`, int32 [n]."""
        head = self._head(example)
        if isinstance(self.tokenizer, FixedTokenizer):  # an answer's ids do not depend on its place
            tokens = self.tokenizer.encode(example.answer)
        else:
            tokens = continuation(self.tokenizer, head, example.prompt[len(head) :] + example.answer)
        return np.array([*tokens, self.tokenizer.eos], np.int32)

    def _head(self, example: Example) -> str:
        """The prompt; without its last space where a pretrained tokeniser would make it part of the solution's word."""
        if isinstance(self.tokenizer, FixedTokenizer) or self.name in MATHEMATICS_TASKS:
            return example.prompt
        return example.prompt.rstrip()

    def noise(self, kind: str, example: Example) -> NoiseLaw:
        """The noise law of an example (Sec. 6.1).

        Args:
            kind: `ground_truth`: the digits 0..b-1 of the question's base (all ten digits for mul and
                list_prime_factors; translation has no such law); `random`: any token of the vocabulary but
                the specials; `none`.

        Raises:
            ValueError: unknown kind, or ground truth for a task that has none.
        """
        if kind not in NOISE_KINDS:
            raise ValueError(f"unknown noise kind {kind!r}: known are {', '.join(NOISE_KINDS)}")
        base = int(example.meta.get("base", 10)) if kind == "ground_truth" else 0
        if (kind, base) not in self._laws:
            self._laws[kind, base] = self._law(kind, base)
        return self._laws[kind, base]

    def _law(self, kind: str, base: int) -> NoiseLaw:
        if kind == "none":
            return NoiseLaw.none()
        if kind == "random":
            specials = self.tokenizer.special_ids
            return NoiseLaw.uniform([i for i in range(self.tokenizer.vocab_size) if i not in specials])
        if self.name not in MATHEMATICS_TASKS:
            raise ValueError(f"{self.name} has no ground-truth noise (App. G.2 uses random noise): choose 'random'")
        return NoiseLaw.uniform([_digit_id(self.tokenizer, digit) for digit in DIGITS[:base]])

    def is_correct(self, text: str, example: Example) -> bool:
        """Whether a decoded final answer equals the solution, whitespace at the ends aside."""
        return text.strip() == example.answer.strip()

    def keys(self, *splits: str) -> frozenset[str]:
        """Question keys of the named splits (all three by default), for `mathematics.stream(exclude=...)`."""
        names = splits or ("train", "val", "test")
        return frozenset(example.meta["key"] for name in names for example in getattr(self, name))


def _digit_id(tokenizer: TextTokenizer, digit: str) -> int:
    # The last id, since some tokenisers put a space marker before a text's first word.
    last = tokenizer.encode(digit)[-1]
    if tokenizer.decode([last]).strip() != digit:
        raise ValueError(f"this tokeniser has no single token for the digit {digit}: choose 'random' noise (App. E)")
    return last


def load_task(
    name: str = "add_or_sub_in_base",
    *,
    n_train: int = 5000,
    n_val: int = 500,
    n_test: int = 1000,
    difficulty: str = "all",
    seed: int = 0,
    tokenizer: TextTokenizer | None = None,
    rows: Iterable[Mapping[str, Any]] | None = None,
    answer_order: str = "most_first",
) -> Task:
    """A task with splits that share no question.

    The test questions depend on (name, difficulty, seed, n_test) alone, and a larger training set contains a
    smaller one.

    Args:
        name: one of `TASKS`.
        n_train, n_val, n_test: how many questions for training, for validation and for the test.
        difficulty: `easy`, `medium`, `hard` or `all`; opus_books has `all` only.
        tokenizer: of a pretrained model; by default the fixed arithmetic vocabulary, or for translations a
            BPE trained on the first training pairs.
        rows: opus_books only, instead of the download.
        answer_order: `most_first`, or `least_first` for answers of add_or_sub_in_base with their least significant
            digit first (a sign stays in front). The questions are the same.

    Raises:
        ValueError: unknown task, difficulty or order, or an order for another task; a negative size; more questions
            asked for than there are.

    >>> task = load_task("mul", n_train=2, n_val=0, n_test=1, difficulty="easy")
    >>> len(task.train), task.train[0].prompt.endswith("Solution: ")
    (2, True)
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: known are {', '.join(TASKS)}")
    if answer_order not in ORDERS:
        raise ValueError(f"unknown answer_order {answer_order!r}: known are {', '.join(ORDERS)}")
    if answer_order != ORDERS[0] and name != "add_or_sub_in_base":
        raise ValueError(f"answers of {name} have one order: answer_order={answer_order!r} is for add_or_sub_in_base")
    fits: Callable[[Example], bool] | None
    if tokenizer is not None:
        check_tokenizer(tokenizer)
    if name in MATHEMATICS_TASKS:
        tokenizer, fits = tokenizer or arithmetic_tokenizer(), None
        sources = {split: stream(name, difficulty, seed, purpose=split) for split in translation.SPLITS}
    else:
        sources = _translations(name, difficulty, seed, rows)
        if tokenizer is None:
            own = _locale_tokenizer(difficulty, seed) if name == "translation" else None
            # A second set of iterators: nothing is drawn from the one that the training split reads.
            tokenizer = own or _pair_tokenizer(name, _translations(name, difficulty, seed, rows)["train"])
        fits = _Short(tokenizer)
    taken: set[str] = set()
    chosen = {
        split: _distinct(sources[split], size, taken, fits, f"{name} ({difficulty}) {split}")
        for split, size in (("test", n_test), ("val", n_val), ("train", n_train))
    }
    if answer_order != ORDERS[0]:
        chosen = {split: tuple(least_first(e) for e in examples) for split, examples in chosen.items()}
    return Task(name, difficulty, seed, tokenizer, chosen["train"], chosen["val"], chosen["test"])


def least_first(example: Example) -> Example:
    """The same question, its answer from the least significant digit on; twice is the example itself.

    >>> least_first(Example("In base 7, what is 13 - 64? Solution: ", "-51")).answer
    '-15'
    """
    sign = example.answer[: example.answer.startswith("-")]
    return replace(example, answer=sign + example.answer[len(sign) :][::-1])


@dataclass(frozen=True)
class _Short:
    tokenizer: TextTokenizer

    def __call__(self, example: Example) -> bool:
        sides = (example.meta["english"], example.answer)
        return all(len(self.tokenizer.encode(side)) < MAX_SIDE_TOKENS for side in sides)


@lru_cache(maxsize=4)
def _locale_tokenizer(difficulty: str, seed: int) -> FixedTokenizer:
    return _pair_tokenizer("translation", translation.stream("train", difficulty, seed))


def _pair_tokenizer(name: str, training: Iterator[Example]) -> FixedTokenizer:
    texts = [text for e in islice(training, _BPE_PAIRS[name]) for text in (e.prompt, e.answer)]
    return train_bpe(texts, _BPE_SIZE[name])


def _translations(
    name: str, difficulty: str, seed: int, rows: Iterable[Mapping[str, Any]] | None
) -> dict[str, Iterator[Example]]:
    if name == "translation":
        return {split: translation.stream(split, difficulty, seed) for split in translation.SPLITS}
    if difficulty != "all":
        raise ValueError(f"opus_books has no difficulty levels: give 'all', not {difficulty!r}")
    pairs = sorted(translation.opus_books(rows), key=lambda e: translation.digest(f"{seed}/{e.meta['key']}"))
    return {
        split: (e for e in pairs if translation.split_of(f"{seed}/{e.meta['key']}") == split)
        for split in translation.SPLITS
    }


def _distinct(
    source: Iterable[Example], size: int, taken: set[str], fits: Callable[[Example], bool] | None, what: str
) -> tuple[Example, ...]:
    """The first `size` examples of a stream that fit and whose keys are new; adds these to `taken`."""
    if size < 0:
        raise ValueError(f"the size of a split must be at least 0, got {size} for {what}")
    chosen: list[Example] = []
    for draws, example in enumerate(source if size else (), start=1):
        if example.meta["key"] not in taken and (fits is None or fits(example)):
            taken.add(example.meta["key"])
            chosen.append(example)
        if len(chosen) == size or draws > 1000 + 100 * size:
            break
    if len(chosen) < size:
        raise ValueError(f"{what}: only {len(chosen):,} distinct questions to be had, {size:,} asked for")
    return tuple(chosen)

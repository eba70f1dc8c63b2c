"""Question-answer tasks with noise laws and splits that share no question."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from smlib.actions import ActionSpace, Ids
from smlib.data.mathematics import MATHEMATICS_TASKS, Example, stream
from smlib.data.noise import NoiseLaw
from smlib.data.tokenizers import DIGITS, SPECIALS, FixedTokenizer, arithmetic_tokenizer

NOISE_KINDS = ("ground_truth", "random", "none")


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
    tokenizer: FixedTokenizer
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
        return np.array([self.tokenizer.bos, *self.tokenizer.encode(example.prompt)], np.int32)

    def answer_ids(self, example: Example) -> Ids:
        """The solution and `<eos>`, int32 [n]."""
        return np.array([*self.tokenizer.encode(example.answer), self.tokenizer.eos], np.int32)

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
            return NoiseLaw.uniform(np.arange(len(SPECIALS), self.tokenizer.vocab_size))
        if self.name not in MATHEMATICS_TASKS:
            raise ValueError(f"{self.name} has no ground-truth noise (App. G.2 uses random noise): choose 'random'")
        return NoiseLaw.uniform([self.tokenizer.id(d) for d in DIGITS[:base]])

    def is_correct(self, text: str, example: Example) -> bool:
        """Whether a decoded final answer equals the solution, whitespace at the ends aside."""
        return text.strip() == example.answer.strip()

    def keys(self, *splits: str) -> frozenset[str]:
        """Question keys of the named splits (all three by default), for `mathematics.stream(exclude=...)`."""
        names = splits or ("train", "val", "test")
        return frozenset(example.meta["key"] for name in names for example in getattr(self, name))


def load_task(
    name: str = "add_or_sub_in_base",
    *,
    n_train: int = 5000,
    n_val: int = 500,
    n_test: int = 1000,
    difficulty: str = "all",
    seed: int = 0,
) -> Task:
    """A task with splits that share no question.

    The test questions depend on (name, difficulty, seed, n_test) alone, and a larger training set contains a
    smaller one.

    Raises:
        ValueError: unknown task or difficulty; a negative size.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}: known are {', '.join(TASKS)}")
    taken: set[str] = set()
    splits: dict[str, tuple[Example, ...]] = {}
    for split, size in (("test", n_test), ("val", n_val), ("train", n_train)):
        source = stream(name, difficulty, seed, purpose=split)
        splits[split] = _distinct(source, size, taken, f"{name} ({difficulty}) {split}")
    return Task(name, difficulty, seed, arithmetic_tokenizer(), splits["train"], splits["val"], splits["test"])


TASKS = MATHEMATICS_TASKS


def _distinct(source: Iterable[Example], size: int, taken: set[str], what: str) -> tuple[Example, ...]:
    """The first `size` examples of a stream whose keys are new; adds these to `taken`."""
    if size < 0:
        raise ValueError(f"the size of a split must be at least 0, got {size} for {what}")
    chosen: list[Example] = []
    for draws, example in enumerate(source if size else (), start=1):
        if example.meta["key"] not in taken:
            taken.add(example.meta["key"])
            chosen.append(example)
        if len(chosen) == size:
            break
        if draws > 1000 + 100 * size:
            raise ValueError(f"{what}: only {len(chosen):,} distinct questions in {draws:,} draws, {size:,} asked for")
    return tuple(chosen)

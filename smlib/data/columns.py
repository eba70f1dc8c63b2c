"""Data sets by their columns, in the conventions of TRL, as the data set of Algorithm 1.

| columns | what is learned |
|---|---|
| `text` | running text from `<bos>`; rollouts start inside it |
| `prompt`, `completion` | the completion; strings, or lists of messages |
| `messages` | every turn of the assistant, by the tokeniser's chat template |
| `prompt`, `actions` | a demonstration with its own `<bkspc>`: an edit log, a self-correction; strings or ids |

Mistakes and deletions are added to the first three (Sec. 4.2) and are in the last. Other columns are left alone.
"""

import difflib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from smlib.data.continuations import Continuations, token_law
from smlib.data.cutting import Article, Passage, cover
from smlib.data.examples import Example, Reader
from smlib.data.rows import Row, Rows, Stream, rows_of
from smlib.data.tokenizers import TextTokenizer
from smlib.edits.actions import Ids, Trajectory
from smlib.edits.noise import NoiseLaw, expert_trajectory

FORMS = {
    "actions": ("prompt", "actions"),
    "completion": ("prompt", "completion"),
    "messages": ("messages",),
    "text": ("text",),
}
KNOWN = "text; prompt, completion; messages; prompt, actions"


def form_of(columns: Sequence[str]) -> str:
    """Which of `FORMS` the columns are; raises ValueError, naming those found and those known, for none or several."""
    fits = [name for name, needed in FORMS.items() if set(needed) <= set(columns)]
    if not fits:
        wanted = sorted({name for needed in FORMS.values() for name in needed} - set(columns))
        near = {c: close[0] for c in columns if (close := difflib.get_close_matches(c, wanted, 1, 0.7))}
        cure = near or {columns[0]: "text"} if columns else {}
        raise ValueError(
            f"the data set has the columns {', '.join(columns)}: expected one of these sets: {KNOWN}. Rename or add "
            f"what lacks, as by dataset.rename_columns({cure})"
        )
    if len(fits) > 1:
        raise ValueError(
            f"the columns {', '.join(columns)} fit {' and '.join(fits)}: leave those of one, as by "
            f"dataset.select_columns({list(FORMS[fits[0]])})"
        )
    return fits[0]


def from_columns(
    source: Any,
    tokenizer: TextTokenizer,
    *,
    max_length: int,
    max_prompt_length: int | None = None,
    noise: str = "vocabulary",
    backspace: str = "<bkspc>",
    mistakes: str = "noise",
    clean: bool = False,
    eta: float | None = None,
    chat_template: str | None = None,
    places: int | None = None,
    keep: int = 4_096,
) -> "Texts | Prompted":
    """A data set of Algorithm 1 from rows with known columns.

    Args:
        source: what `smlib.data.rows.rows_of` takes. Without a length it is a stream, whose examples are taken as they
            come.
        max_length, max_prompt_length: tokens of a state, and of its prompt (half of that when omitted).
        noise: law of the mistakes' tokens, see `smlib.data.continuations.token_law`.
        backspace, mistakes, clean: of demonstrations with their own `<bkspc>`, see `smlib.data.examples.Reader`.
        eta: noise level that was asked for; one above 0 is refused where demonstrations have mistakes of their own.
        chat_template: a Jinja file, for a tokeniser without one.
        places: how many examples a stream is asked for at most. keep: how many it remembers.

    Raises:
        ValueError: unknown columns; empty completions; no chat template; a stream without `places`; lengths out of
            range. What `rows_of` says.
    """
    rows = rows_of(source)
    form = form_of(rows.columns)
    prompt = max(1, max_length // 2) if max_prompt_length is None else max_prompt_length
    if max_length < 3 or not 1 <= prompt < max_length - 1:
        raise ValueError(
            f"expected max_length >= 3 and 1 <= max_prompt_length < max_length - 1, got {max_length} and {prompt}"
        )
    if chat_template is not None:
        _give_template(tokenizer, chat_template)
    if rows.number is None and places is None:
        raise ValueError(f"{rows.name} has no length, so an epoch has none either: set max_steps")
    if rows.number is None and noise == "unigram":
        raise ValueError("noise='unigram' counts the tokens of all the data, and a stream is never seen whole: "
                         "choose noise='vocabulary'")  # fmt: skip
    if form == "text":
        return Texts(rows, tokenizer, max_length, prompt, noise, places, keep)
    if form == "actions" and eta:
        raise ValueError(
            f"eta={eta:g}, and the demonstrations have mistakes of their own, in the column actions: leave eta out"
        )
    reader = Reader(tokenizer, max_length, prompt, backspace, mistakes, clean)
    return Prompted(rows, form, reader, noise, places, keep)


class Prompted:
    """Prompts with answers, or with demonstrations that have their own `<bkspc>`.

    Attributes:
        eta: the noise level that the data decide on: 0 where mistakes are in them, else None.
        in_order: whether it is a stream.
        examples: by place. cut: examples, of those seen, that did not fit, and how many tokens they lost.
    """

    branches = False

    def __init__(self, rows: Rows, form: str, reader: Reader, noise: str, places: int | None, keep: int) -> None:
        self.reader, self.space = reader, reader.space
        self.eta = 0.0 if form == "actions" else None
        self.in_order = rows.number is None
        self.cut, self.lost = 0, 0
        read, told = getattr(reader, form), False

        def begin() -> Iterator[Example]:
            nonlocal told
            for number, row in enumerate(rows.begin()):
                if missing := [name for name in FORMS[form] if name not in row]:
                    raise ValueError(
                        f"row {number} has the columns {', '.join(row)}, and no {missing[0]}: every row needs "
                        f"{', '.join(FORMS[form])}"
                    )
                if form == "completion" and not told and reader.backspace in str(row["completion"]):
                    told = True  # of the first such row, not of thousands
                    warnings.warn(
                        f"row {number}, and maybe more: column completion has {reader.backspace} in it, which is read "
                        "as these characters. A demonstration with deletions of its own belongs in a column actions",
                        stacklevel=2,
                    )
                yield from read(row, number)

        self.examples: Sequence[Example]
        if self.in_order:
            assert places is not None
            self.examples = Stream(lambda: map(self._counted, begin()), places, keep)
            self.law = token_law(reader.tokenizer, noise)
        else:
            self.examples = [self._counted(example, quiet=True) for example in begin()]
            self.law = token_law(reader.tokenizer, noise, [e.answer for e in self.examples])
            if self.cut:
                self._say(f"{self.cut} of {len(self.examples)} examples are")

    def _counted(self, example: Example, quiet: bool = False) -> Example:
        if example.cut:
            self.cut, self.lost = self.cut + 1, self.lost + example.cut
            if not quiet and self.cut == 1:
                self._say("an example of the stream, and maybe more, is")
        return example

    def _say(self, what: str) -> None:
        warnings.warn(
            f"{what} longer than max_length={self.reader.max_length} tokens, or have prompts longer than "
            f"max_prompt_length={self.reader.max_prompt}: {self.lost} tokens so far are cut off, of prompts the first, "
            "of answers the last (executed as <eos>, label kept)",
            stacklevel=2,
        )

    def __len__(self) -> int:
        return len(self.examples)

    def demonstration(self, index: int, rng: np.random.Generator, eta: float, burst: int) -> Trajectory:
        """The data's own demonstration, or the answer with mistakes of rate eta and their deletions."""
        example = self.examples[index]
        if example.demonstration is not None:
            return example.demonstration
        return expert_trajectory(
            example.prompt, example.answer, self.law, eta, rng, self.space, burst=burst, max_len=self.reader.max_length
        )

    def rollout_prompt(self, index: int, rng: np.random.Generator) -> Ids:
        """The prompt."""
        return self.examples[index].prompt

    def reference(self, index: int) -> Ids:
        """The answer, `<eos>` last; of a demonstration what it leaves standing."""
        return self.examples[index].answer

    def noise_law(self, index: int) -> NoiseLaw:
        """The law of the noise tokens, the same for all."""
        return self.law


class Texts(Continuations):
    """Running text by rows, streaming or not: `Continuations` over the passages of each."""

    eta: float | None = None

    def __init__(
        self, rows: Rows, tokenizer: TextTokenizer, context: int, max_prompt: int, noise: str, places: int | None,
        keep: int,
    ) -> None:  # fmt: skip
        self.in_order = rows.number is None

        def cut(row: Row, number: int) -> list[Passage]:
            text = row.get("text")
            if not isinstance(text, str) or not text.strip():
                raise ValueError(
                    f"row {number}, column text is {'empty' if isinstance(text, str) else 'no string'} ({text!r}): "
                    "leave such rows out, as by dataset.filter(lambda row: row['text'].strip())"
                )
            # The context holds <bos> as well, and the last token of a passage is a label alone.
            found, _ = cover([Article(f"row {number}", text)], tokenizer, max(context - 1, 3))
            if not found:
                raise ValueError(
                    f"row {number}, column text has one token ({text!r}): a prompt and one more are needed"
                )
            return found

        if self.in_order:
            assert places is not None
            self._settle(tokenizer, context, max_prompt, token_law(tokenizer, noise))

            def begin() -> Iterator[Passage]:
                for number, row in enumerate(rows.begin()):
                    for passage in cut(row, number):
                        self.check_passage(passage)
                        yield passage

            self.passages = Stream(begin, places, keep)
            return
        by_row = [cut(row, number) for number, row in enumerate(rows.begin())]
        super().__init__(
            [p for row in by_row for p in row], tokenizer, context=context, max_prompt=max_prompt, noise=noise
        )
        long = [row for row in by_row if len(row) > 1 or not row[-1].ended]
        if long:
            warnings.warn(
                f"{len(long)} of {len(by_row)} texts are longer than max_length={context} tokens: they are cut into "
                f"{sum(map(len, long))} passages, which together hold all of them",
                stacklevel=3,
            )


def _give_template(tokenizer: TextTokenizer, path: str) -> None:
    backend = getattr(tokenizer, "backend", None)
    if not hasattr(backend, "apply_chat_template"):
        raise ValueError(f"chat_template_path={path!r}: a {type(tokenizer).__name__} takes no chat template")
    try:
        with open(path, encoding="utf-8") as file:
            backend.chat_template = file.read()  # type: ignore[union-attr]
    except OSError as error:
        raise ValueError(f"chat_template_path={path!r} cannot be read: {error.strerror}; name a Jinja file") from error

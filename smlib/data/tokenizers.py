"""Tokenisers with one interface: a fixed arithmetic vocabulary, laid out like Llama-2's.

Llama-2 is the model of the paper (Sec. 6). Three of its properties matter for the experiments and are kept:

* every digit is a token of its own (so 'ground-truth' noise is one token, App. E);
* words carry their leading space, so decoding is concatenation;
* 256 byte tokens `<0x00>` ... `<0xFF>` stand in for whatever the vocabulary lacks. They also make a token
  drawn at random from the vocabulary ('random noise', Sec. 6.1) unlike a digit: 10 of 305 tokens are
  digits.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

SPECIALS = ("<pad>", "<bos>", "<eos>")
BKSPC_TEXT = "<bkspc>"
DIGITS = tuple("0123456789")
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
# Words of the templates of add_or_sub_in_base, mul and list_prime_factors, as they occur: at the start or
# after a space.
_WORDS = (
    "In", " base", " what", " is", " Solution",
    "Calculate", "Work", " out", "Multiply", " and", "Product", "What", " the", " product", " of", " times",
    " are", "List", " prime", " factors",
)  # fmt: skip
_SYMBOLS = (" ", "-", "+", "*", ".", ",", "?", ":")
# The fixed runs of those templates, as the merges of a BPE over this corpus would join them: a third fewer
# prompt tokens.
_PHRASES = ("In base ", ", what is ", "? Solution: ", ". Solution: ", " Solution: ", " + ", " - ", " * ")


@runtime_checkable
class TextTokenizer(Protocol):
    """What the library asks of a tokeniser; ids of `<bkspc>` are no business of it (see `smlib.edits.actions`)."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def bos(self) -> int: ...
    @property
    def eos(self) -> int: ...
    @property
    def pad(self) -> int: ...
    @property
    def special_ids(self) -> frozenset[int]: ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, specials not added."""
        ...

    def decode(self, ids: Iterable[int | np.integer]) -> str:
        """Text of ids, specials left out; raises ValueError for `<bkspc>`, which edits a text and is not in it."""
        ...

    def token(self, action: int) -> str:
        """Printed form of one action, `<bkspc>` included, for tables of edits."""
        ...


def check_tokenizer(tokenizer: object) -> None:
    """Raises TypeError for anything else than a `TextTokenizer`; one of transformers has to be wrapped first."""
    needed = ("vocab_size", "bos", "eos", "special_ids", "encode", "decode")
    missing = [name for name in needed if not hasattr(tokenizer, name)]
    if missing:
        raise TypeError(
            f"the tokeniser is a {type(tokenizer).__name__} without {', '.join(missing)}: expected the one that "
            "load_policy returns, or PretrainedTokenizer(tokenizer) around one of transformers"
        )


def _tokens(ids: Iterable[int | np.integer], vocab_size: int) -> list[int]:
    """The ids, if each is a token's; ValueError otherwise: a text without the edits made on it would be another one."""
    kept = [int(i) for i in ids]
    bad = next((i for i in kept if not 0 <= i < vocab_size), None)
    if bad is not None:
        name = f" ({BKSPC_TEXT})" if bad == vocab_size else ""
        raise ValueError(
            f"id {bad}{name} has no text: expected 0 <= id < {vocab_size}; replay the edits first (final_state of "
            "smlib.edits.actions), or print them one by one (token)"
        )
    return kept


def _action(action: int, vocab_size: int) -> int:
    if not 0 <= action <= vocab_size:
        raise ValueError(f"id {action} is no action: expected 0 <= id <= {vocab_size}")
    return int(action)


class FixedTokenizer:
    """A `tokenizers.Tokenizer` whose first ids are `<pad>`, `<bos>`, `<eos>`.

    No text encodes to a special token: a literal `<eos>` in a text is spelled out in ordinary tokens.
    """

    def __init__(self, backend: Tokenizer, *, byte_level: bool = False) -> None:
        for expected, special in enumerate(SPECIALS):
            if backend.token_to_id(special) != expected:
                raise ValueError(f"token {special} must have id {expected}, got {backend.token_to_id(special)}")
        self.backend, self.byte_level = backend, byte_level
        self.pad, self.bos, self.eos = range(3)
        self.vocab_size: int = backend.get_vocab_size()
        self.special_ids = frozenset(range(len(SPECIALS)))

    def encode(self, text: str) -> list[int]:
        """Ids of a text, specials not added."""
        return list(self.backend.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        return [list(e.ids) for e in self.backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int | np.integer]) -> str:
        """Text of ids, specials left out.

        Raises:
            ValueError: an id outside the vocabulary, such as `<bkspc>`, which has no text.
        """
        kept = [i for i in _tokens(ids, self.vocab_size) if i >= len(SPECIALS)]
        return str(self.backend.decode(kept, skip_special_tokens=False))

    def token(self, action: int) -> str:
        """Printed form of one action, `<bkspc>` included, for tables of edits; ValueError for what is no action."""
        if action == self.vocab_size:
            return BKSPC_TEXT
        text = self.backend.id_to_token(_action(action, self.vocab_size))
        if self.byte_level and action >= len(SPECIALS):  # the vocabulary spells bytes in stand-in letters
            shown = str(self.backend.decode([int(action)]))
            return str(text) if "\ufffd" in shown else shown
        return str(text)

    def save(self, path: Path) -> None:
        """Writes the tokeniser as one json file."""
        state = {"byte_level": self.byte_level, "backend": json.loads(self.backend.to_str())}
        beside = path.with_name(path.name + ".part")
        beside.write_text(json.dumps(state), encoding="utf-8")
        os.replace(beside, path)

    @classmethod
    def load(cls, path: Path) -> "FixedTokenizer":
        """Reads what `save` wrote.

        Raises:
            ValueError: some other file.
        """
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            return cls(Tokenizer.from_str(json.dumps(state["backend"])), byte_level=bool(state["byte_level"]))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no tokeniser saved by FixedTokenizer.save: {error}") from error

    def id(self, token: str) -> int:
        """Id of a token by its printed form.

        Raises:
            KeyError: no such token.
        """
        found = self.backend.token_to_id(token)
        if found is None:
            raise KeyError(f"no token {token!r} in this vocabulary of {self.vocab_size}")
        return int(found)


@lru_cache(maxsize=1)
def arithmetic_tokenizer() -> FixedTokenizer:
    """The vocabulary of the three mathematics tasks: specials, 256 bytes, ten digits, symbols, words, phrases."""
    tokens = (*SPECIALS, *_BYTES, *DIGITS, *_SYMBOLS, *_WORDS, *_PHRASES)
    # BPE without merges, in which whole pre-tokens are looked up first: a word list with byte fallback.
    model = models.BPE(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[], byte_fallback=True, ignore_merges=True
    )
    backend = Tokenizer(model)
    # A pre-token: a phrase of the templates, a word with the space before it, or any single character.
    phrases = "|".join(re.escape(phrase) for phrase in _PHRASES)
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(phrases + r"| ?[A-Za-z]+|[\s\S]"), behavior="isolated")
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return FixedTokenizer(backend)


def train_bpe(texts: Iterable[str], vocab_size: int) -> FixedTokenizer:
    """A byte-level BPE trained on some texts: every text round-trips, every digit is one token.

    The same texts in the same order give the same vocabulary.

    Args:
        texts: training texts only; the tokeniser must not see held-out ones.
        vocab_size: tokens in all, at least the 3 specials and the 256 bytes.

    Raises:
        ValueError: a vocabulary too small for the bytes, or too large for the texts.
    """
    least = len(SPECIALS) + 256
    if vocab_size < least:
        raise ValueError(f"vocab_size must be at least {least} (specials and bytes), got {vocab_size}")
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    if backend.get_vocab_size() != vocab_size:
        raise ValueError(f"these texts yield only {backend.get_vocab_size()} tokens, {vocab_size} asked for")
    # Training registers the specials as strings to be found in texts. They are ids here and nothing else.
    state = json.loads(backend.to_str())
    state["added_tokens"] = []
    return FixedTokenizer(Tokenizer.from_str(json.dumps(state)), byte_level=True)


def continuation(tokenizer: TextTokenizer, before: str, text: str) -> list[int]:
    """Ids of `text` as it stands right after `before`, whose own ids do not change with it.

    The ids of the whole text after those of `before`, if that is where these end. If not (Llama-2's `-4` after a space
    is the space's token twice), the ids of `text` after a digit, and if a digit merges with it too, on its own.
    """
    for head in (before, "1"):
        start, whole = tokenizer.encode(head), tokenizer.encode(head + text)
        if whole[: len(start)] == start:
            return whole[len(start) :]
    return tokenizer.encode(text)


class PretrainedTokenizer:
    """A transformers tokeniser behind the same interface.

    Args:
        tokenizer: any `PreTrainedTokenizerBase`.
        vocab_size: rows of the model's output head, where these exceed the tokeniser's length.

    Raises:
        ValueError: no `<eos>`, without which no trajectory ends; a vocabulary smaller than the tokeniser's.
    """

    def __init__(self, tokenizer: Any, vocab_size: int | None = None) -> None:
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"the tokeniser of {name!r} has no <eos>: set tokenizer.eos_token to an existing token first"
            )
        if vocab_size is not None and vocab_size < len(tokenizer):
            raise ValueError(f"vocab_size {vocab_size} is below the {len(tokenizer)} tokens of {name!r}")
        self.backend = tokenizer
        self.vocab_size = int(vocab_size or len(tokenizer))
        self.eos = int(tokenizer.eos_token_id)
        # Models without <bos>, such as Qwen2, begin documents after <eos>.
        self.bos = int(self.eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id)
        self.pad = int(self.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
        # Rows of the output head beyond the tokeniser stand for no text either.
        self.special_ids = frozenset({*tokenizer.all_special_ids, *range(len(tokenizer), self.vocab_size)})

    def encode(self, text: str) -> list[int]:
        """Ids of a text, specials not added."""
        return list(self.backend(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, ids: Iterable[int | np.integer]) -> str:
        """Text of ids; specials, and rows of the head beyond the tokeniser, are left out.

        Raises:
            ValueError: an id outside the vocabulary, such as `<bkspc>`, which has no text.
        """
        kept = _tokens(ids, self.vocab_size)
        return str(self.backend.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token(self, action: int) -> str:
        """Printed form of one action, `<bkspc>` included; ValueError for what is no action."""
        if action == self.vocab_size:
            return BKSPC_TEXT
        shown = _action(action, self.vocab_size)
        return str(self.backend.decode([shown], clean_up_tokenization_spaces=False))

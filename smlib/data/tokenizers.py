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

from smlib.data.encoding import Encoding, spell_out
from smlib.data.printing import BKSPC_TEXT, action_id, token_ids, token_text

SPECIALS = ("<pad>", "<bos>", "<eos>")
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
            f"load_policy returns, or PretrainedTokenizer(tokenizer) around one of transformers{_wrap_first(tokenizer)}"
        )


def _wrap_first(tokenizer: object) -> str:
    """What to call first around a `tokenizers.Tokenizer`, which does not know its special tokens."""
    if not isinstance(tokenizer, Tokenizer):
        return ""
    return ", here transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=...)"


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
        used = set(backend.get_vocab().values())
        self.vocab_size: int = max(used) + 1
        # Numbers that no token has stand for no text either.
        self.special_ids = frozenset({*range(len(SPECIALS)), *(set(range(self.vocab_size)) - used)})
        self._control = dict(enumerate(SPECIALS))
        backend.encode_special_tokens = True  # as text, where they are registered as strings to be found

    def encode(self, text: str) -> list[int]:
        """Ids of a text, specials not added, and none for what is written like them."""
        ids = list(self.backend.encode(text, add_special_tokens=False).ids)
        return ids if self._control.keys().isdisjoint(ids) else self.encode_with_spans(text).ids

    def encode_with_spans(self, text: str) -> Encoding:
        """The same with the place of each id in the text."""
        return spell_out(self._raw, text, self._control)

    def _raw(self, text: str) -> Encoding:
        found = self.backend.encode(text, add_special_tokens=False)
        return Encoding(list(found.ids), list(found.offsets))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of many texts."""
        found = self.backend.encode_batch(list(texts), add_special_tokens=False)
        whole = (list(e.ids) for e in found)
        return [
            ids if self._control.keys().isdisjoint(ids) else self.encode(text)
            for text, ids in zip(texts, whole, strict=True)
        ]

    def decode(self, ids: Iterable[int | np.integer]) -> str:
        """Text of ids, specials left out.

        Raises:
            ValueError: an id outside the vocabulary, such as `<bkspc>`, which has no text.
        """
        kept = [i for i in token_ids(ids, self.vocab_size) if i >= len(SPECIALS)]
        return str(self.backend.decode(kept, skip_special_tokens=False))

    def token(self, action: int) -> str:
        """Printed form of one action, `<bkspc>` included, for tables of edits; ValueError for what is no action."""
        if action == self.vocab_size:
            return BKSPC_TEXT
        text = self.backend.id_to_token(action_id(action, self.vocab_size))
        if self.byte_level and action >= len(SPECIALS):  # the vocabulary spells bytes in stand-in letters
            shown = str(self.backend.decode([int(action)]))
            return token_text(str(text) if "\ufffd" in shown else shown)
        return token_text(f"<unused {action}>" if text is None else str(text))

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
        except OSError:
            raise
        except Exception as error:  # what the package tokenizers raises is no more than that
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


class PretrainedTokenizer:
    """A transformers tokeniser behind the same interface.

    A special token that is written in a text is encoded as the text that it is.

    Args:
        tokenizer: any `PreTrainedTokenizerBase`.
        vocab_size: rows of the model's output head, where these exceed the tokeniser's largest id.

    Raises:
        TypeError: something else than a tokeniser of transformers.
        ValueError: no `<eos>`, without which no trajectory ends; a vocabulary smaller than the tokeniser's.
    """

    def __init__(self, tokenizer: Any, vocab_size: int | None = None) -> None:
        if not hasattr(tokenizer, "eos_token_id"):
            raise TypeError(
                f"PretrainedTokenizer wraps a tokeniser of transformers, not a {type(tokenizer).__name__}"
                f"{_wrap_first(tokenizer)}"
            )
        name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        if tokenizer.eos_token_id is None:
            raise ValueError(
                f"the tokeniser of {name!r} has no <eos>: set tokenizer.eos_token to an existing token first"
            )
        used = set(tokenizer.get_vocab().values())  # fewer than the largest of them, where a vocabulary has holes
        if vocab_size is not None and vocab_size <= max(used):
            last = tokenizer.convert_ids_to_tokens(max(used))
            raise ValueError(
                f"vocab_size {vocab_size} is below the {max(used) + 1} ids of {name!r}, the last of them {last!r}: the "
                "model's head has no row for it. Give the tokeniser that the model was trained with, or add rows by "
                f"model.resize_token_embeddings({max(used) + 1}) and save the model again"
            )
        self.backend = tokenizer
        self.vocab_size = int(vocab_size or max(used) + 1)
        self.eos = int(tokenizer.eos_token_id)
        # Models without <bos>, such as Qwen2, begin documents after <eos>.
        self.bos = int(self.eos if tokenizer.bos_token_id is None else tokenizer.bos_token_id)
        self.pad = int(self.eos if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
        named = dict(zip(tokenizer.all_special_ids, map(str, tokenizer.all_special_tokens), strict=True))
        # Numbers that no token has, and rows of the output head beyond the tokeniser, stand for no text either. Control
        # tokens that the tokeniser does not name stay in: the noise law of the committed results draws them.
        self.special_ids = frozenset({*named, *(set(range(self.vocab_size)) - used)})
        unknown = tokenizer.unk_token_id
        self.unk = None if unknown in (None, self.eos, self.bos) else int(unknown)
        registered = {i: t.content for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._control = {i: content for i, content in {**registered, **named}.items() if i != self.unk}

    def encode(self, text: str) -> list[int]:
        """Ids of a text, specials not added, and none for what is written like them."""
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        ids = list(self.backend(text, **options)["input_ids"])
        return ids if self._control.keys().isdisjoint(ids) else self.encode_with_spans(text).ids

    def encode_with_spans(self, text: str) -> Encoding:
        """The same with the place of each id in the text; without places from a tokeniser that does not tell them."""
        return spell_out(self._raw, text, self._control)

    def _raw(self, text: str) -> Encoding:
        told = bool(self.backend.is_fast)
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        found = self.backend(text, return_offsets_mapping=told, **options)
        return Encoding(list(found["input_ids"]), list(found["offset_mapping"]) if told else None)

    def decode(self, ids: Iterable[int | np.integer]) -> str:
        """Text of ids; specials, and rows of the head beyond the tokeniser, are left out.

        Raises:
            ValueError: an id outside the vocabulary, such as `<bkspc>`, which has no text.
        """
        kept = token_ids(ids, self.vocab_size)
        return str(self.backend.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def token(self, action: int) -> str:
        """Printed form of one action, `<bkspc>` included; ValueError for what is no action."""
        if action == self.vocab_size:
            return BKSPC_TEXT
        shown = action_id(action, self.vocab_size)
        return token_text(str(self.backend.decode([shown], clean_up_tokenization_spaces=False)))

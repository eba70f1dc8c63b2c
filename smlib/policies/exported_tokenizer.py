"""A tokeniser of transformers that knows `<bkspc>`, at the id that the policy gives it; and back.

The action `<bkspc>` has the id after the last row of the head, and heads are often larger than vocabularies. The ids
between are filled with special tokens, `<|unused_43|>` and so on, so that no id changes.
"""

import copy
import json
from collections.abc import Mapping
from typing import Any

from smlib.data.tokenizers import BKSPC_TEXT, FixedTokenizer, PretrainedTokenizer, TextTokenizer

MARK = "bkspc_token_id"  # in tokenizer_config.json


def with_bkspc(tokenizer: TextTokenizer, vocab_size: int, name: str = BKSPC_TEXT) -> Any:
    """A tokeniser of transformers with the same ids, and `name` at `vocab_size`; pads on the left, as generation needs.

    Raises:
        ValueError: a token of that name is there already, a tokeniser that is none of `smlib.data.tokenizers` or not
            of the `tokenizers` library, a gap in its ids that cannot be filled.
    """
    from transformers import AddedToken, PreTrainedTokenizerFast

    if isinstance(tokenizer, FixedTokenizer):
        backend = PreTrainedTokenizerFast(
            tokenizer_object=copy.deepcopy(tokenizer.backend),
            bos_token="<bos>",
            eos_token="<eos>",
            pad_token="<pad>",
            split_special_tokens=True,  # a literal <eos> in a text is spelt out, as it is in smlib
        )
    elif isinstance(tokenizer, PretrainedTokenizer):
        backend = copy.deepcopy(tokenizer.backend)
    else:
        raise ValueError(f"a {type(tokenizer).__name__} cannot be exported: expected one of smlib.data.tokenizers")
    if getattr(backend, "backend_tokenizer", None) is None:
        raise ValueError(
            f"the tokeniser is a {type(backend).__name__}, which is not of the `tokenizers` library and has no place "
            "for an id of one's choice: load a fast tokeniser instead"
        )
    known = backend.get_vocab()
    if not name or name in known:
        at = f" (id {known[name]})" if name in known else ""
        raise ValueError(
            f"the tokeniser has a token {name!r} already{at}: choose another name for the deletion, "
            "for instance --bkspc-token '<|bkspc|>' (in Python bkspc='<|bkspc|>')"
        )
    if backend.pad_token is None:
        backend.pad_token = backend.eos_token
    backend.padding_side = backend.init_kwargs["padding_side"] = "left"
    for leftover in ("local_files_only", "is_local"):  # of how it was loaded here; transformers would save them
        backend.init_kwargs.pop(leftover, None)
    present = set(known.values())
    wanted = {_unused(i): i for i in range(vocab_size) if i not in present} | {name: vocab_size}
    inner = {token: i for token, i in wanted.items() if i < max(present)}
    if inner:
        _fill(backend, inner)
    backend.add_tokens([AddedToken(t, special=True, normalized=False) for t in wanted], special_tokens=True)
    found = {token: backend.convert_tokens_to_ids(token) for token in wanted}
    if found != wanted or len(backend) != vocab_size + 1:
        wrong = next(((t, i) for t, i in found.items() if i != wanted[t]), (name, len(backend)))
        raise ValueError(
            f"the ids of this {type(backend).__name__} have gaps that cannot be filled: {wrong[0]!r} got {wrong[1]}, "
            f"and {vocab_size} is the id of the action"
        )
    backend.init_kwargs[MARK] = vocab_size  # is saved, and tells `without_bkspc` what was added
    return backend


def without_bkspc(backend: Any) -> Any:
    """The tokeniser as it was before `with_bkspc`; any other as it is."""
    bkspc = backend.init_kwargs.get(MARK)
    if bkspc is None:
        return backend
    from tokenizers import Tokenizer

    def added(token: str, i: int) -> bool:
        return i == bkspc or token == _unused(i)

    state = json.loads(backend.backend_tokenizer.to_str())
    state["added_tokens"] = [t for t in state["added_tokens"] if not added(t["content"], t["id"])]
    vocabulary = state["model"].get("vocab")
    if isinstance(vocabulary, Mapping):
        state["model"]["vocab"] = {token: i for token, i in vocabulary.items() if not added(token, i)}
    backend = copy.deepcopy(backend)
    backend._tokenizer = Tokenizer.from_str(json.dumps(state))
    del backend.init_kwargs[MARK]
    return backend


def _unused(i: int) -> str:
    return f"<|unused_{i}|>"


def _fill(backend: Any, tokens: Mapping[str, int]) -> None:
    """Puts tokens into gaps inside the vocabulary, where added tokens cannot go."""
    from tokenizers import Tokenizer

    state = json.loads(backend.backend_tokenizer.to_str())
    vocabulary = state["model"].get("vocab")
    if isinstance(vocabulary, Mapping):
        state["model"]["vocab"] = {**vocabulary, **tokens}
        backend._tokenizer = Tokenizer.from_str(json.dumps(state))

"""What of an action can be printed: a token's text, and `<bkspc>`, which no text is taken for."""

from collections.abc import Iterable

import numpy as np

BKSPC_TEXT = "<bkspc>"


def token_ids(ids: Iterable[int | np.integer], vocab_size: int) -> list[int]:
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


def action_id(action: int, vocab_size: int) -> int:
    """The id, if it is a token's or that of `<bkspc>`; ValueError otherwise."""
    if not 0 <= action <= vocab_size:
        raise ValueError(f"id {action} is no action: expected 0 <= id <= {vocab_size}")
    return int(action)


def token_text(text: str) -> str:
    r"""A token of the vocabulary that is written like the action is shown as `\<bkspc>`."""
    return "\\" + text if text.lstrip("\\") == BKSPC_TEXT else text

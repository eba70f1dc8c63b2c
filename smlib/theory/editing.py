"""App. D.5 counted: what an edit costs an autoregressive model that keeps its hidden states.

To act in s' the model needs the hidden state of every prefix of s'. Those of the longest common prefix of s and s' are
kept, and so is the output at its end; each further token of s' is one forward pass of one token. So

    passes(s -> s') = |s'| - |lcp(s, s')|:    append 1, backspace-n 0, replace the last n tokens by m others m.

The paper counts a backspace as a pass and concludes that appending and deleting are the only actions of one pass. With
the last hidden states kept a backspace is free, and its own argument admits a third kind: delete n, then append one
("if |s'| = i, then this only requires one pass").
"""

from collections.abc import Sequence
from dataclasses import dataclass


def common_prefix(before: Sequence[int], after: Sequence[int]) -> int:
    """Length of the longest common prefix."""
    length = 0
    for a, b in zip(before, after, strict=False):
        if a != b:
            break
        length += 1
    return length


def passes(before: Sequence[int], after: Sequence[int]) -> int:
    """Single-token forward passes that the edit needs."""
    return len(after) - common_prefix(before, after)


def kind(before: Sequence[int], after: Sequence[int]) -> str:
    """'append', 'backspace', 'replace' (delete some, append one), 'none', or 'general'."""
    kept, new = common_prefix(before, after), passes(before, after)
    deleted = len(before) - kept
    if new == 0:
        return "backspace" if deleted else "none"
    if new == 1:
        return "replace" if deleted else "append"
    return "general"


@dataclass(frozen=True)
class Cost:
    """Sizes of a decoder-only transformer, enough to count its multiplications."""

    name: str
    parameters: float  # without the input embedding
    layers: int
    width: int

    def token_flops(self, context: int) -> float:
        """One token with `context` tokens behind it: 2 per parameter, and 4 width per layer and attended position."""
        return 2.0 * self.parameters + 4.0 * self.layers * self.width * (context + 1)

    def edit_flops(self, before: Sequence[int], after: Sequence[int]) -> float:
        """FLOPs of the edit: one token after another from the common prefix on."""
        start = common_prefix(before, after)
        return sum(self.token_flops(position) for position in range(start, len(after)))


LLAMA_2_7B = Cost("Llama-2-7b", 6.61e9, 32, 4096)

"""Whether a state's numbers depend on what else is in the batch, and up to which context they do not.

Some models choose the frequencies of their rotary positions by the largest position of the whole call (LongRoPE of
Phi-3-128k, Phi-3.5, Phi-4-mini): a short state beside a long one gets other logits than by itself, and greedy answers
change with the batch. What is tested is that property itself, and not a list of names: one row stays the same while the
positions of its neighbour move. The neighbour is short, so that a position of 100,000 costs no more than one of 10.
"""

from typing import Any

import torch
from torch import Tensor

from smlib.policies.decoder import bare, decoder, evaluated, last_hidden

TOKENS = 8  # of either row
ROUNDINGS = 4  # in units of the last place: experts add up in another order when their load changes


def independent_context(lm: Any, context: int | None, width: int = TOKENS) -> int | None:
    """The largest context, at most `context`, in which a state is the same whatever stands in the other row.

    Args:
        width: tokens of either row; the second row's end at the last position of the context.

    Raises:
        ValueError: even neighbours as short as the state change it; positions below `context` that cannot be read.
    """
    if context is None:
        return None
    width = min(width, context)
    with evaluated(lm):
        alone = _observe(lm, width, width)
        try:
            if _same(_observe(lm, width, context), alone):
                return context
        except (IndexError, RuntimeError) as error:
            raise ValueError(
                f"{type(bare(lm)).__name__} cannot read position {context - 1} of the context of {context} tokens that "
                f"its configuration names: {error}"
            ) from error
        good, bad = width, context
        if not _same(_observe(lm, width, width), alone):
            raise ValueError(f"{type(bare(lm)).__name__} gives other numbers when the same states are read again")
        while bad - good > 1:
            middle = (good + bad) // 2
            if _same(_observe(lm, width, middle), alone):
                good = middle
            else:
                bad = middle
    return good


def _observe(lm: Any, width: int, end: int) -> list[Tensor]:
    """Hidden vectors of row 0, whose neighbour ends at position end - 1, and the buffers that this call leaves."""
    embeddings = lm.get_input_embeddings().weight
    body, device = decoder(lm), embeddings.device
    tokens = (torch.arange(width, device=device) % min(len(embeddings), 64)).expand(2, width)
    places = torch.stack([torch.arange(width, device=device), torch.arange(end - width, end, device=device)])
    mask = torch.ones(width, width, dtype=torch.bool, device=device).tril().expand(2, 1, width, width)
    hidden = last_hidden(body, tokens, places, mask)[0]
    buffers = body.named_buffers() if isinstance(body, torch.nn.Module) else ()
    return [hidden, *(b.clone() for _, b in buffers if b.is_floating_point() and b.numel() < 65_536)]


def _same(found: list[Tensor], expected: list[Tensor]) -> bool:
    (hidden, *buffers), (reference, *before) = found, expected
    gap = float((hidden.double() - reference.double()).abs().max())
    if not gap <= ROUNDINGS * torch.finfo(hidden.dtype).eps * float(reference.abs().max()):
        return False
    return len(buffers) == len(before) and all(torch.equal(a, b) for a, b in zip(buffers, before, strict=True))

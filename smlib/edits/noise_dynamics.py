"""The noisy dynamics of Sec. 4.2 at sampling time: with probability eta a chosen insertion is executed as
another token."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smlib.edits.actions import ActionSpace


@runtime_checkable
class TokenLaw(Protocol):
    """A law of noise tokens, as in `smlib.edits.noise.NoiseLaw`: token ids `[m]` and their probabilities
    `[m]`."""

    @property
    def tokens(self) -> NDArray[np.integer]: ...

    @property
    def probs(self) -> NDArray[np.floating]: ...


class ExecutionNoise:
    """Replaces chosen insertions, `<eos>` included as in the data, by tokens of each sequence's noise law.

    Two uniforms per action (whether, which) come from a second stream of the sequence's seed, so that noise
    of rate 0 leaves the samples as they are and a sample does not depend on its batch.

    Args:
        rate: probability of an event.
        burst: number of successive actions that one event replaces, the first of them an insertion.
        limit: largest number of actions.
    """

    def __init__(self, rate: float, burst: int, limit: int, seeds: Sequence[int], laws: Sequence[TokenLaw]) -> None:
        if any(len(law.tokens) == 0 for law in laws):
            raise ValueError("execution noise needs noise laws with at least one token")
        self.rate, self.burst, self.laws = rate, burst, laws
        keys = [np.array([seed, 1], dtype=np.uint64) for seed in seeds]
        self.uniforms = np.stack([np.random.Generator(np.random.Philox(key=key)).random((limit, 2)) for key in keys])
        self.left = np.zeros(len(seeds), dtype=np.int64)  # actions that a running burst still replaces

    def replace(
        self, executed: NDArray[np.int64], acting: NDArray[np.int64], count: NDArray[np.int64], space: ActionSpace
    ) -> int:
        """Overwrites entries of `executed`, the actions numbered `count` of sequences `acting`; returns how many."""
        whether, which = self.uniforms[acting, count].T
        starts = (executed != space.bkspc) & (self.left[acting] == 0) & (whether < self.rate)
        self.left[acting[starts]] = self.burst
        hit = np.flatnonzero(self.left[acting] > 0)
        for row in hit.tolist():
            law = self.laws[acting[row]]
            cumulative = np.cumsum(law.probs)
            index = np.searchsorted(cumulative, which[row] * cumulative[-1], side="right")
            executed[row] = law.tokens[min(int(index), len(law.tokens) - 1)]
        self.left[acting[hit]] -= 1
        return hit.size


def dense_laws(laws: Sequence[TokenLaw], n_actions: int, device: torch.device) -> Callable[[NDArray[np.int64]], Tensor]:
    """A function from sequence numbers to their laws as rows, float64 `[n, n_actions]`; equal laws share a row."""
    distinct = list({id(law): law for law in laws}.values())
    row_of = {id(law): row for row, law in enumerate(distinct)}
    rows = np.array([row_of[id(law)] for law in laws])
    table = np.zeros((len(distinct), n_actions))
    for row, law in enumerate(distinct):
        table[row, law.tokens] = law.probs
    dense = torch.from_numpy(table).to(device)
    return lambda sequences: dense[torch.from_numpy(rows[sequences]).to(device)]

"""What a data set is to Algorithm 1."""

from typing import Protocol, runtime_checkable

import numpy as np

from smlib.edits.actions import Ids, Trajectory
from smlib.edits.noise import NoiseLaw


@runtime_checkable
class Dataset(Protocol):
    """What Algorithm 1 asks of a data set D.

    Attributes:
        branches: whether rollouts start inside a demonstration (running text), not where it starts.

    A data set that is read from a stream says so by an attribute `in_order`, True: its examples are then taken as they
    come, and its far end is never asked for before its time.
    """

    branches: bool

    def __len__(self) -> int: ...

    def demonstration(self, index: int, rng: np.random.Generator, eta: float, burst: int) -> Trajectory:
        """An expert trajectory of example `index`, with noise of level eta (Sec. 4.2)."""
        ...

    def rollout_prompt(self, index: int, rng: np.random.Generator) -> Ids:
        """Where a rollout of the example starts."""
        ...

    def reference(self, index: int) -> Ids:
        """The answer after that prompt, `<eos>` last; what DAgger's edit expert steers to."""
        ...

    def noise_law(self, index: int) -> NoiseLaw:
        """The law of the example's noise tokens."""
        ...


def some(data: Dataset) -> list[int]:
    """Up to 1,024 of the examples, the first and the last among them, evenly apart; of a stream, the first."""
    if getattr(data, "in_order", False):
        return list(range(min(len(data), 1_024)))
    return np.unique(np.linspace(0, len(data) - 1, 1_024).astype(int)).tolist()

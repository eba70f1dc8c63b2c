"""The edit MDP of Sec. 3.1 written out: every string up to a length over a small vocabulary, each an explicit state.

Decision states are the strings without `<eos>`; every string s also has a terminal twin, s followed by `<eos>`, with
the single action "stay". Actions are the k tokens, then `<eos>` (id k), then `<bkspc>` (id k + 1) if the MDP has it, as
in `smlib.edits.actions`. At the length limit a token is executed as `<eos>` (Sec. 4.2). Execution noise replaces a
chosen insertion (a token or `<eos>`) with probability epsilon by a token of a noise law; `<bkspc>` is always executed.

States are sorted by length, so children follow their parents and everything is vectorised level by level.
"""

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EditMDP:
    """All strings of at most `max_len` of the `tokens` tokens.

    Attributes:
        tokens: number of tokens k, `<eos>` not counted.
        max_len: longest string.
        backspace: whether `<bkspc>` is an action.
        noise: epsilon, the probability that a chosen insertion is replaced.
        noise_law: probabilities [k] of the replacement token; uniform when omitted.
    """

    tokens: int
    max_len: int
    backspace: bool = True
    noise: float = 0.0
    noise_law: tuple[float, ...] | None = None
    strings: tuple[tuple[int, ...], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.max_len < 1:
            raise ValueError(f"need tokens >= 1 and max_len >= 1, got {self.tokens} and {self.max_len}")
        if not 0.0 <= self.noise < 1.0:
            raise ValueError(f"the execution noise must lie in [0, 1), got {self.noise}")
        if self.noise_law is not None:
            law = np.asarray(self.noise_law)
            if law.shape != (self.tokens,) or law.min() < 0.0 or not np.isclose(law.sum(), 1.0):
                raise ValueError(f"noise_law must be {self.tokens} probabilities, got {self.noise_law}")
        levels = (product(range(self.tokens), repeat=length) for length in range(self.max_len + 1))
        object.__setattr__(self, "strings", tuple(string for level in levels for string in level))

    @property
    def n_strings(self) -> int:
        """Number of decision states S; there are as many terminal ones."""
        return len(self.strings)

    @property
    def n_actions(self) -> int:
        """A: tokens, `<eos>`, and `<bkspc>` if allowed."""
        return self.tokens + 1 + self.backspace

    @property
    def eos(self) -> int:
        """Action id of `<eos>`."""
        return self.tokens

    @property
    def bkspc(self) -> int:
        """Action id of `<bkspc>`; an error where the MDP has none."""
        if not self.backspace:
            raise ValueError("this MDP has no <bkspc>: build it with backspace=True")
        return self.tokens + 1

    @cached_property
    def index(self) -> dict[tuple[int, ...], int]:
        """String to state id."""
        return {string: i for i, string in enumerate(self.strings)}

    @cached_property
    def depth(self) -> Index:
        """Length of each string [S]."""
        return np.array([len(string) for string in self.strings])

    @cached_property
    def parent(self) -> Index:
        """State after `<bkspc>` [S]; the root is its own parent."""
        return np.array([self.index[string[:-1]] for string in self.strings])

    @cached_property
    def next_state(self) -> Index:
        """Successor of each executed action [S, A]; ids S..2S-1 are the terminal twins."""
        successor = np.empty((self.n_strings, self.n_actions), dtype=np.int64)
        for i, string in enumerate(self.strings):
            for token in range(self.tokens):
                full = len(string) == self.max_len
                successor[i, token] = i + self.n_strings if full else self.index[(*string, token)]
            successor[i, self.eos] = i + self.n_strings
            if self.backspace:
                successor[i, self.bkspc] = self.parent[i]
        return successor

    @cached_property
    def levels(self) -> list[slice]:
        """State ids of each length: contiguous, because strings are sorted by length."""
        edges = np.searchsorted(self.depth, np.arange(self.max_len + 2))
        return [slice(int(a), int(b)) for a, b in pairwise(edges)]

    def execution(self, noise: float | None = None) -> Array:
        """Probability [A, A] that chosen action a is executed as action b, at this or the given noise level."""
        epsilon = self.noise if noise is None else noise
        law = np.full(self.tokens, 1.0 / self.tokens) if self.noise_law is None else np.asarray(self.noise_law)
        matrix = np.eye(self.n_actions)
        matrix[: self.eos + 1] *= 1.0 - epsilon
        matrix[: self.eos + 1, : self.tokens] += epsilon * law
        return matrix

    def transition(self, noise: float | None = None) -> sparse.csr_array:
        """P(s'|s, a) as a sparse matrix [S A, 2 S], rows ordered by state, then action."""
        executed = self.execution(noise)
        chosen, realised = np.nonzero(executed)
        states = np.arange(self.n_strings)
        rows = (states[:, None] * self.n_actions + chosen).ravel()
        columns = self.next_state[:, realised].ravel()
        values = np.tile(executed[chosen, realised], self.n_strings)
        shape = (self.n_strings * self.n_actions, 2 * self.n_strings)
        return sparse.csr_array(sparse.coo_array((values, (rows, columns)), shape=shape))

    def policy_transition(self, policy: Array, noise: float | None = None) -> sparse.csr_array:
        """P_pi(s'|s) [S, 2 S] of a policy [S, A]."""
        realised = policy @ self.execution(noise)
        rows = np.repeat(np.arange(self.n_strings), self.n_actions)
        entries = (realised.ravel(), (rows, self.next_state.ravel()))
        shape = (self.n_strings, 2 * self.n_strings)
        return sparse.csr_array(sparse.coo_array(entries, shape=shape))

    def show(self, state: int, alphabet: str = "abcdefghijklmnopqrstuvwxyz") -> str:
        """A state as text: 'ab' for a string, 'ab.' for its terminal twin, 'ε' for the empty one."""
        string = "".join(alphabet[token] for token in self.strings[state % self.n_strings]) or "ε"
        return string + ("." if state >= self.n_strings else "")

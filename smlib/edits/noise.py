"""Noise demonstrations of Sec. 4.2: the environment inserts a wrong token, the expert deletes it.

The chosen action stays as the *label*, the inserted token is what was *realised*; `smlib.edits.actions` keeps the
two apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smlib.edits.actions import ActionSpace, Ids, Trajectory, as_ids


@dataclass(frozen=True, eq=False)
class NoiseLaw:
    """Distribution u(d) of the token that the environment inserts instead of the chosen one.

    Attributes:
        tokens: distinct token ids, int32 [K]; empty for the law of no noise.
        probs: their probabilities, float64 [K], summing to 1.

    >>> digits = NoiseLaw.uniform([3, 4, 5, 6])
    >>> digits.prob(4)
    0.25
    """

    tokens: Ids
    probs: NDArray[np.float64]

    def __post_init__(self) -> None:
        tokens, probs = as_ids("the tokens of a noise law", self.tokens), np.asarray(self.probs, np.float64)
        if tokens.shape != probs.shape:
            raise ValueError(f"tokens {tokens.shape} and probs {probs.shape} must be two vectors of one length")
        if np.unique(tokens).size != tokens.size:
            raise ValueError("the tokens of a noise law must be distinct")
        if tokens.size and (tokens.min() < 0 or probs.min() < 0 or abs(probs.sum() - 1) > 1e-9):
            raise ValueError(f"a noise law needs ids >= 0 and probabilities >= 0 that sum to 1, got {probs.sum()}")
        for array in (tokens, probs):
            array.setflags(write=False)
        object.__setattr__(self, "tokens", tokens)
        object.__setattr__(self, "probs", probs)
        object.__setattr__(self, "_cumulative", np.cumsum(probs))
        object.__setattr__(self, "_by_token", dict(zip(tokens.tolist(), probs.tolist(), strict=True)))

    @classmethod
    def uniform(cls, tokens: Sequence[int] | NDArray[np.integer]) -> "NoiseLaw":
        """The uniform law over some tokens."""
        ids = np.array(as_ids("the tokens of a noise law", tokens))
        return cls(ids, np.full(ids.size, 1 / max(ids.size, 1)))

    @classmethod
    def none(cls) -> "NoiseLaw":
        """The law of no noise: only η = 0 goes with it."""
        return cls.uniform([])

    def prob(self, token: int) -> float:
        """u(token), zero outside the law's tokens."""
        return self._by_token.get(int(token), 0.0)  # type: ignore[attr-defined]

    @property
    def largest(self) -> int:
        """The largest token id, -1 for the law of no noise."""
        return max(self._by_token, default=-1)  # type: ignore[attr-defined]

    def sample(self, rng: np.random.Generator, n: int) -> Ids:
        """n independent tokens, int32 [n]; one uniform each.

        Raises:
            ValueError: the law of no noise is asked for a token.
        """
        if self.tokens.size == 0:
            raise ValueError("this noise law has no tokens: use η = 0, or a law such as NoiseLaw.uniform(digits)")
        cumulative: NDArray[np.float64] = self._cumulative  # type: ignore[attr-defined]
        index = np.searchsorted(cumulative, rng.random(n) * cumulative[-1], side="right")
        return self.tokens[np.minimum(index, self.tokens.size - 1)]


def expert_trajectory(
    prompt: Sequence[int] | Ids,
    answer: Sequence[int] | Ids,
    law: NoiseLaw,
    eta: float,
    rng: np.random.Generator,
    space: ActionSpace,
    *,
    burst: int = 1,
    repeats: bool = True,
    exclude_correct: bool = False,
    max_len: int | None = None,
) -> Trajectory:
    """An answer with injected mistakes and their deletions (Sec. 4.2).

    At a visit whose correct next action is x (each token of the answer, `<eos>` included) the environment
    replaces x with probability η by a token d ~ law: label x, realised d. The state s+d is then left by
    `<bkspc>`, chosen and executed, and s is visited again. With `burst` = k the mistake is k tokens deep: at
    the noisy states before the last one the label is `<bkspc>` already while the environment executes the
    next noise token; k deletions follow.

    Args:
        prompt: root state, tokens [P].
        answer: correct actions, ending in `<eos>`, [n].
        law: where noise tokens come from; must not contain `<eos>`.
        eta: noise level η in [0, 1]; below 1 when noise may repeat.
        rng: one geometric (or uniform, without repeats) per answer token is drawn first, then one uniform per
            noise token.
        space: the action space.
        burst: depth k of each mistake.
        repeats: whether noise may strike again when s is revisited (the paper does not say). The number of
            mistakes at s is then geometric with mean η/(1-η), otherwise Bernoulli(η).
        exclude_correct: condition the first noise token on d != x. The paper draws from the whole set, x
            included; such a 'mistake' is deleted like any other.
        max_len: context length, prompt included; the action that would exceed it is executed as `<eos>`,
            label kept.

    Raises:
        ValueError: η outside [0, 1], or 1 with repeats; ids that are no integers; an answer that is empty or
            does not end in its only `<eos>`; a law with `<eos>` or ids outside the vocabulary, or with no token
            other than x where x is excluded; burst < 1.

    >>> space = ActionSpace(vocab_size=10, eos=0)
    >>> rng = np.random.default_rng(2)
    >>> noisy = expert_trajectory([1], [5, 6, space.eos], NoiseLaw.uniform([7, 8]), 0.3, rng, space)
    >>> noisy.labels.tolist(), noisy.realised.tolist()  # <eos> was chosen, 7 put in its place; 10 is <bkspc>
    ([5, 6, 0, 10, 0], [5, 6, 7, 10, 0])
    """
    root, target = as_ids("the prompt", prompt), as_ids("the answer", answer)
    _check(root, target, law, eta, space, burst, repeats)
    n = target.size
    if eta == 0:
        strikes = np.zeros(n, np.int64)
    elif repeats:
        strikes = rng.geometric(1 - eta, n) - 1
    else:
        strikes = (rng.random(n) < eta).astype(np.int64)
    total = int(strikes.sum())
    if total == 0:
        return _finish(root, target, target, n, space, max_len)
    noise = law.sample(rng, total * burst).reshape(total, burst)
    struck = np.repeat(target, strikes)  # x of each strike, [total]
    if exclude_correct:
        noise[:, 0] = _resample_wrong(noise[:, 0], struck, law, rng)

    # Every strike occupies 2k visits (k insertions, k deletions) before the visit at which x goes through.
    width = 2 * burst
    ends = np.cumsum(width * strikes + 1) - 1  # visit at which target[i] is executed
    labels = np.full(ends[-1] + 1, space.bkspc, np.int32)
    first = np.delete(np.arange(labels.size), ends)[::width]  # first visit of each strike
    labels[ends] = target
    labels[first] = struck
    realised = labels.copy()
    realised[first[:, None] + np.arange(burst)] = noise
    return _finish(root, labels, realised, n + burst, space, max_len)


def _finish(root: Ids, labels: Ids, realised: Ids, deepest: int, space: ActionSpace, max_len: int | None) -> Trajectory:
    # What was built here is valid already; Trajectory.make's checks would cost more than the construction.
    if max_len is None or root.size + deepest <= max_len:
        return Trajectory(root, labels, realised)
    return Trajectory.make(root, labels, realised, space=space, max_len=max_len)


def _check(root: Ids, answer: Ids, law: NoiseLaw, eta: float, space: ActionSpace, burst: int, repeats: bool) -> None:
    if not 0 <= eta <= 1:
        raise ValueError(f"the noise level η must lie in [0, 1], got {eta}")
    if eta == 1 and repeats:
        raise ValueError("η = 1 with repeats never reaches the answer: choose η < 1 or repeats=False")
    if burst < 1:
        raise ValueError(f"burst is the number of noise tokens in a row, at least 1, got {burst}")
    ids = answer.tolist()
    if not _ends_once(ids, space.eos):
        raise ValueError(f"the answer must end in its only <eos> (id {space.eos}), got {ids}")
    if root.size == 0 or min(ids) < 0 or max(ids) >= space.vocab_size:
        raise ValueError(
            f"the prompt must not be empty and ids lie in 0..{space.vocab_size - 1}, "
            f"got {root.size} prompt tokens and the answer {ids}"
        )
    if law.largest >= space.vocab_size or law.prob(space.eos) > 0:
        raise ValueError(f"a noise law holds tokens other than <eos>, with ids below {space.vocab_size}")


def _ends_once(ids: list[int], eos: int) -> bool:
    return bool(ids) and ids[-1] == eos and ids.count(eos) == 1


def _resample_wrong(noise: Ids, correct: Ids, law: NoiseLaw, rng: np.random.Generator) -> Ids:
    """Draws again wherever noise equals the correct token: the law conditioned on d != x."""
    if any(law.prob(int(x)) > 1 - 1e-12 for x in np.unique(correct)):
        raise ValueError("the noise law has no token other than the correct one: nothing is left when that is excluded")
    noise = noise.copy()
    while (same := noise == correct).any():
        noise[same] = law.sample(rng, int(same.sum()))
    return noise


def edit_expert_label(suffix: Sequence[int] | Ids, reference: Sequence[int] | Ids, space: ActionSpace) -> int:
    """The edit expert at one state: `<bkspc>` while off the reference, else the reference's next token.

    Args:
        suffix: tokens of the state after the prompt, `<eos>` not among them.
        reference: correct answer, ending in `<eos>`.
    """
    d = len(suffix)
    on = d < len(reference) and all(int(a) == int(b) for a, b in zip(suffix, reference[:d], strict=True))
    return int(reference[d]) if on else space.bkspc


def edit_expert_labels(trajectory: Trajectory, reference: Sequence[int] | Ids, space: ActionSpace) -> Ids:
    """`edit_expert_label` at every visit of a rollout, int32 [N]: the labels of DAgger (Ross et al. 2011).

    Args:
        trajectory: a rollout; its realised actions decide which states are visited.
        reference: correct answer, ending in `<eos>`.

    Raises:
        ValueError: a reference that does not end in its only `<eos>`.
    """
    target = [int(t) for t in reference]
    if not _ends_once(target, space.eos):
        raise ValueError(f"the reference must end in its only <eos> (id {space.eos}), got {target}")
    labels = np.empty(len(trajectory), np.int32)
    depth = matched = 0  # tokens after the prompt, and how many of the first ones agree with the reference
    for i, action in enumerate(trajectory.realised.tolist()):
        labels[i] = target[depth] if depth == matched else space.bkspc
        if action == space.bkspc:
            depth = max(depth - 1, 0)
            matched = min(matched, depth)
        else:
            # A state on the reference is never terminal, so depth < len(target) where this is read.
            matched += depth == matched and action == target[depth]
            depth += 1
    return labels

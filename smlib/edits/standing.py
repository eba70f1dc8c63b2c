"""Mistakes that stay: the demonstrations of masked-error fine-tuning, which teach a model to go on after a mistake."""

import numpy as np

from smlib.edits.actions import Trajectory
from smlib.edits.noise import NoiseLaw


def standing_mistakes(
    clean: Trajectory, law: NoiseLaw, eta: float, rng: np.random.Generator, *, burst: int = 1
) -> Trajectory:
    """A demonstration some of whose tokens are replaced and not deleted: label x, realised d, and the text goes on.

    The tokens that follow are those of the clean demonstration, so the text that stands at the end is wrong: this shows
    a model mistakes in its context, and no way back. `<eos>` is never replaced.

    Args:
        clean: a demonstration without `<bkspc>`.
        law: where the tokens come from; one that draws x itself makes no mistake.
        eta: probability that a mistake begins at a token. rng: one uniform a token, then one token of the law each.
        burst: tokens in a row that a mistake replaces.

    Raises:
        ValueError: eta outside [0, 1], or burst < 1; what `NoiseLaw.sample` says.

    >>> from smlib.edits.actions import ActionSpace
    >>> clean = Trajectory.make([1], [5, 6, 7, 0], space=ActionSpace(vocab_size=10, eos=0))
    >>> noisy = standing_mistakes(clean, NoiseLaw.uniform([3, 4]), 0.5, np.random.default_rng(1))
    >>> noisy.labels.tolist(), noisy.realised.tolist()
    ([5, 6, 7, 0], [5, 6, 3, 0])
    """
    if not 0.0 <= eta <= 1.0:
        raise ValueError(f"the noise level η must lie in [0, 1], got {eta}")
    if burst < 1:
        raise ValueError(f"burst is the number of noise tokens in a row, at least 1, got {burst}")
    n = len(clean) - 1
    begins = rng.random(n) < eta
    if not begins.any():
        return clean
    struck = np.zeros(n, dtype=bool)
    for shift in range(min(burst, n)):
        struck[shift:] |= begins[: n - shift]
    realised = clean.realised.copy()
    realised[:-1][struck] = law.sample(rng, n)[struck]
    return Trajectory(clean.prompt, clean.labels, realised)

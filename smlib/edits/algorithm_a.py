"""Algorithm A of the paper's Appendix A: actions to masked inputs, as printed and in its corrected stack form.

Both take the input sequence `a` with `a[0] = <bos>` and one entry per action, and return an input, a position and a
row of the attention mask for each. A backspace copies the token that it uncovers into a new slot and masks out the
deleted one and the earlier copy. Training uses the trie of `smlib.edits.masking`, which needs neither; these are its
oracle and the baseline of the overhead notebook.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smlib.edits.actions import ActionSpace, Trajectory


@dataclass(frozen=True)
class MaskedInputs:
    """Inputs x [L], position ids p [L] and mask m [L, L] (True where row i attends to column j) for L states."""

    inputs: NDArray[np.int64]
    positions: NDArray[np.int64]
    mask: NDArray[np.bool_]


def algorithm_a_printed(actions: Sequence[int], bkspc: int) -> MaskedInputs:
    """Algorithm 2 ("Algorithm A"), line by line, pointer names `c` (copy) and `d` (deletion) kept.

    The only liberties: the loop ends at L - 1 (the printed bound, L, is one past the end), and slices exclude their
    right end. The labels are not computed because the printed text never assigns them.

    Known to differ from the definition (`smlib.edits.actions.replay`): the position of `<bos>` is 1 and not 0, so every
    absolute position is one too large; and the root is always slot 0, so with a longer prompt a backspace at the end of
    the prompt deletes prompt tokens.
    """
    length = len(actions)
    a = np.asarray(actions, dtype=np.int64)
    x, m, p = a.copy(), np.zeros((length, length), dtype=bool), np.zeros(length, dtype=np.int64)
    c = d = 0
    for i in range(length):
        m[i] = m[max(i - 1, 0)]
        if a[i] == bkspc:
            m[i, c] = False
            m[i, d] = False
            m[i, i] = True
            x[i] = x[c]
            p[i] = p[c]
            d = i
            nonzero = np.flatnonzero(m[i, 0:c])
            c = int(nonzero[-1]) if nonzero.size else 0
        else:
            m[i, i] = True
            d = d + 1
            nonzero = np.flatnonzero(m[i, c + 1 : length])
            c = c + 1 + int(nonzero[0]) if nonzero.size else 0
            p[i] = p[d - 1] + 1
        if i == 0:
            c = 0
            d = 0
        if i == 1:
            c = 0
            d = 1
    return MaskedInputs(x, p, m)


def algorithm_a(trajectory: Trajectory, space: ActionSpace) -> MaskedInputs:
    """The stack form: the same layout, with prompts of any length as the root and positions from 0.

    Row P - 1 + t is state s_t (P the prompt's length), for t = 0..N; the label of visit t is read there.
    """
    prompt, realised = trajectory.prompt.tolist(), trajectory.realised.tolist()
    root, length = len(prompt), len(prompt) + len(realised)
    x = np.asarray(prompt + realised, dtype=np.int64)
    m, p = np.zeros((length, length), dtype=bool), np.zeros(length, dtype=np.int64)
    stack = list(range(root))  # slots that hold the current state, bottom to top
    for i in range(root):
        m[i, : i + 1] = True
        p[i] = i
    for i in range(root, length):
        if x[i] == space.bkspc:
            if len(stack) > root:
                stack.pop()
            uncovered = stack.pop()  # its copy, slot i, takes its place
            x[i], p[i] = x[uncovered], p[uncovered]
        else:
            p[i] = len(stack)
        stack.append(i)
        m[i, stack] = True
    return MaskedInputs(x, p, m)

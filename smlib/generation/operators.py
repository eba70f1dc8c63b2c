"""Decision operators: delete a token that the model itself thought unlikely, without any training.

The last token d of a state s+d is deleted where the model gave it p(d|s) < tau (at temperature 1, `<bkspc>` left out,
before any filter). Then s is acted in again, by one of two rules:

    delete      the model's own law again, which may draw d once more;
    resample    the same without the tokens already deleted there (`exclude_deleted`).

A state has at most K deletions; then whatever is drawn stays. `<eos>` ends the trajectory and cannot be deleted. So
the rule is a function of the state and of one number for each state of the path, and it terminates.

Law. With A = {a : p(a) >= tau} and `<eos>`, and m = p(A), the token that stays in s is, by `delete`,

    p(a) (1 - (1 - m)^(K+1)) / m  for a in A,      p(a) (1 - m)^K  for a outside,

and by `resample` as well in proportion to p(a) within A; outside of A nothing stays once K reaches the number of tokens
there. Both tend to p restricted to A as K grows, which is epsilon sampling (Hewitt et al. 2022): where every token was
the model's own, an operator is truncation, seen at work. It differs where somebody else wrote the token: the wrong
digits of Table 1 are judged like any other, and deleted one after another from the end.

The probability is known before the token is read, so a deletion costs no forward pass, and neither does the token.
"""

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor


class DecisionOperator:
    """What a rule has to remember of n sequences: how likely each standing token was, and how often each state was
    gone back to.

    Args:
        below: tau. limit: K. n: sequences. depth: largest number of tokens beyond the root.
    """

    def __init__(self, below: float, limit: int, n: int, depth: int) -> None:
        self.below, self.limit = below, limit
        self.probability = np.ones((n, depth))
        self.deletions = np.zeros((n, depth + 1), dtype=np.int64)

    def wrote(self, rows: NDArray[np.int64], depth: NDArray[np.int64], probability: NDArray[np.float64]) -> None:
        """A token was inserted at the state of `depth` tokens; the state that this makes is new."""
        self.probability[rows, depth] = probability
        self.deletions[rows, depth + 1] = 0

    def went_back(self, rows: NDArray[np.int64], depth: NDArray[np.int64]) -> None:
        """`<bkspc>` was executed at the state of `depth` tokens."""
        inner = depth > 0
        self.deletions[rows[inner], depth[inner] - 1] += 1

    def due(self, rows: NDArray[np.int64], depth: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the last token of the state of `depth` tokens is to be deleted."""
        before = np.maximum(depth - 1, 0)
        unlikely = self.probability[rows, before] < self.below
        return (depth > 0) & unlikely & (self.deletions[rows, before] < self.limit)


def operator_law(p: Float[Tensor, "n a"], eos: int, below: float, deletions: int) -> Float[Tensor, "n a"]:
    """The law of the token that stays, by `delete`: the formula above.

    Args:
        p: law of the tokens, `<bkspc>` left out, `[n, tokens]`.
        eos: id of `<eos>`. below: tau. deletions: K.
    """
    stays = p >= below
    stays[:, eos] = True
    m = (p * stays).sum(-1, keepdim=True)
    wrong = 1.0 - m
    # (1 - w^(K+1)) / (1 - w) as a sum, which is right at m = 0 too
    once_more = torch.stack([wrong**k for k in range(deletions + 1)]).sum(0)
    return torch.where(stays, p * once_more, p * wrong**deletions)

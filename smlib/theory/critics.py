"""A critic with its own parameters (Prop. 3.1 before theta is eliminated), restricted or not.

For a given policy the critic solves max_r E_data[phi(r)] - E_theta[r] (mixture: - E_theta[r^2]/4). A critic that has
one free reward per bucket of (state, action) pairs, and nothing finer, only sees how much of each occupancy is in each
bucket, so its maximum is exactly the divergence of the two *bucketed* occupancies. With one bucket per pair it is the
divergence itself: min over theta of the inner maximum is then direct minimisation. So a policy is fitted against a
critic by `smlib.theory.restricted.fit_direct` with `seen=buckets.push`.

Rewards r and critics Q are in bijection (Thm C.1); with buckets of position and last k tokens, k at least what the
policy sees, the next bucket follows from bucket and action, so a bucketed Q gives a bucketed r and conversely.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from smlib.theory.flow import Flow
from smlib.theory.matching import occupancy_divergence
from smlib.theory.mdp import EditMDP


@dataclass(frozen=True, eq=False)
class Buckets:
    """What a critic can tell apart: bucket of each state [S] and of each terminal twin [S]."""

    states: Int[Tensor, " s"]
    ends: Int[Tensor, " s"]

    def push(self, rho: Flow) -> Flow:
        """The occupancy as the critic sees it: mass per (bucket, action) and per terminal bucket."""
        batch, _, actions = rho.pairs.shape
        pairs = rho.pairs.new_zeros(batch, int(self.states.max()) + 1, actions).index_add(1, self.states, rho.pairs)
        ends = rho.terminal.new_zeros(batch, int(self.ends.max()) + 1).index_add(1, self.ends, rho.terminal)
        return Flow(pairs, ends)


def last_k(mdp: EditMDP, k: int) -> Buckets:
    """Buckets of position and last k tokens; of a finished string, `<eos>` is one of the k."""
    if k < 1:
        raise ValueError(f"a critic sees at least the last token, got k={k}")

    def number(keys: list[tuple[int, ...]]) -> Tensor:
        order = {key: i for i, key in enumerate(sorted(set(keys)))}
        return torch.tensor([order[key] for key in keys])

    states = number([(len(s), *s[-k:]) for s in mdp.strings])
    ends = number([(len(s), *(s[-(k - 1) :] if k > 1 else ())) for s in mdp.strings])
    return Buckets(states, ends)


def seen_divergence(name: str, buckets: Buckets, rho: Flow, data: Flow) -> Float[Tensor, "*batch"]:
    """The critic's maximum: D of the bucketed occupancies, at most D of the occupancies themselves."""
    return occupancy_divergence(name)(buckets.push(rho), buckets.push(data))

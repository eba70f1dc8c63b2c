"""Sampling with soft deletion: nothing is rolled back, the mistake and `<bkspc>` are read like any token.

The state of the network is the whole history, so every action but `<eos>` costs a forward pass and a slot of the
context: forward passes equal insertions plus deletions, where `EditBatch` pays for insertions alone. What stands, and
with it `max_new_tokens` and the root that cannot be deleted, follows the edit MDP as everywhere.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from smlib.generation.decoding import SamplingConfig
from smlib.generation.edit_batch import EditBatch
from smlib.generation.prompts import check_context


def check_history_fits(policy: object, longest: int, config: SamplingConfig) -> int:
    """Slots of the longest history: `longest` tokens of prompt and prefix, then an action each.

    Raises:
        ValueError: the model's context is shorter.
    """
    needs = f"a prompt of {longest} tokens and max_actions={config.action_limit}, all kept in soft deletion,"
    check_context(policy, longest + config.action_limit, needs, "lower max_actions, or shorten the prompts")
    return longest + config.action_limit


class KeptBatch(EditBatch):
    """`EditBatch` for a policy with soft deletion. `hidden[i]` is the last hidden vector of sequence i's history.

    Raises:
        ValueError: a decision operator, which goes back to an earlier state of the network.
    """

    keeps_edits = True

    def slots(self) -> int:
        if self.operator is not None:
            raise ValueError(
                "delete_below goes back to an earlier state, and this policy keeps what was deleted (soft deletion): "
                "set delete_below=0, or take a policy that was trained otherwise"
            )
        return int(self.depth.max()) + self.config.action_limit

    def last_slot(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        given = self.root[rows] + np.array([self.prefixes[i].size for i in rows.tolist()], dtype=np.int64)
        return np.asarray(given + self.count[rows] - 1)

    def remember(self, states: Tensor) -> Tensor:
        return states[self._to_device(np.arange(len(self.prompts))), self._to_device(self.depth - 1)]

    def hidden_now(self, acting: NDArray[np.int64]) -> Tensor:
        return self.hidden[self._to_device(acting)]

    def pending(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.realised[rows, self.count[rows] - 1].astype(np.int64)

    def store(self, rows: NDArray[np.int64], states: Tensor) -> None:
        self.hidden[self._to_device(rows)] = states

    def _act_until_pending(self) -> None:
        """One action of every active sequence: each is to be read before the next."""
        acting = self.active
        if acting.size:
            self.act(acting, self._choose(acting))

"""The extra head of App. E: a scalar per state that moves V(s) and leaves the policy as it is."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from smlib.policies.unembedding import unrounded, wide


class OffsetHead(nn.Module):
    """One scalar per state that is added to all its logits: it moves V(s) and leaves the policy as it is (App. E).

    Two layers, GELU, `hidden_size` 8, on the state's hidden vector and its position id. The output layer starts at
    zero, so that V starts as the pretrained model's.
    """

    def __init__(self, dim: int, max_positions: int, hidden_size: int = 8) -> None:
        super().__init__()
        self.max_positions = max_positions
        self.inner = nn.Linear(dim + 1, hidden_size)
        self.outer = nn.Linear(hidden_size, 1)
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: Float[Tensor, "N d"], positions: Int[Tensor, " N"]) -> Float[Tensor, "N 1"]:
        """Offsets of N states; positions are scaled to [0, 1] by the context length.

        Float32 at least, in a 16-bit policy and under autocast too: it is added to V, and 8 bits do not tell the
        positions of a long text apart.
        """
        hidden = wide(hidden)
        place = (positions.to(hidden.dtype) / self.max_positions)[:, None]
        with unrounded(hidden):
            inner = _linear(self.inner, torch.cat([hidden, place], dim=1))
            return _linear(self.outer, nn.functional.gelu(inner))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return nn.functional.linear(x, wide(layer.weight), wide(layer.bias))

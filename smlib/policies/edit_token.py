"""`<bkspc>` as an input, for soft deletion: the one embedding that a language model does not have.

Elsewhere `<bkspc>` is an action and never an input, since what was deleted leaves the context. In soft deletion the
mistake and `<bkspc>` stay where they are, so the network has to read `<bkspc>`: it gets a row of its own beside the
embeddings, which start as they were and stay bit-identical for tokens.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class EditToken(nn.Module):
    """The embedding of `<bkspc>`. It starts as the mean of the tokens' embeddings.

    Args:
        embeddings: the language model's input embeddings.
        bkspc: id of `<bkspc>`, the number of tokens.
    """

    def __init__(self, embeddings: Any, bkspc: int) -> None:
        super().__init__()
        self.bkspc = bkspc
        weight = embeddings.weight
        with torch.no_grad():
            every = embeddings(torch.arange(bkspc, device=weight.device))
        self.row = nn.Parameter(every.float().mean(0).to(every.dtype))

    def forward(self, embeddings: Any, tokens: Int[Tensor, "R S"]) -> Float[Tensor, "R S d"]:
        """Embeddings of tokens and `<bkspc>`."""
        edit = tokens == self.bkspc
        known = embeddings(tokens.masked_fill(edit, 0))
        return torch.where(edit[..., None], self.row.to(known.dtype), known)

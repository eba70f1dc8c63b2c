"""Where a policy's language model comes from: a name, adapters, precision."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear layer but the head. The paper: r = 64, alpha = 16.

    A deviation: the paper also trains the unembedding layer. Here the head stays as it is, and what is trained beside
    the adapters is the row of `<bkspc>` and the offset head.

    Attributes:
        r: rank. alpha: adapters are scaled by alpha / r. dropout: of their inputs.
    """

    r: int = 16
    alpha: int = 16
    dropout: float = 0.0


@dataclass(frozen=True)
class Source:
    """Where a policy's language model comes from and how; saved beside adapters, which need it again.

    A folder's `name` is its absolute path: adapters are loaded from other working directories too.
    """

    name: str
    lora: Lora | None = None
    four_bit: bool = False
    gradient_checkpointing: bool = False
    dtype: str = "float32"

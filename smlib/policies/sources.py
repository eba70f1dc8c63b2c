"""Where a policy's language model comes from: a name, adapters, precision; and what of that nobody can mean."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from smlib.files import ADDED_LATER

WEIGHTS = "weights"
"""In a `source.json`: the fingerprint of what is under the adapters."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on every linear layer but the head, and on the matrices of experts; routers stay as they are.

    The paper (Sec. 6, App. E): r = 64, alpha = 16, and `unembedding=True`, since "in addition to the adapters, a row is
    added to the unembedding layer for the <bkspc> token, and the unembedding layer is trained". Without it the head
    stays as it is, and the row of `<bkspc>` and the offset head alone are trained beside the adapters.

    Attributes:
        r: rank. alpha: adapters are scaled by alpha / r. dropout: of their inputs.
        unembedding: train the head as well: a float32 matrix of its own, also where the model shares it with its
            embeddings or has it in 16 bits. With its gradient and AdamW's moments that takes 16 bytes a weight, 2.1 GB
            for Llama-2-7b. It is saved with the adapters.
        target_modules: names of the layers that get adapters; None: every linear layer but the head.

    Raises:
        TypeError, ValueError: numbers that are none, or out of range.

    >>> Lora(r=8, alpha=16).r
    8
    """

    r: int = 16
    alpha: int = 16
    dropout: float = 0.0
    unembedding: bool = field(default=False, metadata=ADDED_LATER)
    target_modules: tuple[str, ...] | None = field(default=None, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        for name in ("r", "alpha"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} is a whole number, got {value!r}")
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not isinstance(self.dropout, int | float) or not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is a probability below 1, got {self.dropout!r}")
        check_switch("unembedding", self.unembedding)

    @classmethod
    def stored(cls, values: dict[str, Any]) -> "Lora":
        """What a saved policy's `source.json` says of its adapters; JSON has lists where there were tuples."""
        targets = values.get("target_modules")
        return cls(**{**values, "target_modules": tuple(targets) if targets else None})


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

    @classmethod
    def read(cls, file: Path) -> tuple["Source", str | None]:
        """What a saved policy's `source.json` says, and the fingerprint of the weights under its adapters.

        Raises:
            ValueError: it is torn, or says something else than smlib writes there.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            frozen = values.pop(WEIGHTS, None)
            source = cls(**{**values, "lora": Lora.stored(values["lora"]) if values["lora"] else None})
            if not isinstance(source.name, str):
                raise TypeError(f"name is {source.name!r}, no text")
            if not isinstance(getattr(torch, str(source.dtype), None), torch.dtype):
                raise TypeError(f"dtype is {source.dtype!r}, none of torch's")
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            why = f"there is no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{file} is damaged, or none of smlib's: {why}") from error
        return source, frozen


def check_switch(name: str, value: object) -> None:
    """Raises TypeError unless `value` is True or False: `"no"` would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} takes True or False, got {value!r}")


def check_lora(value: object) -> None:
    """Raises TypeError unless `value` is a `Lora` or None."""
    if value is not None and not isinstance(value, Lora):
        raise TypeError(
            f"lora takes the adapters' sizes, lora=Lora(r=16, alpha=16), or None to train all weights; got {value!r}"
        )


def check_dtype(value: object) -> None:
    """Raises TypeError unless `value` is a dtype of torch or None, ValueError unless it is one of real numbers."""
    if value is None:
        return
    if not isinstance(value, torch.dtype):
        raise TypeError(f"dtype takes a dtype of torch, such as torch.bfloat16, got {value!r}")
    if not value.is_floating_point:
        raise ValueError(f"dtype takes a dtype of real numbers, such as torch.bfloat16, got {value}")


def check_device(value: object) -> None:
    """Raises TypeError or ValueError unless `value` names a device that is here."""
    if not isinstance(value, str | torch.device):
        raise TypeError(f"device takes a name such as 'cpu', 'cuda' or 'cuda:0', or a torch.device; got {value!r}")
    try:
        device = torch.device(value)
    except RuntimeError as error:
        raise ValueError(f"unknown device {value!r}: expected a name such as 'cpu', 'cuda' or 'cuda:0'") from error
    here = torch.accelerator.current_accelerator(check_available=True)
    count = torch.accelerator.device_count() if here is not None and here.type == device.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        found = f"{count} of the type {device.type}" if count else f"{here.type if here else 'the CPU'} alone"
        raise ValueError(f"device {str(device)!r} is not here: torch finds {found}")

"""A device that is out of memory: one line that says which setting halves what did not fit."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from smlib.generation.sampling import ROWS
from smlib.training.configuration import TrainConfig


class DeviceMemoryError(RuntimeError):
    """The device is out of memory; the message says in what, and which setting halves that."""


@contextlib.contextmanager
def room(what: str, cure: str) -> Iterator[None]:
    """Whatever runs out of the device's memory inside says what it was and what halves it.

    Args:
        what: was being done, as in "training on a part of a batch". cure: the setting, with its value.

    Raises:
        DeviceMemoryError: in place of torch's own, which speaks of the allocator.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        asked = next((line for line in str(error).split(". ") if "allocate" in line), str(error))
        raise DeviceMemoryError(f"out of memory on the device, {what} ({asked.strip(' .')}): {cure}") from error


def for_rollouts(rollout_batch: int | None) -> str:
    """What halves the memory of sampling."""
    if rollout_batch is None:
        return f"up to {ROWS} rollouts are sampled side by side; rollout_batch={ROWS // 2} or less makes them fewer"
    if rollout_batch == 1:
        return "one rollout at a time does not fit; lower rollout_tokens, or shorten the prompts"
    return f"rollout_batch={rollout_batch // 2} halves it"


def for_parts(config: TrainConfig, processes: int) -> str:
    """What halves the memory of a gradient, in the names of `TrainConfig`."""
    finer = (n for n in range(2 * config.accumulation, config.batch_size + 1) if config.batch_size % n == 0)
    parts = next((n for n in finer if config.batch_size // n % processes == 0), None)
    if parts is not None:
        return f"accumulation={parts} takes half as much or less, with the same gradient" + _of_logits(config.chunk)
    return f"one example at a time does not fit; shorten the examples or rollout_tokens{_of_logits(config.chunk)}"


def for_devices(args: Any) -> str:
    """What halves the memory of a gradient, in the names of `SequenceMatchConfig`."""
    each, parts = args.per_device_train_batch_size, args.gradient_accumulation_steps
    if each % 2 == 0:
        return (
            f"per_device_train_batch_size={each // 2} with gradient_accumulation_steps={2 * parts} halves it, with the "
            f"same gradient{_of_logits(args.chunk)}"
        )
    if each > 1:
        return (
            f"per_device_train_batch_size=1 with gradient_accumulation_steps={each * parts} makes it less, with the "
            f"same gradient{_of_logits(args.chunk)}"
        )
    shorter = "" if args.max_length is None else f"max_length={args.max_length // 2} halves it at least; "
    return f"{shorter}gradient_checkpointing=true, or adapters in place of all weights, make it less"


def for_loading(dtype: str | None, four_bit: bool) -> str:
    """What halves the memory of a model that is loaded."""
    if four_bit:
        return "it is in 4 bits already; choose a smaller model"
    if dtype in (None, "float32", "float64"):
        return "dtype=bfloat16 halves it, and load_in_4bit=true with adapters makes it an eighth"
    return "load_in_4bit=true, with adapters, makes it a quarter"


def for_weights() -> str:
    """What halves the memory that does not depend on the batch."""
    return "adapters (Lora) in place of all weights need the least; FSDP2 in two processes halves it (docs/machines.md)"


def _of_logits(chunk: int | None) -> str:
    """Of states times vocabulary, the largest thing where the vocabulary is."""
    return "; chunk=512 bounds the logits" if chunk is None else ""

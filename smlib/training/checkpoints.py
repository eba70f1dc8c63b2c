"""Checkpoints of a training run: complete or absent, resumable exactly, no pickle beyond plain tensors.

A checkpoint holds the trainable parameters (safetensors), the optimiser and scheduler (loaded with `weights_only`), the
replay buffer (npz without pickle) and the step; all that is random follows from seed and step. It is written beside its
place and renamed, so that a kill at any moment leaves the previous one.
"""

import hashlib
import json
import os
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from smlib.edits.actions import ActionSpace
from smlib.files import canonical_json, config_hash, swap_in
from smlib.training.rollouts import ReplayBuffer
from smlib.training.sharding import full, put, whole_state

NAME = "checkpoint"


class CheckpointError(ValueError):
    """A checkpoint that is corrupt, belongs to another run, or cannot be written."""


@dataclass(frozen=True)
class TrainingState:
    """The moving parts of a run."""

    model: nn.Module
    optimizer: Any
    scheduler: Any
    buffer: ReplayBuffer


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that the optimiser updates, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def run_identity(config: object, policy: nn.Module, data: Any) -> str:
    """A hash of the configuration, of what the policy starts from and of some of the data (`training.Dataset`).

    The same lines run again, after the text or the model behind them has changed, are another run. With adapters that
    is also the frozen model under them, and how they are scaled.
    """
    seen = hashlib.sha256()
    for name, p in trainable(policy).items():
        seen.update(_glimpse(name, p))
    frozen = {name: p for name, p in policy.named_parameters() if not p.requires_grad}
    if frozen:
        for name, p in frozen.items():
            seen.update(_glimpse(name, p))
        source = getattr(getattr(policy, "lm", None), "smlib_source", None)
        if source is not None:  # its name is left out: a folder that was moved holds the same weights
            seen.update(canonical_json([source.lora, source.four_bit, source.dtype]).encode())
    last = min(len(data), 32) - 1 if getattr(data, "in_order", False) else len(data) - 1  # not a stream's far end
    for i in np.unique(np.linspace(0, last, 32).astype(int)).tolist():
        shown = data.demonstration(i, np.random.default_rng(0), 0.0, 1)
        seen.update(shown.prompt.tobytes() + b"/" + shown.realised.tobytes() + b";")
    return config_hash({"config": config, "examples": len(data), "start": seen.hexdigest()})


def _glimpse(name: str, p: nn.Parameter) -> bytes:
    """Name, shape and about a thousand values of a parameter."""
    some = p.detach().flatten()[:: max(1, p.numel() // 1024)]
    return f"{name}{tuple(p.shape)}".encode() + some.float().cpu().numpy().tobytes()


def save_checkpoint(folder: Path, step: int, identity: str, state: TrainingState, writes: bool = True) -> None:
    """Writes `folder/checkpoint` for the moment before step `step`; CheckpointError if it cannot be written.

    `writes=False` only lends what this process has of a model that is split: of several processes one writes.
    """
    tensors = {name: _on_cpu(p, writes) for name, p in trainable(state.model).items()}
    moving = {"optimizer": whole_state(state.optimizer, writes), "scheduler": state.scheduler.state_dict()}
    if not writes:
        return
    scratch, target, old = (folder / f"{NAME}{suffix}" for suffix in (".partial", "", ".old"))
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        scratch.mkdir(parents=True)
        save_file(tensors, scratch / "trainable.safetensors")
        torch.save(moving, scratch / "optimizer.pt")
        np.savez(scratch / "buffer.npz", allow_pickle=False, **state.buffer.state_dict())
        (scratch / "run.json").write_text(json.dumps({"step": step, "identity": identity}))
    except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own for a disk that is full
        shutil.rmtree(scratch, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} cannot be written to {folder}: {reason(error)}. The one before it is kept: "
            "free some space, and the same command goes on from there"
        ) from error
    swap_in(scratch, target, old)


def _on_cpu(p: nn.Parameter, keep: bool) -> Any:
    """All of a parameter; None where it is gathered for another process alone."""
    value = full(p.detach())
    return value.cpu().contiguous() if keep else None


def reason(error: Exception) -> str:
    """Why a file could not be written, in the system's words where a library has passed them on."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    system = next((e for e in (error.__cause__, error.__context__) if isinstance(e, OSError) and e.errno), None)
    return os.strerror(system.errno or 0) if system else str(error).splitlines()[0]


def load_checkpoint(folder: Path, identity: str, state: TrainingState, space: ActionSpace) -> int:
    """Restores the newest complete checkpoint into `state` and returns its step; 0 if there is none.

    Raises:
        CheckpointError: the files are corrupt, or come from another run, or the policy is one that is trained already.
    """
    source = next((f for f in (folder / NAME, folder / f"{NAME}.old") if f.exists()), None)
    if source is None:
        return 0
    try:
        run = json.loads((source / "run.json").read_text())
        if run["identity"] != identity:
            raise CheckpointError(
                f"{source} belongs to another run ({run['identity']}, not {identity}). Either the configuration, the "
                "data or the model is another one than then: name another folder, or move this one away. Or the policy "
                "in memory has been trained already, as when a notebook's cell is run again: build or load it anew, "
                "and the same lines go on from here"
            )
        tensors = load_file(source / "trainable.safetensors")
        optimizer = _plain_tensors(source / "optimizer.pt")
        with np.load(source / "buffer.npz", allow_pickle=False) as arrays:
            buffer = dict(arrays)
    except CheckpointError:
        raise
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{source} is corrupt ({why}); delete it to start again") from error
    parameters = trainable(state.model)
    if parameters.keys() != tensors.keys():
        raise CheckpointError(f"{source} holds other parameters than the model: {set(parameters) ^ set(tensors)}")
    with torch.no_grad():
        for name, value in tensors.items():
            put(parameters[name], value)
    state.optimizer.load_state_dict(optimizer["optimizer"])
    state.scheduler.load_state_dict(optimizer["scheduler"])
    state.buffer.load_state_dict(buffer, space)
    return int(run["step"])


def _plain_tensors(path: Path) -> Any:
    """What `torch.save` wrote of tensors and plain values.

    Raises:
        CheckpointError: it holds something else. torch's own message advises to load that nevertheless, which would run
            whatever code is in it.
    """
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds something else than tensors and numbers, or is torn: smlib did not write it so. Delete the "
            "checkpoint to start again"
        ) from None

"""The files of a `SequenceMatchTrainer`: checkpoints that resume exactly, and the policy. No pickle of ours.

`checkpoint-40` holds a policy that `load_policy` reads, and what resuming takes besides: the trained weights, the
optimiser and the schedule, the replay buffer, and the run that they belong to. transformers writes
`trainer_state.json` last, so that a checkpoint without it is one that a kill has torn.
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from smlib.data.tokenizers import TextTokenizer
from smlib.files import differences, plain, write_atomically
from smlib.policies.loading import save_policy
from smlib.policies.policy import SAVED, Policy
from smlib.training.checkpoints import CheckpointError, reason, trainable
from smlib.training.folder import held, usable_folder
from smlib.training.rollouts import ReplayBuffer
from smlib.training.sharding import put

WEIGHTS, BUFFER, RUN = "trainable.safetensors", "buffer.npz", "sequencematch.json"
STEPS = "config.steps"  # where the identity of a run has their number
STATE = "trainer_state.json"  # transformers' own, the last file of a checkpoint
LOCK = "_lock"  # transformers sends no file to the hub whose name begins so


@contextmanager
def alone_in(folder: Path, leads: bool) -> Iterator[None]:
    """Lets no other process train in the folder of a run; of several that train together, one asks for it.

    Raises:
        FolderInUseError: another run is in it. OSError: a folder that cannot be written to.
    """
    if not leads:
        yield
        return
    with held(usable_folder(folder), LOCK):
        yield


@contextmanager
def whole_checkpoint(folder: Path, step: int, leads: bool) -> Iterator[None]:
    """A checkpoint that cannot be written, as on a disk that is full, leaves no part of itself.

    Raises:
        CheckpointError: so, with the reason and what to do.
    """
    if leads:
        (folder / STATE).unlink(missing_ok=True)  # an older one of this step is not complete any more
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own for a disk that is full
        if isinstance(error, torch.OutOfMemoryError) or _complete(folder):  # what failed is sending it to the hub
            raise
        shutil.rmtree(folder, ignore_errors=True)
        raise CheckpointError(
            f"the checkpoint of step {step} cannot be written to {folder}: {reason(error)}. The one before it is kept: "
            "free some space, and go on from there with resume_from_checkpoint=True"
        ) from error


@contextmanager
def own_tensors(folder: Path) -> Iterator[None]:
    """What transformers reads of a checkpoint inside by `torch.load`.

    Raises:
        CheckpointError: a file that is missing, torn, or holds something else than tensors and numbers. torch's own
            message advises to load that nevertheless, which would run whatever code is in it.
    """
    missing = [name for name in (OPTIMIZER_NAME, SCHEDULER_NAME) if not (folder / name).is_file()]
    if missing:  # transformers would begin with a new optimiser, without a word
        raise CheckpointError(f"{folder} has no {' and no '.join(missing)}: name another checkpoint")
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception:  # a torn file leads torch's reader to any error, an IndexError among them
        raise CheckpointError(
            f"the state of the optimiser or of random numbers in {folder} is torn, or holds something else than "
            "tensors and numbers: name another checkpoint, or start anew without resume_from_checkpoint"
        ) from None


def place_policy(policy: Policy, tokenizer: TextTokenizer, folder: Path) -> None:
    """Saves a policy among whatever else is in `folder`; `policy.json`, by which it is known, comes last."""
    scratch = folder / ".policy"
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        save_policy(policy, tokenizer, scratch)
        (folder / SAVED).unlink(missing_ok=True)
        for made in sorted(scratch.iterdir(), key=lambda path: path.name == SAVED):
            target = folder / made.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(made, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def save_run(folder: Path, policy: Policy, buffer: ReplayBuffer, identity: dict[str, Any]) -> None:
    """What a checkpoint holds beside the policy, the optimiser and the schedule."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file({n: p.detach().cpu().contiguous() for n, p in trainable(policy).items()}, folder / WEIGHTS)
    os.chmod(folder / WEIGHTS, 0o644)  # safetensors makes private files
    np.savez(folder / BUFFER, allow_pickle=False, **buffer.state_dict())
    write_atomically(folder / RUN, json.dumps(identity, indent=1, sort_keys=True))


def load_weights(folder: Path, policy: Policy) -> None:
    """Puts the trained weights of a checkpoint in place; raises `CheckpointError` where they do not fit."""
    try:
        tensors = load_file(folder / WEIGHTS)
    except Exception as error:
        raise CheckpointError(f"{folder} has no readable {WEIGHTS} ({error}): name another checkpoint") from error
    parameters = trainable(policy)
    if parameters.keys() != tensors.keys():
        raise CheckpointError(f"{folder} holds other parameters than the model: {set(parameters) ^ set(tensors)}")
    with torch.no_grad():
        for name, value in tensors.items():
            put(parameters[name], value)


def load_buffer(folder: Path, policy: Policy, buffer: ReplayBuffer) -> None:
    """Restores the replay buffer; raises `CheckpointError` for a file that cannot be read."""
    try:
        with np.load(folder / BUFFER, allow_pickle=False) as arrays:
            state = dict(arrays)
        buffer.load_state_dict(state, policy.space)
    except Exception as error:
        raise CheckpointError(f"{folder} has no readable {BUFFER} ({error}): name another checkpoint") from error


def check_same_run(folder: Path, identity: dict[str, Any]) -> None:
    """Raises `CheckpointError`, naming what differs, where a checkpoint belongs to another run."""
    try:
        found = json.loads((folder / RUN).read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"{folder} is no checkpoint of SequenceMatchTrainer that can be resumed ({error}); save_only_model leaves "
            "none. Name another checkpoint, or start anew without resume_from_checkpoint"
        ) from error
    changed = differences(found, identity)
    if changed:
        told = "; ".join(f"{name} was {before!r} and is {now!r}" for name, (before, now) in changed.items())
        longer = "" if STEPS not in changed else (
            "A run cannot be made longer or shorter, since its schedule is laid out over its steps: train what it left "
            "by a run of its own, with its folder as the model and another output_dir. "
        )  # fmt: skip
        raise CheckpointError(
            f"{folder} belongs to another run: {told}. {longer}Resume with the arguments, the data and "
            "the model that it was started with (a model in memory that has been trained since is another one), or "
            "start anew in another output_dir"
        )


def newest_checkpoint(folder: Path) -> Path:
    """The newest complete checkpoint in the folder of a run; one that a kill has torn is passed over with a warning.

    Raises:
        ValueError: there is none.
    """
    found = [(int(m[1]), p) for p in folder.glob("checkpoint-*") if (m := re.fullmatch(r"checkpoint-(\d+)", p.name))]
    for _, path in sorted(found, reverse=True):
        if _complete(path):
            return path
        warnings.warn(f"{path} is incomplete and is passed over: its process was killed while it was written",
                      stacklevel=3)  # fmt: skip
    raise ValueError(
        f"resume_from_checkpoint=True, and {folder} holds no checkpoint (checkpoint-10, ...): leave it out to start, "
        "or name the folder of one"
    )


def _complete(path: Path) -> bool:
    try:
        json.loads((path / STATE).read_text())
    except (OSError, json.JSONDecodeError):
        return False
    return True


def identity_of(config: object, start: str) -> dict[str, Any]:
    """What makes a run the one that it is: its parameters, and a hash of what it starts from."""
    return {"config": plain(config), "model_and_data": start}

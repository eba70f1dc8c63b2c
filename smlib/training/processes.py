"""Training in several processes: who takes what, what all of them know, and how one that fails stops the others.

What is random is drawn by every process alike, for the whole batch and from the one stream that a single process draws
from; each then takes its share of the examples. So the number of processes changes neither the data nor the noise, the
draws from the buffer or the seeds of the rollouts, and since losses are divided by the sizes of the whole batch
(`smlib.objectives.losses.Sizes`), the gradients of the processes add up to that of one.
"""

import contextlib
import functools
import hashlib
import itertools
import os
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smlib.edits.actions import Trajectory
from smlib.environment import check_environment
from smlib.files import config_hash
from smlib.training.dataset import Dataset, some

FAILED = "smlib/failed"
"""Key in the processes' store under which the first of them to fail says why."""

ARGUMENTS = {"process_index": "process_index", "num_processes": "world_size", "device": "device"}
CPU = torch.device("cpu")
POLL = 0.5
"""Seconds between two looks at it."""


class OtherProcessError(RuntimeError):
    """Another process of the run failed; the message says which and why."""


@dataclass(frozen=True)
class Processes:
    """The processes that train one policy together, seen from one of them.

    Attributes:
        rank: the number of this one. count: how many there are. device: on which they exchange numbers.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = CPU

    @classmethod
    def of(cls, accelerator: Any) -> "Processes":
        """Those that Accelerate found.

        Raises:
            RuntimeError: a launcher has started more than that, which would each train a policy of their own.
        """
        started = os.environ.get("WORLD_SIZE", "1")
        if started.isdigit() and int(started) > int(accelerator.num_processes):
            raise RuntimeError(
                f"{started} processes were started and Accelerate finds {accelerator.num_processes}: on CPUs start "
                "them with `torchrun` and ACCELERATE_USE_CPU=1 in the environment"
            )
        return cls(int(accelerator.process_index), int(accelerator.num_processes), accelerator.device)

    @classmethod
    def of_arguments(cls, args: Any) -> "Processes":
        """Those of transformers' `TrainingArguments`, which asks Accelerate; raises as `of` and `check_environment`."""
        check_environment(several=True)
        return cls.of(types.SimpleNamespace(**{name: getattr(args, own) for name, own in ARGUMENTS.items()}))

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and draws bars."""
        return self.rank == 0

    def share(self, size: int) -> range:
        """The places of this process among `size`: neighbouring ones, as many as the others have."""
        each = size // self.count
        return range(self.rank * each, (self.rank + 1) * each)

    def check_divides(self, batch_size: int, accumulation: int) -> None:
        """Raises ValueError where the processes cannot have equal shares of a batch's parts."""
        part = batch_size // accumulation
        if part % self.count:
            of = f" in {accumulation} parts" if accumulation > 1 else ""
            raise ValueError(
                f"{self.count} processes do not divide a batch of {batch_size}{of}: {part} examples at a time cannot "
                f"be shared equally. Start 1 process, or choose a batch size that is a multiple of "
                f"{self.count * accumulation}"
            )

    def gathered(self, numbers: Sequence[int] | np.ndarray) -> list[np.ndarray]:
        """Whole numbers of every process, as many as each has, in the order of the processes."""
        own = torch.as_tensor(np.asarray(numbers, dtype=np.int64), device=self.device)
        if self.count == 1:
            return [own.cpu().numpy()]
        lengths = [torch.zeros(1, dtype=torch.int64, device=self.device) for _ in range(self.count)]
        torch.distributed.all_gather(lengths, torch.tensor([own.numel()], device=self.device))
        longest = max(int(n) for n in lengths)
        padded = torch.zeros(longest, dtype=torch.int64, device=self.device)
        padded[: own.numel()] = own
        every = [torch.zeros_like(padded) for _ in range(self.count)]
        torch.distributed.all_gather(every, padded)
        return [row[: int(n)].cpu().numpy() for row, n in zip(every, lengths, strict=True)]

    def summed(self, values: Mapping[str, float]) -> dict[str, float]:
        """The sums over the processes, name by name; all have the same names in the same order."""
        if self.count == 1:
            return dict(values)
        # Gathered and added in the order of the processes: an all-reduce may add in another order on each machine.
        bits = self.gathered(np.array(list(values.values()), dtype=np.float64).view(np.int64))
        total = np.sum([row.view(np.float64) for row in bits], axis=0)
        return dict(zip(values, total.tolist(), strict=True))

    def averaged(self, loss: torch.Tensor) -> torch.Tensor:
        """A loss whose gradients, averaged over the processes as `DistributedDataParallel` does, are the sum."""
        return loss if self.count == 1 else loss * self.count

    def first_that(self, it_holds: bool) -> int | None:
        """The number of the first process for which something holds; None if for none."""
        if self.count == 1:
            return 0 if it_holds else None
        flags = self.gathered([int(it_holds)])
        return next((rank for rank, flag in enumerate(flags) if flag[0]), None)

    def check_same(self, config: object, identity: str, data: Dataset) -> None:
        """Whether all processes were started alike.

        Args:
            identity: of model and data, see `smlib.training.checkpoints.run_identity`.

        Raises:
            ValueError: another configuration, other data or another model; the message says in which process.
        """
        if self.count == 1:
            return
        marks = {"another configuration": config_hash(config), "other data": data_hash(data), "another model": identity}
        for what, mark in marks.items():
            every = self.gathered(list(bytes.fromhex(hashlib.sha256(mark.encode()).hexdigest())))
            other = next((r for r, row in enumerate(every) if not np.array_equal(row, every[0])), None)
            if other is not None:
                raise ValueError(
                    f"process {other} was started with {what} than process 0 ({what.split()[1]}): all of them take the "
                    "same arguments and read the same files"
                )

    def check_begin(self, step: int) -> None:
        """Raises ValueError where the processes have found different checkpoints, or not all of them one."""
        steps = [int(row[0]) for row in self.gathered([step])]
        if len(set(steps)) > 1:
            raise ValueError(
                f"the processes go on from different steps, {steps}: the folder of a run has to be on a file system "
                "that all of them see"
            )

    def trajectories(self, own: Sequence[Trajectory], total: int) -> list[Trajectory]:
        """The trajectories of all processes, where process r has the places r, r + count, ... of `total`."""
        if self.count == 1:
            return list(own)
        found: list[Trajectory | None] = [None] * total
        for rank, numbers in enumerate(self.gathered(_flattened(own))):
            for place, trajectory in zip(range(rank, total, self.count), _restored(numbers), strict=True):
                found[place] = trajectory
        return [t for t in found if t is not None]

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Whatever fails inside ends the run in every process, with the message of the one that failed first.

        Raises:
            OtherProcessError: in the processes that did not fail themselves.
        """
        if self.count == 1:
            yield
            return
        with Bulletin() as bulletin:
            try:
                yield
            except BaseException as error:
                mine = f"process {self.rank} of {self.count} failed: {type(error).__name__}: {error}"
                first = bulletin.post(mine, lost=isinstance(error, RuntimeError))
                if not first.startswith(f"process {self.rank} of "):
                    raise OtherProcessError(first) from None
                if self.leads:
                    time.sleep(2 * POLL)  # the bulletin ends with this process: the others read it before
                raise


def begun_together(begin: Callable[..., None]) -> Callable[..., None]:
    """For the `__init__(self, model, args=None, ...)` of a trainer: what fails there in one process, such as reading
    the data, ends the others too, and with its message."""

    @functools.wraps(begin)
    def told(self: Any, model: Any, args: Any = None, *rest: Any, **named: Any) -> None:
        several = hasattr(args, "process_index")
        with Processes.of_arguments(args).together() if several else contextlib.nullcontext():
            begin(self, model, args, *rest, **named)

    return told


class Bulletin:
    """Where the first process that fails says why. The others learn that it is gone by a connection that is closed, and
    by then it may have taken the place where it said so with it: so each of them looks there twice a second."""

    def __init__(self) -> None:
        self.store: Any = torch.distributed.distributed_c10d._get_default_store()
        self.read = ""
        self.over = threading.Event()
        self.reader = threading.Thread(target=self._look, daemon=True, name="smlib-bulletin")

    def __enter__(self) -> "Bulletin":
        self.reader.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self.over.set()
        self.reader.join()

    def post(self, message: str, lost: bool) -> str:
        """Says why this process fails, unless another has said so before it; whatever was said first.

        Args:
            lost: the failure may be that another process is gone, so what that one said may still be on its way.
        """
        if lost:
            self.over.wait(POLL)
        with contextlib.suppress(Exception):  # the store is gone, with the process that held it
            self.read = self.read or self.store.compare_set(FAILED, "", message).decode()
        return self.read or message

    def _look(self) -> None:
        with contextlib.suppress(Exception):
            while not self.over.wait(POLL):
                if self.store.check([FAILED]):
                    self.read = self.store.get(FAILED).decode()
                    return


ALONE = Processes()


def data_hash(data: Dataset) -> str:
    """A hash of up to 1,024 demonstrations, evenly apart; of a stream, of the first of them."""
    seen = hashlib.sha256(str(len(data)).encode())
    for i in some(data):
        shown = data.demonstration(i, np.random.default_rng(0), 0.0, 1)
        seen.update(shown.prompt.tobytes() + b"/" + shown.realised.tobytes() + b";")
    return seen.hexdigest()


def _flattened(trajectories: Sequence[Trajectory]) -> np.ndarray:
    """Length of the prompt, number of actions, prompt, labels and realised actions of each."""
    parts = [[[t.prompt.size, len(t)], t.prompt, t.labels, t.realised] for t in trajectories]
    return np.concatenate([np.empty(0, np.int64), *(np.asarray(p, np.int64) for part in parts for p in part)])


def _restored(numbers: np.ndarray) -> list[Trajectory]:
    found, at = [], 0
    while at < numbers.size:
        prompt, actions = (int(n) for n in numbers[at : at + 2])
        ends = np.cumsum([at + 2, prompt, actions, actions])
        pieces = [numbers[a:b].astype(np.int32) for a, b in itertools.pairwise(ends)]
        found.append(Trajectory(*pieces))
        at = int(ends[-1])
    return found

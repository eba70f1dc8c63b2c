"""What a step of Algorithm 1 is trained on: demonstrations of the data, and rollouts from the replay buffer.

`Batches` is the part of Algorithm 1 that both loops share, `smlib.training.algorithm_1.train` and the trainer in the
conventions of transformers. It keeps no generator: noise, draws and rollouts follow from the seed and the step.
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from smlib.edits.actions import Trajectory
from smlib.edits.packing import PackedBatch, pack
from smlib.edits.path import Judged, judged
from smlib.edits.standing import standing_mistakes
from smlib.generation.sampling import SamplingConfig
from smlib.objectives.losses import Loss, Sizes, sizes
from smlib.objectives.methods import get_method, is_finite
from smlib.policies.policy import Policy
from smlib.training.configuration import TrainConfig
from smlib.training.dataset import Dataset
from smlib.training.engines import Schedule, Supply, engine_of, staleness
from smlib.training.memory import for_rollouts, room
from smlib.training.preflight import check_fits
from smlib.training.processes import ALONE, Processes
from smlib.training.rollouts import Entry, EpochOrder, ReplayBuffer, RolloutSource

Groups = list[list[Trajectory]]
"""Trajectories by what they share, see `pack`."""


class NonFiniteLossError(FloatingPointError):
    """The loss is NaN or infinite; the message names the step, the parts and the file with the batch."""


@dataclass(frozen=True)
class StepBatch:
    """The batch of one step, in the parts that it is processed in.

    Attributes:
        groups: the trajectories of each part. packed: the same as inputs, on the device.
        whole: sizes of the batch of which they are parts; None if there is only one.
        entries: the entries of the buffer that were drawn, with or without a rollout.
        sampled: whether their rollouts are in the batch.
        stale: of each rollout that was sampled beside training, by how many steps its weights were too old
            (`smlib.training.engines`); empty where they are sampled in this process.
    """

    groups: list[Groups]
    packed: list[PackedBatch]
    whole: Sizes | None
    entries: list[Entry]
    sampled: bool
    stale: list[int] = field(default_factory=list)


class Batches:
    """T_data ~ D and T_model ~ B, step after step.

    Args:
        policy: samples the rollouts. data: the training set. config: all parameters.
        processes: train together; each has its share of every part of a batch, and the whole buffer.

    Raises:
        ValueError: processes that cannot have equal shares.
    """

    def __init__(self, policy: Policy, data: Dataset, config: TrainConfig, processes: Processes = ALONE) -> None:
        processes.check_divides(config.batch_size, config.accumulation)
        self.policy, self.data, self.config, self.processes = policy, data, config, processes
        self.method = get_method(config.objective.method)
        in_order = bool(getattr(data, "in_order", False))
        group = config.group
        if (share := config.batch_size // config.accumulation // processes.count) % group:
            raise ValueError(f"group={group} rollouts from each prompt do not divide the {share} of a process")
        self.buffer = ReplayBuffer(len(data), config.buffer_size, config.seed, in_order=in_order, group=group)
        self.order = EpochOrder(len(data), config.seed, 5, in_order=in_order)
        free = config.rollout_engine == "free_running"
        if free and processes.count > 1:
            raise ValueError(
                f"rollout_engine=free_running takes rollouts as they come, and {processes.count} processes would each "
                "have others: choose background, which is the same in all of them, or start 1 process"
            )
        source = _source(policy, data, config, processes)
        self.supply = Supply(source, self.buffer, Schedule.of(config), engine_of(policy, config), config.refill, free)
        self._stale: list[int] = []

    def begin(self) -> None:
        """Fills the buffer with the first examples; a run that resumes has them from its checkpoint."""
        self.buffer.enter(self.buffer.size, 0)

    def sampling(self, k: int) -> bool:
        """Whether step k learns from rollouts."""
        return self.method.rollouts and self.config.objective.beta(k) < 1.0

    def populate(self, k: int) -> None:
        """New examples in the place of the oldest where they are due, and a rollout for each that has none yet.

        When rollouts start, that is all of them.
        """
        with room("sampling rollouts", for_rollouts(self.config.rollout_batch)):
            self.supply.populate(k)

    def settle(self) -> None:
        """Before a checkpoint: rollouts that are being sampled beside training become part of the buffer's state."""
        self.supply.settle()

    def close(self) -> None:
        """Ends what samples beside training, if anything does."""
        self.supply.close()

    def staleness(self) -> dict[str, float]:
        """Of the rollouts that were drawn since this was last asked for, see `StepBatch.stale`."""
        stale, self._stale = self._stale, []
        return staleness(stale, "rollout_staleness")

    def draw(self, k: int, device: torch.device | str) -> StepBatch:
        """The batch of step k: demonstrations with fresh noise, and as many rollouts once there are any.

        Every process makes all of it, since the noise is one stream, and lays out its own share.

        Raises:
            ValueError: trajectories that do not fit the model's context.
        """
        config, data, sampling = self.config, self.data, self.sampling(k)
        entries = self.buffer.draw(config.batch_size, k)
        examples = [e.example if config.paired else self.order[k * len(entries) + i] for i, e in enumerate(entries)]
        rng = np.random.default_rng([config.seed, 3, k, 0])  # the 0 keeps the noise of earlier runs
        parts: list[Groups] = []
        packed: list[PackedBatch] = []
        exponents = Exponents()
        for whole_part in np.array_split(np.arange(len(entries)), config.accumulation):
            every = [[demonstration(examples[i], data, config, rng)] for i in whole_part]
            exponents.add(every, [_rollout(entries[i]) for i in whole_part] if sampling else [])
            own = self.processes.share(len(whole_part))
            part, groups = whole_part[own], [every[i] for i in own]
            sources: list[list[int | None]] = [[None] for _ in part]  # the entry that a rollout is of
            if sampling and config.paired:
                groups = [[*group, _rollout(entries[i])] for group, i in zip(groups, part, strict=True)]
                sources = [[None, int(i)] for i in part]
            elif sampling:
                prompts = part.reshape(-1, config.group)
                groups += [[_rollout(entries[i]) for i in same] for same in prompts]
                sources += [[int(i) for i in same] for same in prompts]
            flags = [[i is not None for i in group] for group in sources]
            parts.append(groups)
            keep_edits = self.policy.config.keep_edits
            laid = pack(groups, self.policy.space, model=flags, row_len=config.row_len, keep_edits=keep_edits)
            check_fits(self.policy, laid)
            if sampling and self.method.reference and self.method.on_policy:
                laid = replace(laid, judged=self._judged(groups, sources, entries))
            packed.append(laid.to(device))
        whole = sizes(packed) if config.accumulation > 1 else None
        if self.processes.count > 1:
            whole = exponents.sizes(device)
        beside = sampling and config.rollout_engine != "in_process"
        stale = [e.stale for e in entries] if beside else []
        self._stale += stale
        return StepBatch(parts, packed, whole, entries, sampling, stale)

    def _judged(self, groups: Groups, sources: Sequence[Sequence[int | None]], entries: Sequence[Entry]) -> Judged:
        """Every rollout beside its reference, those from one prompt under one number."""
        flat = [i for group in sources for i in group]
        return judged(
            [t for group in groups for t in group],
            [None if i is None else self.data.reference(entries[i].example) for i in flat],
            [0 if i is None else i // self.config.group for i in flat],
            self.policy.space,
            closed=not self.policy.config.backspace and self.config.rollout_noise == 0.0,
        )


class Exponents:
    """The sizes of a batch from its trajectories, where no process has laid out all of them."""

    def __init__(self) -> None:
        self.data: list[int] = []
        self.model: list[int] = []

    def add(self, data: Groups, rollouts: Sequence[Trajectory]) -> None:
        """A part of the batch."""
        self.data += [len(t) for group in data for t in group]
        self.model += [len(t) for t in rollouts]

    def sizes(self, device: torch.device | str) -> Sizes:
        """As `smlib.objectives.losses.sizes` has them, on the device."""
        steps = [
            torch.cat([torch.arange(0), *(torch.arange(n) for n in lengths)]).to(device)
            for lengths in (self.data, self.model)
        ]
        return Sizes(len(self.data), len(self.model), *steps)


@contextlib.contextmanager
def dropout_of_step(
    seed: int, step: int, device: torch.device, going_on: torch.Tensor | None = None, rank: int = 0
) -> Iterator[list[torch.Tensor]]:
    """Lets torch's generators follow from seed and step, for dropout; the caller's are left as they were.

    Args:
        going_on: the state at the end of the batch's last part, where its parts are processed one by one.
        rank: of the process; each drops by itself.

    Yields:
        A list that holds the state at the end, once that is reached.
    """
    cuda = device.type == "cuda"
    end: list[torch.Tensor] = []
    with torch.random.fork_rng(devices=[device] if cuda else []):
        if going_on is None:
            torch.manual_seed(int(np.random.default_rng([seed, 6, step, rank]).integers(2**63)))
        elif cuda:
            torch.cuda.set_rng_state(going_on, device)
        else:
            torch.set_rng_state(going_on)
        yield end
        end.append(torch.cuda.get_rng_state(device) if cuda else torch.get_rng_state())


def _source(policy: Policy, data: Dataset, config: TrainConfig, processes: Processes) -> RolloutSource:
    """T ~ l_theta, as the run asks for them."""
    how = SamplingConfig(
        max_new_tokens=config.rollout_tokens,
        execution_noise=config.rollout_noise,
        noise_burst=config.rollout_burst,
    )
    relabel = config.objective.method == "dagger"
    return RolloutSource(policy, data, how, config.seed, config.rollout_batch, relabel, processes)


def demonstration(example: int, data: Dataset, config: TrainConfig, rng: np.random.Generator) -> Trajectory:
    """A data trajectory, with fresh noise if the method takes any."""
    method = get_method(config.objective.method)
    if method.standing and config.eta > 0.0:
        clean = data.demonstration(example, rng, 0.0, config.burst)
        return standing_mistakes(clean, data.noise_law(example), config.eta, rng, burst=config.burst)
    return data.demonstration(example, rng, config.eta if method.noise else 0.0, config.burst)


def _rollout(entry: Entry) -> Trajectory:
    assert entry.rollout is not None
    return entry.rollout


def stop_if_infinite(
    loss: Loss, step: int, groups: Sequence[Sequence[Trajectory]], folder: Path, processes: Processes = ALONE
) -> None:
    """Ends a run whose loss is none, in every process: the one that has it writes its batch into the folder of the run.

    Raises:
        NonFiniteLossError: the loss is NaN or infinite, here or in another process.
    """
    bad = processes.first_that(not is_finite(loss))
    if bad is None:
        return
    if bad != processes.rank:
        raise NonFiniteLossError(f"the loss of process {bad} is not finite at step {step}: its own message says more")
    stop(loss, step, groups, folder)


def stop(loss: Loss, step: int, groups: Sequence[Sequence[Trajectory]], folder: Path) -> None:
    """Writes the batch of a loss that is none into the folder of the run, and raises `NonFiniteLossError`."""
    path = folder / f"nonfinite-step-{step}.json"
    dump = [[{"prompt": t.prompt.tolist(), "labels": t.labels.tolist(), "realised": t.realised.tolist()} for t in g]
            for g in groups]  # fmt: skip
    path.write_text(json.dumps(dump))
    parts = ", ".join(f"{name} = {value.item():.4g}" for name, value in loss.parts.items())
    raise NonFiniteLossError(f"the loss is {loss.total.item()} at step {step}: {parts}; the batch is in {path}")

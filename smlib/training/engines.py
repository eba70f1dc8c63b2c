"""Rollout engines: who samples the trajectories T ~ l_theta, with which weights, and when they enter the buffer.

The paper lets rollouts be stale and leaves their overlap with training undone (App. F: "a separate set of GPUs which
independently generate sequences given the latest parameters"). Here an engine samples, behind one small protocol:
in this process when rollouts are due (`InProcessEngine`, what Algorithm 1 prints), or ahead of that in a process of its
own (`smlib.training.background`). `Supply` asks an engine and fills the buffer; `Schedule` says when. By it the weights
and the random stream of every rollout follow from step numbers alone, so that a run is the same bits each time,
whoever samples: a test trains with copies of the policy that are kept for as many steps in this process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from smlib.edits.actions import Trajectory
from smlib.objectives.methods import get_method
from smlib.policies.policy import Policy
from smlib.training.background import BackgroundEngine
from smlib.training.configuration import TrainConfig
from smlib.training.rollouts import Ahead, Entry, ReplayBuffer, RolloutSource, SamplingTask, refill_interval


@runtime_checkable
class RolloutEngine(Protocol):
    """Samples tasks, one after another, each with the weights that were the newest when it was submitted.

    (An engine that runs freely may take newer ones; `collect` says of which step they are.)
    """

    def start(self) -> None:
        """Gets ready; called once, before anything else."""
        ...

    def check(self) -> None:
        """Raises what has failed, if anything has."""
        ...

    def refresh(self, step: int) -> None:
        """The policy's weights as they are now, those of `step`, are the newest."""
        ...

    def submit(self, due: int, task: SamplingTask) -> None:
        """Asks for the rollouts that are due at a step."""
        ...

    def ready(self, due: int) -> bool:
        """Whether they can be had without waiting."""
        ...

    def collect(self, due: int) -> tuple[int, list[Trajectory]]:
        """The step of their weights, and the rollouts; waits for them."""
        ...

    def close(self) -> None:
        """Ends whatever was started, and forgets what was asked for."""
        ...


class InProcessEngine:
    """Samples when it is asked for the rollouts, with the policy as it then is."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.step = 0
        self.tasks: dict[int, SamplingTask] = {}

    def start(self) -> None:
        """Nothing is started."""

    def check(self) -> None:
        """Nothing can fail meanwhile."""

    def refresh(self, step: int) -> None:
        """Takes note of the step."""
        self.step = step

    def submit(self, due: int, task: SamplingTask) -> None:
        """Takes note of the task."""
        self.tasks[due] = task

    def ready(self, due: int) -> bool:
        """It takes as long at any time."""
        return due in self.tasks

    def collect(self, due: int) -> tuple[int, list[Trajectory]]:
        """Samples."""
        return self.step, self.tasks.pop(due).sampled(self.policy)

    def close(self) -> None:
        """Forgets what was asked for."""
        self.tasks.clear()


@dataclass(frozen=True)
class Schedule:
    """Which steps rollouts are due at, and which step's weights sample them.

    Attributes:
        first: step at which rollouts start, and the whole buffer is filled; `steps` if they never do.
        interval: steps between two refills. steps: of the run.
        lead: rollouts are asked for so many steps before they are due, at a multiple of `refresh` and not later.
    """

    first: int
    interval: int
    steps: int
    lead: int = 0
    refresh: int = 1

    @classmethod
    def of(cls, config: TrainConfig) -> "Schedule":
        """That of a run."""
        goal, starts = config.objective, get_method(config.objective.method).rollouts
        first = next((k for k in range(config.steps) if starts and goal.beta(k) < 1.0), config.steps)
        interval = refill_interval(config.batch_size, config.refill, config.times_seen)
        return cls(
            first, interval, config.steps, config.staleness - (config.rollout_refresh - 1), config.rollout_refresh
        )

    def weights(self, due: int) -> int:
        """The step whose weights sample what is due at a step, and at whose beginning it is asked for."""
        return max(0, due - self.lead) // self.refresh * self.refresh

    def due(self, step: int) -> list[int]:
        """What is asked for at the beginning of a step, ahead of its time."""
        if step % self.refresh:
            return []
        latest = min(step + self.lead + self.refresh, self.steps)
        earliest = 0 if step == 0 else step + self.lead
        return [k for k in range(max(earliest, step + 1, self.first), latest) if self.is_due(k)]

    def is_due(self, step: int) -> bool:
        """Whether the buffer is to be filled or refilled with rollouts at a step."""
        return step == self.first or (step > self.first and step % self.interval == 0)


class Supply:
    """Populates the buffer, as Algorithm 1 does at its line "Populate B with trajectories T ~ l_theta".

    Args:
        source: makes tasks of examples, and rollouts of what was sampled. buffer: is filled.
        schedule: when rollouts are due, and how far ahead they are asked for.
        engine: samples.
        free: rollouts enter as soon as they are there, and training waits for them only at the step that they are due
            at. Else they enter at that step.
        refill: examples that enter at a time.
    """

    def __init__(
        self,
        source: RolloutSource,
        buffer: ReplayBuffer,
        schedule: Schedule,
        engine: RolloutEngine,
        refill: int,
        free: bool = False,
    ) -> None:
        self.source, self.buffer, self.schedule, self.engine = source, buffer, schedule, engine
        self.refill, self.free = refill, free
        self.asked: dict[int, list[int]] = {}  # step at which rollouts are due -> their examples
        self.started = False

    def populate(self, step: int) -> None:
        """New examples in the place of the oldest where they are due, and a rollout for each that has none yet.

        When rollouts start, that is all of them.

        Raises:
            RuntimeError: rollouts that should have been asked for before and were not; what the engine says.
        """
        starts = self.schedule.first < self.schedule.steps
        if starts and not self.started:
            self.engine.start()
            self.started = True
        self.engine.check()
        self._ask(step)
        if self.free and step > self.schedule.first:
            self._enter_what_is_there(step)
            return
        if step and step % self.schedule.interval == 0:
            self.buffer.enter(self.refill, step)
        if step >= self.schedule.first:
            self._fill([e for e in self.buffer.entries if e.rollout is None], step, step)

    def settle(self) -> None:
        """Waits for what was asked for and keeps it with the buffer, for a checkpoint: a run that goes on has it."""
        for due, examples in list(self.asked.items()):
            self.buffer.ahead[due] = self._collected(due, examples)

    def close(self) -> None:
        """Ends the engine; what it was asked for is forgotten."""
        self.engine.close()
        self.asked.clear()
        self.started = False

    def _ask(self, step: int) -> None:
        """Asks for what is due later, and is to be sampled with the weights of this step."""
        ahead = self.schedule.due(step)
        if ahead:
            self.engine.refresh(step)
        for due in ahead:
            count = self.buffer.size if due == self.schedule.first else self.refill
            examples = self.buffer.coming(self.buffer.size + self.refill * (due // self.schedule.interval), count)
            self.asked[due] = examples
            self.engine.submit(due, self.source.task(examples, due))

    def _enter_what_is_there(self, step: int) -> None:
        in_time = {step} if self.schedule.is_due(step) and self.schedule.weights(step) == step else set()
        for due in sorted({*self.asked, *self.buffer.ahead, *in_time}):
            if due > step and due in self.asked and not self.engine.ready(due):
                return
            self._fill(self.buffer.enter(self.refill, step), due, step)

    def _fill(self, entries: Sequence[Entry], due: int, step: int) -> None:
        """Rollouts for entries that have none."""
        if not entries:
            return
        examples = [e.example for e in entries]
        if due not in self.asked and due not in self.buffer.ahead:
            if self.schedule.weights(due) != step:
                raise RuntimeError(
                    f"rollouts are due at step {due} and were to be sampled with the weights of step "
                    f"{self.schedule.weights(due)}, and the run goes on from a later one without them: its checkpoint "
                    "was not written by this run. Start again in another folder"
                )
            self.engine.refresh(step)
            self.engine.submit(due, self.source.task(examples, due))
            self.asked[due] = examples
        found = self.buffer.ahead.pop(due, None) or self._collected(due, self.asked[due])
        if found.examples != examples:
            raise RuntimeError(
                f"the rollouts of step {due} are of the examples {found.examples[:4]} ..., and {examples[:4]} ... "
                "entered the buffer: it was filled by something else than this run"
            )
        for entry, rollout in zip(entries, found.rollouts, strict=True):
            entry.rollout, entry.born, entry.stale = rollout, step, step - found.weights

    def _collected(self, due: int, examples: list[int]) -> Ahead:
        weights, own = self.engine.collect(due)
        del self.asked[due]
        return Ahead(weights, examples, self.source.finished(examples, own))


def engine_of(policy: Policy, config: TrainConfig) -> RolloutEngine:
    """The engine that a run names."""
    if config.rollout_engine == "in_process":
        return InProcessEngine(policy)
    return BackgroundEngine(policy, free=config.rollout_engine == "free_running", device=config.rollout_device)


def staleness(stale: Sequence[int], name: str) -> dict[str, float]:
    """Mean and largest staleness of rollouts that were learned from, in steps; nothing where there were none."""
    return {f"{name}_mean": sum(stale) / len(stale), f"{name}_max": float(max(stale))} if stale else {}

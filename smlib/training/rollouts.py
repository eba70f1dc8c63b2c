"""The replay buffer of Algorithm 1: a window of training prompts and the model's own trajectories from them.

Appendix E: 1,000 sequences, the oldest replaced, each seen 8 times on average before that. Entries are drawn uniformly,
so with `batch` draws a step and `refill` new entries every `interval` steps an entry is seen
batch * interval / refill times; `refill_interval` solves that for the interval (the paper's "grad steps per sample").

An entry holds the index of a training example and, once rollouts have started, a trajectory sampled from its prompt.
The data batch comes from the whole data set, in an order that depends on the seed alone, so that every method sees the
same data. With `TrainConfig.paired` it is the examples of the drawn entries instead: a data trajectory then shares the
slots of its prompt with the rollout (`smlib.edits.packing`), and what has not entered the window is not seen.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.noise import edit_expert_labels
from smlib.edits.noise_dynamics import TokenLaw
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies.policy import Policy
from smlib.training.dataset import Dataset
from smlib.training.processes import ALONE, Processes
from smlib.training.sharding import whole


def refill_interval(batch: int, refill: int, times_seen: float) -> int:
    """Gradient steps between two refills: each entry is then drawn `times_seen` times on average (App. E).

    Raises:
        ValueError: a refill so small that it would be due more than once a step.
    """
    interval = round(times_seen * refill / batch)
    if interval < 1:
        raise ValueError(
            f"{refill} new sequences, seen {times_seen} times in batches of {batch}, last less than one step: "
            f"generate at least {int(np.ceil(batch / times_seen))} at a time"
        )
    return interval


@dataclass(frozen=True)
class RolloutSource:
    """T ~ l_theta: one trajectory from the prompt of each example, with a seed that follows from the step.

    Attributes:
        sampling: limits and execution noise. seed: of the run. batch_size: rollouts side by side, see `sample`.
        relabel: the labels are the edit expert's (DAgger), and not what the policy chose.
        processes: sample a share each, and all have all.
    """

    policy: Policy
    data: Dataset
    sampling: SamplingConfig
    seed: int
    batch_size: int | None = None
    relabel: bool = False
    processes: Processes = ALONE

    def task(self, examples: Sequence[int], step: int) -> "SamplingTask":
        """This process's share of the sampling, as numbers: whoever has the weights can do it."""
        rng = np.random.default_rng([self.seed, 2, step])
        prompts = [self.data.rollout_prompt(i, rng) for i in examples]
        seeds = rng.integers(0, 2**63, size=len(examples)).tolist()
        laws = [self.data.noise_law(i) for i in examples] if self.sampling.needs_noise_law else None
        # Every sequence has a seed of its own, so it does not matter in which process it is sampled.
        own = slice(self.processes.rank, None, self.processes.count)
        return SamplingTask(
            prompts[own], seeds[own], None if laws is None else laws[own], self.sampling, self.batch_size
        )

    def finished(self, examples: Sequence[int], own: Sequence[Trajectory]) -> list[Trajectory]:
        """The rollouts of all processes, with the labels that they are learned by.

        Args:
            examples: as `task` was given them. own: what was sampled of the task of this process.
        """
        rollouts = self.processes.trajectories(own, len(examples))
        if not self.relabel:
            return rollouts
        return [
            Trajectory(r.prompt, edit_expert_labels(r, self.data.reference(i), self.policy.space), r.realised)
            for i, r in zip(examples, rollouts, strict=True)
        ]


@dataclass(frozen=True)
class SamplingTask:
    """What is to be sampled: arguments of `smlib.generation.sampling.sample`."""

    prompts: list[np.ndarray]
    seeds: list[int]
    laws: Sequence[TokenLaw] | None
    sampling: SamplingConfig
    batch_size: int | None

    def sampled(self, policy: Policy) -> list[Trajectory]:
        """One trajectory a prompt, from the policy's weights as they are."""
        with whole(policy):  # which every process has to take part in, those without a prompt too
            if not self.prompts:  # fewer than there are processes
                return []
            return sample(
                policy, self.prompts, self.sampling, self.seeds, noise_laws=self.laws, batch_size=self.batch_size
            ).trajectories


@dataclass
class EpochOrder:
    """Indices of n examples, each once before any comes again, in a random order for every epoch.

    Args:
        seed, stream: the order follows from them alone.
        in_order: as they come, epoch after epoch: of a stream, which somebody has shuffled or nobody can.
    """

    n: int
    seed: int
    stream: int
    in_order: bool = False
    _epoch: tuple[int, np.ndarray] | None = field(default=None, repr=False)  # (epoch, its permutation)

    def __getitem__(self, place: int) -> int:
        epoch, offset = divmod(place, self.n)
        if self.in_order:
            return offset
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, np.random.default_rng([self.seed, self.stream, epoch]).permutation(self.n))
        return int(self._epoch[1][offset])


@dataclass
class Entry:
    """A training example in the window, its rollout (None before rollouts start), and the step at which that came.

    `stale` is by how many steps the weights that sampled it were older than that (`smlib.training.engines`).
    """

    example: int
    rollout: Trajectory | None = None
    born: int = 0
    stale: int = 0


@dataclass(frozen=True)
class Ahead:
    """Rollouts that were sampled before their step: of which examples, and with the weights of which step."""

    weights: int
    examples: list[int]
    rollouts: list[Trajectory]


@dataclass
class ReplayBuffer:
    """First in, first out. (The paper says "first-in-last-out, with the oldest sequences being replaced": the second
    half contradicts the first, and replacing the oldest is what Algorithm 1 prints.)

    Args:
        n_examples: size of the training set; every example enters once before any enters again, in a random order.
        size: number of entries; the whole training set if that is smaller.
        in_order: examples enter as they come, see `EpochOrder`.
        group: an example enters so many times at once, and its entries are drawn together.
        seed: of the order. No generator state is kept: order and draws follow from the seed and the step.
    """

    n_examples: int
    size: int
    seed: int
    entries: list[Entry] = field(default_factory=list)
    entered: int = 0  # examples that have entered so far, over all epochs
    in_order: bool = False
    ahead: dict[int, Ahead] = field(default_factory=dict)  # step at which they are due -> rollouts, in a checkpoint
    group: int = 1

    def __post_init__(self) -> None:
        if self.n_examples < 1 or self.size < 1:
            raise ValueError(f"needs at least one example and one place, got {self.n_examples} and {self.size}")
        self.size = min(self.size, self.n_examples * self.group)
        self._order = EpochOrder(self.n_examples, self.seed, 0, self.in_order)

    def enter(self, count: int, step: int) -> list[Entry]:
        """Adds the next `count` examples of the epoch's order and drops as many of the oldest. Returns the new ones."""
        new = [Entry(self._order[(self.entered + k) // self.group], None, step) for k in range(count)]
        self.entered += count
        self.entries = (self.entries + new)[-self.size :]
        return self.entries[-min(count, self.size) :]

    def coming(self, entered: int, count: int) -> list[int]:
        """The last `count` examples that will have entered once `entered` of them have."""
        return [self._order[place // self.group] for place in range(entered - min(count, self.size), entered)]

    def draw(self, count: int, step: int) -> list[Entry]:
        """`count` entries, uniformly, with replacement only if there are fewer; a function of seed and step."""
        rng = np.random.default_rng([self.seed, 1, step])
        there, wanted = len(self.entries) // self.group, count // self.group
        picks = rng.choice(there, size=wanted, replace=wanted > there)
        picks = (picks[:, None] * self.group + np.arange(self.group)).ravel()  # a group stays together
        return [self.entries[int(i)] for i in picks]

    def state_dict(self) -> dict[str, np.ndarray]:
        """Plain arrays, for a checkpoint without pickle."""
        rollouts = [e.rollout for e in self.entries]
        state = {
            "entered": np.asarray(self.entered),
            "example": np.asarray([e.example for e in self.entries], dtype=np.int64),
            "born": np.asarray([e.born for e in self.entries], dtype=np.int64),
            "stale": np.asarray([e.stale for e in self.entries], dtype=np.int64),
            "has_rollout": np.asarray([r is not None for r in rollouts]),
            **_arrays([r for r in rollouts if r is not None]),
        }
        for due, ahead in self.ahead.items():
            own = {
                "weights": np.asarray(ahead.weights),
                "examples": np.asarray(ahead.examples, dtype=np.int64),
                **_arrays(ahead.rollouts),
            }
            state |= {f"ahead_{due}_{name}": values for name, values in own.items()}
        return state

    def load_state_dict(self, state: dict[str, np.ndarray], space: ActionSpace) -> None:
        """Restores what `state_dict` gave; every trajectory is checked again."""
        rollouts = iter(_trajectories(state, space))
        stale = state.get("stale", np.zeros_like(state["born"]))  # checkpoints of earlier versions have none
        self.entries = [
            Entry(int(example), next(rollouts) if has else None, int(born), int(late))
            for example, born, has, late in zip(
                state["example"], state["born"], state["has_rollout"], stale, strict=True
            )
        ]
        self.entered = int(state["entered"])
        self.ahead = {}
        for due in sorted({int(name.split("_")[1]) for name in state if name.startswith("ahead_")}):
            own = {name.removeprefix(f"ahead_{due}_"): values for name, values in state.items()
                   if name.startswith(f"ahead_{due}_")}  # fmt: skip
            self.ahead[due] = Ahead(int(own["weights"]), own["examples"].tolist(), _trajectories(own, space))


def _arrays(trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
    """Trajectories as plain arrays, one after another."""

    def joined(parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts) if parts else np.empty(0, np.int32)

    return {
        "prompt_len": np.asarray([t.prompt.size for t in trajectories], dtype=np.int64),
        "length": np.asarray([len(t) for t in trajectories], dtype=np.int64),
        "prompt": joined([t.prompt for t in trajectories]),
        "labels": joined([t.labels for t in trajectories]),
        "realised": joined([t.realised for t in trajectories]),
    }


def _trajectories(state: dict[str, np.ndarray], space: ActionSpace) -> list[Trajectory]:
    """The trajectories of `_arrays`, checked."""
    if not state["length"].size:
        return []
    prompts = np.split(state["prompt"], np.cumsum(state["prompt_len"])[:-1])
    cuts = np.cumsum(state["length"])[:-1]
    labels, realised = np.split(state["labels"], cuts), np.split(state["realised"], cuts)
    return [Trajectory.make(p, a, r, space=space) for p, a, r in zip(prompts, labels, realised, strict=True)]

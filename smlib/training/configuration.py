"""All parameters of one training run, checked where they are set."""

from dataclasses import dataclass, field, replace

from smlib.files import ADDED_LATER, added_later
from smlib.kinds import check_kinds
from smlib.objectives.methods import ObjectiveConfig
from smlib.training.rollouts import refill_interval

ENGINES = ("in_process", "background", "free_running")
"""Who samples rollouts, see `TrainConfig`."""
GROUP = 8
"""Rollouts from each prompt where they are compared and nobody says how many."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Appendix E's values are the defaults where it gives them.

    Attributes:
        objective: method, divergence, alpha, gamma, beta schedule.
        steps: gradient steps. batch_size: data trajectories a step, and as many rollouts.
        learning_rate, warmup_steps, weight_decay: AdamW; linear warm-up, then cosine decay to 0 at `steps`.
        bkspc_rate: learning rate of the `<bkspc>` row as a multiple of `learning_rate`. The row starts as an average
            token's, with a probability near 1e-8 in a pretrained model; few steps at an adapter's rate leave it there.
        clip_norm: largest gradient norm; a large number does not clip.
        eta, burst: noise level of the demonstrations, and tokens per mistake.
        buffer_size, times_seen, refill: replay buffer; `refill` rollouts are sampled at a time.
        paired: take the data from the examples whose rollouts are drawn, which then share the slots of their prompts,
            and not from all of D as Algorithm 1 does. A run then sees as many examples as enter the buffer:
            steps * batch_size / times_seen, and those that are in it from the start.
        rollout_tokens: length limit of a rollout, after its prompt. rollout_noise: execution noise in rollouts, tokens
            from the example's noise law (the paper does not say whether rollouts run under the noisy dynamics).
        rollout_batch: rollouts sampled side by side, see `sample`; a model of billions of parameters has a key/value
            cache of a gigabyte for a few thousand tokens. None: as many as 32,768 tokens make, 256 at most.
        rollout_engine: who samples them: `in_process`, between two steps; `background`, a process of its own, beside
            training and ahead of it; `free_running`, the same without waiting, so that no two runs are equal
            (`smlib.training.engines`, docs/machines.md).
        rollout_staleness: by how many steps the weights that sampled a rollout may be older than the step at which it
            enters the buffer; training waits rather than exceed it. None: the steps between two refills, and 0
            in_process. rollout_refresh: the process's copy of the weights is one of every so many steps.
        rollout_device: of that copy, such as `cuda:1`; None for the policy's own.
        group: rollouts from each prompt of the buffer, so that they can be compared (`smlib.objectives.exact`).
        row_len: slots of a packed row; None for the longest block. chunk: states whose logits are held at a time.
        vocabulary_tile: rows of the head whose logits are held at a time (`smlib.policies.vocabulary_tiles`); 0 for
            all, None for what the device does by itself. flex_from: slots of a row from which FlexAttention takes over
            on a CUDA device (`smlib.policies.block_masks`); 0 or None for never.
        accumulation: the batch is processed in this many parts.
        log_every, eval_every, checkpoint_every: steps; `eval_every` is 0 without `evaluate`, and only then.
        seed: of all that is random in the run: order of the data, noise, rollouts, dropout.

    >>> TrainConfig(steps=100, warmup_steps=10, seed=1).batch_size
    32
    """

    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    steps: int = 20_000
    batch_size: int = 32
    learning_rate: float = 1e-4
    warmup_steps: int = 2_000
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    eta: float = 0.1
    burst: int = 1
    buffer_size: int = 1_000
    times_seen: float = 8.0
    refill: int = 128
    rollout_tokens: int = 512
    rollout_noise: float = 0.0
    rollout_burst: int = 1
    row_len: int | None = None
    chunk: int | None = None
    accumulation: int = 1
    log_every: int = 50
    eval_every: int = 0
    checkpoint_every: int = 500
    seed: int = 0
    bkspc_rate: float = field(default=1.0, metadata=ADDED_LATER)
    paired: bool = field(default=False, metadata=added_later(before=True))
    rollout_batch: int | None = field(default=None, metadata=ADDED_LATER)
    rollout_engine: str = field(default="in_process", metadata=ADDED_LATER)
    rollout_staleness: int | None = field(default=None, metadata=ADDED_LATER)
    rollout_refresh: int = field(default=1, metadata=ADDED_LATER)
    rollout_device: str | None = field(default=None, metadata=ADDED_LATER)
    vocabulary_tile: int | None = field(default=None, metadata=ADDED_LATER)
    flex_from: int | None = field(default=None, metadata=ADDED_LATER)
    group: int = field(default=1, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        check_kinds(self)
        for name in (
            "steps",
            "batch_size",
            "refill",
            "buffer_size",
            "accumulation",
            "rollout_tokens",
            "log_every",
            "rollout_refresh",
            "group",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("warmup_steps", "eval_every", "checkpoint_every", "weight_decay", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("eta", "rollout_noise"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a probability, got {getattr(self, name)}")
        for name in ("rollout_batch", "chunk"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, or None, got {getattr(self, name)}")
        for name in ("vocabulary_tile", "flex_from"):
            if getattr(self, name) is not None and getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 1, 0 for never, or None, got {getattr(self, name)}")
        if self.vocabulary_tile and self.objective.method == "unlikelihood":
            raise ValueError("vocabulary_tile has no meaning for unlikelihood, whose loss needs all logits of a state")
        for name in ("learning_rate", "burst", "rollout_burst", "bkspc_rate", "times_seen", "clip_norm"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {getattr(self, name)}")
        if self.batch_size % self.accumulation:
            raise ValueError(f"batch_size {self.batch_size} is no multiple of accumulation {self.accumulation}")
        sizes = {"a part of a batch": self.batch_size // self.accumulation, "refill": self.refill}
        for name, size in {**sizes, "buffer_size": self.buffer_size}.items():
            if size % self.group:
                raise ValueError(
                    f"group={self.group} rollouts from each prompt do not divide {name}, {size}: choose a multiple of "
                    f"{self.group} (a part of a batch is per_device_train_batch_size of a trainer), or another group"
                )
        if self.checkpoint_every % self.log_every:
            raise ValueError(f"checkpoint_every {self.checkpoint_every} is no multiple of log_every {self.log_every}")
        refill_interval(self.batch_size, self.refill, self.times_seen)
        self._check_engine()

    def _check_engine(self) -> None:
        if self.rollout_engine not in ENGINES:
            raise ValueError(f"unknown rollout_engine {self.rollout_engine!r}; known: {', '.join(ENGINES)}")
        if self.rollout_engine == "in_process":
            own = {"rollout_staleness": (None, 0), "rollout_refresh": (1,), "rollout_device": (None,)}
            for name, plain in own.items():
                if getattr(self, name) not in plain:
                    raise ValueError(
                        f"{name}={getattr(self, name)!r} is of rollouts beside training: set rollout_engine to "
                        "background or free_running, or leave it out"
                    )
        elif self.staleness < 0:
            raise ValueError(f"rollout_staleness must not be negative, got {self.staleness}")
        elif self.staleness < self.rollout_refresh - 1:
            raise ValueError(
                f"rollout_staleness={self.staleness} cannot be kept with weights of every {self.rollout_refresh} "
                f"steps, rollout_refresh: they are up to {self.rollout_refresh - 1} steps old. Raise the first or "
                "lower the second"
            )

    @property
    def staleness(self) -> int:
        """`rollout_staleness`, settled: what is asked for one refill ahead has the time of one to be made."""
        if self.rollout_staleness is not None:
            return self.rollout_staleness
        if self.rollout_engine == "in_process":
            return 0
        return refill_interval(self.batch_size, self.refill, self.times_seen) + self.rollout_refresh - 1

    def on_policy(self, group: int | None = None) -> "TrainConfig":
        """The same run with new rollouts every step, under the demonstrations' noise: what a policy gradient needs
        (`smlib.objectives.adversarial` and `exact`).

        Args:
            group: rollouts from each prompt; as it is when omitted.
        """
        return replace(
            self,
            refill=self.batch_size,
            buffer_size=self.batch_size,
            times_seen=1.0,
            rollout_noise=self.eta,
            rollout_burst=self.burst,
            group=self.group if group is None else group,
        )

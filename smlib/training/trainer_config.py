"""The parameters of `SequenceMatchTrainer`: those of transformers' `TrainingArguments`, and those of Algorithm 1.

    args = SequenceMatchConfig(output_dir="runs/mine", method="sm", max_steps=1000, report_to="tensorboard")

What both have goes by transformers' name: `max_steps`, `per_device_train_batch_size`, `gradient_accumulation_steps`,
`max_grad_norm`, `logging_steps`, `save_steps`. `train_config` is the same run as `smlib.training.algorithm_1.train`
takes it.
"""

# ruff: noqa: RUF009 (each field is declared by `_option`, which makes a fresh `field` with its help)

import math
import sys
import warnings
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from transformers import SchedulerType, TrainingArguments
from transformers.training_args import OptimizerNames

from smlib.environment import PASSED, say_unheard, without
from smlib.objectives.methods import ObjectiveConfig, get_method
from smlib.training.configuration import ENGINES, GROUP, TrainConfig
from smlib.training.evaluation import check_measure

ETA = 0.1
"""Noise level of the demonstrations where none is asked for and the data have no mistakes of their own."""

DTYPES = ("float32", "bfloat16", "float16", "float64")

FOREIGN: dict[str, tuple[object, str]] = {
    "label_smoothing_factor": (0.0, "the objectives have no smoothed form"),
    "neftune_noise_alpha": (None, "noise on the embeddings is no part of the edit MDP; mistakes come with eta"),
    "auto_find_batch_size": (False, "the replay buffer is drawn from by the batch; set per_device_train_batch_size"),
    "use_liger_kernel": (False, "its fused head knows no <bkspc>; chunk bounds the memory of the logits"),
    "torch_compile": (False, "packed batches change their shape from step to step"),
    "deepspeed": (None, "several processes have the whole model each, or a piece of it (docs/machines.md)"),
    "dataloader_num_workers": (0, "a batch holds rollouts of the present policy and cannot be made ahead"),
}
"""Arguments of transformers that have no meaning here: what they have to be, and why."""


ALIKE = (
    "optim", "optim_args", "lr_scheduler_type", "lr_scheduler_kwargs", "adam_beta1", "adam_beta2", "adam_epsilon",
    "max_steps", "num_train_epochs", "bf16", "fp16", "gradient_checkpointing", "load_best_model_at_end",
    "save_strategy", "save_steps", "eval_strategy", "eval_steps", "logging_strategy", "logging_steps", "edits_steps",
    "edits_prompts",
)  # fmt: skip
"""What `train_config` does not have, and every process of a run needs alike: how weights are updated, and when all of
them do something together."""


def _option(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, **({"choices": list(choices)} if choices else {})})


@dataclass
class SequenceMatchConfig(TrainingArguments):
    """Parameters of a run. The help of `smlib finetune --help` and of each field below says what they mean.

    Other defaults than transformers': AdamW with betas (0.9, 0.95), weight decay 0.01, a cosine schedule after a
    warm-up of a tenth of the steps, a row in the log every 10 steps (Appendix E, and docs/choices.md, which lists
    what the paper leaves open).

    Raises:
        ValueError: a value out of range, an unknown method or divergence, an argument that has no meaning here.

    >>> args = SequenceMatchConfig(output_dir="mine", method="sm", max_steps=1_000, bc_steps=0.4)
    >>> args.train_config(args.max_steps).objective.bc_steps
    400
    """

    output_dir: str | None = _option("runs/finetune", "Folder for checkpoints and the policy.")
    learning_rate: float = _option(1e-4, "Learning rate of AdamW after the warm-up.")
    lr_scheduler_type: SchedulerType | str = _option("cosine", "Shape of the learning rate.")
    warmup_steps: float = _option(0.1, "Steps of linear warm-up; below 1, a share of all steps.")
    weight_decay: float = _option(0.01, "Weight decay of matrices; norms, biases and the row of <bkspc> have none.")
    adam_beta2: float = _option(0.95, "AdamW's second beta.")
    optim: OptimizerNames | str = _option("adamw_torch", "The optimiser.")
    logging_steps: float = _option(10, "Steps between two rows of the log.")

    # The objective
    method: str = _option(
        "sm",
        "What is minimised: mle, bc, sm, iqlearn, dagger, direct, exact, gail, unlikelihood, soft or masked.",
    )
    divergence: str = _option(
        "chi2", "Divergence of sm, direct and exact: chi2, js, forward_kl, reverse_kl, hellinger or tv."
    )
    alpha: float = _option(0.01, "Entropy weight of eq. 4, above 0.")
    gamma: float = _option(0.998, "Discount: step t counts gamma to the power t.")
    mixture: bool | None = _option(None, "The mixture regulariser over rollouts; left out: with chi2 and no other.")
    mixture_weight: float = _option(0.25, "Weight of the mixture regulariser.")
    bc_steps: float = _option(0.5, "Steps of behavioural cloning alone, first; below 1, a share of all steps.")
    anneal_steps: float = _option(
        0.1, "Steps over which the weight of cloning then falls; below 1, a share of all steps."
    )
    beta_floor: float = _option(0.2, "Where the weight of cloning ends, from 0 to 1.")
    unlikelihood_weight: float = _option(1.0, "Weight of the unlikelihood term.")
    without_backspace: bool = _option(
        False, "An ablation: train a method that deletes without <bkspc>, and without mistakes in the data."
    )

    # Demonstrations and rollouts
    eta: float | None = _option(None, "Rate of mistakes in demonstrations; left out 0.1, or 0 for data with their own.")
    burst: int = _option(1, "How many tokens in a row a mistake has.")
    noise: str = _option(
        "vocabulary",
        "How the tokens of mistakes are drawn: all alike, or as often as they stand in the data.",
        ("vocabulary", "unigram"),
    )
    buffer_size: int = _option(1_000, "Places of the replay buffer.")
    times_seen: float = _option(8.0, "How often a rollout is learned from, on average.")
    refill: int = _option(128, "Rollouts that are sampled at a time.")
    paired: bool = _option(False, "Take the data from the examples whose rollouts are drawn; they share their prompts.")
    rollout_tokens: int = _option(128, "Longest rollout in tokens, after its prompt.")
    rollout_noise: float = _option(
        0.0, "Rate of execution noise: how often a chosen token of a rollout is replaced by a random one."
    )
    rollout_burst: int = _option(1, "How many tokens in a row execution noise has.")
    group: int | None = _option(None, "Rollouts from each prompt; left out: 8 for exact, which compares them, or 1.")
    rollout_batch: int | None = _option(
        None, "Rollouts that are sampled side by side; left out: as many as 32,768 tokens make."
    )
    rollout_engine: str = _option(
        "in_process",
        "Who samples rollouts: in_process, between two steps; background, a process beside training, with weights of "
        "some steps before and every run alike; free_running, the same, taking what is there (no two runs alike).",
        ENGINES,
    )
    rollout_staleness: int | None = _option(
        None, "With rollouts beside training: how many steps old a rollout's weights may be when it is first used; "
        "left out: the steps between two refills.",
    )  # fmt: skip
    rollout_refresh: int = _option(1, "With rollouts beside training: how often the copy gets new weights, in steps.")
    rollout_device: str | None = _option(
        None, "With rollouts beside training: device of the copy, such as cuda:1; left out: where training is."
    )

    # Data
    max_length: int | None = _option(
        1024,
        "Longest state in tokens, its prompt included, and never longer than the model's context; 0: that context.",
    )
    max_prompt_length: int | None = _option(
        None, "Longest prompt in tokens, cut from the left; left out: half of the longest state."
    )
    mistakes: str = _option(
        "noise",
        "What a deleted token of a demonstration with its own <bkspc> is: noise (the label is what follows its "
        "deletion) or chosen (it is learned).",
        ("noise", "chosen"),
    )
    backspace_token: str = _option("<bkspc>", "How <bkspc> is spelt in the data and in the log; no token of the model.")
    eos_token: str | None = _option(None, "The token that ends a text, for tokenisers that name none.")
    chat_template_path: str | None = _option(None, "A Jinja file, for tokenisers without a chat template.")

    # Memory and loading
    bkspc_rate: float = _option(10.0, "Learning rate of the row of <bkspc>, as a multiple of the others'.")
    row_len: int | None = _option(None, "Slots of a packed row; left out: the longest block.")
    chunk: int | None = _option(512, "How many states' logits are held at a time; a negative number: all.")
    vocabulary_tile: int | None = _option(
        None, "Rows of the head whose logits are held at a time; 0: all; left out: the device decides (docs/gpu.md)."
    )
    flex_from: int | None = _option(
        None, "Slots of a row from which a GPU uses FlexAttention; 0, or left out: never (docs/gpu.md)."
    )
    dtype: str | None = _option(
        None,
        "Number type of the weights, when the model is loaded here; left out: float32, or as a policy was saved.",
        DTYPES,
    )
    load_in_4bit: bool = _option(False, "Load the weights in 4 bits (NF4); needs adapters.")
    offset_head: bool = _option(True, "Add the offset head of Appendix E.")
    local_files_only: bool = _option(True, "Never ask the hub; false fetches a model or data set by its name.")

    # Trackers
    edits_steps: int = _option(100, "Steps between two looks at what the policy writes and deletes; 0 for none.")
    edits_prompts: int = _option(2, "How many prompts are looked at each time.")

    def __post_init__(self) -> None:
        if self.metric_for_best_model is not None:
            check_measure(self.metric_for_best_model)
            # transformers takes every name that does not end in "loss" for one of which more is better.
            self.greater_is_better = self.greater_is_better is True  # type: ignore[has-type]
        with without(PASSED):  # transformers takes its mixed precision from there where no argument says it
            super().__post_init__()
        say_unheard(self.mixed_precision)
        if not str(self.output_dir).strip():
            raise ValueError("output_dir is an empty name: name a folder, or `.` for this one")
        if self.chunk is not None and self.chunk < 0:
            self.chunk = None
        if self.max_length is not None and self.max_length < 3:
            if self.max_length:
                raise ValueError(f"max_length must be at least 3, or 0 for the model's context, got {self.max_length}")
            self.max_length = None
        for name, (needed, why) in FOREIGN.items():
            found = getattr(self, name, needed)
            if found != needed and found:
                raise ValueError(f"{name}={found!r} has no meaning here: {why}. Leave it out")
        if getattr(self, "fsdp", None):
            raise ValueError(
                "fsdp has no meaning here: a model is split where the launcher asks for it, accelerate launch "
                "--use_fsdp --fsdp_version 2. Leave it out"
            )
        if self.per_device_eval_batch_size < 1:
            raise ValueError(f"per_device_eval_batch_size must be at least 1, got {self.per_device_eval_batch_size}")
        if self.max_steps == 0:
            raise ValueError("max_steps must be at least 1, or -1 for the passes of num_train_epochs, got 0")
        if self.fp16 and self.device.type == "cpu":
            raise ValueError("fp16=True has no effect on a CPU, where training stays in float32: use bf16, or none")
        for name in ("bc_steps", "anneal_steps", "edits_steps", "edits_prompts"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("noise", "mistakes", "dtype"):
            known = next(f for f in fields(self) if f.name == name).metadata["choices"]
            if getattr(self, name) is not None and getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.load_best_model_at_end and self.save_only_model:
            raise ValueError("load_best_model_at_end needs whole checkpoints: leave out save_only_model")
        self.train_config(10_000)  # whatever is out of range is said before a model is loaded

    def loading(self) -> dict[str, Any]:
        """Options of `load_policy`."""
        dtype = None if self.dtype is None else getattr(torch, self.dtype)
        return {"dtype": dtype, "four_bit": self.load_in_4bit, "local_files_only": self.local_files_only}

    def train_config(self, steps: int, eta: float | None = None) -> TrainConfig:
        """The same run as `train` takes it, of so many steps.

        Args:
            eta: noise level, where the data decide on it.

        Raises:
            ValueError, TypeError: what `TrainConfig` and `ObjectiveConfig` say.
        """
        method = get_method(self.method)
        goal = ObjectiveConfig(
            method=self.method,
            divergence=self.divergence,
            alpha=self.alpha,
            gamma=self.gamma,
            mixture=self.mixture,
            mixture_weight=self.mixture_weight,
            bc_steps=_count(self.bc_steps, steps),
            anneal_steps=_count(self.anneal_steps, steps),
            beta_floor=self.beta_floor,
            unlikelihood_weight=self.unlikelihood_weight,
        )
        level = next(e for e in (self.eta, eta, 0.0 if self.without_backspace else ETA) if e is not None)
        if self.eta and not method.noise:
            warnings.warn(
                f"eta={self.eta:g} has no effect: {self.method} learns from demonstrations without mistakes. Leave it "
                "out, or choose bc or sm",
                stacklevel=2,
            )
        config = TrainConfig(
            objective=goal,
            steps=steps,
            batch_size=self.per_device_train_batch_size * self.gradient_accumulation_steps * self.world_size,
            learning_rate=self.learning_rate,
            warmup_steps=self.get_warmup_steps(steps),
            weight_decay=self.weight_decay,
            clip_norm=self.max_grad_norm or sys.float_info.max,
            eta=level if method.noise else 0.0,
            burst=self.burst,
            buffer_size=self.buffer_size,
            times_seen=self.times_seen,
            refill=self.refill,
            rollout_tokens=self.rollout_tokens,
            rollout_noise=self.rollout_noise,
            rollout_burst=self.rollout_burst,
            row_len=self.row_len,
            chunk=self.chunk,
            vocabulary_tile=self.vocabulary_tile,
            flex_from=self.flex_from,
            accumulation=self.gradient_accumulation_steps,
            log_every=1,
            checkpoint_every=0,
            seed=self.seed,
            bkspc_rate=self.bkspc_rate,
            paired=self.paired,
            rollout_batch=self.rollout_batch,
            rollout_engine=self.rollout_engine,
            rollout_staleness=self.rollout_staleness,
            rollout_refresh=self.rollout_refresh,
            rollout_device=self.rollout_device,
            group=(GROUP if self.method == "exact" else 1) if self.group is None else self.group,
        )
        ours = {f.name: f.default for f in fields(self)}
        untouched = all(getattr(self, n) == ours[n] for n in ("buffer_size", "times_seen", "refill", "rollout_noise"))
        # A policy gradient needs rollouts of the present policy; who asks for others is told so by `check_on_policy`.
        return config.on_policy() if method.on_policy and untouched else config

    def alike(self, config: TrainConfig) -> dict[str, object]:
        """What has to be equal in every process of a run: `config`, and those of transformers' arguments in `ALIKE`."""
        return {"config": config, **{name: str(getattr(self, name, None)) for name in ALIKE}}


def _count(steps: float, of: int) -> int:
    """Steps as a number; below 1 they are a share, as transformers has it for its warm-up."""
    return int(steps) if steps >= 1 else math.ceil(steps * of)

"""Figure 3 and Table 1: arithmetic accuracy against noise level for MLE, BC and SequenceMatch (Sec. 6.1)."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.objectives.methods import get_method
from smlib.paper.experiments.runs.executor import in_parallel
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune, objective
from smlib.paper.experiments.runs.language_models import LanguageModel
from smlib.paper.experiments.runs.pretraining import Base, PretrainConfig, TinyModel
from smlib.paper.results import Run, check_preset
from smlib.training.algorithm_1 import TrainConfig

NO_ALPHA = 0.1  # in the configurations of MLE and BC, which have no alpha: their runs are then shared whatever SM's is


@dataclass(frozen=True)
class ArithmeticPreset:
    """The grid of Figure 3 and the size of each run.

    Attributes:
        levels: noise levels above 0, for both kinds of noise.
        seeds: of fine-tuning; the base model is the same.
        schedule: steps of BC alone and steps to anneal; in proportion to `steps` when None.
        alpha, gamma: of SequenceMatch. The paper states neither for arithmetic. alpha is its value for text; 0.1, our
            first choice, costs points on the validation questions. gamma was fixed beforehand. See `ablations`.
        paired: see `TrainConfig`.
        tokens: length limit of rollouts and answers. row_len, chunk, accumulation: see `TrainConfig`.
        answers_at_a_time: see `FineTuneConfig`. rollout_batch: see `TrainConfig`.
        eval_every: steps between looks at the validation questions while training; 0 for none.
    """

    base: Base = field(default_factory=PretrainConfig)
    levels: tuple[float, ...] = (0.05, 0.2)
    kinds: tuple[str, ...] = ("ground_truth", "random")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1_500
    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup_steps: int = 150
    alpha: float = 0.01
    gamma: float = 0.95
    n_train: int = 5_000
    n_test: int = 1_000
    recovery_prompts: int = 500
    schedule: tuple[int, int] | None = None
    paired: bool = False
    tokens: int = 24
    row_len: int | None = 128
    chunk: int | None = None
    accumulation: int = 1
    answers_at_a_time: int | None = None
    rollout_batch: int | None = None
    eval_every: int = 0

    def run(self, method: str, kind: str = "none", eta: float = 0.0, seed: int = 0, **changes: Any) -> FineTuneConfig:
        """One cell of the grid. `changes` go to the objective (alpha, divergence, ...) or to the training."""
        names = {f.name for f in dataclasses.fields(TrainConfig)}
        training = {k: v for k, v in changes.items() if k in names}
        alpha = self.alpha if get_method(method).annealed else NO_ALPHA
        goal = {"alpha": alpha, "gamma": self.gamma, **{k: v for k, v in changes.items() if k not in names}}
        shape = objective(method, steps=self.steps, **goal)
        if self.schedule is not None:
            shape = dataclasses.replace(shape, bc_steps=self.schedule[0], anneal_steps=self.schedule[1])
        config = TrainConfig(
            objective=shape,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            eta=eta,
            rollout_tokens=self.tokens,
            row_len=self.row_len,
            paired=self.paired,
            chunk=self.chunk,
            accumulation=self.accumulation,
            rollout_batch=self.rollout_batch,
            eval_every=self.eval_every,
            checkpoint_every=250,
            seed=seed,
        )
        mle = ("t1", "greedy", "top_p", "min_p", "truncation")
        edits = ("t1", "greedy", "greedy_exclude", "top_p", "no_backspace", "truncation")
        curve = ("t1", "greedy", "no_backspace") if get_method(method).backspace else ("t1", "greedy")
        return FineTuneConfig(
            base=self.base,
            training=dataclasses.replace(config, **training),
            noise=kind,
            n_train=self.n_train,
            n_val=500 if self.n_test >= 500 else self.n_test,
            n_test=self.n_test,
            decodings=edits if get_method(method).backspace else mle,
            recovery_prompts=self.recovery_prompts,
            max_new_tokens=self.tokens,
            answers_at_a_time=self.answers_at_a_time,
            curve=curve if self.eval_every else (),
        )

    def grid(self) -> dict[str, FineTuneConfig]:
        """Name of each run and its configuration, seeds outermost, so that what is done first is a whole figure."""
        return dict(_grid(self))


@functools.cache
def _grid(preset: ArithmeticPreset) -> dict[str, FineTuneConfig]:
    """Made once: its configurations are checked as they are built, and every reader of a run asks for some."""
    cells: dict[str, FineTuneConfig] = {}
    for seed in preset.seeds:
        cells[f"mle-s{seed}"] = preset.run("mle", seed=seed)
        for kind in preset.kinds:
            for level in preset.levels:
                for method in ("bc", "sm"):
                    cells[f"{method}-{kind}-{level}-s{seed}"] = preset.run(method, kind, level, seed)
        cells[f"sm-none-0-s{seed}"] = preset.run("sm", seed=seed)
    return cells


PRESETS: Mapping[str, ArithmeticPreset] = MappingProxyType(
    {
        "smoke": ArithmeticPreset(
            base=PretrainConfig(questions=1_024, batch_size=64, model=TinyModel(dim=32, layers=1, heads=2)),
            levels=(0.1,),
            seeds=(0,),
            steps=12,
            warmup_steps=2,
            n_train=200,
            n_test=40,
            recovery_prompts=20,
        ),
        "quick": ArithmeticPreset(levels=(0.1,), seeds=(0,), steps=200, warmup_steps=20, n_test=500),
        "full": ArithmeticPreset(),
        # Llama-2-7b with QLoRA and a trained unembedding, for a GPU; steps, batch and schedule of App. E. The paper
        # states neither the learning rate nor, for arithmetic, alpha and gamma: these are its values for text. It has
        # 200 questions and two seeds.
        # The cache of a rollout takes 32 layers x 2 x 4,096 x 2 bytes = 0.5 MiB a token: 64 of about 200 tokens, the
        # question among them, take 6 GiB, beside 7.1 GB of weights, adapters and unembedding with Adam's moments.
        "paper": ArithmeticPreset(
            base=LanguageModel(),
            levels=(0.05, 0.1, 0.2),
            steps=20_000,
            learning_rate=1e-4,
            warmup_steps=2_000,
            schedule=(10_000, 2_000),
            gamma=0.998,
            tokens=96,
            row_len=None,
            chunk=512,
            accumulation=4,
            answers_at_a_time=50,
            rollout_batch=64,
        ),
    }
)


def preset(name: str) -> ArithmeticPreset:
    """The frozen preset; raises for unknown names."""
    return PRESETS[check_preset(name)]


def run(
    name: str,
    results_dir: str | Path = "results",
    processes: int | None = None,
    chosen: ArithmeticPreset | None = None,
    only: Sequence[str] = (),
) -> dict[str, Run]:
    """Every run of the grid of a preset, computed or read; the base model first.

    Args:
        chosen: another grid in the place of the preset's (`learning`); the runs are kept under the preset's name.
        only: names of cells, such as `mle`, with all of their seeds; the whole grid by default.
    """
    cells = (chosen or preset(name)).grid()
    cells = {label: c for label, c in cells.items() if not only or label.rsplit("-s", 1)[0] in only}
    calls = [
        {"config": c, "name": label, "item": "fig3", "preset": name, "results_dir": results_dir}
        for label, c in cells.items()
    ]
    next(iter(cells.values())).prepare(name, results_dir)
    return dict(zip(cells, in_parallel(fine_tune, calls, processes), strict=True))

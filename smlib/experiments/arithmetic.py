"""Figure 3 and Table 1: arithmetic accuracy against noise level for MLE, BC and SequenceMatch (Sec. 6.1)."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.experiments.finetuning import FineTuneConfig, fine_tune, in_parallel, objective
from smlib.experiments.pretraining import PretrainConfig, TinyModel
from smlib.results import Run, check_preset
from smlib.training import TrainConfig


@dataclass(frozen=True)
class ArithmeticPreset:
    """The grid of Figure 3 and the size of each run.

    Attributes:
        levels: noise levels above 0, for both kinds of noise.
        seeds: of fine-tuning; the base model is the same.
        alpha, gamma: of SequenceMatch. The paper states neither for arithmetic; fixed beforehand, see `ablations`.
    """

    base: PretrainConfig = field(default_factory=PretrainConfig)
    levels: tuple[float, ...] = (0.05, 0.2)
    kinds: tuple[str, ...] = ("ground_truth", "random")
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 1_500
    batch_size: int = 32
    learning_rate: float = 3e-4
    warmup_steps: int = 150
    alpha: float = 0.1
    gamma: float = 0.95
    n_train: int = 5_000
    n_test: int = 1_000
    recovery_prompts: int = 500

    def run(self, method: str, kind: str = "none", eta: float = 0.0, seed: int = 0, **changes: Any) -> FineTuneConfig:
        """One cell of the grid. `changes` go to the objective (alpha, divergence, ...) or to the training."""
        names = {f.name for f in dataclasses.fields(TrainConfig)}
        training = {k: v for k, v in changes.items() if k in names}
        goal = {"alpha": self.alpha, "gamma": self.gamma, **{k: v for k, v in changes.items() if k not in names}}
        config = TrainConfig(
            objective=objective(method, steps=self.steps, **goal),
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            eta=eta,
            rollout_tokens=24,
            row_len=128,
            checkpoint_every=250,
            seed=seed,
        )
        greedy = ("t1", "greedy", "greedy_exclude")
        return FineTuneConfig(
            base=self.base,
            training=dataclasses.replace(config, **training),
            noise=kind,
            n_train=self.n_train,
            n_val=500 if self.n_test >= 500 else self.n_test,
            n_test=self.n_test,
            decodings=("t1", "greedy", "top_p", "min_p", "truncation") if method == "mle" else (*greedy, "top_p"),
            recovery_prompts=self.recovery_prompts,
        )

    def grid(self) -> dict[str, FineTuneConfig]:
        """Name of each run and its configuration, seeds outermost, so that what is done first is a whole figure."""
        cells: dict[str, FineTuneConfig] = {}
        for seed in self.seeds:
            cells[f"mle-s{seed}"] = self.run("mle", seed=seed)
            for kind in self.kinds:
                for level in self.levels:
                    for method in ("bc", "sm"):
                        cells[f"{method}-{kind}-{level}-s{seed}"] = self.run(method, kind, level, seed)
            cells[f"sm-none-0-s{seed}"] = self.run("sm", seed=seed)
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
        "quick": ArithmeticPreset(levels=(0.1,), seeds=(0,), steps=400, warmup_steps=40, n_test=500),
        "full": ArithmeticPreset(),
    }
)
# The paper preset is a Llama-2-7b, which smlib.experiments.text builds; its arithmetic hyper-parameters are App. E's.


def preset(name: str) -> ArithmeticPreset:
    """The frozen preset; raises for unknown names and for `paper`, which needs the Llama-2-7b weights."""
    check_preset(name)
    if name not in PRESETS:
        raise ValueError(f"arithmetic has no preset {name!r}; it has {', '.join(PRESETS)}")
    return PRESETS[name]


def run(name: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Run]:
    """Every run of the grid of a preset, computed or read; the base model first."""
    chosen = preset(name)
    cells = chosen.grid()
    calls = [
        {"config": c, "name": label, "item": "fig3", "preset": name, "results_dir": results_dir}
        for label, c in cells.items()
    ]
    first = next(iter(cells.values()))
    from smlib.experiments.pretraining import pretrained

    pretrained(chosen.base, first.task(), preset=name, results_dir=results_dir)
    return dict(zip(cells, in_parallel(fine_tune, calls, processes), strict=True))

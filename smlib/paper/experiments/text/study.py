"""Tables 2 and 8: text generation by five methods, and offline IQLearn beside them (Sec. 6.2, App. E and I).

Maximum likelihood; the same model with contrastive search; likelihood plus unlikelihood; behavioural cloning with
`<bkspc>`; SequenceMatch with the chi^2-mixture. All start from one model, see the same texts in the same order and take
the same number of gradient steps.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from smlib.data.continuations import Continuations
from smlib.edits.actions import Ids, Trajectory
from smlib.evaluation import MauveSettings
from smlib.generation.sampling import SamplingConfig, sample
from smlib.objectives.methods import ObjectiveConfig, get_method
from smlib.paper.experiments.runs.executor import in_parallel, workers
from smlib.paper.experiments.runs.text_models import LLAMA_2, SCRATCH, ScratchModel, TextModel, build
from smlib.paper.experiments.text.features import MINILM
from smlib.paper.experiments.text.mauve import mauve_scores
from smlib.paper.experiments.text.scores import write_table_2, write_table_8
from smlib.paper.experiments.text.stages import TextEvaluation, TextRun, fine_tune_text
from smlib.paper.results import Run, check_preset
from smlib.policies.loading import Lora
from smlib.policies.policy import tiny_policy
from smlib.training.algorithm_1 import TrainConfig

TRAINED = ("mle", "unlikelihood", "bc", "sm", "iqlearn")
"""Contrastive search is a way of decoding and shares the MLE run."""


@dataclass(frozen=True)
class TextPreset:
    """The five methods at one scale. alpha and gamma are the paper's everywhere (Sec. 6.2).

    Attributes:
        training: steps, batch, learning rate, buffer, lengths; method and seed are set for each run.
        bc_steps, anneal_steps: of the beta schedule; the paper's are 1,000 and 2,000 of 5,000.
        bkspc_rate: see `TrainConfig`; of the methods that have a `<bkspc>`.
        mauve, features: settings of MAUVE, and where its features come from.
    """

    model: TextModel
    training: TrainConfig
    bc_steps: int
    anneal_steps: int
    evaluation: TextEvaluation
    mauve: MauveSettings
    features: str = MINILM
    alpha: float = 0.01
    gamma: float = 0.998
    corpus: str = "wikipedia"
    documents: int = 20_000
    context: int = 1024
    max_prompt: int = 256
    passages: int | None = None
    seeds: tuple[int, ...] = (0,)
    methods: tuple[str, ...] = field(default=TRAINED)
    bkspc_rate: float = 1.0

    def run(self, method: str, seed: int = 0) -> TextRun:
        """One method and seed."""
        objective = ObjectiveConfig(
            method=method,
            alpha=self.alpha,
            gamma=self.gamma,
            bc_steps=self.bc_steps,
            anneal_steps=self.anneal_steps,
        )
        return TextRun(
            model=self.model,
            training=replace(
                self.training,
                objective=objective,
                seed=seed,
                bkspc_rate=self.bkspc_rate if get_method(method).backspace else 1.0,
            ),
            evaluation=self.evaluation,
            corpus=self.corpus,
            documents=self.documents,
            context=self.context,
            max_prompt=self.max_prompt,
            passages=self.passages,
        )

    def grid(self) -> dict[str, TextRun]:
        """Name of each run and its configuration, seeds outermost, so that what is done first is a whole table."""
        return {f"{method}-s{seed}": self.run(method, seed) for seed in self.seeds for method in self.methods}


def _minilm(buckets: int) -> MauveSettings:
    return MauveSettings(num_buckets=buckets)


PRESETS: Mapping[str, TextPreset] = MappingProxyType(
    {
        # Every line of code, in seconds; the numbers mean nothing.
        "smoke": TextPreset(
            model=TextModel(
                scratch=ScratchModel(vocab_size=512, dim=32, layers=1, heads=2, context=48, steps=8, batch_size=4)
            ),
            training=TrainConfig(
                steps=6,
                batch_size=4,
                learning_rate=1e-3,
                warmup_steps=2,
                eta=0.05,
                buffer_size=16,
                refill=4,
                rollout_tokens=12,
                row_len=96,
                paired=True,
                log_every=2,
                checkpoint_every=4,
            ),
            bc_steps=2,
            anneal_steps=2,
            evaluation=TextEvaluation(
                prompts=16,
                prompt_len=16,
                continuation_len=16,
                corrupted=18,
                examples=2,
                example_len=12,
                batch=8,
            ),
            mauve=_minilm(4),
            context=48,
            max_prompt=24,
            passages=256,  # six steps see 24 of them; to cut all articles takes longer than all the rest
        ),
        # A 1.3 M-parameter Llama pretrained here on the training articles, then 150 steps a method.
        "quick": TextPreset(
            model=TextModel(),
            training=TrainConfig(
                steps=150,
                batch_size=8,
                learning_rate=5e-4,
                warmup_steps=40,
                eta=0.02,
                buffer_size=128,
                refill=32,
                rollout_tokens=48,
                row_len=256,
                paired=True,
                log_every=10,
                checkpoint_every=50,
            ),
            bc_steps=30,
            anneal_steps=60,
            evaluation=TextEvaluation(
                prompts=200,
                prompt_len=64,
                continuation_len=48,
                corrupted=200,
                example_len=32,
                stride=96,
                batch=200,
            ),
            mauve=_minilm(20),
            context=128,
            max_prompt=64,
            bkspc_rate=10.0,
        ),
        # SmolLM2-135M with LoRA. A core trains about 75 of its tokens a second, so the paper's 5,000 steps of 32 texts
        # of 1,024 tokens would take three weeks a method. Here: 80 steps of 8 texts of 128 tokens and 300 prompts of
        # 64 + 64 tokens, at most an hour of one core a method. eta is 0.02 and not 0.001, since 0.001 would put
        # eighty mistakes in front of the model in all. The row of <bkspc> has ten times the adapters' learning rate: at
        # the same rate 80 steps leave its probability at 1e-6 everywhere.
        "full": TextPreset(
            model=TextModel(name="smollm2", lora=Lora(r=16, alpha=16)),
            training=TrainConfig(
                steps=80,
                batch_size=8,
                learning_rate=2e-4,
                warmup_steps=32,
                eta=0.02,
                buffer_size=128,
                refill=32,
                rollout_tokens=64,
                row_len=256,
                paired=True,
                chunk=256,
                log_every=5,
                checkpoint_every=10,
            ),
            bc_steps=16,
            anneal_steps=32,
            evaluation=TextEvaluation(
                prompts=300,
                prompt_len=64,
                continuation_len=64,
                corrupted=500,
                corrupted_actions=8,
                example_len=64,
                stride=96,
                batch=50,
            ),
            mauve=_minilm(30),
            context=128,
            max_prompt=64,
            seeds=(0, 1, 2),
            bkspc_rate=10.0,
        ),
        # Llama-2-7b with QLoRA and a trained unembedding, and the hyper-parameters of Sec. 6.2 and App. E, for a GPU.
        # The paper does not state the learning rate and the size of a refill; 64 at a time give Table 3's 16 gradient
        # steps a sample.
        # The cache of a rollout of 257 + 512 tokens is 769 x 32 layers x 2 x 4,096 x 2 bytes = 385 MiB; 16 take 6 GiB,
        # beside 7.1 GB of weights, adapters and unembedding with Adam's moments (`LLAMA_2`); the paper's GPUs have 16.
        "paper": TextPreset(
            model=LLAMA_2,
            training=TrainConfig(
                steps=5_000,
                batch_size=32,
                learning_rate=1e-4,
                warmup_steps=2_000,
                eta=0.001,
                buffer_size=1_000,
                times_seen=8.0,
                refill=64,
                rollout_tokens=512,
                rollout_batch=16,
                row_len=None,
                chunk=512,
                accumulation=32,
                log_every=10,
                checkpoint_every=100,
            ),
            bc_steps=1_000,
            anneal_steps=2_000,
            evaluation=TextEvaluation(batch=50),
            mauve=MauveSettings(num_buckets=100, features="GPT-2 large, last state of the last token"),
            features="openai-community/gpt2-large",
            corpus="openwebtext",
            documents=200_000,
            seeds=(0, 1, 2),  # below three no verdict says "reproduced"
        ),
    }
)


def preset(name: str) -> TextPreset:
    """The frozen preset called `name`."""
    return PRESETS[check_preset(name)]


def example_rollout(prompt: Ids, data: Continuations) -> Trajectory:
    """What an untrained policy makes of a prompt: for the notebook's picture of a branch."""
    policy = tiny_policy(data.space, dim=16, layers=1, heads=2, positions=2 * data.context)
    return sample(policy, [prompt], SamplingConfig(max_new_tokens=8), [0]).trajectories[0]


def run(
    name: str,
    results_dir: str | Path = "results",
    *,
    processes: int | None = None,
    policies: str | Path | None = None,
) -> tuple[dict[str, Run], Run]:
    """Every run of a preset and MAUVE over them, computed or read, and the ledger's lines for `tab2` and `tab8`.

    Args:
        processes: runs side by side on a CPU, by default one a core; on a GPU one after another. The small model's
            pretraining comes first, once.
        policies: a folder in which trained policies are kept, for `smlib generate --model`.
    """
    chosen = preset(name)
    grid = chosen.grid()
    if chosen.model.name == SCRATCH:
        build(chosen.model, next(iter(grid.values())).load(), preset=name, results_dir=results_dir)
    side_by_side = min(processes or workers(), len(grid))
    # The small model has one thread everywhere; a large one shares out the cores, of which it can use several.
    threads = 1 if chosen.model.name == SCRATCH else max(1, len(os.sched_getaffinity(0)) // side_by_side)
    calls = [
        {
            "config": config,
            "name": label,
            "preset": name,
            "results_dir": results_dir,
            "keep": None if policies is None else Path(policies) / label,
            "threads": threads,
        }
        for label, config in grid.items()
    ]
    found = in_parallel(fine_tune_text, calls, side_by_side)
    runs = dict(zip(grid, found, strict=True))
    scores = mauve_scores(
        runs,
        chosen.mauve,
        chosen.features,
        lambda: next(iter(grid.values())).articles(preset=name, results_dir=results_dir),
        preset=name,
        results_dir=results_dir,
        download=chosen.model.download,
    )
    write_table_2(runs, scores, name, results_dir)
    write_table_8(runs, scores, name, results_dir, actions=chosen.evaluation.corrupted_actions)
    return runs, scores

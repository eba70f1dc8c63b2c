"""The same data and the same small Llama through TRL's trainers, beside ours, in one run: `smlib bench --peers`.

trl_sft_packed    SFTTrainer with packing (best-fit decreasing, padding-free), as its configuration has it
trl_sft_padded    SFTTrainer without packing: a row an example
trl_gkd           GKDTrainer wholly on-policy (Agarwal et al. 2024): samples a continuation of every prompt with the
                  present model, then learns from it towards a teacher of the same size
mle, sm           ours: one gradient step of `smlib.training.algorithm_1.train`
sm_on_policy      SequenceMatch with new rollouts every step, as GKD has
sm_amortised      SequenceMatch as the paper trains it: a rollout is used `Shape.times_seen` times

A step is what a trainer does with a batch: collate or pack, sample if it samples, forward, backward, update.
TRL's data loader, callbacks and logging are left out, as ours are. All start from the same weights, take turns on the
same threads, and see the same examples. Without FlashAttention TRL's padding-free batch is one long row under a dense
mask, which is what its documentation warns of; therefore both forms are there.

TRL is no dependency: `pip install "smlib[peers]"`.
"""

import contextlib
import copy
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smlib.bench.resources import peak_bytes
from smlib.bench.steps import GradientStep
from smlib.bench.timing import figure, in_turns, seconds_of
from smlib.bench.workloads import Shape, dataset, groups, policy_for, sampling_job
from smlib.edits.actions import ActionSpace, Trajectory
from smlib.generation.sampling import sample
from smlib.policies.policy import Policy

PEERS = Shape(batch=8, context=256, prompt=64, rollout=64, vocab=2048, refill=32, row_len=1024, chunk=256)
SILENCE = "TRL_EXPERIMENTAL_SILENCE"  # GKD is in TRL's experimental part, which says so at every import
MISSING = 'the comparison with TRL needs the package trl: pip install "smlib[peers]"'


@dataclass(frozen=True)
class Rival:
    """One step of a trainer.

    Attributes:
        step: does it. tokens: that it learns from, data and rollouts. sampled: of these, how many it sampled.
    """

    step: Callable[[], object]
    tokens: int
    sampled: int = 0


def available() -> bool:
    """Whether TRL can be imported."""
    return importlib.util.find_spec("trl") is not None


def run(quick: bool = False, tell: Callable[[str], None] = lambda part: None, shape: Shape = PEERS) -> dict[str, Any]:
    """Seconds a step, tokens a second and memory of every rival, and the ratios of ours to theirs.

    Args:
        quick: fewer turns.
        tell: called with the name of each part before it is measured.

    Raises:
        RuntimeError: TRL is not installed.
    """
    if not available():
        raise RuntimeError(MISSING)
    turns = 2 if quick else 7
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        tell("trainers of TRL and ours (1 of 2)")
        contestants = rivals(shape, scratch)
        seconds = dict(in_turns({name: one.step for name, one in contestants.items()}, turns).seconds)
        data, space = dataset(shape)
        job = sampling_job(shape, data, space, [i % len(data) for i in range(shape.refill)], seed=0)
        refill = [seconds_of(lambda: sample(*job)) for _ in range(min(turns, 3))]
        share = float(np.median(refill)) / shape.interval
        seconds["sm_amortised"] = [s + share for s in seconds["sm"]]
        contestants["sm_amortised"] = contestants["sm"]
        tell("memory of the same (2 of 2)")
        peaks = {name: peak_bytes(one.step) for name, one in contestants.items() if name != "sm_amortised"}
    found: dict[str, Any] = {}
    for name, times in seconds.items():
        one = contestants[name]
        found[f"peers_{name}_step"] = figure(times, "s", "none") | {"tokens": one.tokens, "sampled": one.sampled}
        found[f"peers_{name}_tokens_per_s"] = figure([one.tokens / s for s in times], "1/s", "none")
        if name in peaks:
            found[f"peers_{name}_peak_memory"] = figure([peaks[name] / 2**20], "MiB", "none")
    for ours, theirs in (("mle", "trl_sft_packed"), ("mle", "trl_sft_padded"), ("sm_on_policy", "trl_gkd")):
        ratios = [a / b for a, b in zip(seconds[theirs], seconds[ours], strict=True)]
        found[f"peers_{theirs}_step_over_{ours}"] = figure(ratios, "ratio", f"our step of {ours}")
    for entry in found.values():
        entry["threads"] = torch.get_num_threads()
    return found


def rivals(shape: Shape, scratch: str) -> dict[str, Rival]:
    """A step of each, from the same weights and examples.

    Args:
        scratch: a folder, which TRL's configuration has to name.
    """
    data, space = dataset(shape)
    policy = policy_for(shape, space)
    clean, noisy = (groups(shape, data, space, method=method) for method in ("mle", "sm"))
    chosen = [int(i) for i in np.random.default_rng([0, 7]).choice(len(data), shape.batch, shape.batch > len(data))]
    examples = [group[0] for group in clean]
    prompts = [group[1].prompt for group in noisy]
    step = {
        method: GradientStep(policy, made, method, row_len=shape.row_len, chunk=shape.chunk, branches=data.branches)
        for method, made in (("mle", clean), ("sm", noisy))
    }
    n_data = sum(len(t) for t in examples)
    sampled = sum(len(group[1]) for group in noisy)

    job = sampling_job(shape, data, space, chosen, seed=0)

    def on_policy() -> None:
        sample(*job)
        step["sm"]()

    learned = sum(len(t) for group in noisy for t in group)
    return {
        "mle": Rival(step["mle"], n_data),
        "trl_sft_packed": Rival(sft_step(policy, examples, space, shape, scratch, packing=True), n_data),
        "trl_sft_padded": Rival(sft_step(policy, examples, space, shape, scratch, packing=False), n_data),
        "sm": Rival(step["sm"], learned),
        "sm_on_policy": Rival(on_policy, learned, sampled),
        "trl_gkd": Rival(
            gkd_step(policy, prompts, space, shape, scratch), shape.batch * shape.rollout, shape.batch * shape.rollout
        ),
    }


def sft_step(
    policy: Policy, examples: list[Trajectory], space: ActionSpace, shape: Shape, scratch: str, *, packing: bool
) -> Callable[[], torch.Tensor]:
    """A step of TRL's SFTTrainer on these examples; it returns the loss, which is our MLE's."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [np.concatenate([t.prompt, t.labels]).astype(int).tolist() for t in examples]
    masks = [[0] * t.prompt.size + [1] * len(t) for t in examples]
    trainer = SFTTrainer(
        _model(policy),
        args=SFTConfig(
            **_options(scratch, shape),
            packing=packing,
            max_length=shape.row_len or max(map(len, rows)),
            completion_only_loss=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": rows, "completion_mask": masks}),
        processing_class=_tokenizer(space),
    )
    kept = trainer.train_dataset
    assert kept is not None
    packed = [kept[i] for i in range(len(kept))]
    return _stepper(trainer, lambda: trainer.data_collator(packed))


def gkd_step(
    policy: Policy, prompts: list[np.ndarray], space: ActionSpace, shape: Shape, scratch: str
) -> Callable[[], torch.Tensor]:
    """A step of TRL's GKDTrainer, wholly on-policy: every prompt is continued by exactly `shape.rollout` tokens."""
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    student = _model(policy)
    student.generation_config.eos_token_id = None  # continuations of one length, as those that ours are compared with
    width = max(len(p) for p in prompts)
    padded = torch.tensor([[space.eos] * (width - len(p)) + p.astype(int).tolist() for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])

    def collate(_examples: Any) -> dict[str, torch.Tensor]:
        labels = torch.full_like(padded, -100)
        given = {"input_ids": padded, "attention_mask": mask, "labels": labels}
        return {k: v.clone() for k, v in {**given, "prompts": padded, "prompt_attention_mask": mask}.items()}

    trainer = GKDTrainer(
        student,
        _model(policy).eval(),
        args=GKDConfig(**_options(scratch, shape), lmbda=1.0, temperature=1.0, max_new_tokens=shape.rollout),
        data_collator=collate,
        train_dataset=Dataset.from_dict({"prompts": [p.astype(int).tolist() for p in prompts]}),
        processing_class=_tokenizer(space),
    )
    return _stepper(trainer, lambda: collate(None))


def _stepper(trainer: Any, collate: Callable[[], dict[str, Any]]) -> Callable[[], torch.Tensor]:
    """What transformers' loop does with a batch, and nothing around it: the optimiser is the one that ours has."""
    trainer.current_gradient_accumulation_steps = 1  # which `train()` sets
    model = trainer.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> torch.Tensor:
        loss: torch.Tensor = trainer.training_step(model, collate())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return step


def _model(policy: Policy) -> Any:
    """A copy of the language model with the attention that transformers gives it."""
    lm = copy.deepcopy(policy.lm)
    lm.set_attn_implementation("sdpa")
    return lm


def _options(scratch: str, shape: Shape) -> dict[str, Any]:
    return {
        "output_dir": scratch,
        "per_device_train_batch_size": shape.batch,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": shape.device == "cpu",
        "report_to": "none",
        "disable_tqdm": True,
        "shuffle_dataset": False,
    }


def _tokenizer(space: ActionSpace) -> Any:
    """Names for the tokens, which TRL asks for; nothing is tokenised."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    names = {f"t{i}": i for i in range(space.vocab_size)}
    made = Tokenizer(WordLevel(names, unk_token=f"t{space.eos}"))
    return PreTrainedTokenizerFast(
        tokenizer_object=made, eos_token=f"t{space.eos}", pad_token=f"t{space.eos}", unk_token=f"t{space.eos}"
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars, no warnings of what is compared on purpose (packing without FlashAttention)."""
    import datasets

    loggers = [logging.getLogger(name) for name in ("trl", "transformers")]
    levels = [logger.level for logger in loggers]
    before = os.environ.get(SILENCE)
    os.environ[SILENCE] = "1"
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        datasets.enable_progress_bars()
        if before is None:
            del os.environ[SILENCE]
        else:
            os.environ[SILENCE] = before

"""The models of the text experiment: a small Llama trained here on the same text, or any pretrained one with adapters.

The small one stands in for Llama-2 in `smoke` and `quick`: its pretraining is maximum likelihood on the training
articles, after which every method fine-tunes a copy. Its tokeniser is a BPE trained on those articles alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from smlib.edits.actions import ActionSpace
from smlib.data.continuations import Continuations
from smlib.data.cutting import passages
from smlib.data.text import Corpus
from smlib.data.tokenizers import FixedTokenizer, TextTokenizer, train_bpe
from smlib.files import write_atomically
from smlib.policies.loading import Lora, load_policy, load_tokenizer
from smlib.objectives.methods import ObjectiveConfig
from smlib.policies.policy import Policy, tiny_policy
from smlib.paper.results import resolve, run_cached
from smlib.files import config_hash
from smlib.training.algorithm_1 import TrainConfig, train

SCRATCH = "scratch"


@dataclass(frozen=True)
class ScratchModel:
    """A small Llama and how it is pretrained: vocabulary, shape, and passes over the training articles."""

    vocab_size: int = 2_048
    dim: int = 128
    layers: int = 4
    heads: int = 4
    context: int = 128
    steps: int = 400
    batch_size: int = 16
    learning_rate: float = 2e-3
    seed: int = 1

    def training(self) -> TrainConfig:
        """Maximum likelihood on passages from a moving window over the training articles."""
        return TrainConfig(
            objective=ObjectiveConfig(method="mle"),
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=min(100, self.steps // 4),
            weight_decay=0.1,
            eta=0.0,
            buffer_size=8 * self.batch_size,
            times_seen=1.0,
            refill=self.batch_size,
            row_len=self.context,
            paired=True,
            log_every=10,
            checkpoint_every=100,
            seed=self.seed,
        )


@dataclass(frozen=True)
class TextModel:
    """What is fine-tuned.

    Attributes:
        name: `scratch`, `smollm2`, or a folder or hub name for `smlib.policies.loading.load_policy`.
        scratch: of the small Llama, used with the name `scratch` alone.
        lora, four_bit, gradient_checkpointing, dtype: see `load_policy`.
        download: whether the hub may be asked.
    """

    name: str = SCRATCH
    scratch: ScratchModel = field(default_factory=ScratchModel)
    lora: Lora | None = None
    four_bit: bool = False
    gradient_checkpointing: bool = False
    dtype: str = "float32"
    download: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, str) or not isinstance(getattr(torch, self.dtype, None), torch.dtype):
            raise ValueError(f"dtype is the name of a dtype of torch, such as 'bfloat16', got {self.dtype!r}")


LLAMA_2 = TextModel(
    name="meta-llama/Llama-2-7b-hf",
    lora=Lora(r=64, alpha=16, unembedding=True),
    four_bit=True,
    gradient_checkpointing=True,
    dtype="bfloat16",
    download=True,
)
"""The paper's model with QLoRA and a trained unembedding (Sec. 6, App. E).

Memory of a step, activations apart: 3.6 GB of frozen weights (3.3 in 4 bits, the embeddings in 16), 0.64 of adapters
and 0.52 of the head (32,000 x 4,096) in float32, three times these two for gradients and AdamW's moments, and twice the
head while it is multiplied: 9.3 GB. Beside rollouts there are no gradients, and it is 7.1 GB (the head's part 1.6)."""


def build(
    model: TextModel, corpus: Corpus, *, preset: str, results_dir: str | Path = "results"
) -> tuple[Policy, TextTokenizer]:
    """The model before fine-tuning, with its tokeniser; the small one is pretrained on `corpus.train` if need be."""
    if model.name == SCRATCH:
        return _scratch(model.scratch, corpus, preset, results_dir)
    return load(model)


def tokenizer_of(
    model: TextModel, corpus: Corpus, *, preset: str, results_dir: str | Path = "results"
) -> TextTokenizer:
    """The tokeniser that `build` returns, without the weights."""
    if model.name == SCRATCH:
        return _vocabulary(model.scratch, corpus, preset, results_dir)
    return load_tokenizer(model.name, local_files_only=not model.download)


def load(model: TextModel) -> tuple[Policy, TextTokenizer]:
    """A pretrained model, on the GPU if there is one."""
    return load_policy(
        model.name,
        lora=model.lora,
        four_bit=model.four_bit,
        gradient_checkpointing=model.gradient_checkpointing,
        dtype=getattr(torch, model.dtype),
        device="cuda" if torch.cuda.is_available() else "cpu",
        local_files_only=not model.download,
    )


def _scratch(
    model: ScratchModel, corpus: Corpus, preset: str, results_dir: str | Path
) -> tuple[Policy, FixedTokenizer]:
    tokens = _vocabulary(model, corpus, preset, results_dir)
    weights = _path(model, preset, results_dir).with_suffix(".safetensors")
    space = ActionSpace(tokens.vocab_size, eos=tokens.eos, bos=tokens.bos)

    def fresh() -> Policy:
        return tiny_policy(
            space, dim=model.dim, layers=model.layers, heads=model.heads, positions=2 * model.context, seed=model.seed
        )

    def compute(scratch: Path) -> Mapping[str, object]:
        cut = passages(corpus.train, tokens, model.context, rule="ascii")
        data = Continuations(cut, tokens, context=model.context, max_prompt=model.context // 2)
        policy = fresh()
        history = train(policy, data, model.training(), scratch).history
        write_atomically(weights, save({k: v.contiguous() for k, v in policy.lm.state_dict().items()}))
        return {
            "loss": [[row["step"], row["loss"]] for row in history],
            "parameters": sum(p.numel() for p in policy.lm.parameters()),
            "passages": len(cut),
            "tokens": int(sum(p.ids.size for p in cut)),
        }

    run_cached(
        "shared",
        "pretrain-text",
        model,
        compute,
        preset=preset,
        seeds=[model.seed],
        version_key=["training", "data"],
        results_dir=results_dir,
        beside=weights,
    )
    policy = fresh()
    policy.lm.load_state_dict(load_file(weights))
    with torch.no_grad():
        policy.w_bkspc.copy_(policy.lm.get_output_embeddings().weight.mean(0))
    return policy, tokens


def _path(model: ScratchModel, preset: str, results_dir: str | Path) -> Path:
    """Of the small model's files, without their endings."""
    return resolve(results_dir) / preset / "pretrained" / f"text-{config_hash(model)}"


def _vocabulary(model: ScratchModel, corpus: Corpus, preset: str, results_dir: str | Path) -> FixedTokenizer:
    """The small model's tokeniser, trained on `corpus.train` if it is not there."""
    path = _path(model, preset, results_dir).with_suffix(".tokenizer.json")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train_bpe([a.text for a in corpus.train], model.vocab_size).save(path)
    return FixedTokenizer.load(path)

"""What is timed: the arithmetic shape (batch 32) and the text shape (context 1024, prompt <= 256, rollouts <= 512).

Speed does not depend on what the model knows, only on lengths. So the policies have random bodies and a head that
makes every token equally likely, with a chosen rate of `<bkspc>` and `<eos>`: rollouts get the lengths that a trained
policy's have, with no training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smlib.bench.quantised import quantised_policy
from smlib.data.demonstrations import TaskDemonstrations
from smlib.data.tasks import load_task
from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.noise import NoiseLaw, expert_trajectory
from smlib.files import ADDED_LATER
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies.policy import Policy, tiny_policy
from smlib.training.algorithm_1 import Dataset


@dataclass(frozen=True)
class Shape:
    """Sizes of a workload.

    Attributes:
        batch: data trajectories a gradient step, and as many rollouts.
        context: longest state of the data, tokens; 0 where the data decide.
        prompt, rollout: longest prompt and longest continuation of a rollout.
        vocab: vocabulary size; 0 where the data decide.
        refill: rollouts sampled at a time. times_seen: how often each is used (App. E).
        eta: noise level of the data.
        dim, layers, heads, mlp, device, dtype: of the model.
        row_len: slots of a packed row; None for the longest block. chunk: states whose logits are held at a time.
        adapters: rank of the adapters on frozen NF4 weights, beside a head that is trained (QLoRA, App. E); 0 trains
            all weights.
    """

    batch: int
    context: int
    prompt: int
    rollout: int
    vocab: int
    refill: int
    times_seen: float = 8.0
    eta: float = 0.1
    row_len: int | None = None
    chunk: int | None = None
    dim: int = 128
    layers: int = 4
    heads: int = 4
    mlp: int | None = None
    device: str = "cpu"
    dtype: str = "float32"
    adapters: int = field(default=0, metadata=ADDED_LATER)

    @property
    def interval(self) -> int:
        """Gradient steps between two refills, the paper's "grad steps per sample"."""
        return max(1, round(self.times_seen * self.refill / self.batch))


ARITHMETIC = Shape(batch=32, context=0, prompt=0, rollout=24, vocab=0, refill=128)
TEXT = Shape(batch=2, context=1024, prompt=256, rollout=512, vocab=8192, refill=16, chunk=256)
LLAMA: dict[str, Any] = {"dim": 4096, "layers": 32, "heads": 32, "mlp": 11_008, "device": "cuda", "dtype": "bfloat16"}
"""Llama-2-7b's sizes. With AdamW on all weights in bfloat16 they take about 56 GB of a GPU (the paper used QLoRA)."""


class TextShape:
    """Random tokens in the text experiment's shape: a document of `context` tokens, rollouts from a prefix of it."""

    branches = True

    def __init__(self, shape: Shape, documents: int = 64, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.shape, self.space = shape, ActionSpace(shape.vocab, eos=1, bos=0)
        self.law = NoiseLaw.uniform(np.arange(2, shape.vocab))
        # `<bos>` and noise insertions take slots too: fewer clean tokens leave the state within the context.
        self.documents = rng.integers(2, shape.vocab, size=(documents, shape.context - 2))

    def __len__(self) -> int:
        return len(self.documents)

    def demonstration(self, index: int, rng: np.random.Generator, eta: float, burst: int) -> Trajectory:
        """The document from `<bos>` on, with noise."""
        answer = np.append(self.documents[index], self.space.eos).astype(np.int32)
        return expert_trajectory([0], answer, self.law, eta, rng, self.space, burst=burst, repeats=False)

    def rollout_prompt(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """`<bos>` and a prefix of random length."""
        n = int(rng.integers(min(16, self.shape.prompt - 1), self.shape.prompt))
        return np.concatenate([[0], self.documents[index][:n]]).astype(np.int32)

    def reference(self, index: int) -> np.ndarray:
        """The document and `<eos>`."""
        return np.append(self.documents[index], self.space.eos).astype(np.int32)

    def noise_law(self, index: int) -> NoiseLaw:
        """Uniform over the vocabulary."""
        return self.law


def dataset(shape: Shape, seed: int = 0) -> tuple[Dataset, ActionSpace]:
    """The data of a shape: generated questions for arithmetic, random documents for text."""
    if shape.context:
        text = TextShape(shape, documents=max(64, shape.batch), seed=seed)
        return text, text.space
    task = load_task("add_or_sub_in_base", n_train=max(512, shape.batch), n_val=0, n_test=0, seed=seed)
    return TaskDemonstrations(task, task.train, "ground_truth"), task.space


class LevelPolicy(Policy):
    """A policy whose actions have fixed probabilities in every state, at the full price of its body and head."""

    def level(self, backspace: float, eos: float) -> "LevelPolicy":
        """Sets P(<bkspc>) and P(<eos>); the other tokens share the rest equally. In place."""
        space = self.space
        probabilities = np.full(space.n_actions, (1 - backspace - eos) / (space.vocab_size - 1))
        probabilities[[space.bkspc, space.eos]] = backspace, eos
        with np.errstate(divide="ignore"):
            levels = torch.from_numpy(np.log(probabilities)).to(self.w_bkspc)
        self.levels = levels.clamp_min(-1e4)  # as good as -inf, and finite
        with torch.no_grad():
            self.lm.get_output_embeddings().weight.zero_()
            self.w_bkspc.zero_()
        return self

    def logits(self, hidden: Tensor, positions: Tensor | None) -> Tensor:
        """The head's logits (zeros) and the levels."""
        return super().logits(hidden, positions) + self.levels


def policy_for(shape: Shape, space: ActionSpace, seed: int = 0) -> Policy:
    """A Llama of the shape's size, random weights, in training mode.

    Raises:
        RuntimeError: the shape is for a GPU and there is none.
    """
    if shape.device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("Llama-2-7b's shapes need a CUDA device with about 60 GB; use the preset quick or full")
    if shape.adapters:
        return quantised_policy(
            space,
            sizes={"dim": shape.dim, "layers": shape.layers, "heads": shape.heads, "mlp": shape.mlp},
            positions=2 * (shape.context or 256),
            rank=shape.adapters,
            device=shape.device,
            dtype=getattr(torch, shape.dtype),
            seed=seed,
        ).train()
    policy = tiny_policy(
        space,
        dim=shape.dim,
        layers=shape.layers,
        heads=shape.heads,
        mlp=shape.mlp,
        positions=2 * (shape.context or 256),
        seed=seed,
        dtype=getattr(torch, shape.dtype),
    )
    return policy.to(shape.device).train()


def level_policy(shape: Shape, space: ActionSpace, backspace: float, eos: float, seed: int = 0) -> LevelPolicy:
    """The same body with fixed action probabilities."""
    plain = policy_for(shape, space, seed)
    policy = LevelPolicy(plain.lm, plain.config)
    policy.offset = plain.offset  # that of the seed: its own would be another one in every process
    # What is trained beside quantised weights is in float32 whatever their arithmetic is in.
    policy = policy.to(shape.device) if shape.adapters else policy.to(shape.device, getattr(torch, shape.dtype))
    return policy.level(backspace, eos)


def rollouts(shape: Shape, data: Dataset, space: ActionSpace, indices: Sequence[int], seed: int) -> list[Trajectory]:
    """Rollouts of the lengths that a trained policy's have, from the prompts of the examples.

    Arithmetic: geometric with the mean length of the solutions. Text: the full length, as documents are longer.
    """
    return sample(*sampling_job(shape, data, space, indices, seed)).trajectories


def sampling_job(
    shape: Shape, data: Dataset, space: ActionSpace, indices: Sequence[int], seed: int
) -> tuple[LevelPolicy, list[np.ndarray], SamplingConfig, list[int]]:
    """The arguments of `sample` for a refill."""
    rng = np.random.default_rng([seed, 5])
    ends = 0.0 if shape.context else 1.0 / float(np.mean([len(data.reference(i)) for i in indices]))
    edits = shape.eta / (1 + shape.eta) * (1 - ends)  # one deletion for each inserted mistake
    policy = level_policy(shape, space, edits, ends, seed)
    prompts = [np.asarray(data.rollout_prompt(i, rng)) for i in indices]
    config = SamplingConfig(max_new_tokens=shape.rollout, max_actions=shape.rollout + 1)
    return policy, prompts, config, [int(s) for s in rng.integers(0, 2**63, size=len(indices))]


def groups(
    shape: Shape, data: Dataset, space: ActionSpace, *, method: str, seed: int = 0, share: float = 1.0
) -> list[list[Trajectory]]:
    """One batch: a demonstration an example, clean for `mle`, and for `sm` a rollout with `share` of them."""
    rng = np.random.default_rng([seed, 7])
    indices = [int(i) for i in rng.choice(len(data), size=shape.batch, replace=shape.batch > len(data))]
    eta = 0.0 if method == "mle" else shape.eta
    made = [[data.demonstration(i, rng, eta, 1)] for i in indices]
    chosen = indices[: round(share * shape.batch)] if method == "sm" else []
    if chosen:
        for group, rollout in zip(made, rollouts(shape, data, space, chosen, seed), strict=False):
            group.append(rollout)
    return made


def with_context(shape: Shape, context: int) -> Shape:
    """The text shape at another context length; prompt and rollout keep their shares of it."""
    return replace(shape, context=context, prompt=context // 4, rollout=context // 2)

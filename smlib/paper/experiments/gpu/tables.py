"""Tables 3 and 4 at the paper's own shape, and the sampler against `generate`: seconds, ratios and memory of one GPU.

Llama-2-7b's geometry with random weights in NF4, adapters of rank 64 and a trained head, context 1,024. SequenceMatch
and maximum likelihood take turns in one process, as everywhere (`smlib.bench`).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from smlib import bench
from smlib.bench import generation
from smlib.bench.timing import figure, in_turns
from smlib.bench.workloads import ARITHMETIC, LLAMA, TEXT, Shape
from smlib.paper.experiments.overhead.tables import SMALL, TITLES

TABLE_TURNS = 5

LLAMA_2_QLORA: dict[str, Any] = {**LLAMA, "adapters": 64, "chunk": 512}
SMOLLM2: dict[str, Any] = {"dim": 576, "layers": 30, "heads": 9, "mlp": 1536, "device": "cuda", "dtype": "bfloat16"}
"""SmolLM2-135M's sizes, without its shared keys and values."""

SHAPES: dict[str, Shape] = {
    "tab3": replace(TEXT, batch=1, refill=2, vocab=32_000, **LLAMA_2_QLORA),
    "tab4": replace(ARITHMETIC, batch=8, refill=32, **LLAMA_2_QLORA),
}

_TINY: dict[str, Any] = {**SMALL, "adapters": 2, "chunk": 64, "mlp": 64}
DRY_SHAPES: dict[str, Shape] = {
    "tab3": replace(TEXT, batch=1, refill=1, vocab=64, context=32, prompt=16, rollout=6, **_TINY),
    "tab4": replace(ARITHMETIC, batch=1, refill=1, rollout=4, **_TINY),
}


def tables(dry: bool) -> dict[str, Any]:
    """For `tab3` and `tab4` the entries of `smlib.bench.training` and of `memory`, the shape's name left out."""
    found: dict[str, Any] = {}
    for item, shape in (DRY_SHAPES if dry else SHAPES).items():
        name = TITLES[item][1]
        turns = 1 if dry else TABLE_TURNS
        figures = bench.training(name, shape, turns=turns, sampling_turns=1, apart=item == "tab4")
        entries = {key.replace(f"_{name}", ""): value for key, value in figures.items()}
        entries |= {key.replace("_text1024", ""): value for key, value in bench.memory(shape).items()}
        found[item] = {**entries, "shape": vars(shape)}
    if torch.cuda.is_available():
        found["peak_allocated_GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return found


def sampler(dry: bool) -> dict[str, Any]:
    """Tokens a second of `sample` and of `generate` at equal weights, batch and length, for two sizes of model."""
    if dry:
        sizes = {"tiny": (replace(ARITHMETIC, vocab=64, **SMALL), {"batch": 2, "prompt": 4, "new": 6}, 1)}
    else:
        llama = replace(ARITHMETIC, vocab=32_000, **LLAMA, adapters=64)
        smol = replace(ARITHMETIC, vocab=49_152, **SMOLLM2)
        sizes = {
            "smollm2": (smol, {"batch": 64, "prompt": 32, "new": 128}, 3),
            "llama2_nf4": (llama, {"batch": 32, "prompt": 32, "new": 48}, 2),
        }
    return {name: _rivals(shape, options, turns) for name, (shape, options, turns) in sizes.items()}


def _rivals(shape: Shape, options: dict[str, int], turns: int) -> dict[str, Any]:
    none = generation.ours(shape, **options, backspace=0.0)
    rivals: dict[str, Callable[[], object]] = {
        "ours": none,
        "20%": generation.ours(shape, **options, backspace=0.2),
        "generate": generation.theirs(shape, **options, cache=None),
    }
    times = in_turns(rivals, turns)
    tokens = options["batch"] * options["new"]
    inserted = none().insertions / tokens
    ratio = [inserted * r for r in times.ratio("generate", "ours")]
    return {
        "sample_tokens_per_s": figure([inserted * tokens / s for s in times.seconds["ours"]], "1/s", "none"),
        "generate_tokens_per_s": figure([tokens / s for s in times.seconds["generate"]], "1/s", "none"),
        "sample_tokens_per_s_over_generate": figure(ratio, "ratio", "transformers.generate, as it comes"),
        "sample_with_20pct_backspaces_over_none": figure(times.ratio("20%", "ours"), "ratio", "no backspaces"),
        "sizes": {**options, "dim": shape.dim, "layers": shape.layers},
    }

"""Sampling against `transformers.generate`, with the same weights, prompts and number of tokens."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from smlib.bench.timing import stopwatch
from smlib.bench.workloads import LevelPolicy, Shape, level_policy
from smlib.edits.actions import ActionSpace
from smlib.generation.sampling import SampleStats, SamplingConfig, sample


def ours(
    shape: Shape, *, batch: int, prompt: int, new: int, backspace: float, actions: int | None = None
) -> Callable[[], SampleStats]:
    """A call of `sample` in which every sequence takes `new` actions, a share `backspace` of them deletions.

    Args:
        actions: another number of actions, in the same room for `new` tokens.
    """
    policy, prompts = _start(shape, batch, prompt, backspace)
    config = SamplingConfig(max_new_tokens=new, max_actions=actions or new)
    seeds = list(range(batch))
    return lambda: sample(policy, prompts, config, seeds, batch_size=batch).stats


def network_seconds(shape: Shape, *, batch: int, prompt: int, new: int) -> Callable[[], float]:
    """A call of what `ours` gives without deletions, which returns the seconds of the network's passes alone."""
    policy, prompts = _start(shape, batch, prompt, 0.0)
    passes, config = policy.hidden, SamplingConfig(max_new_tokens=new, max_actions=new)
    spent: list[float] = []

    def timed(*arguments: Any, **options: Any) -> Any:
        seconds, found = stopwatch(lambda: passes(*arguments, **options))
        spent.append(seconds)
        return found

    policy.hidden = timed  # type: ignore[method-assign]

    def total() -> float:
        spent.clear()
        sample(policy, prompts, config, list(range(batch)), batch_size=batch)
        return sum(spent)

    return total


def theirs(shape: Shape, *, batch: int, prompt: int, new: int, cache: str | None) -> Callable[[], object]:
    """A call of `generate` for exactly `new` tokens at temperature 1.

    Args:
        cache: `static` for the preallocated cache, None for the growing one.
    """
    policy, prompts = _start(shape, batch, prompt, 0.0)
    lm = copy.deepcopy(policy.lm).eval()
    tokens = torch.from_numpy(np.stack(prompts)).to(policy.device)
    options = {} if cache is None else {"cache_implementation": cache}

    def generate() -> object:
        with torch.inference_mode():
            return lm.generate(
                tokens,
                attention_mask=torch.ones_like(tokens),
                do_sample=True,
                top_k=0,
                max_new_tokens=new,
                min_new_tokens=new,
                pad_token_id=policy.space.eos,
                **options,
            )

    return generate


def _start(shape: Shape, batch: int, prompt: int, backspace: float) -> tuple[LevelPolicy, list[np.ndarray]]:
    space = ActionSpace(shape.vocab or 128, eos=1, bos=0)
    policy = level_policy(shape, space, backspace, 0.0)
    rng = np.random.default_rng(0)
    return policy, [rng.integers(2, space.vocab_size, size=prompt) for _ in range(batch)]

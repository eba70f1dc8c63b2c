"""Generation with backspace: batched, each row rolls back alone, and `<bkspc>` costs no forward pass (Sec.
4.1).

The hidden vector of every state on a row's path is kept, so after `<bkspc>` the distribution of the
revisited state is known already. All rows act until each has inserted a token that the model has not read,
then one forward pass reads those tokens. Forward passes over generated tokens therefore equal insertions,
rows that have ended leave the batch, and every pass is over a full batch.

Each sequence owns a random stream keyed by its seed and uses one uniform per action, so a sample depends on
its prompt, its seed and the settings, and not on what else is in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from smlib.edits.actions import Trajectory
from smlib.edits.noise_dynamics import TokenLaw
from smlib.generation.decoding import SamplingConfig
from smlib.generation.edit_batch import EditBatch, SamplesActions, SampleStats, evaluating, keeps_edits
from smlib.generation.kept_batch import KeptBatch, check_history_fits
from smlib.generation.prompts import check_room, check_sampling, checked_prefix, checked_prompts

__all__ = ["SampleResult", "SampleStats", "SamplingConfig", "sample"]

ROWS, SLOTS = 256, 32_768  # default batch: rows beyond the first gain nothing, slots beyond the second cost gigabytes


@dataclass(frozen=True)
class SampleResult:
    """Trajectories in the order of the prompts, and what they cost."""

    trajectories: list[Trajectory]
    stats: SampleStats


def sample(
    policy: SamplesActions,
    prompts: Sequence[NDArray[np.integer] | Sequence[int]],
    config: SamplingConfig,
    seeds: Sequence[int],
    *,
    noise_laws: TokenLaw | Sequence[TokenLaw] | None = None,
    prefixes: Sequence[NDArray[np.integer] | Sequence[int]] | None = None,
    batch_size: int | None = None,
) -> SampleResult:
    """Draws one trajectory per prompt from the policy.

    Args:
        policy: `Policy`, or anything with its `space`, `hidden` and `logits`.
        prompts: token ids of the root states, of any lengths.
        config: filters, limits and noise.
        seeds: one non-negative integer per prompt.
        noise_laws: law of the noise tokens, one for all or one per prompt; needed by `truncation_eta` and
            `execution_noise`.
        prefixes: tokens that stand after each prompt when sampling begins (the wrong digits of Table 1), any number of
            them. Unlike the prompt they can be deleted; they count for `max_new_tokens` and not as actions, and are the
            first `len(prefix)` visits of the trajectory, as labels and as realised, though nobody chose them.
        batch_size: largest number of rows in one forward pass; as many as a key/value cache of 32,768 slots holds, 256
            at most, when omitted. The samples do not depend on it (up to the
            rounding of the model's own arithmetic: exactly so in float64 for all practical purposes, see
            the tests).

    Raises:
        ValueError: an empty or invalid prompt, or one where a list of them is expected; a wrong number of seeds or
            laws, a missing noise law, non-finite logits, a prompt that leaves no room for `max_new_tokens` in the
            model's context.

    >>> policy, tokenizer = smlib.load_shipped("sm-arithmetic")
    >>> question = [tokenizer.bos, *tokenizer.encode("In base 7, what is 2 + 3? Solution: ")]
    >>> found = sample(policy, [question], SamplingConfig(max_new_tokens=8, greedy=True), seeds=[0])
    >>> len(found.trajectories), found.stats.forward_tokens == found.stats.insertions
    (1, True)
    """
    space = policy.space
    roots = checked_prompts(prompts, space)
    if np.ndim(seeds) == 0:
        raise ValueError(f"seeds is one number, {seeds}: expected one per prompt, for instance range({len(roots)})")
    if len(seeds) != len(roots):
        raise ValueError(f"{len(roots)} prompts but {len(seeds)} seeds: one each")
    check_sampling(config, seeds)
    if config.needs_noise_law and noise_laws is None:
        raise ValueError("truncation_eta and execution_noise need noise_laws: the law of the noise tokens")
    laws = list(noise_laws) if isinstance(noise_laws, Sequence) else [noise_laws] * len(roots)
    if len(laws) != len(roots):
        raise ValueError(f"{len(roots)} prompts but {len(laws)} noise laws: one for all, or one each")
    standing = [np.empty(0, dtype=np.int32)] * len(roots)
    if prefixes is not None:
        standing = [checked_prefix(i, prefix, config, space) for i, prefix in enumerate(prefixes)]
    if len(standing) != len(roots):
        raise ValueError(f"{len(roots)} prompts but {len(standing)} prefixes: one each")
    kept = keeps_edits(policy)
    if kept:
        longest = max((len(r) + len(p) for r, p in zip(roots, standing, strict=True)), default=1)
        slots = check_history_fits(policy, longest, config)
    else:
        slots = check_room(policy, roots, config.max_new_tokens)
    rows = max(1, min(ROWS, SLOTS // slots)) if batch_size is None else batch_size
    if rows < 1:
        raise ValueError(f"batch_size={rows}: expected >= 1")

    by_length = sorted(range(len(roots)), key=lambda i: (len(roots[i]) + len(standing[i]), i))
    trajectories: dict[int, Trajectory] = {}
    stats = SampleStats()
    with evaluating(policy), torch.inference_mode():
        for start in range(0, len(by_length), rows):
            chunk = by_length[start : start + rows]
            batch = (KeptBatch if kept else EditBatch)(
                policy,
                config,
                prompts=[roots[i] for i in chunk],
                seeds=[seeds[i] for i in chunk],
                laws=[laws[i] for i in chunk],
                prefixes=[standing[i] for i in chunk],
            )
            batch.run()
            trajectories.update(zip(chunk, batch.trajectories(), strict=True))
            stats += batch.stats
    return SampleResult([trajectories[i] for i in range(len(roots))], stats)

"""Contrastive search (Su et al., 2022, arXiv 2202.06417), the deterministic baseline of Table 2; no backspace.

At each step the k most probable tokens V_k are tried, and the one that maximises

    (1 - alpha) p(v | x) - alpha * max_{j} cos(h_v, h_{x_j})

is kept, where h_v is the last hidden vector after v and j runs over the whole context, prompt included. All candidates
of all sequences are read in one forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from smlib.edits.actions import Trajectory
from smlib.generation.edit_batch import SamplesActions, evaluating
from smlib.generation.prompts import check_room, checked_prompts
from smlib.kinds import check_kinds
from smlib.policies.kv_cache import SlotCache

ROWS = 16  # sequences at a time; a forward pass reads k times as many rows


@dataclass(frozen=True)
class ContrastiveConfig:
    """Settings of contrastive search.

    Attributes:
        max_new_tokens: largest depth below the root, `<eos>` not counted; then `<eos>` is forced.
        k: number of candidates. alpha: weight of the degeneration penalty, in [0, 1]; 0 is greedy decoding.
    """

    max_new_tokens: int
    k: int = 5
    alpha: float = 0.6

    def __post_init__(self) -> None:
        check_kinds(self)
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens={self.max_new_tokens}: expected >= 0")
        if self.k < 1:
            raise ValueError(f"k={self.k}: expected at least one candidate")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha}: expected in [0, 1]")


def contrastive_search(
    policy: SamplesActions,
    prompts: Sequence[NDArray[np.integer] | Sequence[int]],
    config: ContrastiveConfig,
    *,
    batch_size: int | None = None,
) -> list[Trajectory]:
    """One trajectory per prompt. `<bkspc>` is never chosen; the policy is renormalised over the vocabulary.

    Args:
        prompts: token ids of the root states, of any lengths.
        config: number of candidates, weight of the penalty on repetition, length.
        batch_size: largest number of rows in one forward pass; `ROWS` when omitted.

    Raises:
        ValueError: an empty or invalid prompt, or one where a list of them is expected; a prompt that leaves no room
            for `max_new_tokens` in the model's context; more candidates than tokens; a `batch_size` below 1.

    >>> policy, tokenizer = smlib.load_shipped("sm-arithmetic")
    >>> question = [tokenizer.bos, *tokenizer.encode("In base 7, what is 2 + 3? Solution: ")]
    >>> (answer,) = contrastive_search(policy, [question], ContrastiveConfig(max_new_tokens=8, k=2))
    >>> int(answer.realised[-1]) == tokenizer.eos
    True
    """
    if not isinstance(config, ContrastiveConfig):
        raise TypeError(f"config is a {type(config).__name__}: expected a ContrastiveConfig")
    if config.k > policy.space.vocab_size:
        raise ValueError(f"k={config.k} candidates from a vocabulary of {policy.space.vocab_size}")
    roots = checked_prompts(prompts, policy.space)
    check_room(policy, roots, config.max_new_tokens)
    by_length = sorted(range(len(roots)), key=lambda i: (len(roots[i]), i))
    rows = ROWS if batch_size is None else batch_size
    if rows < 1:
        raise ValueError(f"batch_size={rows}: expected >= 1")
    found: dict[int, Trajectory] = {}
    with evaluating(policy), torch.inference_mode():
        for start in range(0, len(by_length), rows):
            chunk = by_length[start : start + rows]
            found.update(zip(chunk, _search(policy, [roots[i] for i in chunk], config), strict=True))
    return [found[i] for i in range(len(roots))]


def contrastive_scores(
    probabilities: Float[Tensor, "n k"],
    candidates: Float[Tensor, "n k d"],
    context: Float[Tensor, "n s d"],
    visible: Bool[Tensor, "n s"],
    alpha: float,
) -> Float[Tensor, "n k"]:
    """(1 - alpha) p(v | x) - alpha max_j cos(h_v, h_{x_j}); `visible` says which j are in each row's context."""
    unit, units = (torch.nn.functional.normalize(h.double(), dim=-1) for h in (candidates, context))
    cosine = (unit @ units.transpose(1, 2)).masked_fill(~visible[:, None], -torch.inf)  # [n, k, s]
    return (1 - alpha) * probabilities.double() - alpha * cosine.amax(-1)


def _search(policy: SamplesActions, prompts: list[NDArray[np.int32]], config: ContrastiveConfig) -> list[Trajectory]:
    """Rows i * k, ..., i * k + k - 1 of the cache hold sequence i, each with another candidate at its last slot."""
    device, k, n = policy.device, config.k, len(prompts)
    root = torch.tensor([len(prompt) for prompt in prompts], device=device)
    cache = SlotCache(n * k, int(root.max()) + config.max_new_tokens)
    context, tokens = _prefill(policy, prompts, cache, k)
    depth, alive = root.clone(), torch.arange(n, device=device)
    ended: dict[int, list[int]] = {}
    while alive.numel():
        at = depth[alive]
        p = torch.softmax(policy.logits(context[alive, at - 1], None)[:, : policy.space.vocab_size].double(), dim=-1)
        p, v = p.topk(k, dim=-1)  # [m, k]
        full = at == root[alive] + config.max_new_tokens
        states = _read_candidates(policy, cache, v, torch.where(full, at - 1, at))  # [m, k, d]
        visible = torch.arange(context.shape[1], device=device) < at[:, None]
        best = contrastive_scores(p, states, context[alive], visible, config.alpha).argmax(-1)
        best = torch.where(full, 0, best)  # no slot is left for candidates: the label is the most probable token
        chosen = v.gather(1, best[:, None])[:, 0]
        going = torch.nonzero(~full & (chosen != policy.space.eos)).flatten()
        for row in torch.nonzero(full | (chosen == policy.space.eos)).flatten().tolist():
            i = int(alive[row])
            ended[i] = [*tokens[i, root[i] : depth[i]].tolist(), int(chosen[row])]
        if going.numel() < alive.numel():
            _keep(cache, going * k + best[going], k)
        else:
            _keep_last(cache, going * k + best, at, k)
        alive, at = alive[going], at[going]
        context[alive, at], tokens[alive, at] = states[going, best[going]], chosen[going]
        depth[alive] += 1
    return [_trajectory(policy, prompt, ended[i]) for i, prompt in enumerate(prompts)]


def _trajectory(policy: SamplesActions, prompt: NDArray[np.int32], labels: list[int]) -> Trajectory:
    return Trajectory.make(prompt, labels, [*labels[:-1], policy.space.eos], space=policy.space)


def _prefill(
    policy: SamplesActions, prompts: list[NDArray[np.int32]], cache: SlotCache, k: int
) -> tuple[Float[Tensor, "n s d"], Int[Tensor, "n s"]]:
    """Reads the prompts once, then k rows each; hidden vectors and tokens, with room for what follows."""
    n, width, slots = len(prompts), max(map(len, prompts)), cache.window.slots
    tokens = torch.zeros((n, slots), dtype=torch.long, device=policy.device)
    for i, prompt in enumerate(prompts):
        tokens[i, : len(prompt)] = torch.from_numpy(prompt)
    positions = torch.arange(width, device=policy.device).expand(n, width)
    mask = torch.ones((width, width), dtype=torch.bool, device=policy.device).tril().expand(n, 1, width, width)
    cache.point(positions, width)
    states = policy.hidden(tokens[:, :width], positions, mask, cache=cache)
    _keep(cache, torch.arange(n, device=policy.device), k)
    context = states.new_zeros((n, slots, states.shape[-1]))
    context[:, :width] = states
    return context, tokens


def _read_candidates(
    policy: SamplesActions, cache: SlotCache, candidates: Int[Tensor, "m k"], at: Int[Tensor, " m"]
) -> Float[Tensor, "m k d"]:
    """Last hidden vectors after each candidate, read at slot `at` of its sequence."""
    m, k = candidates.shape
    positions = at.repeat_interleave(k)[:, None]
    view = int(at.max()) + 1
    mask = (torch.arange(view, device=at.device) <= positions)[:, None, None]
    cache.point(positions, view)
    return policy.hidden(candidates.reshape(-1, 1), positions, mask, cache=cache)[:, 0].unflatten(0, (m, k))


def _keep(cache: SlotCache, rows: Int[Tensor, " m"], k: int) -> None:
    """Copies cache row `rows[i]` over rows i * k, ..., i * k + k - 1."""
    source = rows.repeat_interleave(k)
    for layer in cache.every_layer:
        layer.keys[: source.numel()] = layer.keys[source]
        layer.values[: source.numel()] = layer.values[source]


def _keep_last(cache: SlotCache, rows: Int[Tensor, " m"], at: Int[Tensor, " m"], k: int) -> None:
    """The same where rows of one sequence differ at slot `at` alone, which is so until a sequence ends."""
    source, slot = rows.repeat_interleave(k), at.repeat_interleave(k)
    target = torch.arange(source.numel(), device=rows.device)
    for layer in cache.every_layer:
        layer.keys[target, :, slot] = layer.keys[source, :, slot]
        layer.values[target, :, slot] = layer.values[source, :, slot]

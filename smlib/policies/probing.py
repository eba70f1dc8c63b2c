"""Whether a language model can be a policy: does it obey packed masks and positions, and a cache that is rolled back?

Run once when a model is loaded. The reference is the slow one: every state of a trajectory with backspaces recomputed
by itself, by the model's own causal attention.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from smlib.edits.actions import ActionSpace, Trajectory, replay
from smlib.edits.packing import pack
from smlib.policies.decoder import bare, evaluated
from smlib.policies.independence import independent_context
from smlib.policies.kv_cache import SlotCache
from smlib.policies.policy import Policy
from smlib.policies.requirements import check_weights

WIDE = 64  # tokens of either row; more would make the check dear where the model is large


class ModelError(ValueError):
    """A model that cannot be a policy."""


def probe(policy: Policy, name: str) -> None:
    """Raises ModelError unless packed logits and cached logits are those of recomputed states, up to rounding.

    The recomputed states go through the model's own plain attention, which leaves nothing out that other
    implementations do not know. And a state has to be the same beside rows as long as are affordable here.
    """
    space = policy.space
    ordinary = ordinary_tokens(space)
    if len(ordinary) < 8:
        return  # nothing to tell apart
    trajectory = probe_trajectory(space, ordinary)
    if policy.context < len(trajectory) + 2:
        raise ModelError(
            f"{name}: a context of {policy.context} tokens is too short to be probed: {policy.why_shorter()}"
        )
    with evaluated(policy):
        try:
            slow, plain = recomputed_logits(policy, trajectory), plain_logits(policy, trajectory)
        except Exception as error:
            raise ModelError(f"{name}: the model fails on a plain call ({type(error).__name__}: {error})") from error
        if not bool(torch.isfinite(slow).all()):
            try:
                check_weights(policy.lm)
            except ValueError as error:
                raise ModelError(f"{name}: {error}") from error
            raise ModelError(
                f"{name}: its logits are not finite in {slow.dtype}, though its weights are: try another dtype"
            )
        scale = float(slow.abs().max())
        # How much a state's past tells: the same last token at the same place, and nothing before it.
        signal = float((slow - _without_past(policy, trajectory)).abs().max())
        allowed = tolerance(slow.dtype, policy) * scale
        rounding = max(torch.finfo(slow.dtype).eps, torch.finfo(torch.float32).eps) * scale
        if signal > 1000 * rounding:  # weights near 0: what matters is smaller than the logits
            allowed = min(allowed, 0.1 * signal)
        gap = float((plain - slow).abs().max())
        if not gap <= allowed:
            raise ModelError(
                f"{name}: logits through torch's scaled_dot_product_attention are off by {gap:.2g} (of {scale:.2g}) "
                "from those of its plain (eager) attention: it does something that the packed attention does not"
            )
        for what, fast in (("a packed trajectory", packed_logits), ("a cache that is rolled back", cached_logits)):
            try:
                found = fast(policy, trajectory)
            except Exception as error:  # whatever a foreign model makes of arguments that it does not know
                raise ModelError(
                    f"{name}: the model cannot run on {what} ({type(error).__name__}: {error}). It has to accept "
                    "bool 4-D masks, position ids and a key/value cache of transformers"
                ) from error
            gap = float((found - slow).abs().max())
            if not gap <= allowed:
                raise ModelError(
                    f"{name}: logits on {what} are off by {gap:.2g} (of {scale:.2g}) from those of the same states "
                    "recomputed: its attention ignores masks, positions or the cache, and cannot be trained here"
                )
        if independent_context(policy.lm, policy.context, WIDE) != policy.context:
            raise ModelError(f"{name}: a state has other logits beside a row of {WIDE} tokens than beside a short one")


def ordinary_tokens(space: ActionSpace) -> list[int]:
    """Tokens from all over the vocabulary, about 40.

    The first ones are often marks that a model never learned: between those, 16 bits round SmolLM2's logits by a tenth.
    """
    step = max(1, space.vocab_size // 40)
    return [i for i in range(step // 2, space.vocab_size, step) if i not in (space.eos, space.bos)]


def tolerance(dtype: torch.dtype, policy: Policy) -> float:
    """Relative: rounding of a few layers in the model's own arithmetic; errors of masks are of order 1."""
    half = policy.lm.get_input_embeddings().weight.dtype in (torch.bfloat16, torch.float16)
    return 0.1 if half else 1e-3


def probe_trajectory(space: ActionSpace, tokens: list[int]) -> Trajectory:
    """A prompt of two tokens; branches that are deleted, one of them two tokens deep; then `<eos>`."""
    t, back = tokens, space.bkspc
    first = t[0] if space.bos is None else space.bos
    actions = [t[1], t[2], back, t[3], t[4], back, back, t[5], t[6], t[7], space.eos]
    return Trajectory.make([first, t[2]], actions, space=space)


def recomputed_logits(policy: Policy, trajectory: Trajectory) -> Float[Tensor, "U V"]:
    """Vocabulary logits of each distinct state before the end, each state read by itself, by the plain attention."""
    with _eager(bare(policy.lm)):
        return plain_logits(policy, trajectory)


def plain_logits(policy: Policy, trajectory: Trajectory) -> Float[Tensor, "U V"]:
    """The same through the attention that the model was loaded with."""
    return torch.stack([_plain(policy, state) for state in _states(policy, trajectory)])


def packed_logits(policy: Policy, trajectory: Trajectory) -> Float[Tensor, "U V"]:
    """The same from one packed row."""
    batch = pack([[trajectory]], policy.space).to(policy.device)
    logits = policy.state_logits(batch)[:, : policy.space.vocab_size]
    first: dict[tuple[int, ...], int] = {}
    for visit, state in enumerate(replay(trajectory, policy.space)[:-1]):
        first.setdefault(state, int(batch.visit_state[visit]))
    return _without_offset(policy, logits)[[first[s] for s in _states(policy, trajectory)]]


def cached_logits(policy: Policy, trajectory: Trajectory) -> Float[Tensor, "U V"]:
    """The same token by token, `<bkspc>` rolling the cache back."""
    device, rows = policy.device, []
    root = torch.from_numpy(trajectory.prompt.astype(np.int64))[None].to(device)
    cache = SlotCache(1, root.shape[1] + len(trajectory) + 1)

    def read(tokens: Tensor, at: int) -> Tensor:
        positions = torch.arange(at, at + tokens.shape[1], device=device)[None]
        view = at + tokens.shape[1]
        mask = (torch.arange(view, device=device) <= positions[0, :, None])[None, None]
        cache.point(positions, view)
        return policy.hidden(tokens, positions, mask, cache=cache)[0, -1]

    path = [read(root, 0)]
    rows.append(path[0])
    for action in trajectory.realised.tolist()[:-1]:
        if action == policy.space.bkspc:
            path.pop()
        else:
            at = root.shape[1] + len(path) - 1
            path.append(read(torch.tensor([[action]], device=device), at))
            rows.append(path[-1])
    return policy.logits(torch.stack(rows), None)[:, : policy.space.vocab_size]


def _states(policy: Policy, trajectory: Trajectory) -> list[tuple[int, ...]]:
    """The distinct states in the order of their first visit, the terminal one left out."""
    return list(dict.fromkeys(replay(trajectory, policy.space)[:-1]))


def _plain(policy: Policy, state: tuple[int, ...]) -> Tensor:
    """Logits of the language model itself, called as anybody would call it."""
    logits: Tensor = policy.lm(torch.tensor([state], device=policy.device), use_cache=False).logits[0, -1]
    return logits[: policy.space.vocab_size]


def _without_past(policy: Policy, trajectory: Trajectory) -> Float[Tensor, "U V"]:
    """Logits at the last token of each state, at its place, if it saw itself alone."""
    rows = []
    for state in _states(policy, trajectory):
        last = torch.tensor([state[-1:]], device=policy.device)
        mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=policy.device)
        rows.append(policy.hidden(last, torch.full_like(last, len(state) - 1), mask)[0, -1])
    return policy.logits(torch.stack(rows), None)[:, : policy.space.vocab_size]


@contextmanager
def _eager(lm: Any) -> Iterator[None]:
    """transformers' own plain attention inside."""
    kind = lm.config._attn_implementation
    lm.set_attn_implementation("eager")
    try:
        yield
    finally:
        lm.set_attn_implementation(kind)


def _without_offset(policy: Policy, logits: Tensor) -> Tensor:
    """A fresh offset head adds 0; a trained one is taken out by comparing differences only."""
    if policy.offset is None or not bool(policy.offset.outer.weight.any() or policy.offset.outer.bias.any()):
        return logits
    raise ModelError("only a policy with a fresh offset head is probed")

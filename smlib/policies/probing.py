"""Whether a language model can be a policy: does it obey packed masks and positions, and a cache that is rolled back?

Run once when a model is loaded. The reference is the slow one: every state of a trajectory with backspaces recomputed
by itself, by the model's own causal attention.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from smlib.edits.actions import ActionSpace, Trajectory, replay
from smlib.edits.packing import pack
from smlib.policies.kv_cache import SlotCache
from smlib.policies.policy import Policy


class ModelError(ValueError):
    """A model that cannot be a policy."""


def probe(policy: Policy, name: str) -> None:
    """Raises ModelError unless packed logits and cached logits are those of recomputed states, up to rounding."""
    space = policy.space
    ordinary = [i for i in range(min(space.vocab_size, 40)) if i not in (space.eos, space.bos)]
    if len(ordinary) < 8:
        return  # nothing to tell apart
    trajectory = probe_trajectory(space, ordinary)
    training = policy.training
    policy.eval()
    try:
        with torch.inference_mode():
            slow = recomputed_logits(policy, trajectory)
            for what, fast in (("a packed trajectory", packed_logits), ("a cache that is rolled back", cached_logits)):
                try:
                    found = fast(policy, trajectory)
                except Exception as error:  # whatever a foreign model makes of arguments that it does not know
                    raise ModelError(
                        f"{name}: the model cannot run on {what} ({type(error).__name__}: {error}). It has to accept "
                        "bool 4-D masks, position ids and a key/value cache of transformers"
                    ) from error
                gap, scale = float((found - slow).abs().max()), float(slow.abs().max())
                if not gap <= tolerance(slow.dtype, policy) * max(scale, 1.0):
                    raise ModelError(
                        f"{name}: logits on {what} are off by {gap:.2g} (of {scale:.2g}) from those of the same states "
                        "recomputed: its attention ignores masks, positions or the cache, and cannot be trained here"
                    )
    finally:
        policy.train(training)


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
    """Vocabulary logits of each distinct state before the end, each state read by itself."""
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


def _without_offset(policy: Policy, logits: Tensor) -> Tensor:
    """A fresh offset head adds 0; a trained one is taken out by comparing differences only."""
    if policy.offset is None or not bool(policy.offset.outer.weight.any() or policy.offset.outer.bias.any()):
        return logits
    raise ModelError("only a policy with a fresh offset head is probed")

"""What a sampler is asked to continue: prompts and prefixes are token ids, and there is room for what follows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smlib.actions import ActionSpace
from smlib.decoding import SamplingConfig


def checked_prompt(i: int, prompt: NDArray[np.integer] | Sequence[int], space: ActionSpace) -> NDArray[np.int32]:
    """Prompt number i as int32 `[P]`; ValueError if it is empty or holds something else than token ids."""
    if len(prompt) == 0:
        raise ValueError(f"prompt {i} is empty: the root state needs at least one token, for instance <bos>")
    return checked_ids(f"prompt {i}", prompt, space)


def checked_ids(name: str, tokens: NDArray[np.integer] | Sequence[int], space: ActionSpace) -> NDArray[np.int32]:
    """Token ids as int32 `[n]`, possibly none; ValueError names what holds something else."""
    ids = np.asarray(tokens)
    if ids.size == 0:
        return np.empty(0, dtype=np.int32)
    if ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0 or ids.max() >= space.vocab_size:
        raise ValueError(f"{name} is not a vector of token ids in [0, {space.vocab_size})")
    return ids.astype(np.int32)


def checked_prefix(
    i: int, prefix: NDArray[np.integer] | Sequence[int], config: SamplingConfig, space: ActionSpace
) -> NDArray[np.int32]:
    """What stands behind prompt i already, as int32 `[n]`; ValueError if no trajectory could stand there."""
    ids = checked_ids(f"prefix {i}", prefix, space)
    if ids.size > config.max_new_tokens:
        raise ValueError(f"prefix {i} has {ids.size} tokens, more than max_new_tokens={config.max_new_tokens}")
    if space.eos in ids:
        raise ValueError(f"prefix {i} holds <eos> (id {space.eos}), after which nothing happens")
    return ids


def check_room(policy: object, prompts: Sequence[NDArray[np.integer]], max_new_tokens: int) -> int:
    """Length of the longest state that these prompts can lead to; ValueError if the model's context is shorter."""
    longest = max(map(len, prompts), default=1)
    needs = f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens}"
    check_context(policy, longest + max_new_tokens, needs, "lower max_new_tokens, or shorten the prompts")
    return longest + max_new_tokens


def check_context(policy: object, tokens: int, what: str, remedy: str) -> None:
    """Raises ValueError if `what` takes more tokens than the policy's model can tell apart by their positions.

    Rotary positions would go on in silence, to distances that the model was never trained on; learnt ones end.
    """
    most = getattr(policy, "max_positions", None)
    if most is not None and tokens > most:
        raise ValueError(f"{what} take {tokens} tokens, and the model's context is {most}: {remedy}")

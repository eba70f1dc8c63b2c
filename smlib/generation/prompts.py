"""What a sampler is asked to continue: prompts and prefixes are token ids, and there is room for what follows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smlib.edits.actions import ActionSpace
from smlib.generation.decoding import SamplingConfig


def checked_prompts(
    prompts: Sequence[NDArray[np.integer] | Sequence[int]], space: ActionSpace
) -> list[NDArray[np.int32]]:
    """Every prompt as int32 `[n]`.

    Raises:
        ValueError: what `checked_prompt` says; one prompt where a list of them is expected.
    """
    if len(prompts) and (getattr(prompts[0], "ndim", 1) == 0 or not hasattr(prompts[0], "__len__")):
        raise ValueError("prompts is one vector of token ids: expected a list of them, [prompt] for a single one")
    return [checked_prompt(i, prompt, space) for i, prompt in enumerate(prompts)]


def checked_prompt(i: int, prompt: NDArray[np.integer] | Sequence[int], space: ActionSpace) -> NDArray[np.int32]:
    """Prompt number i as int32 `[P]`; ValueError if it is empty or holds something else than token ids."""
    ids = checked_ids(f"prompt {i}", prompt, space)
    if ids.size == 0:
        raise ValueError(f"prompt {i} is empty: the root state needs at least one token, for instance <bos>")
    return ids


def checked_ids(name: str, tokens: NDArray[np.integer] | Sequence[int], space: ActionSpace) -> NDArray[np.int32]:
    """Token ids as int32 `[n]`, possibly none; ValueError names what holds something else, and what that is."""
    try:
        ids = np.asarray(tokens)
    except ValueError:  # of lists of several lengths
        raise ValueError(f"{name} holds vectors of several lengths: expected a single vector of token ids") from None
    if ids.dtype.kind == "U":
        raise ValueError(f"{name} is text: expected token ids, np.array([tokenizer.bos, *tokenizer.encode(text)])")
    if ids.ndim != 1:
        raise ValueError(f"{name} has the shape {ids.shape}: expected a single vector of token ids")
    if ids.size == 0:
        return np.empty(0, dtype=np.int32)
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"{name} holds numbers of type {ids.dtype}: expected integers, which token ids are")
    if ids.min() < 0 or ids.max() >= space.vocab_size:
        worst = int(ids.min() if ids.min() < 0 else ids.max())
        what = " (<bkspc>, an action and no token)" if worst == space.bkspc else ""
        raise ValueError(f"{name} holds {worst}{what}: expected token ids in [0, {space.vocab_size})")
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


def check_sampling(config: SamplingConfig, seeds: Sequence[int]) -> None:
    """What does not depend on the prompts.

    Raises:
        TypeError: something else than a `SamplingConfig`. ValueError: seeds that numpy would not take as they are.
    """
    if not isinstance(config, SamplingConfig):
        raise TypeError(f"config is a {type(config).__name__}: expected a SamplingConfig")
    for seed in seeds:
        if not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
            raise ValueError(f"{seed!r} is no seed: expected an integer in [0, 2**64)")


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
        why = getattr(policy, "why_shorter", str)()
        raise ValueError(
            f"{what} take {tokens} tokens, and the model's context is {most}: {remedy}{f' ({why})' if why else ''}"
        )

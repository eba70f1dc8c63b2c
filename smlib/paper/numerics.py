"""Versions of the code that produces numbers: raised by hand when, and only when, the numbers change.

A result is cached under the versions of the parts it depends on. Hashing the source instead would repeat hours of
training for a renamed variable, and would miss a change in a dependency. So each part has a number here. The rule:
whoever changes what a part computes (not how it is written, nor how fast it runs) raises its number in the same
commit. The golden tests of that part fail when its numbers move, which is the reminder.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from smlib.files import ResultError

NUMERICS_VERSION: Mapping[str, int] = MappingProxyType(
    {
        "chain": 1,  # Figure 1: the chain in closed form and by enumeration
        "tabular": 1,  # Section 3: exact MDPs, optima of J
        "masking": 1,  # Figure 2: Algorithm A and the trie packing
        "data": 1,  # questions, corpora, noise
        "translation": 2,  # pairs from locale data; 1 split them by whole contents, an interval's ends apart
        "translation_names": 1,  # pairs of names, of which a base model reads that is to learn the translations
        "training": 1,  # losses, Algorithm 1, replay buffer, models
        "branches": 2,  # rollouts from inside a text; 1 left V(<bos>) and V of the prompt uncancelled
        "unlikelihood": 2,  # 1 counted <eos> among the tokens not to repeat where it is <bos> too
        "direct": 1,  # divergences of occupancies in closed form
        "critic": 1,  # GAIL
        "exact": 1,  # policy gradient with the critic that is known
        "soft": 1,  # soft deletion: its packing and its sampler
        "masked": 1,  # mistakes that stand, without labels
        "deletion_head": 1,  # a head of its own for <bkspc>
        "operators": 1,  # deletions by the model's own probability
        "sampling": 1,  # generation with backspace
        "evaluation": 1,  # accuracy, MAUVE, rep-n, entropy, BLEU
        "bench": 1,  # what a benchmark times
    }
)


def numerics(keys: Sequence[str]) -> dict[str, int]:
    """The present versions of the named parts; an unknown or missing name raises `ResultError` with the known ones."""
    unknown = [key for key in keys if key not in NUMERICS_VERSION]
    if unknown or not keys:
        what = f"unknown version key {unknown[0]!r}" if unknown else "a run needs at least one version key"
        raise ResultError(f"{what}; known: {', '.join(NUMERICS_VERSION)}")
    return {key: NUMERICS_VERSION[key] for key in sorted(set(keys))}

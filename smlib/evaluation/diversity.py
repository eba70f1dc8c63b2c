"""Repetition, diversity and n-gram entropy of generations, with the variant named.

Published code disagrees on these metrics: unlikelihood training (Welleck et al. 2019) counts token ids per
sequence, SimCTG counts whitespace words pooled over a corpus. The formula of Sec. 6.2 is per generation, and
that is what `rep_n` and `diversity` compute; the pooled variant carries its name.
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

Tokens = Sequence[Hashable]
DIVERSITY_ORDERS = (2, 3, 4)


def ngrams(tokens: Tokens, n: int) -> list[tuple[Hashable, ...]]:
    """All n-grams of a sequence in order, overlapping; none where it is shorter than n.

    Raises:
        ValueError: n < 1.
    """
    if n < 1:
        raise ValueError(f"n-grams have n >= 1, got {n}")
    items = list(tokens)
    return [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]


def rep_n(tokens: Tokens, n: int) -> float:
    """rep-n = 100 × [1 - |unique n-grams| / |total n-grams|] of one generation (Sec. 6.2), in per cent.

    Raises:
        ValueError: a generation shorter than n, for which the fraction is 0/0.
    """
    grams = ngrams(tokens, n)
    if not grams:
        raise ValueError(f"rep-{n} of a generation of {len(tokens)} tokens is undefined: at least {n} are needed")
    return 100 * (1 - len(set(grams)) / len(grams))


def diversity(tokens: Tokens) -> float:
    """Π_{n=2..4} (1 - rep-n / 100) of one generation (Sec. 6.2), between 0 and 1.

    Raises:
        ValueError: fewer than four tokens.
    """
    return math.prod(1 - rep_n(tokens, n) / 100 for n in DIVERSITY_ORDERS)


def ngram_entropy(generations: Sequence[Tokens], n: int, *, base: float = math.e, pooled: bool = True) -> float:
    """Entropy of the n-gram frequencies, in units of log `base` (nats by default).

    Grows with the amount of text: compare corpora of equal size only. The paper gives neither n, base nor
    pooling.

    Args:
        pooled: one distribution over all generations; otherwise the mean of the entropies of each generation.

    Raises:
        ValueError: no n-gram at all, or (not pooled) a generation shorter than n; a base of at most 1.
    """
    if base <= 1:
        raise ValueError(f"the base of the logarithm must exceed 1, got {base}")
    if pooled:
        return _entropy(Counter(g for tokens in generations for g in ngrams(tokens, n)), n) / math.log(base)
    if not generations:
        raise ValueError("no generation to take the entropy of")
    return float(np.mean([_entropy(Counter(ngrams(t, n)), n) for t in generations])) / math.log(base)


def _entropy(counts: Counter[tuple[Hashable, ...]], n: int) -> float:
    if not counts:
        raise ValueError(f"no {n}-gram to take the entropy of: the text is empty or shorter than {n} tokens")
    p = np.fromiter(counts.values(), np.float64)
    p /= p.sum()
    return float(-(p * np.log(p)).sum())


@dataclass(frozen=True)
class DiversityReport:
    """The metrics of a set of generations, with what was left out.

    Attributes:
        rep: mean rep-n per generation in per cent, n = 2, 3, 4.
        diversity: mean of the per-generation diversity (the paper's formula).
        diversity_se: its standard error over generations.
        diversity_pooled: the same product from n-grams pooled over all generations.
        entropy: pooled n-gram entropy in nats, n = 1..4.
        entropy_per_generation: mean per-generation n-gram entropy in nats, n = 1..4.
        per_generation: diversity of each counted generation, for paired tests.
        counted: indices of the generations counted.
        n_excluded: generations of fewer than four tokens, which have no rep-4.
        variant: unit of the n-grams and how they were pooled, in words.
    """

    rep: tuple[float, float, float]
    diversity: float
    diversity_se: float
    diversity_pooled: float
    entropy: tuple[float, float, float, float]
    entropy_per_generation: tuple[float, float, float, float]
    per_generation: tuple[float, ...]
    counted: tuple[int, ...]
    n_excluded: int
    variant: str


def diversity_report(generations: Sequence[Tokens], *, unit: str = "token ids") -> DiversityReport:
    """All repetition metrics of a set of generations; those under four tokens are counted and left out.

    Args:
        generations: one sequence of tokens or words each, prompts and deleted tokens not among them.
        unit: what the elements are, for the table.

    Raises:
        ValueError: no generation of four tokens or more.
    """
    counted = [i for i, tokens in enumerate(generations) if len(tokens) >= max(DIVERSITY_ORDERS)]
    if not counted:
        raise ValueError(f"none of {len(generations)} generations has four {unit}: diversity is undefined")
    kept = [generations[i] for i in counted]
    each = [diversity(tokens) for tokens in kept]
    pooled = 1.0
    for n in DIVERSITY_ORDERS:
        grams = [g for tokens in kept for g in ngrams(tokens, n)]
        pooled *= len(set(grams)) / len(grams)
    r2, r3, r4 = (float(np.mean([rep_n(tokens, n) for tokens in kept])) for n in DIVERSITY_ORDERS)
    h1, h2, h3, h4 = (ngram_entropy(kept, n) for n in range(1, 5))
    g1, g2, g3, g4 = (ngram_entropy(kept, n, pooled=False) for n in range(1, 5))
    return DiversityReport(
        rep=(r2, r3, r4),
        diversity=float(np.mean(each)),
        diversity_se=float(np.std(each, ddof=1) / math.sqrt(len(each))) if len(each) > 1 else math.inf,
        diversity_pooled=pooled,
        entropy=(h1, h2, h3, h4),
        entropy_per_generation=(g1, g2, g3, g4),
        per_generation=tuple(each),
        counted=tuple(counted),
        n_excluded=len(generations) - len(kept),
        variant=f"n-grams of {unit}, mean over {len(kept)} generations; entropies in nats",
    )

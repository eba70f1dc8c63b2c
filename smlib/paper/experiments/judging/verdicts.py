"""The verdict on an item, computed from its numbers by a rule; no notebook and no experiment writes one by hand.

Where the paper says which method is ahead, the item rests on comparisons ("SM above BC at η = 0.2"). Each has a paired
test of our runs, in the direction of the paper. Holm's correction over the item's comparisons keeps the chance of any
false significance at LEVEL. Then

    confirmed       the paper's sign, and significant
    same sign       the paper's sign, not significant
    opposite sign   the other sign (or no difference at all), not significant
    contradicted    the other sign, and significant

    reproduced      every comparison is confirmed, over at least MIN_SEEDS seeds
    direction only  every comparison has the paper's sign
    not reproduced  anything else

The sizes of the effects are in the item's rows; they are not judged, since models and data are not the paper's. A
`Rate` is an exception: where the paper's claim is a share, "reproduced" asks besides that our interval reaches it (or
the interval that the paper's own few prompts leave: 4 of 4 does not say 100 %) and lies nearer to it than to chance.
Reaching alone would reward wide intervals. That the lower end exceeds chance would add next to nothing, since the
item's comparison tests that already; the point halfway makes few questions a hindrance.

Exact items, examples and timings have no such comparisons and rules of their own, in their files' `details["rule"]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from smlib.evaluation import PairedTest, wilson

LEVEL = 0.05
"""Probability of calling any comparison of an item significant when none of them differs."""

MIN_SEEDS = 3
"""With fewer seeds a test speaks of those trained models and not of the method."""

RULE = (
    f"reproduced: every comparison has the paper's sign with p < {LEVEL} (paired over seeds and questions, "
    f"Holm-corrected) and at least {MIN_SEEDS} seeds; direction only: every comparison has the paper's sign; "
    "not reproduced: otherwise"
)
RULE_WITH_RATES = (
    f"{RULE}. Besides, where the paper prints a share, reproduced asks that our 95 % interval reaches that of the "
    "paper's prompts and lies nearer to the share than to chance"
)


@dataclass(frozen=True)
class Comparison:
    """One claim of the paper and our test of it.

    Attributes:
        claim: in words, "SM > BC, η = 0.2".
        test: difference in the direction of the claim: positive where ours agrees.
        paper: the paper's difference, None where it prints no numbers.
    """

    claim: str
    test: PairedTest
    paper: float | None = None

    def __post_init__(self) -> None:
        if self.paper is not None and self.paper <= 0:
            raise ValueError(
                f"{self.claim}: the paper's difference is {self.paper}; state the claim the other way round"
            )
        if not 0.0 <= self.test.p_value <= 1.0:
            raise ValueError(f"{self.claim}: {self.test.p_value} is no p-value")


@dataclass(frozen=True)
class Rate:
    """A share that the paper prints, beside the 95 % interval of ours.

    Attributes:
        low, high: ends of our interval.
        paper: its share. chance: the share without the effect.
        n: of how many prompts the paper's share is; None if it is exact.
    """

    claim: str
    low: float
    high: float
    paper: float
    chance: float = 0.0
    n: int | None = None

    @property
    def reached(self) -> bool:
        """Whether ours may be as high as the paper's, and all of the interval is nearer to that than to chance."""
        least = self.paper if self.n is None else wilson(self.paper * self.n, self.n)[0]
        return self.high >= least and self.paper > self.chance and self.low > (self.paper + self.chance) / 2


@dataclass(frozen=True)
class Judgement:
    """A verdict, one sentence on how it came about, and a record for each comparison (JSON types)."""

    verdict: str
    why: str
    comparisons: tuple[Mapping[str, object], ...]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values: max over smaller ones of (m - rank) p, capped at 1."""
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.minimum(1.0, np.maximum.accumulate(p[order] * (p.size - np.arange(p.size))))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return [float(value) for value in adjusted]


def outcome(difference: float, adjusted_p: float) -> str:
    """Which of the four outcomes a comparison has."""
    significant = adjusted_p < LEVEL
    if difference > 0:
        return "confirmed" if significant else "same sign"
    return "contradicted" if significant and difference < 0 else "opposite sign"


def judge(comparisons: Sequence[Comparison], rates: Sequence[Rate] = ()) -> Judgement:
    """The verdict by `RULE`, with `rates` by `RULE_WITH_RATES`; raises ValueError without a comparison."""
    if not comparisons:
        raise ValueError("a verdict needs at least one comparison of the paper to judge")
    adjusted = holm([c.test.p_value for c in comparisons])
    outcomes = [outcome(c.test.difference, p) for c, p in zip(comparisons, adjusted, strict=True)]
    seeds = min(c.test.n_seeds for c in comparisons)
    short = [rate for rate in rates if not rate.reached]
    if all(o == "confirmed" for o in outcomes) and seeds >= MIN_SEEDS and not short:
        verdict = "reproduced"
    elif all(o in ("confirmed", "same sign") for o in outcomes):
        verdict = "direction only"
    else:
        verdict = "not reproduced"
    records = tuple(
        {
            "claim": c.claim,
            "paper": c.paper,
            "difference": c.test.difference,
            "low": _finite(c.test.low),
            "high": _finite(c.test.high),
            "p_value": c.test.p_value,
            "p_holm": p,
            "outcome": o,
            "n_seeds": c.test.n_seeds,
            "n_items": c.test.n_items,
            "method": c.test.method,
        }
        for c, p, o in zip(comparisons, adjusted, outcomes, strict=True)
    )
    counts = ", ".join(f"{outcomes.count(o)} {o}" for o in _ORDER if o in outcomes)
    few = f"; {seeds} seed{'' if seeds == 1 else 's'}, {MIN_SEEDS} needed for more" if seeds < MIN_SEEDS else ""
    plural = "" if len(outcomes) == 1 else "s"
    missed = "".join(f"; {r.claim}: {r.low:.2f} to {r.high:.2f}, where the paper has {r.paper:g}" for r in short)
    return Judgement(verdict, f"of {len(outcomes)} comparison{plural} {counts}{few}{missed}", records)


_ORDER = ("confirmed", "same sign", "opposite sign", "contradicted")


def _finite(value: float) -> float | None:
    """JSON has no infinity; None stands for a side without a bound."""
    return float(value) if np.isfinite(value) else None

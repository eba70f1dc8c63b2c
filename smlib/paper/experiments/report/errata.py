"""Where the paper disagrees with its own definitions or with itself; shown by `12_report` and docs/errata.md.

What merely is not said there, or follows from it unexpectedly, is no erratum: see `report.CHOICES` and `02`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Erratum:
    """One statement of the paper that its own definitions contradict.

    Attributes:
        place: section, table or algorithm. printed: what stands there. instead: what follows from the definitions.
        shown: number of the notebook with the algebra.
    """

    place: str
    printed: str
    instead: str
    shown: str


ERRATA = (
    Erratum(
        "Sec. 2.1.1",
        "“the probability of getting to the end of the chain before an incorrect token is picked is 1 − (1 − ε)ⁿ”",
        "that is the probability of picking one before the end; of getting there it is q = (1 − ε)ⁿ",
        "01",
    ),
    Erratum(
        "Sec. 2.1.1, App. B.3",
        "the χ²-divergence of the chain is “equal to the squared probability of staying in the data distribution”",
        "as Sec. 2.1.1 defines it, E_data[(Q/P − 1)²], it is infinite, and its finite part is (1 − q)², the squared "
        "probability of leaving; as App. B.3 defines it, E_model[(P/Q − 1)²], it is (1 − q)/q. To the mixture of "
        "the two it is (1 − q)/(1 + q), which lies in [0, 1]",
        "01",
    ),
    Erratum("App. B.1", "the KL-divergence of the chain is −n log Q(1 − ε)", "−n log(1 − ε), close to nε", "01"),
    Erratum(
        "App. D.2",
        "φ(x) = −e⁻ˣ makes the KL-divergence “under the expectation of the data”",
        "by the paper's own φ(x) = −f*(−x) it makes the reverse one; the forward one is log(1 + x), x > −1",
        "02",
    ),
    Erratum(
        "App. D.2",
        "“lim 1/α − exp(−αx) = −1 + x” for α → 0, and by it maximum likelihood as the limit of the KL objective",
        "that limit diverges. Shifted to φ(x) = 1 − e⁻ˣ, φ(αx)/α tends to x, and it does so for every φ with φ(0) = 0 "
        "and φ′(0) = 1: γ-weighted maximum likelihood is the limit of every divergence, not of KL alone",
        "02",
    ),
    Erratum(
        "Sec. 3.2.1",
        "“minimizing this objective is equivalent to” minimising d(ρ_θ, ρ_data) − αH over θ",
        "J is to be maximised (Prop. 3.1), and the two agree for unrestricted logits only; with few parameters its "
        "squared rewards act as a penalty on confident logits",
        "02",
    ),
    Erratum(
        "Sec. 4, App. D.4",
        "penalising the squared rewards of rollouts implements the χ²-divergence of the data to the mixture",
        "with rollouts held fixed, as in training, the stationary point minimises 4 KL(data‖mixture) − αH",
        "02",
    ),
    Erratum(
        "App. A, Algorithm A",
        "the loop runs one past the end, the labels are never assigned, the first position is 1, and the root is "
        "always slot 0",
        "positions start at 0 (Figure 2), and with a longer prompt a backspace at its end deletes nothing, where the "
        "printed form deletes prompt tokens",
        "03",
    ),
    Erratum(
        "App. D.5",
        "actions of one forward pass “are those that add a token, or that solely remove a number of tokens”",
        "removing takes none, since the last hidden states are kept; and removing some, then appending one, takes one",
        "02",
    ),
    Erratum(
        "Table 4",
        "MLE, which samples nothing: gradient step 1.2 s, amortised 1.5 s",
        "the two must be equal; the ratio of 1.8 uses the 1.2",
        "06",
    ),
    Erratum(
        "App. E",
        "“first-in-last-out, with the oldest sequences being replaced”",
        "the oldest replaced is first in, first out, as in Algorithm 1",
        "04",
    ),
)

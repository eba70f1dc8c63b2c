"""What is rebuilt: one record for each figure and table of the paper, with the paper's own numbers.

The ledger, the notebooks' driver, the README table and `00_overview` all read this table; nothing about the paper's
values is written anywhere else.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from smlib.files import ResultError

PRESETS = ("smoke", "quick", "full", "paper")
"""smoke: tests, numbers mean nothing; quick: the default; full: committed; paper: Llama-2-7b on GPUs."""

VERDICTS = ("reproduced", "direction only", "not reproduced", "not run")


@dataclass(frozen=True)
class PaperNumber:
    """One number of the paper: value and error bar as printed (the error is None where none is printed)."""

    value: float
    error: float | None = None

    def __str__(self) -> str:
        return f"{self.value:g}" if self.error is None else f"{self.value:g} ± {self.error:g}"


@dataclass(frozen=True)
class Item:
    """A figure or table: ledger id, title, where the paper has it, the notebook that rebuilds it, what the paper says.

    `numbers` holds every number the paper prints for it, keyed by a label that the rebuilt rows use too.
    """

    id: str
    title: str
    section: str
    notebook: str
    paper: str
    numbers: Mapping[str, PaperNumber] = field(default_factory=lambda: MappingProxyType({}))


def _numbers(**labelled: tuple[float, float] | float) -> Mapping[str, PaperNumber]:
    """Keyword arguments to labelled numbers: `MLE__MAUVE=(0.85, 0.03)` becomes the label 'MLE / MAUVE'."""
    made = {}
    for label, number in labelled.items():
        value, error = number if isinstance(number, tuple) else (number, None)
        made[label.replace("__", " / ").replace("_", " ")] = PaperNumber(value, error)
    return MappingProxyType(made)


def _two_noise_levels(
    **methods: tuple[tuple[float, float], tuple[float, float]],
) -> Mapping[str, PaperNumber]:
    """Tables 5 to 7 have one row a method and two columns, η = 0.02 and η = 0.2."""
    return MappingProxyType(
        {
            f"{method} / η = {eta}": PaperNumber(*pair)
            for method, pairs in methods.items()
            for eta, pair in zip(("0.02", "0.2"), pairs, strict=True)
        }
    )


_ALL = (
    Item(
        "fig1",
        "A chain with an ε error per step",
        "Figure 1, App. B",
        "01_chain_toy_model",
        "KL of order nε; χ² “equal to the squared probability of staying in the data distribution”",
    ),
    Item(
        "theory",
        "Occupancy matching and its single-variable objective",
        "Sec. 3, App. C, D",
        "02_occupancy_matching",
        "bijection, telescoping and duality hold; α → 0 gives γ-weighted MLE",
    ),
    Item(
        "fig2",
        "Actions to inputs, positions, masks and labels",
        "Figure 2, App. A",
        "03_masking",
        "one forward pass trains on a trajectory with backspaces",
    ),
    Item(
        "fig3",
        "Arithmetic: accuracy against noise level",
        "Figure 3, Sec. 6.1",
        "04_arithmetic",
        "SM above BC and MLE; digit noise helps BC and SM, random noise helps SM alone; χ² reaches 85–90 %",
    ),
    Item(
        "tab1",
        "Arithmetic: completions after a mistake",
        "Table 1, Sec. 6.1",
        "04_arithmetic",
        "wrong tokens deleted in 4 of 4, right answer in 3 of 4",
        _numbers(mistake_deleted=1.0, right_answer=0.75),
    ),
    Item(
        "tab2",
        "Text generation: five methods",
        "Table 2, Sec. 6.2",
        "05_text_generation",
        "MAUVE: SM 0.91 > ULK 0.89 > C.S. 0.86 > MLE 0.85 > BC 0.84 (± 0.02 to 0.03)",
        _numbers(
            MLE__MAUVE=(0.85, 0.03),
            MLE__entropy=(4.57, 0.02),
            MLE__diversity=(0.56, 0.02),
            MLE__perplexity=(6.99, 0.02),
            CS__MAUVE=(0.86, 0.03),
            CS__entropy=(4.43, 0.02),
            CS__diversity=(0.35, 0.03),
            ULK__MAUVE=(0.89, 0.02),
            ULK__entropy=(4.57, 0.01),
            ULK__diversity=(0.57, 0.01),
            ULK__perplexity=(7.10, 0.02),
            BC__MAUVE=(0.84, 0.02),
            BC__entropy=(4.59, 0.01),
            BC__diversity=(0.56, 0.01),
            BC__perplexity=(7.02, 0.02),
            SM__MAUVE=(0.91, 0.02),
            SM__entropy=(4.60, 0.01),
            SM__diversity=(0.56, 0.01),
            SM__perplexity=(7.13, 0.03),
        ),
    ),
    Item(
        "tab8",
        "Text generation: completions of corrupted prompts",
        "Table 8, App. I",
        "05_text_generation",
        "the random last token is deleted at once in 4 of 5 prompts",
        _numbers(first_action_is_backspace=0.8),
    ),
    Item(
        "tab3",
        "Overhead, text (context 1024)",
        "Table 3, App. F",
        "06_overhead",
        "SM / MLE: gradient step 3.5×, amortised 5.4×",
        _numbers(
            MLE__gradient_step=(1.5, 0.1),
            MLE__amortised=(1.5, 0.1),
            SM__gradient_step=(5.3, 0.5),
            SM__sampling=(50.0, 10.0),
            SM__steps_per_sample=16.0,
            SM__amortised=(8.1, 0.2),
        ),
    ),
    Item(
        "tab4",
        "Overhead, arithmetic",
        "Table 4, App. F",
        "06_overhead",
        "SM / MLE: gradient step 1.75×, amortised 1.8×",
        _numbers(
            MLE__gradient_step=(1.2, 0.1),
            MLE__amortised=(1.5, 0.1),
            SM__gradient_step=(2.1, 0.5),
            SM__sampling=(2.0, 0.1),
            SM__steps_per_sample=32.0,
            SM__amortised=(2.16, 0.1),
        ),
    ),
    Item(
        "g1",
        "Divergences: JS against χ²",
        "App. G.1",
        "07_divergences",
        "JS 60 % accuracy, χ² 85–90 %; JS has frequent spikes of the gradient norm",
        _numbers(JS__accuracy=0.60),
    ),
    Item(
        "tab5",
        "Translation, en → fr: BLEU",
        "Table 5, App. G.2",
        "08_translation",
        "η = 0.2: MLE 31 ± 2, BC 34 ± 2, SM 36 ± 4",
        _two_noise_levels(MLE=((31, 2), (31, 2)), BC=((32, 2), (34, 2)), SM=((37, 4), (36, 4))),
    ),
    Item(
        "tab6",
        "Multiplication: accuracy",
        "Table 6, App. G.3",
        "09_multiplication",
        "η = 0.2: MLE 0.49 ± 0.04, BC 0.50 ± 0.03, SM 0.56 ± 0.04",
        _two_noise_levels(
            MLE=((0.49, 0.04), (0.49, 0.04)),
            BC=((0.51, 0.02), (0.50, 0.03)),
            SM=((0.53, 0.03), (0.56, 0.04)),
        ),
    ),
    Item(
        "tab7",
        "Prime factors: accuracy",
        "Table 7, App. G.4",
        "10_prime_factors",
        "η = 0.2: MLE 0.04 ± 0.03, BC 0.06 ± 0.03, SM 0.08 ± 0.04",
        _two_noise_levels(
            MLE=((0.04, 0.03), (0.04, 0.03)),
            BC=((0.07, 0.02), (0.06, 0.03)),
            SM=((0.06, 0.04), (0.08, 0.04)),
        ),
    ),
    Item(
        "ablations",
        "Ablations: α, γ, η, β, buffer reuse, backspace off, offline IQLearn",
        "beyond the paper",
        "11_ablations",
        "not in the paper",
    ),
    Item(
        "report",
        "Paper value, our value, error bar and verdict of every item",
        "all of it",
        "12_report",
        "all of the above",
    ),
)

ITEMS: Mapping[str, Item] = MappingProxyType({item.id: item for item in _ALL})
"""Every ledger id, in the order of the notebooks."""

JUDGED: tuple[str, ...] = tuple(name for name in ITEMS if name != "report")
"""The ids that are counted: the report counts the others and not itself."""

READ_ONLY_NOTEBOOKS: Mapping[str, str] = MappingProxyType({"00_overview": "report"})
"""Notebooks that show the ledger and write no item, with the id that `smlib reproduce --only` finds them under."""


def error_bar(error: float | str | None, digits: str = "") -> str:
    """What follows a value: ` ± 0.02`, formatted by `digits`; an error in words in parentheses; nothing for None."""
    if error is None:
        return ""
    return f" ({error})" if isinstance(error, str) else f" ± {error:{digits}}"


def get_item(item_id: str) -> Item:
    """The record of a ledger id; an unknown id raises `ResultError` with the known ones."""
    if item_id not in ITEMS:
        raise ResultError(f"unknown item {item_id!r}; known: {', '.join(ITEMS)}")
    return ITEMS[item_id]


def check_preset(preset: str) -> str:
    """`preset` itself; an unknown one raises `ResultError` with the known ones."""
    if preset not in PRESETS:
        raise ResultError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    return preset


def check_verdict(verdict: str) -> str:
    """`verdict` itself; an unknown one raises `ResultError` with the known ones."""
    if verdict not in VERDICTS:
        raise ResultError(f"unknown verdict {verdict!r}; known: {', '.join(VERDICTS)}")
    return verdict


def over_mle(item: str, cell: str) -> tuple[float, float]:
    """A time of SequenceMatch over MLE's gradient step in Table 3 or 4, and the error that the printed ones leave it if
    they are independent.

    Table 4 prints 1.5 for MLE's amortised time, where nothing is sampled and a step takes 1.2: the step is meant.

    Args:
        cell: `gradient step` or `amortised`.
    """
    numbers = get_item(item).numbers
    sm, mle = numbers[f"SM / {cell}"], numbers["MLE / gradient step"]
    ratio = sm.value / mle.value
    return ratio, ratio * math.hypot((sm.error or 0.0) / sm.value, (mle.error or 0.0) / mle.value)

"""One call for a notebook: the live stepper where somebody looks on, its static twin where nobody does."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from smlib.data.mathematics import as_prompt
from smlib.data.tokenizers import TextTokenizer
from smlib.edits.noise_dynamics import TokenLaw
from smlib.generation.decoding import SamplingConfig
from smlib.generation.edit_batch import SamplesActions
from smlib.policies import shipped
from smlib.widgets.record import record
from smlib.widgets.twin import frame, summary, write

HEADLESS = "SMLIB_HEADLESS"
"""Set, and not empty, where notebooks are executed for nobody: then no widget is made."""


def looked_at() -> bool:
    """Whether this runs in a notebook's kernel that somebody may look at: `SMLIB_HEADLESS` says that nobody does."""
    if os.environ.get(HEADLESS):
        return False
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell"


class Twin:
    """A recorded run for a notebook's output.

    Attributes:
        record: as `smlib.widgets.record.record` makes it.
    """

    def __init__(self, record: Mapping[str, Any]) -> None:
        self.record = dict(record)

    def __repr__(self) -> str:
        return summary(self.record)

    def _repr_html_(self) -> str:
        return frame(self.record)

    def save(self, path: str | Path) -> Path:
        """Writes the page."""
        return write(self.record, path)


def explore(
    policy: str | tuple[SamplesActions, TextTokenizer] = "sm-arithmetic",
    prompt: str | Sequence[int] = "",
    config: SamplingConfig | None = None,
    seed: int = 0,
    *,
    forced: Mapping[int, int] | Sequence[int] = (),
    noise_law: TokenLaw | None = None,
    gamma: float = 1.0,
    live: bool | None = None,
) -> Any:
    """The stepper of a policy: step through what it does, and in a notebook take another action, or type one.

    Args:
        policy: the name of a policy that comes with smlib, or a policy with its tokeniser.
        prompt: a text or token ids. A question gets the tasks' ` Solution: ` where the policy ships; when empty, that
            is the example of its card, and a text from nothing for another policy.
        config: decoding; up to 24 tokens at temperature 1 when omitted.
        seed, forced, noise_law, gamma: as in `smlib.generation.steps.steps`; `forced` concerns the recorded run.
        live: whether to make a widget; where `looked_at` says so when omitted.

    Raises:
        ResultError: no such policy ships. ValueError: what `smlib.generation.steps.Stepper` refuses.
    """
    chosen = config or SamplingConfig(max_new_tokens=24)
    known: SamplesActions
    form: Callable[[str], str] = str
    note = f"Seed {seed}."
    if isinstance(policy, str):
        known, tokenizer = shipped.load(policy)
        form, note = as_prompt, f"{policy}, seed {seed}."
        if isinstance(prompt, str):
            prompt = as_prompt(prompt) or as_prompt(shipped.card(policy).example)
    else:
        known, tokenizer = policy
    options: dict[str, Any] = {"noise_law": noise_law, "gamma": gamma}
    whole = record(known, tokenizer, prompt, chosen, seed, forced=forced, note=note, **options)
    if not (looked_at() if live is None else live):
        return Twin(whole)
    from smlib.widgets.stepper import Stepper  # ipywidgets, which a recorded run does not need

    return Stepper(known, tokenizer, prompt, chosen, seed, form=form, fallback=whole, **options)

"""The card of a policy that is pushed to the hub: method, base, parameters, numbers, how to load it."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

from smlib import __version__
from smlib.files import canonical_json, write_atomically
from smlib.objectives.methods import get_method
from smlib.policies.model_card import UNKNOWN, Card, licence_of
from smlib.policies.policy import Policy
from smlib.training.configuration import TrainConfig

CARD = """---
library_name: smlib
tags:
- sequencematch
- smlib
{base_line}---

# {name}

A language model that can delete: beside its tokens it has the action `<bkspc>`, which removes the last one. It was
trained by {title} (SequenceMatch, Cundy & Ermon, ICLR 2024; smlib {version}) on {examples} examples.

```python
from smlib.policies.loading import load_policy

policy, tokenizer = load_policy("{name}", local_files_only=False)
```

{numbers}
It inherits the licence and the limits of the model it started from. What it writes was not checked for truth or harm;
a deletion removes what the policy finds unlikely, which is not the same as what is wrong.

The run:

```json
{config}```
"""


def model_card(
    name: str | None, policy: Policy, config: TrainConfig, history: Sequence[Mapping[str, Any]], examples: int
) -> str:
    """The text of `README.md`."""
    base = _base(policy)
    on_hub = base and not base.startswith(("/", ".")) and base != "smollm2"
    rows = "".join(f"| {name} | {value:.4g} |\n" for name, value in _held_out(history).items())
    return CARD.format(
        name=name or "policy",
        base_line=f"base_model: {base}\n" if on_hub else "",
        title=get_method(config.objective.method).title,
        version=__version__,
        examples=examples,
        numbers=f"| on held-out data | |\n|---|---|\n{rows}\n" if rows else "",
        config=canonical_json(config),
    )


def write_facts(
    path: Path, policy: Policy, config: TrainConfig, history: Sequence[Mapping[str, Any]], examples: int
) -> None:
    """Writes the `card.json` that `smlib export` reads: fields of `smlib.policies.model_card.Card`.

    The command is that of this process, with the names of files and not their folders, which are one machine's own.
    """
    base = _base(policy)
    facts = Card(
        title=f"A policy with <bkspc>, trained by {get_method(config.objective.method).title}",
        method=f"{config.objective.method}, {config.steps} steps: {canonical_json(config, indent=None)}",
        data=f"{examples} examples, noise level {config.eta}",
        command=shlex.join([_program(), *(_without_folders(text) for text in sys.argv[1:])]),
        results=_held_out(history),
        base=(Path(base).name if Path(base).is_dir() else base) or UNKNOWN,
        licence=licence_of(base) if base else UNKNOWN,
    )
    known = {name: value for name, value in asdict(facts).items() if value and value != UNKNOWN}
    write_atomically(path, canonical_json(known))


def _base(policy: Policy) -> str:
    """The name or folder of the model that training started from; empty where it was built in memory."""
    return getattr(getattr(policy.lm, "smlib_source", None), "name", "") or ""


def _held_out(history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The last finite value of each number that was measured on held-out data."""
    last = {k: float(v) for row in history for k, v in row.items() if isinstance(v, int | float) and isfinite(v)}
    return {k: v for k, v in last.items() if k.startswith("eval_") and not k.endswith(("runtime", "per_second"))}


def _program() -> str:
    """The name of what runs: a script's, or that of a package run by `python -m`."""
    script = Path(sys.argv[0])
    return script.parent.name if script.name == "__main__.py" else script.name


def _without_folders(argument: str) -> str:
    """An argument of a command, an absolute path in it cut to its last name."""
    return re.sub(r"(?<![\w.~-])/(?:[^/=\s]+/)*([^/=\s]+)/?$", r"\1", argument)

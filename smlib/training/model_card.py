"""The card of a policy that is pushed to the hub: method, base, parameters, numbers, how to load it."""

from collections.abc import Mapping, Sequence
from typing import Any

from smlib import __version__
from smlib.files import canonical_json
from smlib.objectives.methods import get_method
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
    source = getattr(policy.lm, "smlib_source", None)
    base = getattr(source, "name", "") or ""
    on_hub = base and not base.startswith(("/", ".")) and base != "smollm2"
    last = {k: v for row in history for k, v in row.items() if isinstance(v, int | float)}
    shown = [k for k in last if k.startswith("eval_") and not k.endswith(("runtime", "per_second"))]
    rows = "".join(f"| {k} | {last[k]:.4g} |\n" for k in shown)
    return CARD.format(
        name=name or "policy",
        base_line=f"base_model: {base}\n" if on_hub else "",
        title=get_method(config.objective.method).title,
        version=__version__,
        examples=examples,
        numbers=f"| on held-out data | |\n|---|---|\n{rows}\n" if rows else "",
        config=canonical_json(config),
    )

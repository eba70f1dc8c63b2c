"""The card of an exported policy: method, data, exact command, lock, results, limits, licence of the base.

What is not known is said to be not recorded, by name, and never guessed.
"""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

UNKNOWN = "not recorded"
LOCK = "requirements.lock.txt"


@dataclass(frozen=True)
class Card:
    """What the card says beside what follows from the policy itself.

    Attributes:
        title: headline. method: how it was trained. data: on what.
        command: the exact command or script that trained it. results: name and value of each measured number.
        base: the model that training started from. licence: its licence, an identifier of the hub such as `apache-2.0`.
        limits: further sentences on what it cannot do. export: the command that wrote the folder.
    """

    title: str = "A policy with <bkspc>"
    method: str = UNKNOWN
    data: str = UNKNOWN
    command: str = UNKNOWN
    results: Mapping[str, float | str] = field(default_factory=dict)
    base: str = UNKNOWN
    licence: str = UNKNOWN
    limits: tuple[str, ...] = ()
    export: str = UNKNOWN


def licence_of(base: str) -> str:
    """The licence that the card of a model folder states in its front matter; `UNKNOWN` where there is none."""
    readme = Path(base) / "README.md"
    if not readme.is_file():
        return UNKNOWN
    front = re.match(r"---\n(.*?)\n---", readme.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", front[1], re.MULTILINE) if front else None
    return found[1] if found else UNKNOWN


def lock() -> str:
    """Every installed package with its version, one a line, and the version of Python."""
    pins = {d.metadata["Name"].lower(): d.version for d in distributions() if d.metadata["Name"]}
    lines = [f"{name}=={version}" for name, version in sorted(pins.items())]
    return f"# Python {sys.version.split()[0]}\n" + "\n".join(lines) + "\n"


def render(
    card: Card,
    *,
    bkspc: str,
    bkspc_id: int,
    context: int | None,
    dtype: str,
    minimum: str,
    kept: bool,
    root: str | None = None,
    chat: bool = False,
) -> str:
    """The text of README.md.

    Args:
        bkspc, bkspc_id: the token. context: tokens that the model reads. dtype: of its weights.
        minimum: the oldest version of transformers that may open it. kept: whether adapters lie beside it.
        root: the token that every prompt of the training began with, where the tokeniser does not put it there itself.
        chat: whether the tokeniser has a chat template.
    """
    tag = "" if card.licence == UNKNOWN else f"license: {card.licence}\n"
    # The name of a folder here would be the name of somebody else's repository on the hub, or of none.
    base = f"base_model: {card.base}\n" if re.fullmatch(r"[\w.-]+/[\w.-]+", card.base) else ""
    prompt = '"a prompt"' if root is None else f'{json.dumps(root, ensure_ascii=False)} + "a prompt"'
    begins = (
        ""
        if root is None
        else f"\nEvery prompt begins with `{root}`, as in training; the tokeniser does not put it there by itself.\n"
    )
    talks = (
        "\nIf it was trained on conversations (column `messages`), the prompt is\n"
        "`tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)`, read with\n"
        "`add_special_tokens=False`.\n"
        if chat
        else ""
    )
    reads = "its context" if context is None else f"{context} tokens"
    numbers = "\n".join(f"| {name} | {value} |" for name, value in card.results.items())
    results = f"| measure | value |\n|---|---|\n{numbers}" if numbers else f"Results: {UNKNOWN}."
    adapters = (
        "\nThe adapters are kept apart: plain loading gives the model without them. "
        '`model.load_adapter(folder + "/adapter")` (with peft) adds them.\n'
        if kept
        else ""
    )
    licence = (
        "The licence of the base model is not recorded: look it up before you share these weights."
        if card.licence == UNKNOWN
        else f"Licence of the base model: `{card.licence}`. These weights are derived from it."
    )
    more = "".join(f"- {sentence}\n" for sentence in card.limits)
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{tag}{base}tags: [sequencematch, backspace, custom_generate, smlib]
---
# {card.title}

A causal language model that can take back what it wrote. Token {bkspc_id}, `{bkspc}`, deletes the last token
(SequenceMatch, Cundy & Ermon, ICLR 2024). It is an action: it never stands in the text and is never read.

## Use

It needs torch and transformers {minimum} or newer, and nothing else. Deletion is a decoding loop that lies in this
folder, so it has to be allowed by `trust_remote_code=True`; read `custom_generate/generate.py` first, it is one file.

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(folder)  # the folder in which this file is
model = AutoModelForCausalLM.from_pretrained(folder)
inputs = tokenizer([{prompt}], return_tensors="pt", padding=True)
out = model.generate(**inputs, max_new_tokens=32, custom_generate=folder, trust_remote_code=True)
print(tokenizer.batch_decode(out, skip_special_tokens=True))
```
{begins}{talks}
`skip_deleted=False` returns all actions instead of the final state, `seeds=[...]` gives each row a random stream of its
own, and `exclude_deleted=True` does not write again what was just deleted. Without `custom_generate` the model writes
`{bkspc}` as a token and then reads it, which it was never trained to do.
{adapters}
## Training

- Method: {card.method}
- Base model: {card.base}
- Data: {card.data}
- Command: `{card.command}`
- Exported by: `{card.export}`
- Versions: `{LOCK}` lists every package that was installed, as they were when this was exported.

## Results

{results}

## Limits

- It reads {reads}; what is deleted leaves the context, and does not count.
- Weights are {dtype}: in 16 bits probabilities differ from the policy's own by the rounding of the head.
- Beams, streamers and engines that only append cannot take tokens back; these can stop at `{bkspc}`, drop one token and
  go on.
- The offset head of the paper's Appendix E is left out. It adds the same number to all logits of a state, which the
  softmax cancels; the value V(s) that training used is lost with it.
{more}
## Licence

{licence}
"""

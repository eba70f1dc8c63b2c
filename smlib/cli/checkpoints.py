"""What `smlib export` does: finds the policy in a folder and what is known of its training, and writes a checkpoint."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from smlib.cli.checks import told
from smlib.cli.workbench import finished
from smlib.data.tokenizers import TextTokenizer
from smlib.files import ResultError, canonical_json, read_json
from smlib.policies import shipped
from smlib.policies.export import export_policy
from smlib.policies.loading import load_policy
from smlib.policies.model_card import Card
from smlib.policies.policy import Policy

FACTS = "card.json"
"""What whoever trained a policy may leave beside it: fields of `Card`."""
KINDS: Mapping[str, type] = {"results": dict, "limits": tuple}
"""The fields of `Card` that are no text."""


def write_checkpoint(
    source: Path,
    out: Path,
    *,
    bkspc: str,
    merge: bool,
    dtype: str | None,
    check: bool,
    facts: Mapping[str, str],
    results: Sequence[str],
) -> Path:
    """Writes `out` from the policy in `source`; see `export_policy`.

    Args:
        facts: fields of the card that the user gave. results: `NAME=VALUE` each.

    Raises:
        ResultError: what is wrong with the policy, the folder or the card.
    """
    measured = dict(_result(text) for text in results)
    policy, tokenizer, card = _shipped(source.name) if _ships(source) else _read(source)
    asked = ["smlib", "export", _named(source), _named(out), *_options(sys.argv)]
    given: dict[str, Any] = dict(facts)
    card = replace(card, results={**card.results, **measured}, export=shlex.join(asked), **given)
    with told(OSError, ValueError, TypeError, SafetensorError):
        return export_policy(
            policy,
            tokenizer,
            out,
            bkspc=bkspc,
            merge=merge,
            dtype=None if dtype is None else getattr(torch, dtype),
            card=card,
            check=check,
        )


def _ships(source: Path) -> bool:
    """Whether this is the name of a policy that comes with smlib, and not that of a folder here."""
    return str(source) in shipped.names() and not source.exists()


def _shipped(name: str) -> tuple[Policy, TextTokenizer, Card]:
    """A policy that comes with smlib, its tokeniser and what its card says."""
    made = shipped.card(name)
    measured = {f"{made.measured['split']} accuracy, {rule}": v for rule, v in made.measured["accuracy"].items()}
    card = Card(
        title=f"{name}: {made.summary}",
        method=made.method,
        data=f"{made.difficulty} questions of the task {made.task} (mathematics-dataset)",
        command=made.command,
        results=measured,
        base="none: its base model was trained from nothing",
        licence="apache-2.0",
        limits=made.limits,
    )
    return *shipped.load(name), card


def _read(source: Path) -> tuple[Policy, TextTokenizer, Card]:
    """The policy in a folder, its tokeniser, and what is known of its training."""
    if (source / "settings.json").is_file():
        policy, task, described = finished(source)
        training: Any = described.get("training", {})
        objective: Any = training.get("objective", {}) if isinstance(training, Mapping) else {}
        card = Card(
            title=f"{described.get('task')} with deletion",
            method=f"{objective.get('method', 'sm')}, a small Llama trained from nothing; see the settings below",
            data=f"{described.get('questions', 'the')} {described.get('difficulty')} questions of the task "
            f"{described.get('task')} (mathematics-dataset), noise {described.get('noise', 'as in the settings')}",
            command=f"smlib train {source.name} (with the settings: {canonical_json(described, indent=None)})",
            base="none: it was trained from nothing",
            licence="apache-2.0",
        )
        return policy, task.tokenizer, _with_facts(card, source)
    with told(OSError, ModuleNotFoundError, ValueError, SafetensorError):
        policy, tokenizer = load_policy(source)
    return policy, tokenizer, _with_facts(Card(), source)


def _with_facts(card: Card, folder: Path) -> Card:
    """The card with the fields of `card.json`, if it is there."""
    if not (folder / FACTS).is_file():
        return card
    stored = read_json(folder / FACTS)
    known = {field.name for field in fields(Card)}
    unknown = sorted(set(stored) - known)
    if unknown:
        raise ResultError(f"{folder / FACTS} has the fields {unknown}: expected some of {sorted(known)}")
    if isinstance(stored.get("limits"), list):
        stored = {**stored, "limits": tuple(stored["limits"])}  # type: ignore[arg-type]
    strange = [name for name, value in stored.items() if not isinstance(value, KINDS.get(name, str))]
    if strange:
        raise ResultError(
            f"{folder / FACTS}: {strange[0]} is {stored[strange[0]]!r}, expected a text (for results a mapping from "
            "names to numbers, for limits a list of sentences)"
        )
    return replace(card, **stored)  # type: ignore[arg-type]


def _result(text: str) -> tuple[str, float | str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise ResultError(f"--result {text!r}: expected NAME=VALUE, for instance accuracy=0.75")
    try:
        return name, float(value)
    except ValueError:
        return name, value


def _named(folder: Path) -> str:
    """A folder as it was given, and of one from the root its name: the card says nothing of this machine's paths."""
    return folder.name if folder.is_absolute() or ".." in folder.parts else str(folder)


def _options(arguments: Sequence[str]) -> list[str]:
    """The options that the command was given: of its folders the card has the names, and no paths of this machine."""
    first = next((i for i, argument in enumerate(arguments) if argument.startswith("--")), len(arguments))
    return list(arguments[first:])

"""Trained policies that come with the package: small, of the arithmetic task, each with a card that says what it is.

    policy, tokenizer = load("sm-arithmetic")
    card("sm-arithmetic").measured["accuracy"]

Every policy is a folder beside this module, in the form that `smlib.policies.loading.save_policy` writes, with a
`card.json` for programs and the same as `CARD.md` for readers. The weights are rounded to bfloat16; what a card says of
accuracy was measured on the rounded weights. `python -m smlib.paper.shipping NAME` trains and measures one again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smlib.files import ResultError, read_json

if TYPE_CHECKING:
    from smlib.data.tokenizers import TextTokenizer
    from smlib.policies.policy import Policy

FOLDER = Path(__file__).resolve().parent
CARD = "card.json"
WEIGHTS = ("lm/model.safetensors", "policy.safetensors")


@dataclass(frozen=True)
class Card:
    """What a shipped policy is.

    Attributes:
        name: what `load` and `smlib generate` take.
        summary: one sentence. limits: what it cannot do, a sentence each.
        method: key of `smlib.objectives.methods`.
        task, difficulty: the questions that it was trained on, for `smlib.data.tasks.load_task`.
        example: a question of that kind.
        seed: of its training. parameters: how many numbers the language model has.
        command: trains and measures it again. kept: whether the weights are those that the run itself left, instead of
            trained again with its configuration.
        run: the committed result of the same training. revision: commit of the code that made the weights.
        config: of that run, as in its result file.
        measured: `split`, `questions`, `accuracy` by decoding rule, `correct` (a bit for each question) and `recovery`
            by number of wrong tokens, all of the weights as they ship.
        trained: share of the questions, by what was asked, on which the weights before rounding gave the result
            file's outcome; all 1 on a processor that adds in the same order.
        sha256: of the files with weights.
    """

    name: str
    summary: str
    limits: tuple[str, ...]
    method: str
    task: str
    difficulty: str
    example: str
    seed: int
    parameters: int
    command: str
    kept: bool
    run: str
    revision: str
    config: Mapping[str, Any]
    measured: Mapping[str, Any]
    trained: Mapping[str, float]
    sha256: Mapping[str, str]


def names() -> tuple[str, ...]:
    """The names of the policies that ship.

    >>> "sm-arithmetic" in names()
    True
    """
    return tuple(sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}")))


def folder_of(name: str) -> Path:
    """The folder of a shipped policy; raises `ResultError` with the known names for an unknown one."""
    if name not in names():
        raise ResultError(f"no policy {name!r} comes with smlib; there are {', '.join(names())}")
    return FOLDER / name


def card(name: str) -> Card:
    """The card of a shipped policy.

    >>> card("sm-arithmetic").method
    'sm'

    Raises:
        ResultError: an unknown name; a damaged card.
    """
    path = folder_of(name) / CARD
    record = read_json(path)
    known = {field.name for field in fields(Card)}
    if set(record) != known:
        raise ResultError(f"{path} is no card of a policy: {', '.join(sorted(known ^ set(record)))}; {_cure(name)}")
    return Card(**{**record, "limits": tuple(record["limits"])})  # type: ignore[arg-type]


def load(name: str) -> tuple["Policy", "TextTokenizer"]:
    """A shipped policy, in float32 and ready to sample from, and its tokeniser.

    >>> policy, tokenizer = load("sm-arithmetic")
    >>> policy.config.backspace
    True

    Raises:
        ResultError: an unknown name; weights that are missing or damaged, with the command that restores them.
    """
    import torch
    from safetensors import SafetensorError

    from smlib.policies.loading import load_policy

    folder = folder_of(name)
    missing = [file for file in WEIGHTS if not (folder / file).is_file()]
    if missing:
        raise ResultError(f"the weights of {name} are missing ({folder / missing[0]}): {_cure(name)}")
    try:
        policy, tokenizer = load_policy(folder, dtype=torch.float32)
    except (OSError, ValueError, SafetensorError) as error:
        raise ResultError(f"the weights of {name} cannot be read ({error}): {_cure(name)}") from error
    policy.eval()
    return policy, tokenizer


def _cure(name: str) -> str:
    return (
        f"restore them with `git checkout -- {FOLDER / name}`, or train them again with "
        f"`python -m smlib.paper.shipping {name}`"
    )

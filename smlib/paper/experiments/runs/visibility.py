"""How late a wrong digit becomes visible to a policy.

One digit of a right answer is replaced, and the answer goes on as if nothing had happened. After the wrong digit
(distance 1), after one more right digit (distance 2) and so on the policy is asked for two probabilities: that of
`<bkspc>`, and that of the answer's next token. The same states without the mistake are the control: what it deletes for
nothing, and how sure it is of the continuation there.

Two kinds of wrong digit: `any`, another digit of the question's base, and `carry`, one more or less (mod the base),
which is what a forgotten carry writes. A carry can be noticed at once only by a policy that has worked out the digits
to the right of it, which an answer with its most significant digit first writes later.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from smlib.data.mathematics import Example
from smlib.data.tasks import Task
from smlib.data.tokenizers import DIGITS
from smlib.edits.actions import Trajectory
from smlib.edits.packing import pack
from smlib.generation.edit_batch import evaluating
from smlib.policies.policy import Policy

KINDS = ("any", "carry")


@dataclass(frozen=True)
class Mistake:
    """A right answer with one wrong digit, and where that is.

    Attributes:
        wrong, right: trajectories whose labels are the right answer; `wrong` stands in the state from `place` on.
        place: index of the digit in the answer.
    """

    wrong: Trajectory
    right: Trajectory
    place: int


def mistake(task: Task, example: Example, kind: str, rng: np.random.Generator) -> Mistake:
    """One digit of an example's answer, drawn uniformly, made wrong.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of mistake {kind!r}; known: {', '.join(KINDS)}")
    base = int(example.meta.get("base", 10))
    places = [i for i, letter in enumerate(example.answer) if letter in DIGITS]
    place = int(rng.choice(places))
    digit = DIGITS.index(example.answer[place])
    shift = int(rng.choice([1, base - 1])) if kind == "carry" else int(rng.integers(1, base))
    written = example.answer[:place] + DIGITS[(digit + shift) % base] + example.answer[place + 1 :]
    labels = task.answer_ids(example)
    realised = np.array([*task.tokenizer.encode(written), task.space.eos], np.int32)
    if realised.size != labels.size:
        raise ValueError(f"a digit of {example.answer!r} is no token of its own here: give a task that has such tokens")
    prompt = task.prompt_ids(example)
    (token,) = np.flatnonzero(realised != labels)
    return Mistake(Trajectory(prompt, labels, realised), Trajectory(prompt, labels, labels), int(token))


def visibility(
    policy: Policy, task: Task, examples: Sequence[Example], *, kind: str, seed: int = 0, batch: int = 128
) -> list[dict[str, float]]:
    """Means over the examples whose answer is long enough, one record for each distance from 1 on.

    Returns records with `distance`, `n`; `bkspc` and `correct`, the probabilities of `<bkspc>` and of the right
    answer's next token; `bkspc_clean` and `correct_clean`, the same without the mistake.

    Raises:
        ValueError: an unknown kind of mistake.
    """
    rng = np.random.default_rng([seed, 29, KINDS.index(kind) if kind in KINDS else 0])
    made = [mistake(task, example, kind, rng) for example in examples]
    found: dict[int, list[tuple[float, float, float, float]]] = {}
    with evaluating(policy), torch.no_grad():
        for begin in range(0, len(made), batch):
            part = made[begin : begin + batch]
            wrong = _probabilities(policy, [m.wrong for m in part])
            right = _probabilities(policy, [m.right for m in part])
            for one, w, r in zip(part, wrong, right, strict=True):
                for i in range(one.place + 1, len(one.wrong)):
                    found.setdefault(i - one.place, []).append((*w[i], *r[i]))
    names = ("bkspc", "correct", "bkspc_clean", "correct_clean")
    return [
        {"distance": distance, "n": len(rows)}
        | {name: round(float(np.mean([row[k] for row in rows])), 6) for k, name in enumerate(names)}
        for distance, rows in sorted(found.items())
    ]


def _probabilities(policy: Policy, trajectories: Sequence[Trajectory]) -> list[list[tuple[float, float]]]:
    """(P(`<bkspc>`), P(label)) at each visit of each trajectory."""
    groups = [[t] for t in trajectories]
    laid = pack(groups, policy.space, keep_edits=policy.config.keep_edits).to(policy.device)
    law = policy.logits(policy.state_hidden(laid)[0], None).double().softmax(-1)
    edit = law[laid.visit_state, policy.space.bkspc].tolist()
    label = law[laid.visit_state, laid.label].tolist()
    ends = np.cumsum([len(t) for t in trajectories])
    return [list(zip(edit[e - len(t) : e], label[e - len(t) : e], strict=True))
            for e, t in zip(ends.tolist(), trajectories, strict=True)]  # fmt: skip

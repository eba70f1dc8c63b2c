"""The policies that ship, at work: completions of a question, and a demonstration in which something is deleted."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from smlib.cli.checks import check_sampling
from smlib.cli.completions import complete
from smlib.cli.recorded import MARK, PAUSE, RECORD, Recording, introduction
from smlib.data.mathematics import Example, as_prompt
from smlib.data.tasks import Task, load_task
from smlib.data.tokenizers import TextTokenizer
from smlib.edits.actions import ActionSpace, Ids, Trajectory, final_state, replay
from smlib.files import ResultError, canonical_json, write_atomically
from smlib.generation.sampling import SamplingConfig
from smlib.generation.steps import Stepper
from smlib.generation.streaming import Decode
from smlib.policies import shipped
from smlib.policies.policy import Policy

DEMO = "sm-arithmetic"
CANDIDATES = 32
QUESTIONS = 32
"""So many completions of each of so many questions are looked at for one that corrects itself."""


def write_shipped(
    name: str, prompt: str, config: SamplingConfig, seeds: Sequence[int], *, html: Path | None = None
) -> list[Trajectory]:
    """Sample a completion for each seed from a policy that ships, and show each as it is written.

    Args:
        prompt: a question, completed by `as_prompt`; the example of the policy's card when empty.
        html: where the page of each goes (`smlib.cli.completions.complete`).

    Raises:
        ResultError: an unknown name, missing weights, a prompt that fills the context, a seed that is none.
    """
    policy, tokenizer = shipped.load(name)
    question = as_prompt(prompt) or as_prompt(shipped.card(name).example)
    ids = np.array([tokenizer.bos, *tokenizer.encode(question)], np.int32)
    check_sampling(policy, ids.size, config, seeds)
    return complete(policy, tokenizer, ids.tolist(), config, seeds, html=html, title=name)


@dataclass(frozen=True)
class Found:
    """A completion that can be shown: of which policy, from which prompt, the token that was given, and the seed."""

    policy: Policy
    tokenizer: TextTokenizer
    root: tuple[int, ...]
    given: int
    seed: int
    whole: Trajectory


def demonstrate(name: str, *, max_new_tokens: int = 24, html: Path | None = None) -> Trajectory:
    """Shows a completion in which a policy deletes a wrong digit that it was given, and then a wrong one of its own.

    The question is the first validation question, in their fixed order, at which one of the first `CANDIDATES` seeds
    gives such a completion with a right answer; the seed is the first that does. That they were chosen is printed.

    Raises:
        ResultError: a policy that cannot delete; none of the first questions has such a completion.
    """
    found = _search(name, max_new_tokens)
    policy, tokenizer = found.policy, found.tokenizer
    print(introduction(name, found.seed, tokenizer.token(found.given)))
    config = SamplingConfig(max_new_tokens=max_new_tokens)
    (written,) = complete(
        policy, tokenizer, found.root, config, [found.seed], html=html, title=name, pause=PAUSE, forced=[found.given]
    )
    deletions = int((written.realised == policy.space.bkspc).sum())
    answer = tokenizer.decode(final_state(written, policy.space).tolist())
    print(f"It wrote {len(written) - 2 - deletions} tokens and deleted {deletions}. Its answer is {answer}.")
    return written


def write_again(run: Recording, *, html: Path | None = None) -> Trajectory:
    """Lets the policy of a record answer its question with its seed, and says whether it did the same."""
    policy, tokenizer = shipped.load(run.policy)
    ids = [tokenizer.bos, *tokenizer.encode(run.question)]
    given = tokenizer.encode("".join(run.actions[: run.given]))
    config = SamplingConfig(max_new_tokens=run.max_new_tokens)
    (written,) = complete(
        policy, tokenizer, ids, config, [run.seed], html=html, title=run.policy, pause=PAUSE, forced=given
    )
    if _actions(written, policy.space, tokenizer.decode) == run.actions:
        print("The model has just written it here: the same actions as in the record.")
    else:
        print("Here the model did something else: processors differ in the last digits of a probability.")
    return written


def record(name: str = DEMO, *, max_new_tokens: int = 24) -> Recording:
    """The run that `demonstrate` shows, as a record; see there for how it is chosen and what is raised."""
    found = _search(name, max_new_tokens)
    space, decode = found.policy.space, found.tokenizer.decode
    return Recording(
        policy=name,
        seed=found.seed,
        question=decode(list(found.root[1:])),
        given=1,
        actions=_actions(found.whole, space, decode),
        answer=decode(final_state(found.whole, space).tolist()),
        max_new_tokens=max_new_tokens,
    )


def _actions(trajectory: Trajectory, space: ActionSpace, decode: Decode) -> tuple[str, ...]:
    """The actions as a record spells them."""
    return tuple(MARK if a == space.bkspc else decode([a]) for a in trajectory.realised.tolist() if a != space.eos)


def _search(name: str, max_new_tokens: int) -> Found:
    """What `demonstrate` shows."""
    policy, tokenizer = shipped.load(name)
    if not policy.config.backspace:
        raise ResultError(f"{name} cannot delete, so there is nothing to demonstrate; {DEMO} can")
    card = shipped.card(name)
    task = load_task(card.task, n_train=0, n_val=QUESTIONS, n_test=0, difficulty=card.difficulty)
    config = SamplingConfig(max_new_tokens=max_new_tokens)
    for example in task.val:
        root, given = task.prompt_ids(example), wrong_digit(example, task)
        for seed in range(CANDIDATES):
            whole = _with_given(policy, root, config, seed, given)
            if _corrected(whole, example, task):
                return Found(policy, tokenizer, tuple(map(int, root)), given, seed, whole)
    raise ResultError(f"{name} corrected itself in none of {len(task.val)} questions")


def _with_given(policy: Policy, root: Ids, config: SamplingConfig, seed: int, given: int) -> Trajectory:
    """The completion after a token that was given, left unfinished once it deletes more than `_corrected` allows."""
    stepper = Stepper(policy, root, config, seed)
    stepper.take(given)
    deletions = 0
    while not stepper.ended and deletions < 3:
        deletions += stepper.take()[1] == policy.space.bkspc
    return stepper.trajectory()


def wrong_digit(example: Example, task: Task) -> int:
    """A digit of every base with which the answer does not begin: 1, or 0 where it begins with 1."""
    return task.tokenizer.encode("0" if example.answer.startswith("1") else "1")[0]


def _corrected(trajectory: Trajectory, example: Example, task: Task) -> bool:
    """Whether exactly two tokens are deleted, the one that was given and then one of the policy's own where the state
    has left the answer, and what is left in the end is right."""
    answer = final_state(trajectory, task.space).tolist()
    if not task.is_correct(task.tokenizer.decode(answer), example):
        return False
    states = (list(state[trajectory.prompt.size :]) for state in replay(trajectory, task.space))
    deleted = [s for s, a in zip(states, trajectory.realised.tolist(), strict=False) if a == task.space.bkspc]
    return len(deleted) == 2 and len(deleted[0]) == 1 and deleted[1] != answer[: len(deleted[1])]


if __name__ == "__main__":
    write_atomically(RECORD, canonical_json(asdict(record())))

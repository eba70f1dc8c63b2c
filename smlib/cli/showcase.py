"""The policies that ship, at work: completions of a question, and a demonstration in which something is deleted."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smlib.cli.checks import check_sampling
from smlib.cli.completions import complete
from smlib.cli.recorded import MARK, PAUSE, RECORD, Recording
from smlib.data.mathematics import Example, as_prompt
from smlib.data.tasks import Task, load_task
from smlib.data.tokenizers import TextTokenizer
from smlib.edits.actions import ActionSpace, Trajectory, final_state, replay
from smlib.files import ResultError, canonical_json, write_atomically
from smlib.generation.sampling import SamplingConfig, sample
from smlib.generation.streaming import Decode
from smlib.policies import shipped
from smlib.policies.policy import Policy

DEMO = "sm-arithmetic"
CANDIDATES = 256
"""Completions of a question among which the demonstration looks for one that corrects itself."""


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


def demonstrate(name: str, *, max_new_tokens: int = 24, html: Path | None = None) -> Trajectory:
    """Shows a completion in which a policy deletes a wrong token that it wrote, and ends with the right answer.

    The question is the first validation question, in their fixed order, at which one of the first `CANDIDATES` seeds
    gives such a completion; the seed is the first that does. Both are printed, so nothing is hidden by the choice.

    Raises:
        ResultError: a policy that cannot delete; none of the first questions has such a completion.
    """
    policy, tokenizer, root, chosen = _search(name, max_new_tokens)
    print(f"{name}, seed {chosen}: the first completion of this question that takes back a wrong token and ends right.")
    config = SamplingConfig(max_new_tokens=max_new_tokens)
    (written,) = complete(policy, tokenizer, root.tolist(), config, [chosen], html=html, title=name, pause=PAUSE)
    deletions = int((written.realised == policy.space.bkspc).sum())
    answer = tokenizer.decode(final_state(written, policy.space).tolist())
    print(f"It wrote {len(written) - 1 - deletions} tokens and deleted {deletions} of them. Its answer is {answer}.")
    return written


def write_again(run: Recording, *, html: Path | None = None) -> Trajectory:
    """Lets the policy of a record answer its question with its seed, and says whether it did the same."""
    policy, tokenizer = shipped.load(run.policy)
    ids = [tokenizer.bos, *tokenizer.encode(run.question)]
    config = SamplingConfig(max_new_tokens=run.max_new_tokens)
    (written,) = complete(policy, tokenizer, ids, config, [run.seed], html=html, title=run.policy, pause=PAUSE)
    if _actions(written, policy.space, tokenizer.decode) == run.actions:
        print("The model has just written it here: the same actions as in the record.")
    else:
        print("Here the model did something else: processors differ in the last digits of a probability.")
    return written


def record(name: str = DEMO, *, max_new_tokens: int = 24) -> Recording:
    """The run that `demonstrate` shows, as a record; see there for how it is chosen and what is raised."""
    policy, tokenizer, root, seed = _search(name, max_new_tokens)
    (written,) = sample(policy, [root], SamplingConfig(max_new_tokens=max_new_tokens), [seed]).trajectories
    return Recording(
        policy=name,
        seed=seed,
        question=tokenizer.decode(root[1:].tolist()),
        actions=_actions(written, policy.space, tokenizer.decode),
        answer=tokenizer.decode(final_state(written, policy.space).tolist()),
        max_new_tokens=max_new_tokens,
    )


def _actions(trajectory: Trajectory, space: ActionSpace, decode: Decode) -> tuple[str, ...]:
    """The actions as a record spells them."""
    return tuple(MARK if a == space.bkspc else decode([a]) for a in trajectory.realised.tolist() if a != space.eos)


def _search(name: str, max_new_tokens: int) -> tuple[Policy, TextTokenizer, NDArray[np.int32], int]:
    """The policy, its tokeniser, and the prompt and the seed that `demonstrate` shows."""
    policy, tokenizer = shipped.load(name)
    if not policy.config.backspace:
        raise ResultError(f"{name} cannot delete, so there is nothing to demonstrate; {DEMO} can")
    card = shipped.card(name)
    task = load_task(card.task, n_train=0, n_val=8, n_test=0, difficulty=card.difficulty)
    config = SamplingConfig(max_new_tokens=max_new_tokens)
    for example in task.val:
        root = task.prompt_ids(example)
        seeds = range(CANDIDATES)
        found = sample(policy, [root] * CANDIDATES, config, seeds).trajectories
        chosen = next((s for s in seeds if _corrected(found[s], example, task)), None)
        if chosen is not None:
            return policy, tokenizer, np.asarray(root, np.int32), chosen
    raise ResultError(f"{name} corrected itself in none of {len(task.val)} questions")


def _corrected(trajectory: Trajectory, example: Example, task: Task) -> bool:
    """Whether a token was deleted where the state had left the answer, and what is left in the end is right."""
    answer = final_state(trajectory, task.space).tolist()
    if not task.is_correct(task.tokenizer.decode(answer), example):
        return False
    root = trajectory.prompt.size
    visits = zip(replay(trajectory, task.space), trajectory.realised.tolist(), strict=False)
    return any(
        action == task.space.bkspc and list(state[root:]) != answer[: len(state) - root] for state, action in visits
    )


if __name__ == "__main__":
    write_atomically(RECORD, canonical_json(asdict(record())))

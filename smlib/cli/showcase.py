"""The policies that ship, at work: completions of a question, and a demonstration in which something is deleted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers.utils.logging import disable_progress_bar

from smlib.cli.checks import check_sampling
from smlib.cli.completions import complete
from smlib.data.mathematics import Example, as_prompt
from smlib.data.tasks import Task, load_task
from smlib.edits.actions import Trajectory, final_state, replay
from smlib.files import ResultError
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies import shipped

DEMO = "sm-arithmetic"
CANDIDATES = 256
"""Completions of a question among which the demonstration looks for one that corrects itself."""
PAUSE = 0.25
"""Seconds that an action of the demonstration takes in a terminal."""


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
    disable_progress_bar()
    policy, tokenizer = shipped.load(name)
    question = as_prompt(prompt) or as_prompt(shipped.card(name).example)
    ids = np.array([tokenizer.bos, *tokenizer.encode(question)], np.int32)
    check_sampling(policy, ids.size, config, seeds)
    return complete(policy, tokenizer, ids.tolist(), config, seeds, html=html, title=name)


def demonstrate(name: str = DEMO, *, max_new_tokens: int = 24, html: Path | None = None) -> Trajectory:
    """Shows a completion in which a policy deletes a wrong token that it wrote, and ends with the right answer.

    The question is the first validation question, in their fixed order, at which one of the first `CANDIDATES` seeds
    gives such a completion; the seed is the first that does. Both are printed, so nothing is hidden by the choice.

    Raises:
        ResultError: a policy that cannot delete; none of the first questions has such a completion.
    """
    disable_progress_bar()
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
            break
    else:
        raise ResultError(f"{name} corrected itself in none of {len(task.val)} questions")
    print(f"{name}, seed {chosen}: the first completion of this question that takes back a wrong token and ends right.")
    [written] = complete(policy, tokenizer, root.tolist(), config, [chosen], html=html, title=name, pause=PAUSE)
    deletions = int((written.realised == policy.space.bkspc).sum())
    answer = tokenizer.decode(final_state(written, policy.space).tolist())
    print(f"It wrote {len(written) - 1 - deletions} tokens and deleted {deletions} of them. Its answer is {answer}.")
    return written


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

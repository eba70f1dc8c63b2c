"""A question-answer task as the data set of Algorithm 1: demonstrations with noise on the solution only (Sec. 6.1)."""

from collections.abc import Sequence

import numpy as np

from smlib.data.mathematics import Example
from smlib.data.tasks import Task
from smlib.edits.actions import Ids, Trajectory
from smlib.edits.noise import NoiseLaw, expert_trajectory


class TaskDemonstrations:
    """Examples of a task with one kind of noise; the root of every trajectory is the end of the question.

    Args:
        task: tokeniser and noise laws.
        examples: the training examples.
        noise: a kind of `Task.noise`.

    >>> task = smlib.load_task("mul", n_train=2, n_val=0, n_test=0, difficulty="easy")
    >>> data = TaskDemonstrations(task, task.train, "ground_truth")
    >>> clean = data.demonstration(0, np.random.default_rng(0), eta=0.0, burst=1)
    >>> task.tokenizer.decode(clean.labels.tolist()) == task.train[0].answer
    True
    """

    branches = False

    def __init__(self, task: Task, examples: Sequence[Example], noise: str = "none") -> None:
        self.task = task
        self.prompts = [task.prompt_ids(e) for e in examples]
        self.answers = [task.answer_ids(e) for e in examples]
        self.laws = [task.noise(noise, e) for e in examples]

    def __len__(self) -> int:
        return len(self.prompts)

    def demonstration(self, index: int, rng: np.random.Generator, eta: float, burst: int) -> Trajectory:
        """The solution of example `index` with noise of level eta and its deletions."""
        prompt, answer = self.prompts[index], self.answers[index]
        return expert_trajectory(prompt, answer, self.laws[index], eta, rng, self.task.space, burst=burst)

    def rollout_prompt(self, index: int, rng: np.random.Generator) -> Ids:
        """The question: "prompts are taken from the training set and truncated at the end of the question"."""
        return self.prompts[index]

    def reference(self, index: int) -> Ids:
        """The solution and `<eos>`."""
        return self.answers[index]

    def noise_law(self, index: int) -> NoiseLaw:
        """The law of the example's noise tokens."""
        return self.laws[index]

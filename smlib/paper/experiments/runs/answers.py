"""Answering questions with a policy: accuracy under a decoding rule, and recovery from wrong tokens.

The answer is what is left after all edits: deleted tokens never count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from smlib.edits.actions import Ids, Trajectory, final_state
from smlib.data.mathematics import Example
from smlib.data.tasks import Task
from smlib.generation.stats import SamplesActions, SampleStats
from smlib.generation.sampling import SamplingConfig, sample

DECODINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "t1": {},  # temperature 1, the paper's text setting; it does not state the one for arithmetic
        "greedy": {"greedy": True},
        "greedy_exclude": {"greedy": True, "exclude_deleted": True},
        "top_p": {"top_p": 0.9},
        "min_p": {"min_p": 0.1},
        "no_backspace": {"allow_backspace": False},
        "truncation": {"truncation_eta": 0.1, "allow_backspace": False},
        **{
            f"{rule}_{tau}": {"delete_below": tau, "allow_backspace": False, "exclude_deleted": rule == "resample"}
            for rule in ("delete", "resample")
            for tau in (0.02, 0.05, 0.1, 0.2)
        },
    }
)
"""Decoding rules. `truncation` samples from p^2 / (p + 0.1 u), u the law of digit noise: what a perfect clone's
backspaces make of p. `no_backspace` renormalises a policy over the tokens: what is left of its language model.
`delete_<tau>` and `resample_<tau>` are decision operators."""

OPERATORS = tuple(name for name, how in DECODINGS.items() if "delete_below" in how)
"""Those that delete what the model itself thought unlikely (`smlib.generation.operators`)."""


@dataclass(frozen=True)
class Answers:
    """Trajectories for a list of examples, which of their final states are the right answer, and what they cost."""

    trajectories: list[Trajectory]
    correct: list[bool]
    backspace_rate: float
    stats: SampleStats

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float(np.mean(self.correct))


def sampling_config(decoding: str, max_new_tokens: int) -> SamplingConfig:
    """The settings of a decoding rule; raises ValueError with the known names."""
    if decoding not in DECODINGS:
        raise ValueError(f"unknown decoding {decoding!r}; known: {', '.join(DECODINGS)}")
    return SamplingConfig(max_new_tokens=max_new_tokens, **DECODINGS[decoding])


def answer(
    policy: SamplesActions,
    task: Task,
    examples: Sequence[Example],
    *,
    decoding: str = "t1",
    max_new_tokens: int = 24,
    seed: int = 0,
    prefixes: Sequence[Ids] | None = None,
    batch: int | None = None,
) -> Answers:
    """Samples one answer to each question.

    Args:
        batch: questions answered side by side, all when omitted; a large model has no room for more. Every question
            has a seed of its own.
        prefixes: tokens already standing after each question (the wrong digits of Table 1). They belong to the state
            and can be deleted: the root stays at the end of the question.
    """
    config = sampling_config(decoding, max_new_tokens)
    seeds = np.random.default_rng([seed, 17]).integers(0, 2**63, size=len(examples)).tolist()
    laws = [task.noise("ground_truth", e) for e in examples] if config.needs_noise_law else None
    prompts = [task.prompt_ids(e) for e in examples]
    size = batch or max(len(prompts), 1)
    parts = [slice(begin, begin + size) for begin in range(0, len(prompts), size)] or [slice(0)]
    results = [
        sample(
            policy,
            prompts[part],
            config,
            seeds[part],
            noise_laws=None if laws is None else laws[part],
            prefixes=None if prefixes is None else prefixes[part],
        )
        for part in parts
    ]
    given = [t for result in results for t in result.trajectories]
    finals = [final_state(t, task.space) for t in given]
    correct = [task.is_correct(task.tokenizer.decode(f.tolist()), e) for f, e in zip(finals, examples, strict=True)]
    stats = SampleStats()
    for result in results:
        stats += result.stats
    return Answers(given, correct, stats.backspaces / max(stats.actions, 1), stats)


def wrong_prefixes(task: Task, examples: Sequence[Example], depth: int, seed: int) -> list[Ids]:
    """`depth` random digits of the question's base for each example, the first of them wrong (Table 1)."""
    rng = np.random.default_rng([seed, 23, depth])
    prefixes = []
    for example in examples:
        law, first = task.noise("ground_truth", example), task.answer_ids(example)[0]
        tokens = law.sample(rng, depth).copy()
        while tokens[0] == first:
            tokens[:1] = law.sample(rng, 1)
        prefixes.append(tokens)
    return prefixes


@dataclass(frozen=True)
class Recovery:
    """Shares of the prompts with `depth` wrong tokens at which ... (lists: one bool per prompt)."""

    depth: int
    first_backspace: list[bool]  # the first action is <bkspc>
    all_removed: list[bool]  # every wrong token is deleted at some time
    correct: list[bool]  # the final answer is right


def recovery(
    policy: SamplesActions,
    task: Task,
    examples: Sequence[Example],
    depth: int,
    *,
    decoding: str = "t1",
    max_new_tokens: int = 24,
    seed: int = 0,
    batch: int | None = None,
) -> tuple[Recovery, Answers]:
    """Completes answers that start with `depth` wrong tokens."""
    answers = answer(
        policy,
        task,
        examples,
        decoding=decoding,
        max_new_tokens=max_new_tokens,
        seed=seed,
        prefixes=wrong_prefixes(task, examples, depth, seed),
        batch=batch,
    )
    space = task.space
    first = [bool(t.realised[depth] == space.bkspc) for t in answers.trajectories]  # the prefix comes before
    removed = [_shallowest(t, depth, space.bkspc) == 0 for t in answers.trajectories]
    return Recovery(depth, first, removed, answers.correct), answers


def _shallowest(trajectory: Trajectory, depth: int, bkspc: int) -> int:
    """Smallest number of the first `depth` tokens that stood at any time."""
    least = now = depth
    for action in trajectory.realised[depth:].tolist():
        now = max(now - 1, 0) if action == bkspc else now + 1
        least = min(least, now)
    return least

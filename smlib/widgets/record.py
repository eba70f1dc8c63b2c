"""A trajectory as the stepper draws it: every visit with what was possible, and the slots of its packed row.

A record is a dict of JSON types. The live widget lengthens one, the static twin holds one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smlib.data.tokenizers import TextTokenizer, check_tokenizer
from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.masking import trie
from smlib.edits.noise_dynamics import TokenLaw
from smlib.generation.decoding import SamplingConfig
from smlib.generation.edit_batch import SamplesActions
from smlib.generation.steps import Look, Step, Stepper, has_backspace

VERSION = 1
PROMPT_SLOTS = 32
"""Of a long prompt only the last so many slots are in a record: no page draws more, and every step sends them again."""


class Recorder:
    """A trajectory under way and its record.

    Args:
        policy, config, seed, noise_law, gamma: as in `smlib.generation.steps.Stepper`.
        tokenizer: prints the actions; the policy's own.
        prompt: text, or token ids with `<bos>`.
        note: a line that is shown under the trajectory.

    Raises:
        ValueError: what `Stepper` refuses; a tokeniser of another vocabulary than the policy's.
    """

    def __init__(
        self,
        policy: SamplesActions,
        tokenizer: TextTokenizer,
        prompt: str | Sequence[int] | NDArray[np.integer],
        config: SamplingConfig,
        seed: int = 0,
        *,
        noise_law: TokenLaw | None = None,
        gamma: float = 1.0,
        note: str = "",
    ) -> None:
        check_tokenizer(tokenizer)
        if tokenizer.vocab_size != policy.space.vocab_size:
            raise ValueError(
                f"the tokeniser has {tokenizer.vocab_size} tokens and the policy {policy.space.vocab_size}: expected "
                "the tokeniser that belongs to the policy"
            )
        ids = [tokenizer.bos, *tokenizer.encode(prompt)] if isinstance(prompt, str) else [int(i) for i in prompt]
        self.policy, self.tokenizer, self.prompt, self.note = policy, tokenizer, ids, note
        self.config, self.seed, self.noise_law, self.gamma = config, seed, noise_law, gamma
        self.steps: list[Step] = []
        self._visits: list[dict[str, Any]] = []
        if isinstance(prompt, str) and "".join((read := self.shown).split()) != "".join(prompt.split()):
            self.note = f"{note} The vocabulary lacks some of the prompt; the policy reads {read!r}.".strip()
        self._stepper = self._begin()

    @property
    def shown(self) -> str:
        """The prompt as the policy reads it."""
        return self.tokenizer.decode(self.prompt)

    def _begin(self) -> Stepper:
        return Stepper(self.policy, self.prompt, self.config, self.seed, noise_law=self.noise_law, gamma=self.gamma)

    @property
    def ended(self) -> bool:
        """Whether the trajectory has reached `<eos>`."""
        return self._stepper.ended

    def step(self, action: int | None = None) -> Step:
        """One action more, the policy's own or the one that is given; raises ValueError as `Stepper.step` does."""
        self.steps.append(self._stepper.step(action))
        return self.steps[-1]

    def run(self, forced: Mapping[int, int] | Sequence[int] = ()) -> "Recorder":
        """To the end, with the actions that the caller chooses at some visits (see `smlib.generation.steps.steps`)."""
        given = dict(forced if isinstance(forced, Mapping) else enumerate(forced))
        while not self.ended:
            self.step(given.get(len(self.steps)))
        return self

    def rewind(self, count: int) -> None:
        """Back to the state after the first `count` actions.

        They are taken again, as they were; the policy's own are the same anyway, since their random numbers are.
        """
        if not 0 <= count <= len(self.steps):
            raise ValueError(f"cannot go back to action {count}: the trajectory has {len(self.steps)}")
        if count < len(self.steps):
            self.replay(self.steps[:count])

    def replay(self, steps: Sequence[Step]) -> None:
        """From the prompt, the actions of these visits once more, in place of what was done."""
        self.steps, self._visits, self._stepper = [], [], self._begin()
        for step in steps:
            again = self._stepper.step(step.chosen)
            self.steps.append(replace(again, forced=step.forced))

    def encode(self, text: str) -> list[int]:
        """Tokens of what a reader types; ValueError where the tokeniser loses or does not know some of it."""
        ids = self.tokenizer.encode(text)
        if not ids or self.tokenizer.decode(ids).strip() != text.strip():
            raise ValueError(f"{text!r} cannot be written in this policy's vocabulary")
        return ids

    def record(self, error: str = "") -> dict[str, Any]:
        """What the stepper draws, JSON types alone.

        Args:
            error: a message about what was asked for last.
        """
        self._visits.extend(self._visit(step) for step in self.steps[len(self._visits) :])
        left_out = max(0, len(self.prompt) - PROMPT_SLOTS)
        return {
            "version": VERSION,
            "prompt": self.shown,
            "settings": {
                "seed": int(self.seed),
                "temperature": self.config.temperature,
                "top_p": self.config.top_p,
                "greedy": self.config.greedy,
                "gamma": self.gamma,
                "backspace": has_backspace(self.policy, self.config),
            },
            "steps": list(self._visits),
            "next": None if self.ended else self._look(self._stepper.look),
            "slots": self._slots()[left_out:],
            "slotsLeftOut": left_out,
            "note": self.note,
            "error": error,
        }

    def _look(self, look: Look) -> dict[str, Any]:
        space = self.policy.space
        top = [
            {"id": a, "label": self.tokenizer.token(a), "kind": kind(a, space), "p": _finite(p)} for a, p in look.top
        ]
        return {"top": top, "b": _finite(look.backspace), "v": _finite(look.value), "f": look.forward_tokens}

    def _visit(self, step: Step) -> dict[str, Any]:
        space, name = self.policy.space, self.tokenizer.token
        before = self._look(step.before)
        return {
            **{key: before[key] for key in ("top", "b", "v")},
            "f0": before["f"],
            "f": step.forward_tokens,
            "chosen": name(step.chosen),
            "chosenId": step.chosen,
            "executed": name(step.executed),
            "executedId": step.executed,
            "kind": kind(step.executed, space),
            "forced": step.forced,
            "noise": step.executed != step.chosen and kind(step.executed, space) == "insert",
            "p": _finite(step.probability),
            "vn": _finite(step.next_value),
            "r": _finite(step.reward),
            "ended": step.ended,
        }

    def _slots(self) -> list[dict[str, Any]]:
        """The packed row: each slot's token, depth, the action that made it (-1: the prompt) and the one that deleted
        it, with the slot count at that moment, its expiry (`smlib.edits.masking`)."""
        space, executed = self.policy.space, [step.executed for step in self.steps]
        whole = executed if self.ended else [*executed, space.eos]
        layout = trie(Trajectory.make(self.prompt, whole, space=space), space)
        born = [-1] * len(self.prompt)
        deleted: dict[int, int] = {}
        standing: list[int] = []
        for index, action in enumerate(executed):
            if action == space.bkspc:
                if standing:
                    deleted[standing.pop()] = index
            else:
                standing.append(len(born))
                born.append(index)
        return [
            {
                "label": self.tokenizer.token(int(layout.tokens[slot])),
                "position": int(layout.positions[slot]),
                "born": when,
                "deleted": deleted.get(slot),
                "expiry": int(layout.expiry[slot]) if slot in deleted else None,
            }
            for slot, when in enumerate(born)
        ]


def record(
    policy: SamplesActions,
    tokenizer: TextTokenizer,
    prompt: str | Sequence[int] | NDArray[np.integer],
    config: SamplingConfig,
    seed: int = 0,
    *,
    forced: Mapping[int, int] | Sequence[int] = (),
    noise_law: TokenLaw | None = None,
    gamma: float = 1.0,
    note: str = "",
) -> dict[str, Any]:
    """The record of a whole trajectory; arguments as in `Recorder`, `forced` as in `smlib.generation.steps.steps`."""
    made = Recorder(policy, tokenizer, prompt, config, seed, noise_law=noise_law, gamma=gamma, note=note)
    return made.run(forced).record()


def kind(action: int, space: ActionSpace) -> str:
    """`insert`, `delete` or `end`."""
    return {space.bkspc: "delete", space.eos: "end"}.get(action, "insert")


def _finite(number: float) -> float | None:
    """JSON has no infinity: a forbidden action's reward and a value beyond the context are None."""
    return number if math.isfinite(number) else None

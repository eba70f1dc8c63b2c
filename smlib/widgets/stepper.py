"""The stepper in JupyterLab: a policy writes and deletes action by action, and the reader may type instead of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from smlib.data.tokenizers import TextTokenizer
from smlib.edits.noise_dynamics import TokenLaw
from smlib.generation.decoding import SamplingConfig
from smlib.generation.edit_batch import SamplesActions
from smlib.widgets.record import Recorder
from smlib.widgets.twin import STATIC, frame, summary, write


class Stepper(anywidget.AnyWidget):
    """Step through what a policy does, take another action by clicking a bar, or type tokens yourself.

    Args:
        policy, tokenizer: as `load_policy` returns them, or a shipped policy's.
        prompt: what it goes on from.
        config: decoding; up to 24 tokens at temperature 1 when omitted.
        seed: of the trajectory. noise_law: of execution noise, if `config` has any. gamma: discount of the reward.
        form: puts a prompt that the reader types into the form that the policy knows, such as `as_prompt`.
        fallback: the record of a whole run, which is shown in place of the widget where nothing draws widgets.

    Raises:
        ValueError: what `smlib.widgets.record.Recorder` refuses.
    """

    _esm = STATIC / "stepper.js"
    _css = STATIC / "stepper.css"
    record = traitlets.Dict().tag(sync=True)
    cursor = traitlets.Int(0).tag(sync=True)

    def __init__(
        self,
        policy: SamplesActions,
        tokenizer: TextTokenizer,
        prompt: str | Sequence[int],
        config: SamplingConfig | None = None,
        seed: int = 0,
        *,
        noise_law: TokenLaw | None = None,
        gamma: float = 1.0,
        form: Callable[[str], str] = str,
        fallback: Mapping[str, Any] | None = None,
    ) -> None:
        chosen = config or SamplingConfig(max_new_tokens=24)
        self._options: dict[str, Any] = {"noise_law": noise_law, "gamma": gamma}
        self._form, self._fallback = form, fallback
        self._recorder = Recorder(policy, tokenizer, prompt, chosen, seed, **self._options)
        super().__init__(record=self._recorder.record())
        self.on_msg(lambda _, content, __: self.handle(content))

    def handle(self, message: Mapping[str, Any]) -> None:
        """Answers a message of the page: `step`, `act` (an action's id), `type` (a text), `settings`.

        `at` is the action that the page shows: what was done after it is taken back first. What cannot be done is said
        in the record's `error`, and nothing changes.
        """
        recorder, before, error = self._recorder, list(self._recorder.steps), ""
        try:
            self._answer(message)
        except (ValueError, TypeError) as failure:
            error = str(failure)
            self._recorder = recorder
            if recorder.steps != before:  # half of it was done
                recorder.replay(before)
        self.cursor = len(self._recorder.steps)
        self.record = self._recorder.record(error)

    def _answer(self, message: Mapping[str, Any]) -> None:
        recorder, kind = self._recorder, message.get("type")
        if kind == "step":
            recorder.step()
        elif kind == "act":
            recorder.rewind(int(message["at"]))
            recorder.step(int(message["id"]))
        elif kind == "type":
            ids = recorder.encode(str(message["text"]))
            recorder.rewind(int(message["at"]))
            for action in ids:
                recorder.step(action)
        elif kind == "settings":
            config = replace(
                recorder.config,
                temperature=float(message["temperature"]),
                top_p=float(message["top_p"]),
                greedy=bool(message["greedy"]),
                exclude_deleted=bool(message["greedy"]),  # greedy decoding without a memory can loop for ever
            )
            prompt = message.get("prompt", recorder.shown)  # untouched, it stays the ids that it was
            prompt = recorder.prompt if prompt == recorder.shown else self._form(str(prompt))
            seed = int(message["seed"])
            self._recorder = Recorder(recorder.policy, recorder.tokenizer, prompt, config, seed, **self._options)
        else:
            raise ValueError(f"unknown message {kind!r}: expected step, act, type or settings")

    def save(self, path: str | Path) -> Path:
        """Writes the static twin of what was done so far."""
        return write(self._recorder.record(), path)

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget, and for a page or a program that draws none, the static twin."""
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None:
            return None
        shown = self._fallback or self._recorder.record()
        note = "No widget manager is here: this is a recorded run. It can be stepped through, not changed."
        note = f"{shown['note']} {note}".strip()
        data = {**bundle[0], "text/plain": summary(shown), "text/html": frame({**shown, "note": note})}
        return data, bundle[1]

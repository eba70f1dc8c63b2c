"""One row to examples: a prompt and its answer, the turns of a conversation, or a demonstration with its own `<bkspc>`.

Every refusal names the row, the column and the cure; whoever reads the rows counts what had to be cut.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smlib.data.encoding import continuation
from smlib.data.tokenizers import TextTokenizer
from smlib.edits.actions import ActionSpace, Ids, Trajectory, final_state


@dataclass(frozen=True, eq=False)
class Example:
    """A prompt, its answer with `<eos>` at the end, and the demonstration where the data hold it.

    Attributes:
        cut: tokens that did not fit, of prompt and answer.
    """

    prompt: Ids
    answer: Ids
    demonstration: Trajectory | None = None
    cut: int = 0


@dataclass(frozen=True)
class Reader:
    """How rows become examples.

    Attributes:
        max_length, max_prompt: tokens of a state, and of its prompt, which is cut from the left.
        backspace: how `<bkspc>` is spelt. mistakes: `noise` or `chosen`, see `intended`.
        clean: demonstrations without their deletions, for methods that have none.
    """

    tokenizer: TextTokenizer
    max_length: int
    max_prompt: int
    backspace: str = "<bkspc>"
    mistakes: str = "noise"
    clean: bool = False

    @property
    def space(self) -> ActionSpace:
        """The actions."""
        return ActionSpace(self.tokenizer.vocab_size, eos=self.tokenizer.eos, bos=self.tokenizer.bos)

    def completion(self, row: Mapping[str, Any], number: int) -> list[Example]:
        """Columns `prompt` and `completion`: strings, or both lists of messages."""
        prompt, answer = row["prompt"], row["completion"]
        if isinstance(prompt, list) and isinstance(answer, list):
            if not answer:
                raise ValueError(_empty(number, "completion", answer))
            return self._turns([*prompt, *answer], number, len(prompt))
        root, text = self._root(prompt, number), _text(answer, number, "completion")
        if not text.strip():
            raise ValueError(_empty(number, "completion", answer))
        return [self._example(root, self._ended(self._after(prompt, text), number, "completion"))]

    def messages(self, row: Mapping[str, Any], number: int) -> list[Example]:
        """Column `messages`: an example for every turn of the assistant, the conversation before it the prompt."""
        return self._turns(row["messages"], number, 0)

    def actions(self, row: Mapping[str, Any], number: int) -> list[Example]:
        """Columns `prompt` and `actions`: a string with `<bkspc>` in it, a list of such strings, or a list of ids."""
        root, cut = self._cut(self._root(row["prompt"], number))
        space, given = self.space, row["actions"]
        ids = self._action_ids(row["prompt"], given, number)
        if not ids:
            raise ValueError(_empty(number, "actions", given))
        if ids[-1] != space.eos:
            ids.append(space.eos)
        labels = intended(ids, space.bkspc) if self.mistakes == "noise" else ids
        try:
            whole = Trajectory.make(root, labels, ids, space=space)
            fitted = Trajectory.make(root, labels, ids, space=space, max_len=self.max_length)
        except ValueError as error:
            raise ValueError(f"row {number}, column actions: {error}") from error
        answer = np.append(final_state(whole, space), np.int32(space.eos)).astype(np.int32)
        cut += len(whole) - len(fitted)
        return [Example(root, answer, None if self.clean else fitted, cut)]

    def _action_ids(self, prompt: Any, given: Any, number: int) -> list[int]:
        space = self.space
        if isinstance(given, str):
            pieces = given.split(self.backspace)
            parts = [p for i, piece in enumerate(pieces) for p in ([self.backspace] if i else []) + [piece]]
            return self._pieces(prompt, parts)
        if not isinstance(given, Sequence | np.ndarray):
            raise ValueError(f"row {number}, column actions: expected a string or a list, got a {type(given).__name__}")
        if all(isinstance(a, str) for a in given):
            return self._pieces(prompt, list(given))
        bad = next((a for a in given if isinstance(a, bool) or not isinstance(a, int | np.integer)
                    or not 0 <= a <= space.bkspc), None)  # fmt: skip
        if bad is not None:
            raise ValueError(
                f"row {number}, column actions: {bad!r} is no action: expected token ids below {space.vocab_size}, and "
                f"{space.bkspc} for <bkspc>, or strings with {self.backspace!r} among them"
            )
        return [int(a) for a in given]

    def _pieces(self, prompt: Any, parts: list[str]) -> list[int]:
        ids: list[int] = []
        for part in parts:
            if part == self.backspace:
                ids.append(self.space.bkspc)
            elif part:
                ids += self.tokenizer.encode(part) if ids else self._after(prompt, part)
        return ids

    def _after(self, prompt: Any, text: str) -> list[int]:
        alone = self.tokenizer.encode(text)
        if not isinstance(prompt, str):
            return alone
        found, decode = continuation(self.tokenizer, prompt, text), self.tokenizer.decode
        # Where words have no space between them a tokeniser of whole words loses what it does not know as one.
        return found if decode(found).strip() == decode(alone).strip() else alone

    def _root(self, prompt: Any, number: int) -> Ids:
        bos = self.tokenizer.bos
        if isinstance(prompt, str):
            ids = self.tokenizer.encode(prompt)
        elif isinstance(prompt, Sequence | np.ndarray) and all(isinstance(i, int | np.integer) for i in prompt):
            ids = [int(i) for i in prompt]
            if any(not 0 <= i < self.tokenizer.vocab_size for i in ids):
                raise ValueError(
                    f"row {number}, column prompt: ids lie in 0..{self.tokenizer.vocab_size - 1}, got {ids}"
                )
        elif isinstance(prompt, list) and prompt and isinstance(prompt[-1], Mapping):
            return np.array(self._rendered(self._templated(prompt, number, True)), np.int32)
        else:
            raise ValueError(f"row {number}, column prompt: expected a string, messages or token ids, got {prompt!r}")
        return np.array(ids if ids[:1] == [bos] else [bos, *ids], np.int32)

    def _turns(self, messages: Any, number: int, begin: int) -> list[Example]:
        if not isinstance(messages, Sequence) or not all(isinstance(m, Mapping) and "role" in m for m in messages):
            raise ValueError(f"row {number}, column messages: expected a list of {{'role': ..., 'content': ...}}")
        found = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant" or i < begin:
                continue
            if not str(message.get("content") or "").strip():
                raise ValueError(_empty(number, f"messages, turn {i} of the assistant", message.get("content")))
            before = self._templated(messages[:i], number, True)
            whole = self._templated(messages[: i + 1], number, False)
            if not whole.startswith(before):
                raise ValueError(
                    f"row {number}: the chat template writes the conversation before turn {i} otherwise once the "
                    "answer is there, so prompt and answer cannot be told apart: give a template that only adds, by "
                    "chat_template_path"
                )
            root_ids, ids = self._rendered(before), self._rendered(whole)
            joined = ids[: len(root_ids)] == root_ids
            answer = ids[len(root_ids) :] if joined else self._rendered(whole[len(before) :])
            ended = answer[: answer.index(self.tokenizer.eos)] if self.tokenizer.eos in answer else answer
            root = np.array(root_ids, np.int32)
            found.append(self._example(root, self._ended(ended, number, "messages")))
        if not found:
            raise ValueError(f"row {number}, column messages: no turn of the assistant, which is what is learned")
        return found

    def _rendered(self, text: str) -> list[int]:
        """Ids of what a chat template wrote: its control tokens are tokens, those that stand in a text are not."""
        backend: Any = getattr(self.tokenizer, "backend", None)
        return [int(i) for i in backend(text, add_special_tokens=False, verbose=False)["input_ids"]]

    def _templated(self, messages: Sequence[Mapping[str, Any]], number: int, prompt: bool) -> str:
        backend = getattr(self.tokenizer, "backend", None)
        if not getattr(backend, "chat_template", None):
            raise ValueError(
                "the data are conversations and the tokeniser has no chat template: give one by chat_template_path (a "
                "Jinja file), set processing_class.chat_template, take a chat model's tokeniser, or make columns "
                "prompt and completion out of the messages"
            )
        assert backend is not None
        controls = [
            c for c in getattr(backend, "all_special_tokens", []) if any(c in str(m.get("content")) for m in messages)
        ]
        if controls:
            raise ValueError(
                f"row {number}: a message holds {controls[0]!r}, which the chat template would make a control token: "
                "leave such rows out, or write it otherwise"
            )
        return str(backend.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=prompt))

    def _ended(self, ids: list[int], number: int, column: str) -> Ids:
        eos = self.tokenizer.eos
        if ids and ids[-1] == eos:
            ids = ids[:-1]
        if not ids:
            raise ValueError(_empty(number, column, ""))
        if eos in ids:
            raise ValueError(f"row {number}, column {column}: <eos> (id {eos}) stands inside it, where it would end")
        return np.array([*ids, eos], np.int32)

    def _example(self, root: Ids, answer: Ids) -> Example:
        prompt, cut = self._cut(root)
        return Example(prompt, answer, None, cut + max(0, prompt.size + answer.size - self.max_length))

    def _cut(self, root: Ids) -> tuple[Ids, int]:
        """The prompt's last tokens, `<bos>` before them if it was there."""
        if root.size <= self.max_prompt:
            return root, 0
        first = root[:1] if root[0] == self.tokenizer.bos and self.max_prompt > 1 else root[:0]
        kept = np.concatenate([first, root[root.size - (self.max_prompt - first.size) :]])
        return kept, int(root.size - kept.size)


def intended(actions: Sequence[int], bkspc: int) -> list[int]:
    """Labels of a demonstration whose mistakes are taken for noise (Sec. 4.2): at each visit of a state, the action at
    its last visit. A token that is deleted again was not chosen; its deletion was, and what then takes its place.
    """
    visited, last, stack, fresh = [], {}, [0], 1
    for action in actions:
        visited.append(stack[-1])
        last[stack[-1]] = action
        if action == bkspc:
            if len(stack) > 1:
                stack.pop()
        else:
            stack.append(fresh)
            fresh += 1
    return [last[state] for state in visited]


def _text(value: Any, number: int, column: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"row {number}, column {column}: expected a string, got {value!r}")
    return value


def _empty(number: int, column: str, value: Any) -> str:
    name = column.partition(",")[0]
    kept = f"row['{name}']" + (".strip()" if isinstance(value, str) else "")
    if name == "messages":
        kept = "all(turn['content'] for turn in row['messages'])"
    return (
        f"row {number}, column {column} is empty ({value!r}): there is nothing to learn from it. Leave such rows out, "
        f"as by dataset.filter(lambda row: {kept})"
    )

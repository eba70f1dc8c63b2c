"""A policy behind EleutherAI's lm-evaluation-harness, which counts what its answers cost beside how good they are.

    lm = PolicyLM(*load_policy("mine"), exclude_deleted=True)
    results = lm_eval.simple_evaluate(model=lm, tasks=["gsm8k"])
    print(efficiency(results, lm.costs))

A policy that deletes writes more tokens than stand at the end, and a baseline may spend the same on longer or repeated
answers. So accuracy is shown per forward pass and per token too. With a rolled-back cache a deletion costs an action
and no pass. Needs the extra `lm-eval`; nothing else of smlib imports this module.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smlib.data.tokenizers import PretrainedTokenizer, TextTokenizer
from smlib.edits.actions import Trajectory
from smlib.generation.decoding import SamplingConfig
from smlib.generation.sampling import sample
from smlib.policies.policy import Policy

try:
    from lm_eval.api.model import LM
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"the harness is not installed ({error}): python -m pip install 'smlib[lm-eval]'", name=error.name
    ) from error


@dataclass
class Cost:
    """What the answers to a task's requests took.

    Attributes:
        requests: answers. forward_passes: calls of the model for one row, the prompt's included.
        tokens: tokens written, deleted ones and `<bkspc>` among them; of a likelihood those that were scored.
        standing: tokens that stand at the end.
    """

    requests: int = 0
    forward_passes: int = 0
    tokens: int = 0
    standing: int = 0

    def add(self, forward_passes: int, tokens: int, standing: int) -> None:
        """One more answer."""
        self.requests += 1
        self.forward_passes += forward_passes
        self.tokens += tokens
        self.standing += standing


class PolicyLM(LM):
    """A policy as a model of the harness.

    Answers are final states, cut where a stop string of the task first stands; what would have come later is neither
    shown nor counted. Likelihoods are those of the tokens with `<bkspc>` excluded, as of any language model: how
    likely a text is to be what stands at the end is a sum over all ways to get there.

    Args:
        policy, tokenizer: as `load_policy` returns them.
        max_new_tokens: longest answer where the task does not say.
        seed: of the first answer; the others count on. exclude_deleted: None: where a task decodes greedily.
        batch_size: rows of one forward pass.

    Attributes:
        costs: by name of the task.
    """

    def __init__(
        self,
        policy: Policy,
        tokenizer: TextTokenizer,
        *,
        max_new_tokens: int = 256,
        seed: int = 0,
        exclude_deleted: bool | None = None,
        batch_size: int = 16,
    ) -> None:
        super().__init__()
        if batch_size < 1 or max_new_tokens < 1:
            raise ValueError(f"batch_size={batch_size} and max_new_tokens={max_new_tokens}: expected >= 1")
        self.policy, self.tokenizer = policy.eval(), tokenizer
        self.max_new_tokens, self.seed, self.exclude_deleted, self.rows = (
            max_new_tokens,
            seed,
            exclude_deleted,
            batch_size,
        )
        self.costs: dict[str, Cost] = {}

    @property
    def tokenizer_name(self) -> str:
        """Part of the harness's cache keys."""
        return type(self.tokenizer).__name__

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as text; ValueError without a template."""
        backend = self.tokenizer.backend if isinstance(self.tokenizer, PretrainedTokenizer) else None
        if backend is None or not backend.chat_template:
            raise ValueError("the tokeniser has no chat template: set tokenizer.backend.chat_template, or do not ask")
        text = backend.apply_chat_template(chat_history, tokenize=False, add_generation_prompt=add_generation_prompt)
        return str(text)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p(continuation | context) in nats, and whether each of its tokens is the most probable one."""
        pairs = []
        for request in requests:
            context, continuation = request.args
            before = [self.tokenizer.bos, *self.tokenizer.encode(context)]
            whole = [self.tokenizer.bos, *self.tokenizer.encode(context + continuation)]
            if whole[: len(before)] != before:  # a token across the border
                whole = [*before, *self.tokenizer.encode(continuation)]
            pairs.append((whole, len(before)))
        scored = self._scores(pairs)
        for request, (whole, begin) in zip(requests, pairs, strict=True):
            self._cost(request).add(1, len(whole) - begin, len(whole) - begin)
        return scored

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of whole texts in nats, in windows of the model's context that do not overlap."""
        found = []
        for request in requests:
            ids = self.tokenizer.encode(request.args[0])
            size = self._context() - 1
            pieces = [ids[i : i + size] for i in range(0, len(ids), size)]
            firsts = [self.tokenizer.bos, *(piece[-1] for piece in pieces)]
            scored = self._scores([([first, *piece], 1) for first, piece in zip(firsts, pieces, strict=False)])
            self._cost(request).add(len(pieces), len(ids), len(ids))
            found.append(sum(value for value, _ in scored))
        return found

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Texts that stand at the end, cut before the first of the task's stop strings."""
        answers = [""] * len(requests)
        groups: dict[tuple[Any, ...], list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(self._settings(request.args[1]), []).append(i)
        for settings, members in groups.items():
            config, stops = settings
            prompts = [self._prompt(requests[i].args[0], config.max_new_tokens) for i in members]
            seeds = [self.seed + i for i in members]
            drawn = sample(self.policy, prompts, config, seeds, batch_size=self.rows).trajectories
            for i, trajectory in zip(members, drawn, strict=True):
                answers[i], cost = self._until(trajectory, stops)
                self._cost(requests[i]).add(*cost)
        return answers

    def _settings(self, given: Any) -> tuple[SamplingConfig, tuple[str, ...]]:
        """The sampler's settings and the stop strings, from a task's generation arguments."""
        options = dict(given or {})
        until = options.pop("until", None) or []
        stops = (until,) if isinstance(until, str) else tuple(until)
        temperature = float(options.pop("temperature", 0.0) or 0.0)
        greedy = not options.pop("do_sample", temperature > 0.0) or temperature == 0.0
        most = [options.pop(name, None) for name in ("max_gen_toks", "max_new_tokens", "max_tokens")]
        known = {name: options.pop(name) for name in ("top_p", "top_k", "min_p") if name in options}
        if options:
            raise ValueError(
                f"generation arguments {sorted(options)} mean nothing to a policy: expected until, max_gen_toks, "
                "do_sample, temperature, top_p, top_k, min_p"
            )
        config = SamplingConfig(
            max_new_tokens=int(next((m for m in most if m is not None), self.max_new_tokens)),
            temperature=1.0 if greedy else temperature,
            greedy=greedy,
            exclude_deleted=greedy if self.exclude_deleted is None else self.exclude_deleted,
            allow_backspace=self.policy.config.backspace,
            **known,
        )
        return config, stops

    def _prompt(self, text: str, room: int) -> list[int]:
        return self._fitting([self.tokenizer.bos, *self.tokenizer.encode(text)], self._context() - room)

    def _context(self) -> int:
        most = self.policy.max_positions
        return 2**31 if most is None else most

    def _fitting(self, ids: list[int], most: int) -> list[int]:
        """The last tokens that fit, as the harness cuts them; says so."""
        if most < 1:
            raise ValueError(f"the model reads {self._context()} tokens, which leaves no room: lower max_gen_toks")
        if len(ids) > most:
            warnings.warn(f"a context of {len(ids)} tokens is cut to its last {most}, which fit", stacklevel=4)
        return ids[-most:]

    def _until(self, trajectory: Trajectory, stops: Sequence[str]) -> tuple[str, tuple[int, int, int]]:
        """The answer, and its forward passes, tokens written and tokens standing, up to the first stop string."""
        space, decode = self.policy.space, self.tokenizer.decode
        state: list[int] = []
        read = written = 0
        for chosen, action in zip(trajectory.labels.tolist(), trajectory.realised.tolist(), strict=True):
            if action == space.eos:
                written += int(chosen == space.eos)  # a limit's is not written
                break
            written += 1
            if action == space.bkspc:
                del state[-1:]
                continue
            state.append(action)
            text = decode(state)
            found = min((text.find(stop) for stop in stops if stop and stop in text), default=-1)
            if found >= 0:  # the token that completes a stop string is not read
                return text[:found], (1 + read, written, len(state))
            read += 1
        return decode(state), (1 + read, written, len(state))

    def _scores(self, pairs: Sequence[tuple[list[int], int]]) -> list[tuple[float, bool]]:
        """For ids and the place where scoring begins: the sum of log p, and whether greedy decoding gives them."""
        found: list[tuple[float, bool]] = []
        device = self.policy.device
        for start in range(0, len(pairs), self.rows):
            chunk = []
            for ids, begin in pairs[start : start + self.rows]:
                kept = self._fitting(ids, self._context())
                chunk.append((kept, max(1, begin - (len(ids) - len(kept)))))
            width = max(len(ids) for ids, _ in chunk)
            tokens = torch.zeros((len(chunk), width), dtype=torch.long)
            for row, (ids, _) in enumerate(chunk):
                tokens[row, : len(ids)] = torch.tensor(ids)
            positions = torch.arange(width, device=device).expand(len(chunk), width)
            mask = torch.ones(width, width, dtype=torch.bool, device=device).tril().expand(len(chunk), 1, width, width)
            with torch.inference_mode():
                hidden = self.policy.hidden(tokens.to(device), positions, mask)
                for row, (ids, begin) in enumerate(chunk):
                    logits = self.policy.logits(hidden[row, begin - 1 : len(ids) - 1], None).double()
                    logp = logits[:, : self.policy.space.vocab_size].log_softmax(-1)
                    target = torch.tensor(ids[begin:], device=device)
                    value = float(logp[torch.arange(len(target), device=device), target].sum())
                    found.append((value, bool((logp.argmax(-1) == target).all())))
        return found

    def _cost(self, request: Any) -> Cost:
        return self.costs.setdefault(str(request.task_name), Cost())


def efficiency(results: Mapping[str, Any], costs: Mapping[str, Cost]) -> list[dict[str, float | str]]:
    """One row for each task and metric of `simple_evaluate`'s results, with what an answer costs.

    Returns:
        `task`, `metric`, `value`; `passes` and `tokens` of an answer on average; and the value per pass and per token,
        which rank methods that spend differently: `value / passes`, `value / tokens`.

    Raises:
        KeyError: a task whose costs are not known, since another model was evaluated.
    """
    rows: list[dict[str, float | str]] = []
    for task, metrics in results["results"].items():
        numbers = {
            name: float(value)
            for name, value in metrics.items()
            if "," in name and "_stderr" not in name and isinstance(value, int | float | np.number)
        }
        if not numbers:
            continue
        if task not in costs:
            raise KeyError(f"no costs of the task {task!r}: expected one of {sorted(costs)}")
        cost = costs[task]
        passes, tokens = cost.forward_passes / cost.requests, cost.tokens / cost.requests
        for name, value in numbers.items():
            row: dict[str, float | str] = {"task": task, "metric": name, "value": value}
            row |= {"passes": passes, "tokens": tokens, "value_per_pass": value / passes}
            rows.append(row | {"value_per_token": value / tokens if tokens else 0.0})
    return rows

"""`<bkspc>` on engines that only append: stop at it, drop one token, ask again from there.

An engine (vLLM, SGLang) never takes back a token that it has sent. It can stop at one, though, and a request whose
prompt it has read before costs little, since the keys and values of a shared prefix are kept. So a deletion is one more
request: the state without its last token. Trajectories are those of `smlib.generation.sampling`: greedy ones action by
action, sampled ones in law, since the policy has no memory and every request draws from p(a|s) anew.

    engine = Completions("http://127.0.0.1:8000/v1", model="mine", stops=(space.eos, space.bkspc))
    served = complete(engine, prompt, space, SamplingConfig(max_new_tokens=64, greedy=True, exclude_deleted=True))

Engines speak in token ids here. A text that is encoded again after a deletion may come out in other tokens.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.generation.decoding import SamplingConfig
from smlib.generation.prompts import check_sampling, checked_prompt

FORBIDDEN = -100.0
"""The bias that stands for "never" in the interface of OpenAI, which knows no infinity."""


class EngineError(RuntimeError):
    """An engine that cannot be reached, or answers with something else than tokens; the message says what to do."""


@runtime_checkable
class Engine(Protocol):
    """What `complete` asks of an engine."""

    def extend(self, state: Sequence[int], limit: int, banned: AbstractSet[int], config: SamplingConfig) -> list[int]:
        """At most `limit` tokens after `state`, up to the first `<eos>` or `<bkspc>`, which is the last of them.

        Args:
            banned: tokens of probability 0 in this request.
            config: temperature and filters.
        """
        ...


@dataclass(frozen=True)
class Served:
    """A trajectory and what it cost.

    Attributes:
        requests: one, and one for each deletion (two where `exclude_deleted` needs a token by itself).
        resent: tokens that were sent again as part of a prompt, and found in the engine's prefix cache if it has one.
    """

    trajectory: Trajectory
    requests: int
    resent: int


def complete(
    engine: Engine,
    prompt: NDArray[np.integer] | Sequence[int],
    space: ActionSpace,
    config: SamplingConfig,
) -> Served:
    """One trajectory of the policy that an engine serves.

    Args:
        prompt: token ids of the root state.
        config: filters and limits; `exclude_deleted` asks for the token after a deletion by itself, with a bias.

    Raises:
        ValueError: an invalid prompt; noise or truncation, which no engine has. EngineError: see there.
    """
    check_sampling(config, ())
    if config.needs_noise_law:
        raise ValueError("execution_noise and truncation_eta are no part of an engine: leave them at 0")
    state = [int(token) for token in checked_prompt(0, prompt, space)]
    root = len(state)
    chosen: list[int] = []
    executed: list[int] = []
    deleted: dict[int, set[int]] = {}  # at the ancestor of each length; forgotten with the state
    never: frozenset[int] = frozenset() if config.allow_backspace else frozenset({space.bkspc})
    requests = resent = 0
    while True:
        memory: set[int] = deleted.get(len(state), set()) if config.exclude_deleted else set()
        # At full depth one more action is due: it may still delete.
        limit = min(root + config.max_new_tokens - len(state) + 1, config.action_limit - len(chosen))
        got = engine.extend(state, 1 if memory else limit, never | memory, config)
        requests, resent = requests + 1, resent + (len(state) if requests else 0)
        _check_answer(got, space)
        for action in got:
            full = len(state) == root + config.max_new_tokens and action != space.bkspc
            over = full or len(chosen) == config.action_limit - 1
            chosen.append(action)
            executed.append(space.eos if over else action)
            if executed[-1] == space.eos:
                trajectory = Trajectory.make(state[:root], chosen, executed, space=space)
                return Served(trajectory, requests, resent)
            if action != space.bkspc:
                state.append(action)
            elif len(state) == root:
                deleted.setdefault(root, set()).add(action)
            else:
                deleted.pop(len(state), None)
                deleted.setdefault(len(state) - 1, set()).add(state.pop())


def _check_answer(got: list[int], space: ActionSpace) -> None:
    """Raises EngineError for an answer that is no run of actions."""
    if not got:
        raise EngineError("the engine answered with no token at all: is its context full?")
    for place, action in enumerate(got):
        if not 0 <= action < space.n_actions:
            raise EngineError(f"the engine sent the id {action}: expected actions in [0, {space.n_actions})")
        if action == space.bkspc and place != len(got) - 1:
            raise EngineError(
                f"the engine went on after <bkspc> (id {action}): it has to stop there, by stop_token_ids or as an "
                "end-of-text token of its generation_config.json"
            )


@dataclass(frozen=True)
class Completions:
    """`/v1/completions` as vLLM serves it: token ids as prompt, `stop_token_ids`, `return_token_ids`.

    Attributes:
        url: up to `/v1`. model: the name under which it is served. stops: ids of `<eos>` and `<bkspc>`, in this order.
        seed: of the first request; the others count on. None lets the engine choose. timeout: seconds for one request.
        headers: `{"Authorization": "Bearer ..."}` and the like.
    """

    url: str
    model: str
    stops: tuple[int, int]
    seed: int | None = None
    timeout: float = 600.0
    headers: Mapping[str, str] = field(default_factory=dict)
    _asked: list[int] = field(default_factory=list, repr=False)

    def extend(self, state: Sequence[int], limit: int, banned: AbstractSet[int], config: SamplingConfig) -> list[int]:
        """See `Engine`."""
        body: dict[str, Any] = {
            "model": self.model,
            "prompt": list(state),
            "max_tokens": limit,
            "stop_token_ids": list(self.stops),
            "return_token_ids": True,
            **_filters(config, -1),
        }
        if banned:
            body["logit_bias"] = {str(token): FORBIDDEN for token in sorted(banned)}
        if self.seed is not None:
            body["seed"] = self.seed + len(self._asked)
        self._asked.append(limit)
        answer = _post(f"{self.url.rstrip('/')}/completions", body, self.timeout, self.headers)
        try:
            choice = answer["choices"][0]
            tokens, finish = choice.get("token_ids"), choice["finish_reason"]
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise EngineError(f"{self.url} answered {str(answer)[:200]}: expected choices with a text") from error
        if tokens is None:
            raise EngineError(
                f"{self.url} answered without token_ids: return_token_ids needs vLLM 0.10.2 or newer; a text alone "
                "cannot be cut by one token"
            )
        stop = choice.get("stop_reason")
        return _with_stop(tokens, finish == "stop", stop if isinstance(stop, int) else None, self.stops)


@dataclass(frozen=True)
class SGLang:
    """`/generate`, SGLang's own interface: `input_ids`, `stop_token_ids`, `output_ids`.

    Attributes:
        url: of the server. stops, timeout, headers: see `Completions`.
    """

    url: str
    stops: tuple[int, int]
    timeout: float = 600.0
    headers: Mapping[str, str] = field(default_factory=dict)

    def extend(self, state: Sequence[int], limit: int, banned: AbstractSet[int], config: SamplingConfig) -> list[int]:
        """See `Engine`."""
        options: dict[str, Any] = {"max_new_tokens": limit, "stop_token_ids": list(self.stops), **_filters(config, -1)}
        if banned:
            options["logit_bias"] = {str(token): FORBIDDEN for token in sorted(banned)}
        body = {"input_ids": list(state), "sampling_params": options}
        answer = _post(f"{self.url.rstrip('/')}/generate", body, self.timeout, self.headers)
        try:
            tokens, reason = answer["output_ids"], answer["meta_info"]["finish_reason"]
            stopped, matched = reason["type"] == "stop", reason.get("matched")
        except (KeyError, TypeError) as error:
            raise EngineError(
                f"{self.url} answered {str(answer)[:200]}: expected output_ids and meta_info.finish_reason"
            ) from error
        return _with_stop(tokens, stopped, matched if isinstance(matched, int) else None, self.stops)


def _filters(config: SamplingConfig, every: int) -> dict[str, float]:
    """The settings of a sampler in the names that both engines have; `every` is their top_k for all."""
    if config.greedy:
        return {"temperature": 0.0}
    return {
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k or every,
        "min_p": config.min_p,
    }


def _with_stop(tokens: Sequence[int], stopped: bool, reason: int | None, stops: tuple[int, int]) -> list[int]:
    """The tokens with the one that they stopped at, which some versions send and others leave out.

    Without a reason it is `<eos>`: vLLM names tokens of `stop_token_ids` and not the end of text.
    """
    found = [int(token) for token in tokens]
    if not stopped or (found and found[-1] in stops):
        return found
    return [*found, stops[0] if reason is None else reason]


def _post(url: str, body: Mapping[str, Any], timeout: float, headers: Mapping[str, str]) -> Any:
    data = json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            return json.loads(response.read())
    except urllib.error.HTTPError as error:
        said = error.read().decode(errors="replace")[:300]
        raise EngineError(f"{url} refused the request ({error.code}): {said}") from error
    except json.JSONDecodeError as error:
        raise EngineError(f"{url} answered no JSON: {error}") from error
    except OSError as error:  # unreachable, reset, timed out
        raise EngineError(f"no engine answers at {url}: {error}") from error

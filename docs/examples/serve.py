"""A small server for an exported policy: a page to try it on, and the interface that docs/serving.md describes.

    smlib export sm-arithmetic runs/served
    python docs/examples/serve.py runs/served

Then open http://127.0.0.1:8000/, or send requests to http://127.0.0.1:8000/v1/completions as to vLLM. The model answers
by `model.generate` alone, which never takes a token back, and reads each prompt anew: it is for trying things out, and
an engine with a prefix cache is for work. It listens on this machine alone and asks nobody for a password.
"""

import argparse
import html
import json
import os
import threading
import urllib.parse
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor

from smlib.edits.actions import ActionSpace
from smlib.generation.decoding import SamplingConfig
from smlib.generation.serving import FORBIDDEN, complete
from smlib.generation.streaming import as_html, spans

LOOPBACK = ("127.0.0.1", "localhost")
LARGEST = 65_536
"""Bytes of a request's body or address."""
LONGEST = 256
"""New tokens of one request."""

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>
<h1>{title}</h1>
<form><textarea name="prompt" rows="4" cols="80" maxlength="8000" aria-label="prompt">{prompt}</textarea>
<p><label>seed <input name="seed" type="number" min="0" max="999999999" value="{seed}"></label>
<button>write</button></p></form>
{answer}</html>"""


class Refused(ValueError):
    """A request that is not answered; the message says why."""


class Biased(LogitsProcessor):
    """Adds the biases of a request to the scores."""

    def __init__(self, bias: dict[int, float]) -> None:
        self.bias = bias

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        for token, value in self.bias.items():
            scores[:, token] += value
        return scores


class Model:
    """An exported policy, and one request at a time for it. It is an `Engine` of `smlib.generation.serving`."""

    def __init__(self, folder: str) -> None:
        self.lm = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        config = self.lm.config
        eos = self.lm.generation_config.eos_token_id
        self.space = ActionSpace(config.bkspc_token_id, eos[0] if isinstance(eos, list) else eos)
        self.context = int(getattr(config, "max_position_embeddings", 1 << 30))
        self.one = threading.Lock()

    def extend(self, state: Sequence[int], limit: int, banned: AbstractSet[int], config: SamplingConfig) -> list[int]:
        """Tokens after `state`, up to the first `<eos>` or `<bkspc>`; draws go on from torch's own generator."""
        how: dict[str, Any] = {"do_sample": False}
        if not config.greedy:
            how = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p}
            how |= {"top_k": config.top_k, "min_p": config.min_p or None}
        out = self.lm.generate(
            torch.tensor([list(state)]),
            attention_mask=torch.ones(1, len(state), dtype=torch.long),
            max_new_tokens=min(limit, self.context - len(state)),
            eos_token_id=[self.space.eos, self.space.bkspc],
            pad_token_id=self.space.eos,
            logits_processor=[Biased(dict.fromkeys(banned, FORBIDDEN))],
            **how,
        )
        new: list[int] = out[0, len(state) :].tolist()
        return new

    def page(self, prompt: str, seed: int) -> str:
        """The page; with a prompt, one completion of it, its deletions struck out."""
        answer = ""
        if prompt:
            # split_special_tokens: a "</s>" that somebody types is text and ends nothing.
            ids = self.tokenizer(prompt, add_special_tokens=False, split_special_tokens=True)["input_ids"]
            ids = [self.tokenizer.bos_token_id, *ids] if self.tokenizer.bos_token_id is not None else ids
            room = self.context - len(ids) - 1
            if room < 1 or not ids:
                raise Refused(f"the prompt has {len(ids)} tokens: expected 1 to {self.context - 2}")
            config = SamplingConfig(max_new_tokens=min(room, LONGEST))
            with self.one:
                torch.manual_seed(seed)
                written = complete(self, ids, self.space, config).trajectory
            answer = as_html(
                spans(written, self.space), lambda some: self.tokenizer.decode(some, skip_special_tokens=True)
            )
        title = "write and delete"
        return PAGE.format(title=title, prompt=html.escape(prompt), seed=seed, answer=answer)

    def completions(self, asked: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request in vLLM's form: token ids both ways."""
        if not isinstance(asked, dict):
            raise Refused("expected one JSON object")
        prompt, limit = asked.get("prompt"), asked.get("max_tokens", 16)
        tokens = range(self.space.vocab_size)  # <bkspc> is an action and no token: it is never read
        if not isinstance(prompt, list) or not prompt or not all(type(t) is int and t in tokens for t in prompt):
            raise Refused(f"prompt: expected a list of token ids in [0, {len(tokens)})")
        if type(limit) is not int or not 1 <= limit <= LONGEST:
            raise Refused(f"max_tokens: expected 1 to {LONGEST}, got {str(limit)[:20]}")
        if len(prompt) >= self.context:
            raise Refused(f"prompt: it has {len(prompt)} tokens, and the context {self.context}")
        bias = asked.get("logit_bias") or {}
        banned = {int(token) for token, value in bias.items() if value <= FORBIDDEN}
        if len(banned) < len(bias) or not banned <= set(range(self.space.n_actions)):
            raise Refused(f"logit_bias: expected token ids with the bias {FORBIDDEN:g}, which forbids them")
        cold = float(asked.get("temperature", 1.0)) == 0.0
        seed = asked.get("seed")
        if seed is not None and (type(seed) is not int or not 0 <= seed < 1 << 63):
            raise Refused("seed: expected a whole number, not negative and below 2^63")
        config = SamplingConfig(limit, greedy=True) if cold else SamplingConfig(
            limit,
            temperature=float(asked.get("temperature", 1.0)),
            top_p=float(asked.get("top_p", 1.0)),
            top_k=max(int(asked.get("top_k", -1)), 0),
            min_p=float(asked.get("min_p", 0.0)),
        )  # fmt: skip
        with self.one:
            if seed is not None:
                torch.manual_seed(seed)
            new = self.extend(prompt, limit, banned, config)
        stopped = new[-1] in (self.space.eos, self.space.bkspc)
        reason = self.space.bkspc if new[-1] == self.space.bkspc else None
        text = self.tokenizer.decode(new, skip_special_tokens=True)
        finish = "stop" if stopped else "length"
        return {"choices": [{"text": text, "token_ids": new, "finish_reason": finish, "stop_reason": reason}]}


class Handler(BaseHTTPRequestHandler):
    """Answers `GET /` with the page and `POST /v1/completions` with token ids."""

    model: Model
    local: bool
    timeout = 30  # seconds that a client may keep silent

    def do_GET(self) -> None:
        """The page, and with `?prompt=` an answer on it."""
        where = urllib.parse.urlsplit(self.path)
        if where.path != "/":
            self.send_error(404)
            return
        asked = dict(urllib.parse.parse_qsl(where.query))

        def page() -> bytes:
            seed = asked.get("seed", "0")
            if not (seed.isascii() and seed.isdigit() and len(seed) < 10):
                raise Refused("seed: expected a whole number below 1000000000")
            prompt = asked.get("prompt", "").replace("\r\n", "\n")  # which a form makes of a line's end
            return self.model.page(prompt, int(seed)).encode()

        self._answer(page, "text/html; charset=utf-8")

    def do_POST(self) -> None:
        """One request of an engine's client."""
        if self.path != "/v1/completions":
            self.send_error(404)
            return
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self.send_error(411)
            return
        if int(length) > LARGEST:
            self.rfile.read(min(int(length), 16 * LARGEST))  # or a client that is still sending would see no answer
            self.send_error(413, f"more than {LARGEST} bytes")
            return
        # A page of somebody else's in the same browser cannot send this type without being asked about it first.
        if self.headers.get_content_type() != "application/json":
            self.send_error(415, "expected application/json")
            return
        body = self.rfile.read(int(length))
        self._answer(lambda: json.dumps(self.model.completions(json.loads(body))).encode(), "application/json")

    def _answer(self, make: Any, kind: str) -> None:
        # By the name of another host a page elsewhere could reach this machine through the reader's browser.
        host = self.headers.get("Host", "").rpartition(":")[0] or self.headers.get("Host", "")
        if self.local and host not in LOOPBACK:
            self.send_error(403, "only for this machine")
            return
        try:
            status, data = 200, make()
        except (Refused, ValueError, TypeError, AttributeError, RecursionError) as error:
            status, kind = 400, "application/json"
            data = json.dumps({"error": {"message": str(error)[:300]}}).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what somebody typed is not for the terminal."""


def main() -> None:
    """Serves until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve an exported policy on this machine.")
    parser.add_argument("folder", help="what `smlib export` wrote")
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: this machine alone)")
    given = parser.parse_args()
    if not os.path.isdir(given.folder):  # transformers would ask the hub for adapters of that name
        parser.error(f"there is no folder {given.folder}: write one by smlib export POLICY FOLDER")
    try:
        model = Model(given.folder)
    except (OSError, ValueError, AttributeError) as error:
        parser.error(f"{given.folder} is no exported policy ({str(error).splitlines()[0]}): smlib export POLICY FOLDER")
    local = given.host in LOOPBACK
    handler = type("Served", (Handler,), {"model": model, "local": local})
    try:
        server = ThreadingHTTPServer((given.host, given.port), handler)
    except OSError as error:
        parser.error(f"cannot listen on {given.host}:{given.port} ({error.strerror}): try --port 0")
    if not local:
        print(f"{given.host} can be reached by others, and nobody is asked for a password", flush=True)
    print(f"http://{given.host}:{server.server_port}/ until Ctrl-C", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


if __name__ == "__main__":
    main()

"""An engine that only appends, on loopback: a model of transformers behind the interfaces of vLLM and of SGLang."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch
import transformers


@dataclass
class Backend:
    """Answers requests by `model.generate` alone, which never takes a token back; keeps the prompts that it was sent.

    Attributes:
        leave_out_stop: whether answers lack the token that they stopped at, as some versions of engines do.
        spoil: applied to each answer before it is sent.
    """

    model: Any
    leave_out_stop: bool = False
    spoil: Any = None
    prompts: list[list[int]] = field(default_factory=list)

    def extend(self, ids: list[int], limit: int, options: dict[str, Any]) -> tuple[list[int], int | None]:
        """New tokens, and the stop token among `stop_token_ids` or `<eos>` that ended them."""
        self.prompts.append(ids)
        bias = {int(token): value for token, value in options.get("logit_bias", {}).items()}
        stops = [self.model.generation_config.eos_token_id, *options["stop_token_ids"]]
        sampling: dict[str, Any] = {"do_sample": False}
        if options["temperature"] > 0:
            torch.manual_seed(options.get("seed", len(self.prompts)))
            sampling = {"do_sample": True, "temperature": options["temperature"], "top_p": options["top_p"]}
            sampling |= {"top_k": max(options["top_k"], 0), "min_p": options["min_p"] or None}

        class Bias(transformers.LogitsProcessor):
            def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
                for token, value in bias.items():
                    scores[:, token] += value
                return scores

        out = self.model.generate(
            torch.tensor([ids]),
            max_new_tokens=limit,
            eos_token_id=stops,
            logits_processor=[Bias()],
            **sampling,
        )
        new = out[0, len(ids) :].tolist()
        return new, new[-1] if new[-1] in stops else None


@contextmanager
def serving(backend: Backend) -> Iterator[str]:
    """The address of a server that runs inside."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/v1/completions":
                answer = completions(backend, asked)
            elif self.path == "/generate":
                answer = generate(backend, asked)
            else:
                self.send_error(404)
                return
            data = json.dumps(answer if backend.spoil is None else backend.spoil(answer)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def completions(backend: Backend, asked: dict[str, Any]) -> dict[str, Any]:
    """As vLLM answers: the end of text has no `stop_reason`, another stop token has its id."""
    assert asked["return_token_ids"] is True
    new, stop = backend.extend(asked["prompt"], asked["max_tokens"], asked)
    shown = new[:-1] if stop is not None and backend.leave_out_stop else new
    eos = backend.model.generation_config.eos_token_id
    reason = None if stop in (None, eos) else stop
    finish = "length" if stop is None else "stop"
    return {"choices": [{"text": "", "token_ids": shown, "finish_reason": finish, "stop_reason": reason}]}


def generate(backend: Backend, asked: dict[str, Any]) -> dict[str, Any]:
    """As SGLang answers."""
    options = asked["sampling_params"]
    new, stop = backend.extend(asked["input_ids"], options["max_new_tokens"], options)
    shown = new[:-1] if stop is not None and backend.leave_out_stop else new
    reason = {"type": "length"} if stop is None else {"type": "stop", "matched": stop}
    return {"text": "", "output_ids": shown, "meta_info": {"finish_reason": reason}}

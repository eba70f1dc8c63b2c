"""What a model does to its logits behind the head: a scale (Cohere, Granite), a soft cap (Gemma), or both.

    logits = cap * tanh(scale * raw / cap),    raw = head(last hidden vector)

A policy multiplies by the head itself, chunk by chunk, so it has to do the same; the row of `<bkspc>` is one more row
of the head and is treated alike. What a model does is not guessed from its name. The values come from its
configuration, and whether they are what happens is measured: the head is made to return a ramp of known numbers, and
the logits of that very call must be the ramp's image. No weight is so small that this would not show it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from smlib.policies.decoder import bare, decoder, evaluated, last_hidden
from smlib.policies.requirements import check_weights

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")  # some models multiply by it, others divide
CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
ROUNDINGS = 8  # relative error allowed, in units of the last place: of a division, a tanh and a product


@dataclass(frozen=True)
class Postprocessing:
    """The function from the head's output to the model's logits; by default there is none.

    Attributes:
        factor: the scale. divide: by the factor, as the model does, and not times it: the logits are then bit-equal.
        cap: largest magnitude of a logit; None where nothing bends them.
    """

    factor: float = 1.0
    divide: bool = False
    cap: float | None = None

    @property
    def nothing(self) -> bool:
        """Whether logits are what the head returns."""
        return self.factor == 1.0 and self.cap is None

    def __call__(self, raw: Tensor) -> Tensor:
        """Logits, by the model's own operations in their order."""
        if self.factor != 1.0:
            raw = raw / self.factor if self.divide else raw * self.factor
        return raw if self.cap is None else torch.tanh(raw / self.cap) * self.cap

    def slope_(self, gradient: Float[Tensor, "N A"], logits: Float[Tensor, "N A"]) -> Float[Tensor, "N A"]:
        """The gradient by the head's output, in place, from that by the logits: d tanh(x) = (1 - tanh(x)^2) dx."""
        if self.cap is not None:
            gradient.mul_(1 - (logits / self.cap).square())
        if self.factor != 1.0:
            gradient = gradient.div_(self.factor) if self.divide else gradient.mul_(self.factor)
        return gradient


NONE = Postprocessing()


def measured(lm: Any) -> Postprocessing:
    """What the model does behind its head, seen in one call with two tokens.

    Raises:
        ValueError: it does something between the network and its head, or behind the head, that cannot be repeated.
    """
    kind, head = type(bare(lm)).__name__, lm.get_output_embeddings()
    tokens = torch.tensor([[0, 1]], device=head.weight.device)
    with evaluated(lm), _recorded(lm, head) as call:
        logits = lm(input_ids=tokens, use_cache=False).logits
        if call.hidden is None:  # a network that is no module is called once more, with the mask of these two tokens
            mask = torch.ones(2, 2, dtype=torch.bool, device=tokens.device).tril()[None, None]
            call.hidden = last_hidden(decoder(lm), tokens, torch.arange(2, device=tokens.device)[None], mask)
    if call.given is None or call.ramp is None:
        raise ValueError(f"{kind} does not make its logits with its output embeddings ({type(head).__name__})")
    if not bool(torch.isfinite(call.hidden).all()):
        check_weights(lm)
        raise ValueError(f"{kind} has hidden vectors that are not finite in {call.hidden.dtype}: try another dtype")
    before = _between(kind, call, lm)
    behind = _behind(kind, logits, call.ramp, lm)
    if before.nothing:
        return behind
    if getattr(head, "bias", None) is not None or behind.factor != 1.0:
        raise ValueError(f"{kind} scales its hidden vectors before the head and adds a bias or a scale behind it")
    return replace(before, cap=behind.cap)  # the head is linear: W (h / c) = (W h) / c


@dataclass
class _Call:
    """What one call of the model did around its head."""

    hidden: Tensor | None = None  # what the network returned
    given: Tensor | None = None  # what the head was called with
    ramp: Tensor | None = None  # what the head was made to return


@contextmanager
def _recorded(lm: Any, head: nn.Module) -> Iterator[_Call]:
    """Records a call; the head returns numbers of every magnitude from 1e-3 to 1e4 and of both signs."""
    call, body = _Call(), decoder(lm)

    def after_body(module: nn.Module, args: Any, out: Any) -> None:
        call.hidden = out.last_hidden_state if hasattr(out, "last_hidden_state") else out[0]

    def after_head(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        call.given = args[0]
        size = torch.logspace(-3, 4, out.numel(), dtype=torch.float64, device=out.device)
        sign = 1 - 2 * (torch.arange(out.numel(), device=out.device) % 2)
        call.ramp = (size * sign).reshape(out.shape).to(out.dtype)
        return call.ramp.clone()

    hooks = [head.register_forward_hook(after_head)]
    if isinstance(body, nn.Module):
        hooks.append(body.register_forward_hook(after_body))
    try:
        yield call
    finally:
        for hook in hooks:
            hook.remove()


def _between(kind: str, call: _Call, lm: Any) -> Postprocessing:
    """The scale by which the head's input differs from the network's output; ValueError if it is no scale."""
    given, hidden = call.given, call.hidden
    if given is not None and hidden is not None and given.shape == hidden.shape:
        for found in _candidates(lm, caps=False):
            if _near(found(hidden), given):
                return found
    raise ValueError(
        f"{kind} has more than a scale between its network ({type(decoder(lm)).__name__}) and its output embeddings "
        f"({type(lm.get_output_embeddings()).__name__}): a policy applies the head to the network's last hidden vector"
    )


def _behind(kind: str, logits: Tensor, ramp: Tensor, lm: Any) -> Postprocessing:
    """The function that made these logits of the ramp; ValueError if it is no scale or cap of the configuration."""
    if logits.shape == ramp.shape:
        for found in _candidates(lm, caps=True):
            if _near(found(ramp), logits):
                return found
        shown = torch.linspace(0, ramp.numel() - 1, 4).long()
        was, now = ([round(float(x), 4) for x in t.flatten().cpu()[shown]] for t in (ramp, logits))
        what = f"where its head returns {was} its logits are {now}"
    else:
        what = f"its head returns {list(ramp.shape)} numbers and its logits are {list(logits.shape)}"
    raise ValueError(
        f"{kind} changes its logits behind the head by something else than a scale or a soft cap that its "
        f"configuration names ({', '.join((*SCALES, *CAPS))}): {what}"
    )


def _near(found: Tensor, expected: Tensor) -> bool:
    """Whether every number is right up to the rounding of the coarser dtype, however small it is."""
    eps = max(torch.finfo(x.dtype).eps for x in (found, expected))
    error, size = (found.double() - expected.double()).abs(), expected.double().abs()
    return bool((error <= ROUNDINGS * eps * size).all())


def _candidates(lm: Any, caps: bool) -> list[Postprocessing]:
    """None first; then every scale and cap that the model or its configuration names."""
    scaled = [NONE] + [Postprocessing(v, d) for v in _named(lm, SCALES) if v != 1.0 for d in (False, True)]
    return scaled + [replace(one, cap=cap) for cap in _named(lm, CAPS) for one in scaled if caps]


def _named(lm: Any, names: tuple[str, ...]) -> list[float]:
    places = [bare(lm), lm.config.get_text_config()]
    values = [getattr(place, name, None) for name in names for place in places]
    return list(dict.fromkeys(float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and v))

"""Restricted policies: what a model of limited capacity can say about a string.

A class maps parameters theta [B, K] to logits [B, S, A] and terminal values [B, S]. A language model reads the value of
a finished string off the logits at `<eos>`, which see the string through the same features; so do these.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from smlib.theory.mdp import EditMDP

Logits = tuple[Float[Tensor, "b s a"], Float[Tensor, "b s"]]


@dataclass(frozen=True, eq=False)
class PolicyClass:
    """A family of policies with unnormalised logits (the offset of App. E is part of them).

    Attributes:
        name, title: key and label.
        size: number of parameters K.
        logits: theta [B, K] -> (logits [B, S, A], terminal values [B, S]).
    """

    name: str
    title: str
    size: int
    logits: Callable[[Tensor], Logits]

    def start(self, batch: int, scale: float, seed: int) -> Float[Tensor, "b k"]:
        """Gaussian initial parameters, float64."""
        generator = torch.Generator().manual_seed(seed)
        return scale * torch.randn(batch, self.size, generator=generator, dtype=torch.float64)


def _features(mdp: EditMDP, key: Callable[[tuple[int, ...]], tuple[int, ...]]) -> tuple[Tensor, int]:
    keys = [key(string) for string in mdp.strings]
    numbered = {k: i for i, k in enumerate(sorted(set(keys)))}
    return torch.tensor([numbered[k] for k in keys]), len(numbered)


def _table(name: str, title: str, mdp: EditMDP, key: Callable, end_key: Callable) -> PolicyClass:
    """One free logit row per feature of the string, one free value per feature of the finished string."""
    rows, n_rows = _features(mdp, key)
    ends, n_ends = _features(mdp, end_key)
    split = n_rows * mdp.n_actions

    def logits(theta: Tensor) -> Logits:
        table = theta[:, :split].reshape(-1, n_rows, mdp.n_actions)
        return table[:, rows], theta[:, split:][:, ends]

    return PolicyClass(name, title, split + n_ends, logits)


def full(mdp: EditMDP) -> PolicyClass:
    """Unrestricted: one row per string."""
    return _table("full", "unrestricted", mdp, lambda s: s, lambda s: s)


def position_last(mdp: EditMDP) -> PolicyClass:
    """A function of position and last token."""
    return _table("position_last", "position and last token", mdp, lambda s: (len(s), *s[-1:]), lambda s: (len(s),))


def position(mdp: EditMDP) -> PolicyClass:
    """A function of position alone: tokens are independent."""
    return _table("position", "position alone", mdp, lambda s: (len(s),), lambda s: (len(s),))


def last_tokens(mdp: EditMDP, n: int = 2) -> PolicyClass:
    """A function of the last n tokens, blind to position: an n-gram model."""
    return _table("last_two", "last two tokens", mdp, lambda s: s[-n:], lambda s: s[-(n - 1) :] if n > 1 else ())


def mlp(mdp: EditMDP, hidden: int = 1) -> PolicyClass:
    """A tanh network of `hidden` units on the whole string (one-hot token per slot, `<eos>` as a token of its own)."""
    width = mdp.tokens + 1
    inputs = torch.zeros(2 * mdp.n_strings, (mdp.max_len + 1) * width, dtype=torch.float64)
    for i, string in enumerate(mdp.strings):
        for position, token in enumerate(string):
            inputs[[i, i + mdp.n_strings], position * width + token] = 1.0
        inputs[i + mdp.n_strings, len(string) * width + mdp.eos] = 1.0
    sizes = [inputs.shape[1] * hidden, hidden, hidden * mdp.n_actions, mdp.n_actions]

    def logits(theta: Tensor) -> Logits:
        first, bias, second, out = theta.split(sizes, dim=-1)
        units = torch.tanh(inputs @ first.reshape(-1, inputs.shape[1], hidden) + bias.unsqueeze(-2))
        score = units @ second.reshape(-1, hidden, mdp.n_actions) + out.unsqueeze(-2)
        return score[:, : mdp.n_strings], torch.logsumexp(score[:, mdp.n_strings :], dim=-1)

    return PolicyClass("mlp", f"network of {hidden} unit{'s' if hidden > 1 else ''}", sum(sizes), logits)


POLICY_CLASSES: dict[str, Callable[[EditMDP], PolicyClass]] = {
    "full": full,
    "position_last": position_last,
    "last_two": last_tokens,
    "position": position,
    "mlp": mlp,
}


def policy_class(name: str, mdp: EditMDP) -> PolicyClass:
    """The class called `name`.

    Raises:
        KeyError: any other name, listing the known ones.
    """
    if name not in POLICY_CLASSES:
        raise KeyError(f"unknown policy class {name!r}; known: {', '.join(POLICY_CLASSES)}")
    return POLICY_CLASSES[name](mdp)

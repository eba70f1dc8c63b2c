"""A policy that writes with one network and deletes with another (beyond the paper).

Learning `<bkspc>` in the weights that write costs accuracy early in training, and the edits have to earn it back. Here
the *writer* is a policy without `<bkspc>`, such as maximum likelihood leaves it, and the *deleter* is any policy with
one. With q(s) the deleter's probability of `<bkspc>`,

    pi(<bkspc> | s) = q(s),        pi(a | s) = (1 - q(s)) p_writer(a | s)   for every token a,

so with `<bkspc>` forbidden it is the writer, to the last bit: the logits of the tokens are the writer's own, and that
of `<bkspc>` is V_writer(s) + logit q(s). Both networks read every token, so an inserted token costs two forward passes
and the key/value cache two caches; a deletion still costs nothing.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from smlib.edits.actions import ActionSpace
from smlib.files import whole_folder
from smlib.kinds import check_kinds
from smlib.policies.kv_cache import SlotCache
from smlib.policies.policy import Policy, PolicyConfig

FORMAT = "smlib-decoupled-1"
SAVED = "decoupled.json"


@dataclass(frozen=True)
class DeletionRule:
    """What becomes of the deleter's probability of `<bkspc>`.

    Attributes:
        strength: factor of the probability, which stays below 1; 1 takes it as it is.
        threshold: delete where the probability is larger, and nowhere else; None draws with the probability.
    """

    strength: float = 1.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_kinds(self)
        if not 0.0 < self.strength < math.inf:
            raise ValueError(f"strength must be positive and finite, got {self.strength}")
        if self.threshold is not None and not 0.0 <= self.threshold < 1.0:
            raise ValueError(f"threshold is a probability below 1, or None, got {self.threshold}")

    def log_odds(self, log_odds: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
        """Log-odds of deleting, from the deleter's own: strength first, then the threshold."""
        if self.strength != 1.0:
            nothing_left = 1.0 - torch.finfo(log_odds.dtype).eps
            log_odds = torch.logit((self.strength * torch.sigmoid(log_odds)).clamp(max=nothing_left))
        if self.threshold is None:
            return log_odds
        never = torch.full_like(log_odds, -torch.inf)
        # exp(-10,000) is 0 in any precision; +inf would make the softmax over all actions NaN.
        return torch.where(torch.sigmoid(log_odds) > self.threshold, torch.full_like(log_odds, 1e4), never)


class DecoupledPolicy(nn.Module):
    """Writes as `writer`, deletes as `deleter`; what `smlib.generation.sampling.sample` asks of a policy.

    Args:
        writer: of tokens. Its own `<bkspc>`, if it has one, is switched off here.
        deleter: of which only the probability of `<bkspc>` is used.
        rule: what is made of it.

    Raises:
        ValueError: different actions, a deleter without `<bkspc>`, or one and the same policy twice.
    """

    def __init__(self, writer: Policy, deleter: Policy, rule: DeletionRule | None = None) -> None:
        super().__init__()
        if writer is deleter:
            raise ValueError("the writer and the deleter are one policy: give two, which may start from one model")
        if writer.space != deleter.space:
            raise ValueError(
                f"the writer has the actions {writer.space}, the deleter {deleter.space}: expected the same"
            )
        if writer.config.keep_edits or deleter.config.keep_edits:
            raise ValueError(
                "soft deletion keeps what was deleted in the context; a decoupled policy goes back: give "
                "policies that were trained by another method than soft"
            )
        if not deleter.config.backspace:
            raise ValueError(
                "the deleter never deletes: its <bkspc> is switched off, as maximum likelihood leaves it. Train it "
                "with a method that has <bkspc>, such as bc"
            )
        self.writer, self.deleter, self.rule = writer.forbid_backspace(), deleter, rule or DeletionRule()
        self._width = int(writer.lm.config.get_text_config().hidden_size)

    @property
    def space(self) -> ActionSpace:
        """The action space of both."""
        return self.writer.space

    @property
    def config(self) -> PolicyConfig:
        """As one policy: with `<bkspc>`, and with no offset, which would have no meaning here."""
        return PolicyConfig(self.space, offset_head=False, backspace=True)

    @property
    def device(self) -> torch.device:
        """Device of the writer."""
        return self.writer.device

    @property
    def max_positions(self) -> int | None:
        """The shorter of the two context lengths; None where neither is known."""
        known = [n for n in (self.writer.max_positions, self.deleter.max_positions) if n is not None]
        return min(known) if known else None

    def hidden(
        self,
        tokens: Int[Tensor, "R S"],
        positions: Int[Tensor, "R S"],
        mask: Bool[Tensor, "R 1 S K"],
        cache: SlotCache | None = None,
    ) -> Float[Tensor, "R S d"]:
        """Both last hidden vectors of each slot, the writer's first."""
        own = self.writer.hidden(tokens, positions, mask, cache)
        other = self.deleter.hidden(tokens, positions, mask, None if cache is None else cache.beside)
        return torch.cat([own, other.to(own.dtype)], dim=-1)

    def logits(self, hidden: Float[Tensor, "N d"], positions: Int[Tensor, " N"] | None) -> Float[Tensor, "N A"]:
        """The writer's logits of the tokens, and that of `<bkspc>` which makes its probability the deleter's.

        Offsets are left out: they change no probability, and the two networks' values are not of one reward.
        """
        own = self.writer.logits(hidden[:, : self._width], None)
        theirs = self.deleter.logits(hidden[:, self._width :], None).to(own.dtype)
        tokens = own[:, : self.space.bkspc]
        log_odds = theirs[:, self.space.bkspc] - theirs[:, : self.space.bkspc].logsumexp(-1)
        edit = tokens.logsumexp(-1) + self.rule.log_odds(log_odds)
        return torch.cat([tokens, edit[:, None]], dim=1)

    def counts(self) -> dict[str, int]:
        """Parameters of the writer, and of both: the price in memory."""
        writer = sum(p.numel() for p in self.writer.parameters())
        return {"writer": writer, "both": sum(p.numel() for p in self.parameters())}

    def save(self, path: Path | str) -> None:
        """Writes both policies and the rule; complete or not at all."""
        with whole_folder(Path(path), SAVED) as scratch:
            self.writer.save(scratch / "writer")
            self.deleter.save(scratch / "deleter")
            rule = {"strength": self.rule.strength, "threshold": self.rule.threshold}
            (scratch / SAVED).write_text(json.dumps({"format": FORMAT, **rule}, indent=1))

    @classmethod
    def load(cls, path: Path | str) -> "DecoupledPolicy":
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: no such checkpoint. ValueError: corrupt, or not written by smlib.
        """
        folder = Path(path)
        meta = folder / SAVED
        if not meta.is_file():
            raise FileNotFoundError(f"{folder} is no decoupled policy ({SAVED} is missing)")
        try:
            stored = json.loads(meta.read_text())
            if stored.pop("format", None) != FORMAT:
                raise ValueError(f"{meta} is not of the format {FORMAT!r}")
            rule = DeletionRule(**stored)
        except (json.JSONDecodeError, TypeError, AttributeError) as error:
            raise ValueError(f"{folder} is a corrupt or foreign checkpoint: {error}") from error
        return cls(Policy.load(folder / "writer"), Policy.load(folder / "deleter"), rule)

"""From logits to an action: the settings of a sampler, the filtered distribution, and its inverse.

The order of the filters is fixed: forbidden actions, temperature, truncation law, top-k, top-p, min-p.
Everything after the logits happens in float64, row by row, so that a row's action does not depend on which
other rows are in the batch.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smlib.edits.actions import ActionSpace
from smlib.files import ADDED_LATER
from smlib.kinds import check_kinds

COLDEST = 1e-100
"""The lowest temperature: logits divided by one below the smallest float64 are infinite, and their law is no number."""
EXPECTED_TEMPERATURE = f"> 0, from {COLDEST:g} to {1 / COLDEST:g} (for the most probable action use greedy=True)"
NOTHING_TO_DRAW = "a state has no action to draw: its logits are not finite, or every action is forbidden"


@dataclass(frozen=True)
class SamplingConfig:
    """How trajectories are drawn. App. E: temperature 1, top-p 1, no top-k.

    Attributes:
        max_new_tokens: largest depth below the root, `<eos>` not counted. A token chosen there is executed
            as `<eos>` and stays in the labels as chosen (Sec. 4.2).
        max_actions: actions per trajectory, edits and `<eos>` included; the last one is executed as `<eos>`.
            None: `4 * max_new_tokens + 1`.
        temperature: divides the logits.
        top_p: keep the smallest set of most probable actions whose mass reaches `top_p`; 1 keeps all.
        top_k: keep the `top_k` most probable actions (ties kept); 0 keeps all.
        min_p: keep actions of probability at least `min_p` times the largest.
        greedy: take the most probable action; top-k, top-p and min-p then change nothing.
        allow_backspace: whether `<bkspc>` may be chosen. With False the policy is renormalised over the
            vocabulary.
        exclude_deleted: exclude, at a revisited state, the tokens already deleted there, and `<bkspc>` at a
            root where it has just done nothing. Without it greedy decoding can loop forever, as the policy
            has no memory.
        truncation_eta: the noise rate eta of the law p^2 / (p + eta u) that cloned backspaces sample from,
            see `truncation_law`; 0 is off. It stands in for `<bkspc>`, so it needs `allow_backspace=False`.
        delete_below: tau of a decision operator: a token that the model gave less than this is deleted at once, see
            `smlib.generation.operators`; 0 is off. It stands in for `<bkspc>`, so it needs `allow_backspace=False`;
            with `exclude_deleted` it draws from the rest. deletions: how often at one state.
        execution_noise: probability that a chosen insertion is executed as a token of the noise law instead
            (Sec. 4.2).
        noise_burst: number of successive actions that one such event replaces (Table 1's mistakes several tokens deep).

    >>> SamplingConfig(max_new_tokens=24, greedy=True, exclude_deleted=True).action_limit
    97
    """

    max_new_tokens: int
    max_actions: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    greedy: bool = False
    allow_backspace: bool = True
    exclude_deleted: bool = False
    truncation_eta: float = 0.0
    execution_noise: float = 0.0
    noise_burst: int = 1
    delete_below: float = field(default=0.0, metadata=ADDED_LATER)
    deletions: int = field(default=4, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        check_kinds(self)
        checks = {
            "max_new_tokens": (self.max_new_tokens >= 0, ">= 0"),
            "max_actions": (self.max_actions is None or self.max_actions >= 1, "None or >= 1"),
            "temperature": (COLDEST <= self.temperature <= 1 / COLDEST, EXPECTED_TEMPERATURE),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "top_k": (self.top_k >= 0, ">= 0 (0 keeps all)"),
            "min_p": (0 <= self.min_p <= 1, "in [0, 1]"),
            "truncation_eta": (0 <= self.truncation_eta <= 1, "in [0, 1]"),
            "execution_noise": (0 <= self.execution_noise <= 1, "in [0, 1]"),
            "noise_burst": (self.noise_burst >= 1, ">= 1"),
            "delete_below": (0 <= self.delete_below < 1, "in [0, 1)"),
            "deletions": (self.deletions >= 1, ">= 1"),
        }
        for name, (fine, expected) in checks.items():
            if not fine:
                raise ValueError(f"{name}={getattr(self, name)}: expected {expected}")
        if self.truncation_eta > 0 and self.allow_backspace:
            raise ValueError(
                "truncation_eta replaces the backspace by its closed-form effect: set allow_backspace=False with it"
            )
        if self.delete_below > 0 and self.allow_backspace:
            raise ValueError(
                "delete_below deletes in the policy's place: set allow_backspace=False with it, so that it alone does"
            )

    @property
    def action_limit(self) -> int:
        """Largest number of actions of one trajectory."""
        return 4 * self.max_new_tokens + 1 if self.max_actions is None else self.max_actions

    @property
    def needs_noise_law(self) -> bool:
        """Whether `sample` must be given the law of the noise tokens."""
        return self.truncation_eta > 0 or self.execution_noise > 0


def truncation_law(p: Float[Tensor, "n a"], u: Float[Tensor, "n a"], eta: float) -> Float[Tensor, "n a"]:
    """The sampling law of cloned backspaces with memoryless rejection: p_eff(d|s) = p^2 / (p + eta u),
    normalised.

    With noise of rate eta and token law u the behavioural-cloning optimum deletes a token d just inserted
    at s with probability eta u(d) / (eta u(d) + p(d|s)). Drawing from p until nothing is deleted accepts d
    in proportion to p(d|s) * p(d|s) / (p(d|s) + eta u(d)): tokens with p < eta u are softly truncated, the
    others hardly touched.

    Args:
        p: probabilities of the tokens, `[n, actions]`.
        u: law of the noise, `[n, actions]`, zero at `<eos>` and `<bkspc>`.
        eta: noise rate in [0, 1].
    """
    accepted = torch.where(p > 0, p * p / (p + eta * u).clamp_min(torch.finfo(p.dtype).tiny), 0.0)
    return accepted / accepted.sum(-1, keepdim=True)


def action_distribution(
    logits: Float[Tensor, "n a"],
    config: SamplingConfig,
    space: ActionSpace,
    *,
    forbidden: Bool[Tensor, "n a"] | None = None,
    noise: Float[Tensor, "n a"] | None = None,
    checked: bool = True,
) -> Float[Tensor, "n a"]:
    """Probabilities, float64 `[n, actions]`, from which the next action is drawn.

    Args:
        logits: of the policy, any constant per row added (the offset head changes nothing here).
        config: filters.
        space: action space.
        forbidden: actions excluded in each row.
        noise: law u of the noise tokens for `truncation_eta`.
        checked: False leaves NaN in a row that has nothing to draw, so that a GPU need not be waited for here.

    Raises:
        ValueError: a row of logits holds NaN or +inf, or every action of it is forbidden.
    """
    scores = logits.double()
    if not config.allow_backspace:
        scores = scores.index_fill(1, torch.tensor([space.bkspc], device=scores.device), -torch.inf)
    if forbidden is not None:
        scores = scores.masked_fill(forbidden, -torch.inf)
    if config.temperature != 1.0:
        scores = scores / config.temperature
    p = torch.softmax(scores, dim=-1)
    if config.truncation_eta > 0:
        if noise is None:
            raise ValueError("truncation_eta needs the law of the noise tokens")
        p = truncation_law(p, noise, config.truncation_eta)
    if 0 < config.top_k < p.shape[-1]:
        p = torch.where(p >= p.topk(config.top_k, dim=-1).values[:, -1:], p, 0.0)
    if config.top_p < 1.0:
        p = p / p.sum(-1, keepdim=True)
        ranked, order = p.sort(dim=-1, descending=True, stable=True)
        kept = ranked.cumsum(-1) - ranked < config.top_p  # the mass before the action has not reached top_p yet
        p = torch.where(torch.zeros_like(kept).scatter(-1, order, kept), p, 0.0)
    if config.min_p > 0:
        p = torch.where(p >= config.min_p * p.amax(-1, keepdim=True), p, 0.0)
    total = p.sum(-1, keepdim=True)
    if checked and not bool((total > 0).all()):  # NaN compares as False
        raise ValueError(NOTHING_TO_DRAW)
    return p / total


def draw(p: Float[Tensor, "n a"], uniforms: Float[Tensor, "n"]) -> Int[Tensor, "n"]:
    """Inverse of the cumulative distribution: the first action whose cumulative mass exceeds the uniform.

    Actions of probability 0 are never drawn, whatever the rounding of the cumulative sum.
    """
    cumulative = p.cumsum(-1)
    total = cumulative[:, -1:]
    target = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, target, right=True).squeeze(1)

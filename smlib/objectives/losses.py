"""The objectives, as functions of a few numbers per visit: MLE, BC, SequenceMatch, IQLearn, unlikelihood.

Symbols (Sec. 3.2 and eq. 4): logit l(a_i|s_i) of the label, value V(s) = logsumexp_a l(a|s), reward
r_i = l(a_i|s_i) - gamma V(s_{i+1}), discount gamma, entropy weight alpha. A trajectory has visits i = 0..N-1 and ends
in the terminal state s_N. Every function returns a loss to be *minimised*, in nats, with its parts for logging.

Normalisation. J is an expectation over trajectories, so sums over data and over rollouts are divided by their own
number of trajectories, and the whole by the mean discounted number of visits of a data trajectory. That keeps all
losses on the scale of one action's log-likelihood. (Dividing each example by its own length would be inconsistent:
footnote 1.) A batch that is processed in parts divides the sums of each part by the sizes of the whole (`Sizes`).

Branches. Eq. 4 holds where data and rollouts start alike. A rollout of running text starts inside a text of the data:
its first actions are the data's. With them its value terms telescope to V(s_0)/2, as those of the data do, whatever the
policy did afterwards; without them they would be V of the prefix, and V(s_0) would be pushed up against it for nothing.
The squared rewards of these first actions are left out (App. E: "we mask the prompt when calculating the
regularization"), and the exponents of those that follow count from the end of the prompt, as elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from smlib.edits.packing import PackedBatch
from smlib.edits.path import Judged
from smlib.objectives.divergences import Divergence


@dataclass(frozen=True)
class Sizes:
    """What the sums over a batch are divided by.

    Attributes:
        n_data, n_model: number of data trajectories and of rollouts.
        data_step, model_step: exponents of the discount at the visits of the data and of rollouts.
    """

    n_data: int
    n_model: int
    data_step: Int[Tensor, " D"]
    model_step: Int[Tensor, " M"]


def sizes(parts: Sequence[PackedBatch]) -> Sizes:
    """Of a batch in parts."""
    rollout = [part.model[part.trajectory] for part in parts]
    return Sizes(
        n_data=sum(int((~part.model).sum()) for part in parts),
        n_model=sum(int(part.model.sum()) for part in parts),
        data_step=torch.cat([part.step[~chosen] for part, chosen in zip(parts, rollout, strict=True)]),
        model_step=torch.cat([part.step[chosen] for part, chosen in zip(parts, rollout, strict=True)]),
    )


@dataclass(frozen=True)
class VisitValues:
    """What the losses need to know about a batch: N visits of B trajectories.

    Attributes:
        logit: [N] l(label | s_i).
        value, next_value: [N] V(s_i), V(s_{i+1}).
        initial_value, terminal_value: [B] V(s_0), V(s_N).
        step: [N] exponent of the discount. start, end: [B] exponents at the initial and the terminal state.
        model: [N] True at the visits of rollouts. trajectory_model: [B] True for rollouts.
        whole: sizes of the batch that these visits are a part of; None if they are all of it.
        branches: rollouts start inside a text of the data, not where it starts (see above).
        edit: [N] True where the label is `<bkspc>`; None where nobody asked. judged: see `PackedBatch`.
    """

    logit: Float[Tensor, " N"]
    value: Float[Tensor, " N"]
    next_value: Float[Tensor, " N"]
    initial_value: Float[Tensor, " B"]
    terminal_value: Float[Tensor, " B"]
    step: Int[Tensor, " N"]
    start: Int[Tensor, " B"]
    end: Int[Tensor, " B"]
    model: Bool[Tensor, " N"]
    trajectory_model: Bool[Tensor, " B"]
    whole: Sizes | None = None
    branches: bool = False
    edit: Bool[Tensor, " N"] | None = None
    judged: Judged | None = None

    @property
    def log_prob(self) -> Float[Tensor, " N"]:
        """log p(label | s_i)."""
        return self.logit - self.value


@dataclass(frozen=True)
class Loss:
    """A scalar to minimise and its named parts (detached; they sum to it where the name does not say otherwise)."""

    total: Float[Tensor, ""]
    parts: dict[str, Tensor]


def visit_values(
    label_logit: Float[Tensor, " N"],
    value: Float[Tensor, " U"],
    batch: PackedBatch,
    whole: Sizes | None = None,
    branches: bool = False,
    bkspc: int | None = None,
) -> VisitValues:
    """Arranges the logit of each visit's label and the value of each needed state by visit.

    Args:
        bkspc: the action `<bkspc>`, where a loss weighs its labels apart.
    """
    start = batch.step[torch.cumsum(batch.length, 0) - batch.length]
    return VisitValues(
        logit=label_logit,
        value=value[batch.visit_state],
        next_value=value[batch.visit_next],
        initial_value=value[batch.initial],
        terminal_value=value[batch.terminal],
        step=batch.step,
        start=start,
        end=start + batch.length,
        model=batch.model[batch.trajectory],
        trajectory_model=batch.model,
        whole=whole,
        branches=branches,
        edit=None if bkspc is None else batch.label == bkspc,
    )


def check_gamma(gamma: float) -> None:
    """Raises ValueError unless 0 < gamma < 1: the terminal term of eq. 4 divides by 1 - gamma."""
    if not 0.0 < gamma < 1.0:
        raise ValueError(f"gamma must lie strictly between 0 and 1, got {gamma}")


def check_alpha(alpha: float) -> None:
    """Raises ValueError unless alpha > 0: eq. 4 divides by alpha; its limit at 0 is `mle` weighted by gamma^i."""
    if not alpha > 0.0:
        raise ValueError(f"alpha must be positive, got {alpha}; its limit alpha -> 0 is maximum likelihood")


def likelihood(visits: VisitValues, *, model: bool = False, gamma: float = 1.0, edit_weight: float = 1.0) -> Loss:
    """Negative log-likelihood of the labels, per visit: MLE on clean data, BC on data with noise and backspaces.

    -sum_i gamma^i log p(label_i | s_i) / sum_i gamma^i, over the visits of the data (or of rollouts that were
    relabelled by an expert, `model=True`: the DAgger loss). With `edit_weight`, which needs `visits.edit`, labels that
    are `<bkspc>` count so much in the upper sum and as before in the lower.
    """
    chosen = visits.model if model else ~visits.model
    weight = discount(visits.step, gamma, visits.logit) * chosen
    counted = weight
    if edit_weight != 1.0:
        if visits.edit is None:
            raise ValueError("edit_weight needs to know which labels are <bkspc>: give visit_values the action")
        counted = torch.where(visits.edit, edit_weight * weight, weight)
    total = -(counted * visits.log_prob).sum() / mass(visits, weight, gamma, model).clamp(min=1.0 if model else 0.0)
    return Loss(total, {"nll": total.detach()})


def sequencematch(
    visits: VisitValues,
    *,
    divergence: Divergence,
    alpha: float,
    gamma: float,
    mixture: bool = False,
    mixture_weight: float = 0.25,
) -> Loss:
    """The loss of SequenceMatch: -J of eq. 4, term by term as printed, of `visit_values`, for any divergence.

    J = sum_data g^i phi(alpha r_i)/alpha - sum_data g^i/2 [V(s_i) - gamma V(s_{i+1})] - sum_model g^i/2 [...]
        + g^N/(alpha (1-gamma)) phi(alpha (1-gamma) V(s_N)) - g^N/2 V(s_N) - g^M/2 V(u_M),   g = gamma.

    With `mixture`, the squared rewards of the rollouts are penalised as those of the data are in chi^2 (Sec. 4, D.4;
    the weight 1/4 is c beta with c = beta = 1/2):  - mixture_weight alpha sum_model g^i r_i^2, terminal state included.

    Raises:
        ValueError: gamma outside (0, 1), alpha <= 0.

    >>> space = smlib.ActionSpace(vocab_size=10, eos=0)
    >>> data, rollout = (smlib.Trajectory.make([1], [token, space.eos], space=space) for token in (5, 6))
    >>> batch = smlib.pack([[data], [rollout]], space, model=[[False], [True]])
    >>> logits = torch.zeros(len(batch.slots), space.n_actions)
    >>> visits = visit_values(logits[batch.visit_state, batch.label], logits.logsumexp(-1), batch)
    >>> loss = sequencematch(visits, divergence=smlib.get_divergence("chi2"), alpha=0.01, gamma=0.95)
    >>> bool(loss.total > 0)
    True
    """
    check_gamma(gamma)
    check_alpha(alpha)
    weight, end_weight = discount(visits.step, gamma, visits.logit), discount(visits.end, gamma, visits.logit)
    data, model = ~visits.model, visits.model
    n_data, n_model = trajectory_counts(visits)
    reward = visits.logit - gamma * visits.next_value
    end_reward = (1.0 - gamma) * visits.terminal_value  # every action of the absorbing state has this reward
    drop = visits.value - gamma * visits.next_value

    def on_data(per_visit: Tensor) -> Tensor:
        return (weight * per_visit)[data].sum() / n_data

    def on_model(per_visit: Tensor) -> Tensor:
        return (weight * per_visit)[model].sum() / n_model

    def at_end(per_trajectory: Tensor, of_model: bool) -> Tensor:
        chosen = visits.trajectory_model if of_model else ~visits.trajectory_model
        return (end_weight * per_trajectory)[chosen].sum() / (n_model if of_model else n_data)

    penalised = on_data(divergence.phi(alpha * reward) / alpha)
    penalised_end = at_end(divergence.phi(alpha * end_reward) / (alpha * (1.0 - gamma)), False)
    value_data = on_data(drop) / 2 + at_end(visits.terminal_value, False) / 2
    # What a branch adds to V(s_0)/2 telescopes to nothing.
    value_model = value_data if visits.branches else on_model(drop) / 2 + at_end(visits.terminal_value, True) / 2
    parts = {"phi": -penalised, "phi_end": -penalised_end, "value_data": value_data, "value_model": value_model}
    if mixture:
        squares = on_model(reward.square()) + at_end(end_reward.square() / (1.0 - gamma), True)
        parts["mixture"] = mixture_weight * alpha * squares
    scale = 1.0 / (mass(visits, weight * data, gamma) / n_data)
    total = torch.stack(list(parts.values())).sum() * scale
    logged = {name: (part * scale).detach() for name, part in parts.items()}
    outside = divergence.outside(alpha * reward.detach())[data].to(reward.dtype)
    logged["outside_domain"] = outside.mean() if visits.whole is None else outside.sum() / len(visits.whole.data_step)
    return Loss(total, logged)


def sequencematch_chi2(
    visits: VisitValues, *, alpha: float, gamma: float, mixture: bool = False, mixture_weight: float = 0.25
) -> Loss:
    """-J of eq. 4 for chi^2 after telescoping: equal to `sequencematch` in value and gradient, and easier to read.

    J = sum_data g^i log p(a_i|s_i) + (V(s_0) - V(u_0))/2 - alpha/4 [sum_data g^i r_i^2 + g^N (1-gamma) V(s_N)^2],

    and the mixture's squares over the rollouts. Maximum likelihood weighted by gamma^i, plus a squared reward penalty.
    For branches u_0 is the data's own s_0, and V(s_0) - V(u_0) is 0.
    """
    check_gamma(gamma)
    check_alpha(alpha)
    weight, end_weight = discount(visits.step, gamma, visits.logit), discount(visits.end, gamma, visits.logit)
    n_data, n_model = trajectory_counts(visits)
    start_weight = discount(visits.start, gamma, visits.logit)
    reward = visits.logit - gamma * visits.next_value
    squares = weight * reward.square()
    end_squares = end_weight * (1.0 - gamma) * visits.terminal_value.square()
    data, rollout = ~visits.model, visits.trajectory_model
    start = start_weight * visits.initial_value
    initial_data = start[~rollout].sum() / n_data
    initial_model = initial_data if visits.branches else start[rollout].sum() / n_model
    parts = {
        "nll": -(weight * visits.log_prob)[data].sum() / n_data,
        "initial": (initial_model - initial_data) / 2,
        "squares_data": alpha / 4 * (squares[data].sum() + end_squares[~rollout].sum()) / n_data,
    }
    if mixture:
        parts["mixture"] = mixture_weight * alpha * (squares[visits.model].sum() + end_squares[rollout].sum()) / n_model
    scale = 1.0 / (mass(visits, weight * data, gamma) / n_data)
    total = torch.stack(list(parts.values())).sum() * scale
    return Loss(total, {name: (part * scale).detach() for name, part in parts.items()})


def iqlearn(visits: VisitValues, *, alpha: float, gamma: float) -> Loss:
    """Offline IQLearn for language models (Wulfmeier et al. 2024, arXiv 2409.01369): eq. 4 with chi^2 and data only.

    Without rollouts the values telescope away against the data's own start and what is left is maximum likelihood plus
    alpha/4 times the squared rewards: no sampling during training.
    """
    check_gamma(gamma)
    check_alpha(alpha)
    weight = discount(visits.step, gamma, visits.logit) * ~visits.model
    end_weight = discount(visits.end, gamma, visits.logit) * ~visits.trajectory_model
    reward = visits.logit - gamma * visits.next_value
    scale = 1.0 / mass(visits, weight, gamma)
    nll = -(weight * visits.log_prob).sum() * scale
    squares = (weight * reward.square()).sum() + (end_weight * (1.0 - gamma) * visits.terminal_value.square()).sum()
    penalty = alpha / 4 * squares * scale
    return Loss(nll + penalty, {"nll": nll.detach(), "squares_data": penalty.detach()})


def unlikelihood(logits: Float[Tensor, "U A"], batch: PackedBatch) -> Loss:
    """Token-level unlikelihood (Welleck et al. 2019): -mean over visits of sum_c log(1 - p(c|s)).

    The negative candidates c of a visit are the distinct tokens of its state, the label itself and `<eos>` left out. A
    model whose `<bos>` is its `<eos>` has that token in every state, and would unlearn to end. To be added to the
    likelihood with a weight (the original: 1).
    """
    n_slots = batch.tokens.shape[1]
    row, slot = batch.slots // n_slots, batch.slots % n_slots
    index = torch.arange(n_slots, device=slot.device)
    visible = (index <= slot[:, None]) & (slot[:, None] < batch.expiry[row])  # [U, S]
    state, visit = torch.nonzero(visible, as_tuple=True)
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[state, batch.tokens[row][state, visit]] = True
    seen[:, batch.tokens.flatten()[batch.slots[batch.terminal]]] = False  # every trajectory ends with <eos>
    log_one_minus = torch.log1p(-logits.softmax(-1).clamp(max=1.0 - 1e-5))
    per_state = (log_one_minus * seen).sum(-1)
    chosen = ~batch.model[batch.trajectory]
    own = (log_one_minus * seen)[batch.visit_state, batch.label]
    total = -((per_state[batch.visit_state] - own) * chosen).sum() / chosen.sum()
    return Loss(total, {"unlikelihood": total.detach()})


def discount(step: Int[Tensor, " n"], gamma: float, like: Tensor) -> Float[Tensor, " n"]:
    """gamma^step, in the precision and on the device of `like`."""
    return torch.pow(torch.tensor(gamma, dtype=like.dtype, device=like.device), step)


def mass(visits: VisitValues, weight: Tensor, gamma: float, model: bool = False) -> Float[Tensor, ""]:
    """sum_i gamma^i over the data's visits or the rollouts', of the whole batch; `weight` are those of these visits."""
    if visits.whole is None:
        return weight.sum()
    return discount(visits.whole.model_step if model else visits.whole.data_step, gamma, weight).sum()


def trajectory_counts(visits: VisitValues) -> tuple[Tensor, Tensor]:
    """Number of data trajectories and of rollouts; 1 where there is none, so that its (empty) sums are 0."""
    n_model = visits.trajectory_model.sum()
    n_data = visits.trajectory_model.numel() - n_model
    if visits.whole is not None:
        n_data, n_model = (torch.full_like(n_data, n) for n in (visits.whole.n_data, visits.whole.n_model))
    return n_data.clamp(min=1), n_model.clamp(min=1)

"""What is minimised: the training methods by name, and their objective at a step of Algorithm 1.

mle           maximum likelihood on clean data, no backspace
bc            behavioural cloning: likelihood of the labels of noised data (Sec. 4.2); "MLE + <bkspc>" of Table 2
sm            SequenceMatch: beta L_BC + (1 - beta) L_SM, beta from 1 to a floor (App. E)
iqlearn       offline IQLearn (arXiv 2409.01369) in place of L_SM: no rollouts
dagger        DAgger with the edit expert (Ross et al. 2011): rollouts relabelled by the expert, in place of L_SM
direct        occupancies matched in closed form, where a prompt has one answer, in place of L_SM (`objectives/direct`)
exact         the critic that is known where a prompt has one answer, in place of L_SM (`objectives/exact`)
gail          a critic of its own in place of L_SM (Ho & Ermon 2016; `objectives/adversarial`)
unlikelihood  maximum likelihood plus token-level unlikelihood (Welleck et al. 2019)
soft          behavioural cloning with soft deletion: the mistake and <bkspc> stay in the context
masked        maximum likelihood on data whose mistakes stand and have no label (`objectives/masked`)
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from smlib.edits.packing import PackedBatch
from smlib.files import ADDED_LATER
from smlib.kinds import check_kinds
from smlib.objectives import divergences
from smlib.objectives.adversarial import CriticValues, actor_loss, critic_loss
from smlib.objectives.direct import direct, path_divergence
from smlib.objectives.exact import exact, exact_rewards
from smlib.objectives.losses import (
    Loss,
    Sizes,
    VisitValues,
    check_alpha,
    check_gamma,
    iqlearn,
    likelihood,
    sequencematch,
    unlikelihood,
    visit_values,
)
from smlib.objectives.masked import masked_likelihood, mistakes


@dataclass(frozen=True)
class Method:
    """What a method needs.

    Attributes:
        title: how tables and figures name it.
        noise: whether its data trajectories carry injected noise and backspaces.
        rollouts: whether it samples from the policy while training.
        backspace: whether `<bkspc>` is among its actions.
        annealed: whether beta blends its loss with behavioural cloning.
        critic: whether a second network is trained against it.
        on_policy: whether rollouts are used once, by the policy that sampled them.
        soft: whether deleted tokens and `<bkspc>` stay in the context.
        standing: whether its noise stays in the text, where no `<bkspc>` follows.
        reference: whether it needs the one right answer to each prompt.
    """

    title: str
    noise: bool = True
    rollouts: bool = False
    backspace: bool = True
    annealed: bool = False
    critic: bool = False
    on_policy: bool = False
    soft: bool = False
    standing: bool = False
    reference: bool = False


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "mle": Method("MLE", noise=False, backspace=False),
        "bc": Method("BC"),
        "sm": Method("SequenceMatch", rollouts=True, annealed=True),
        "iqlearn": Method("offline IQLearn", annealed=True),
        "dagger": Method("DAgger", rollouts=True, annealed=True, reference=True),
        "direct": Method("direct matching", noise=False, backspace=False, annealed=True),
        "exact": Method("exact critic", rollouts=True, annealed=True, on_policy=True, reference=True),
        "gail": Method("GAIL", rollouts=True, annealed=True, critic=True, on_policy=True),
        "unlikelihood": Method("MLE + unlikelihood", noise=False, backspace=False),
        "soft": Method("soft deletion", soft=True),
        "masked": Method("masked errors", backspace=False, standing=True),
    }
)


def get_method(name: str) -> Method:
    """The method called `name`; raises ValueError with the known names otherwise."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    return METHODS[name]


class ByDivergence(Enum):
    """Whether there is a mixture regulariser where nobody said: with chi^2 (chi^2-mixture, the paper's) and no other.

    True and False themselves would look as if they had been asked for, and stay when the divergence is replaced.
    """

    WITH_MIXTURE = True
    WITHOUT_MIXTURE = False

    def __bool__(self) -> bool:
        return bool(self.value)


@dataclass(frozen=True)
class ObjectiveConfig:
    """The objective of a run. Defaults are the paper's where it states them (App. E, Sec. 6.2).

    Attributes:
        method: key of `METHODS`.
        divergence: key of `smlib.objectives.divergences.DIVERGENCES`.
        alpha: entropy weight; the paper gives 0.01 for text and nothing for arithmetic.
        gamma: discount; 0.998 for text.
        mixture: the mixture regulariser over rollouts, as a truth value. None leaves it to the divergence, and to the
            new one in a copy by `dataclasses.replace`: see `ByDivergence`. mixture_weight: its c beta, 1/4 by D.4.
        bc_steps: gradient steps on BC alone, k of App. E. anneal_steps: over how many steps beta then falls from 1.
        beta_floor: where it ends.
        unlikelihood_weight: weight of the unlikelihood term.
        edit_weight: weight of the labels `<bkspc>` in behavioural cloning; 0 leaves them out.

    >>> ObjectiveConfig(method="sm", bc_steps=100, anneal_steps=100).beta(150)
    0.6
    """

    method: str = "sm"
    divergence: str = "chi2"
    alpha: float = 0.01
    gamma: float = 0.998
    mixture: bool | ByDivergence | None = None
    mixture_weight: float = 0.25
    bc_steps: int = 10_000
    anneal_steps: int = 2_000
    beta_floor: float = 0.2
    unlikelihood_weight: float = 1.0
    edit_weight: float = field(default=1.0, metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        check_kinds(self)
        get_method(self.method)
        divergences.get(self.divergence)
        if not isinstance(self.mixture, bool):
            object.__setattr__(self, "mixture", ByDivergence(self.divergence == "chi2"))
        check_alpha(self.alpha)
        check_gamma(self.gamma)
        if not 0.0 <= self.edit_weight < float("inf"):
            raise ValueError(f"edit_weight must not be negative, got {self.edit_weight}")
        if not 0.0 <= self.beta_floor <= 1.0:
            raise ValueError(f"beta_floor must lie in [0, 1], got {self.beta_floor}")
        if get_method(self.method).critic and not (self.divergence == "chi2" and bool(self.mixture)):
            raise ValueError(
                f"{self.method} has the chi^2-mixture alone, whose critic is bounded: divergence='chi2' and "
                f"mixture=True, got {self.divergence!r} and {bool(self.mixture)}"
            )
        if self.method == "exact":
            exact_rewards(self.divergence, bool(self.mixture))
        if self.method == "direct":
            path_divergence(self.divergence, bool(self.mixture))
        if self.bc_steps < 0 or self.anneal_steps < 0:
            raise ValueError(f"bc_steps and anneal_steps count steps, got {self.bc_steps} and {self.anneal_steps}")

    def beta(self, step: int) -> float:
        """Weight of behavioural cloning at a step: 1 for `bc_steps`, then linearly down to the floor."""
        if not get_method(self.method).annealed or step < self.bc_steps:
            return 1.0
        done = min(1.0, (step - self.bc_steps) / self.anneal_steps) if self.anneal_steps else 1.0
        return 1.0 + (self.beta_floor - 1.0) * done


def objective(
    policy: nn.Module,
    batch: PackedBatch,
    config: ObjectiveConfig,
    step: int,
    chunk: int | None,
    whole: Sizes | None = None,
    branches: bool = False,
) -> Loss:
    """The loss of one packed batch of data and rollouts at a training step: one forward pass for both.

    Args:
        policy: returns (logit of each label, value of each state), or with `chunk` = "logits" the logits.
        chunk: states whose logits are held at a time, see `Policy.forward`.
        whole: sizes of the batch of which this is a part; the losses of the parts add up to that of the whole.
        branches: rollouts start inside a text of the data (`losses`).
    """
    if config.method == "unlikelihood":
        logits = policy(batch, logits=True)
        visits = visit_values(logits[batch.visit_state, batch.label], logits.logsumexp(-1), batch, whole)
        nll, repeats = likelihood(visits), unlikelihood(logits, batch)
        if whole is not None:  # it is a mean over the data's visits
            share = float((~visits.model).sum()) / len(whole.data_step)
            repeats = Loss(share * repeats.total, {name: share * part for name, part in repeats.parts.items()})
        return Loss(nll.total + config.unlikelihood_weight * repeats.total, {**nll.parts, **repeats.parts})
    label_logit, value = policy(batch, chunk)
    space: Any = policy.space
    apart = space.bkspc if config.edit_weight != 1.0 else None
    visits = visit_values(label_logit, value, batch, whole, branches, apart)
    if config.method == "masked":
        return masked_likelihood(visits, mistakes(batch))
    if config.method == "exact" and config.beta(step) < 1.0:
        if batch.judged is None:
            raise ValueError("exact needs to know where each rollout is beside its reference: give the batch `judged`")
        visits = replace(visits, judged=batch.judged)
    asked = get_method(config.method).critic and config.beta(step) < 1.0
    return objective_of_visits(visits, config, step, policy.critic(batch) if asked else None)  # type: ignore[operator]


def objective_of_visits(
    visits: VisitValues, config: ObjectiveConfig, step: int, said: CriticValues | None = None
) -> Loss:
    """The same from the logits and values at the visits, for every method that needs no more.

    Args:
        said: by the critic, where the method has one.
    """
    cloning = likelihood(visits, edit_weight=config.edit_weight)
    beta = config.beta(step)
    if beta == 1.0:
        return cloning
    parts: dict[str, Tensor]
    if config.method == "sm":
        other = sequencematch(
            visits,
            divergence=divergences.get(config.divergence),
            alpha=config.alpha,
            gamma=config.gamma,
            mixture=bool(config.mixture),
            mixture_weight=config.mixture_weight,
        )
    elif config.method == "iqlearn":
        other = iqlearn(visits, alpha=config.alpha, gamma=config.gamma)
    elif config.method == "dagger":
        relabelled = likelihood(visits, model=True)
        other = Loss(relabelled.total, {"dagger": relabelled.total.detach()})
    elif config.method == "direct":
        other = direct(visits, divergence=config.divergence, mixture=bool(config.mixture), gamma=config.gamma)
    elif config.method == "exact":
        assert visits.judged is not None, "exact needs to know where its rollouts are"
        how = {"divergence": config.divergence, "mixture": bool(config.mixture)}
        other = exact(visits, visits.judged, alpha=config.alpha, gamma=config.gamma, **how)  # type: ignore[arg-type]
    elif config.method == "gail":
        assert said is not None, "gail needs what its critic says"
        acted = actor_loss(visits, said, alpha=config.alpha, gamma=config.gamma)
        judged = critic_loss(visits, said, gamma=config.gamma)
        parts = {"bc": cloning.total.detach(), **acted.parts, **judged.parts}
        # The critic has parameters of its own, so its loss is in nobody's way.
        return Loss(beta * cloning.total + (1.0 - beta) * acted.total + judged.total, parts)
    else:
        raise ValueError(f"method {config.method!r} is not annealed and has beta = 1 throughout")
    parts = {"bc": cloning.total.detach(), **other.parts, "other": other.total.detach()}
    return Loss(beta * cloning.total + (1.0 - beta) * other.total, parts)


def is_finite(loss: Loss) -> bool:
    """Whether the loss can be descended."""
    return bool(torch.isfinite(loss.total))

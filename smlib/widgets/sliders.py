"""Ideas with a knob: figures that move with a slider, and stand still where nobody looks on.

Each function returns sliders with a picture in a notebook that somebody looks at, and otherwise the static figure of
the knobs' first values alone: executed headless they cost what that figure costs.
"""

import html
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from smlib.objectives.divergences import get
from smlib.theory import chain as chains
from smlib.theory.cloning import effective, rejection
from smlib.theory.datasets import data_occupancy
from smlib.theory.flow import as_flow
from smlib.theory.matching import match
from smlib.theory.mdp import EditMDP
from smlib.widgets.explore import looked_at
from smlib.widgets.pictures import BLACK, BLUE, GREEN, GREY, ORANGE, image

PHI = ("chi2", "reverse_kl", "js", "forward_kl", "hellinger")
"""The divergences of App. G whose phi has a slope that is a weight."""
ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


@dataclass(frozen=True)
class Knob:
    """One slider: a number of a range, or of a list.

    Attributes:
        label: what stands beside it.
        start: where it stands first.
        low, high, step: of the range. choices: the list, instead.
        whole: whether it takes whole numbers alone.
    """

    label: str
    start: float
    low: float = 0.0
    high: float = 1.0
    step: float = 0.01
    choices: tuple[float, ...] = ()
    whole: bool = False

    def __post_init__(self) -> None:
        known = self.start in self.choices if self.choices else self.low <= self.start <= self.high
        if not known:
            raise ValueError(f"{self.label} starts at {self.start}, which is outside its range")


def board(draw: Callable[..., Figure], knobs: Mapping[str, Knob], alt: str, live: bool | None = None) -> Any:
    """Sliders above the figure that `draw` makes of their values.

    Args:
        draw: takes each knob's value by its name.
        alt: says what the picture shows, for who cannot see it; the titles and names in the picture follow.
        live: whether to make widgets; where `looked_at` says so when omitted.
    """
    starts = {name: int(knob.start) if knob.whole else knob.start for name, knob in knobs.items()}
    if not (looked_at() if live is None else live):
        return draw(**starts)
    import ipywidgets  # not needed where nothing moves

    picture = ipywidgets.HTML(value=_picture(draw(**starts), alt))
    said = ipywidgets.HTML()
    sliders = {name: _slider(ipywidgets, knob) for name, knob in knobs.items()}

    def moved(_: Any) -> None:
        try:
            picture.value, said.value = _picture(draw(**{name: s.value for name, s in sliders.items()}), alt), ""
        except ValueError as error:  # a corner of the range that has no figure; the last one stays
            said.value = f"<b>{html.escape(str(error))}</b>"

    for slider in sliders.values():
        slider.observe(moved, names="value")
    return ipywidgets.VBox([*sliders.values(), said, picture])


def chain(live: bool | None = None) -> Any:
    """epsilon, n and b of the chain (Fig. 1): P(in the data) against the length, and the divergences at length n."""
    knobs = {
        "epsilon": Knob("ε, an error a token", 0.1, 0.005, 0.5, 0.005),
        "n": Knob("n, the length", 10, 1, 100, 1, whole=True),
        "b": Knob("b, a wrong token is deleted", 0.5, 0.0, 1.0, 0.01),
    }
    alt = "Left: the chance to be in the data falls with the length. Right: the divergences at the chosen length."
    return board(draw_chain, knobs, alt, live)


def draw_chain(epsilon: float, n: int, b: float) -> Figure:
    """The figure of `chain`."""
    figure, (left, right) = _two()
    lengths = range(1, max(2 * n, 20) + 1)
    for backspace, colour, dashes in ((0.0, ORANGE, "--"), (b, BLUE, "-")):
        curve = [chains.Chain(k, epsilon, backspace).finish() for k in lengths]
        left.plot(lengths, curve, color=colour, linestyle=dashes, label=f"b = {backspace:.2f}: {curve[n - 1]:.3f} at n")
    left.axvline(n, color=GREY, linewidth=1)
    left.set(xlabel="length", ylabel="P(in the data)", ylim=(0, 1.02), title=f"ε = {epsilon:g}, n = {n}")
    left.legend(frameon=False)
    names = list(chains.CHAIN_DIVERGENCES)
    for offset, backspace, colour in ((0.2, 0.0, ORANGE), (-0.2, b, BLUE)):
        q = chains.Chain(n, epsilon, backspace).finish()
        values = [chains.closed_form(name, q) for name in names]
        for place, value in enumerate(values):
            y, shown = len(names) - place + offset, min(value, 4.0)
            right.barh(y, shown, height=0.36, color=colour)
            text = "∞" if math.isinf(value) else f"{value:.3g}{' →' if value > 4.0 else ''}"
            right.text(shown + 0.06, y, text, va="center", fontsize=8)
    right.set(xlim=(0, 4.8), xlabel="nats; longer bars are cut", title="divergences of data P and model Q")
    right.set_yticks([len(names) - place for place in range(len(names))], [chains.CHAIN_DIVERGENCES[x] for x in names])
    return figure


def phi(live: bool | None = None) -> Any:
    """The ratio t = rho_theta / rho_data of a visit: f(t), the reward that it earns, and phi there, by divergence."""
    knobs = {"t": Knob("t = ρθ / ρdata", 0.5, 0.05, 3.0, 0.05)}
    alt = "Left: f of the ratio t. Right: φ, whose slope at the best critic's reward is t itself."
    return board(draw_phi, knobs, alt, live)


def draw_phi(t: float) -> Figure:
    """The figure of `phi`: where the critic is the best one, r = -f'(t), the weight phi'(r) of the visit is t."""
    figure, (left, right) = _two()
    ratio = torch.linspace(0.02, 3.0, 300, dtype=torch.float64)
    here = torch.tensor([t], dtype=torch.float64)
    styles = zip(PHI, (BLACK, ORANGE, BLUE, GREEN, GREY), ("-", "--", "-.", ":", (0, (5, 1))), strict=True)
    for name, colour, dashes in styles:
        record = get(name)
        reward = record.reward(here)
        left.plot(ratio, record.f(ratio), color=colour, linestyle=dashes, label=record.title)
        left.plot([t], record.f(here), "o", color=colour)
        x = torch.linspace(max(-2.0, record.domain[0] + 0.02), 2.0, 300, dtype=torch.float64)
        right.plot(x, record.inner(x), color=colour, linestyle=dashes)
        slope = float(record.dphi(reward))
        label = f"r = {float(reward):+.2f}, φ′(r) = {slope:.2f}"
        right.plot([float(reward)], record.phi(reward), "o", color=colour, label=label)
    left.axvline(t, color=GREY, linewidth=1)
    left.set(xlabel="t = ρθ / ρdata", ylabel="f(t)", ylim=(0, 2.5), title=f"t = {t:.2f}: what the divergence charges")
    left.legend(frameon=False, fontsize=8)
    right.set(
        xlabel="r = −f′(t), the best critic's", ylabel="φ(r)", xlim=(-2, 2), ylim=(-3, 2), title="its weight is t"
    )
    right.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def law(live: bool | None = None) -> Any:
    """eta and the number of noise tokens b in p^2 / (p + eta u), u = 1/b: what a perfect clone's deletions leave."""
    knobs = {
        "eta": Knob("η, noise", 0.2, 0.0, 1.0, 0.01),
        "b": Knob("b noise tokens, u = 1/b", 10, choices=(2, 4, 7, 10, 30, 100, 300, 1000, 32000), whole=True),
    }
    alt = "Left: the next digit's probabilities before and after deletions. Right: which share of a token is deleted."
    return board(draw_law, knobs, alt, live)


def draw_law(eta: float, b: float) -> Figure:
    """The figure of `law`, for a digit that is right with 0.8 and nine others."""
    figure, (left, right) = _two()
    p = np.array([0.8, 0.08, 0.04, 0.03, 0.02, 0.01, 0.008, 0.006, 0.004, 0.002])
    after = effective(p, np.full(p.size, 1.0 / b), eta)
    places = np.arange(p.size)
    left.bar(places - 0.2, p, 0.4, color=GREY, label="p, the model")
    left.bar(places + 0.2, after, 0.4, color=BLUE, label="after deletions")
    left.set(yscale="log", xlabel="digits, the right one first", ylabel="probability", ylim=(1e-5, 1.5))
    left.set_title(f"the right digit: {p[0]:.3f} → {after[0]:.3f}")
    left.set_xticks(places)
    left.legend(frameon=False)
    grid = np.logspace(-4, 0, 200)
    right.plot(grid, rejection(grid, np.full(grid.size, 1.0 / b), eta), color=ORANGE)
    if eta > 0:
        right.axvline(eta / b, color=GREY, linewidth=1)
        right.text(eta / b, 1.03, "p = ηu", ha="center", fontsize=8, color=BLACK)
    right.set(xscale="log", xlabel="p of the token", ylabel="P(<bkspc>) after it", ylim=(0, 1.12), xlim=(1e-4, 1))
    right.set_title(f"η = {eta:.2f}, u = 1/{b:g}", pad=10)
    return figure


def tabular(live: bool | None = None) -> Any:
    """alpha in the optimum of eq. 3 over all policies: data that says `ab`, and noise in execution."""
    knobs = {"alpha": Knob("α, entropy weight", 0.3, choices=ALPHAS)}
    alt = "Left: the best policy at the start. Right: after a wrong token, where it should delete."
    return board(draw_tabular, knobs, alt, live)


@lru_cache
def optimum(alpha: float) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """p(a|s), for a, b, `<eos>` and `<bkspc>`, of the policy that minimises D(chi2 mixture) - alpha H.

    The states are the empty string, `a`, and the wrong `b`. The data is the string `ab`; an insertion is replaced with
    probability 0.1; gamma = 0.9.
    """
    mdp = EditMDP(tokens=2, max_len=3, noise=0.1)
    data = as_flow(data_occupancy(mdp, {(0, 1): 1.0}, 0.9, eta=0.1))
    batch = type(data)(data.pairs[None], data.terminal[None])
    policy = match(mdp, batch, "chi2_mixture", alpha, 0.9, tolerance=1e-6).policy[0]
    start, right, wrong = (tuple(policy[mdp.index[state]].tolist()) for state in ((), (0,), (1,)))
    return start, right, wrong


def draw_tabular(alpha: float) -> Figure:
    """The figure of `tabular`."""
    figure, axes = _two()
    start, _, wrong = optimum(alpha)
    for ax, law_, title, good in zip(
        axes, (start, wrong), ("at the start; the data says a", "after a wrong b"), (0, 3), strict=True
    ):
        bars = ax.bar(range(4), law_, color=[BLUE if place == good else GREY for place in range(4)])
        ax.bar_label(bars, [f"{value:.2f}" for value in law_])
        ax.set_xticks(range(4), ["a", "b", "<eos>", "<bkspc>"])
        ax.set(ylim=(0, 1.1), ylabel="probability", title=title)
    figure.suptitle(f"α = {alpha:g}")
    return figure


def _two() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(10, 3.6), dpi=100, layout="constrained")
    left, right = figure.subplots(1, 2)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    return figure, (left, right)


def _picture(figure: Figure, alt: str) -> str:
    """The picture; its words end with the values that stand in it, which the knobs change."""
    told: list[str] = [figure.get_suptitle()]
    for ax in figure.axes:
        legend = ax.get_legend()
        told += [ax.get_title(), *(text.get_text() for text in (legend.get_texts() if legend else ()))]
    return image(figure, f"{alt} {'; '.join(filter(None, told))}.")


def _slider(ipywidgets: Any, knob: Knob) -> Any:
    look: dict[str, Any] = {"description": knob.label, "style": {"description_width": "14em"}}
    look["layout"] = ipywidgets.Layout(width="36em")
    if knob.choices:
        return ipywidgets.SelectionSlider(options=knob.choices, value=knob.start, **look)
    if knob.whole:
        return ipywidgets.IntSlider(value=int(knob.start), min=int(knob.low), max=int(knob.high), **look)
    return ipywidgets.FloatSlider(value=knob.start, min=knob.low, max=knob.high, step=knob.step, **look)

"""Sliders: the picture follows the knobs, headless it stands still, and what it says is the theory's."""

import math
import re

import pytest
import torch
from matplotlib.figure import Figure

from smlib.objectives.divergences import get
from smlib.theory.chain import Chain
from smlib.widgets import sliders

BOARDS = ("chain", "phi", "law", "tabular")


@pytest.mark.parametrize("name", BOARDS)
def test_headless_there_is_the_static_figure_alone(name, monkeypatch):
    monkeypatch.setenv("SMLIB_HEADLESS", "1")
    assert isinstance(getattr(sliders, name)(), Figure)


@pytest.mark.parametrize("name", BOARDS)
def test_the_picture_follows_the_knobs(name):
    board = getattr(sliders, name)(live=True)
    *knobs, said, picture = board.children
    first = picture.value
    assert re.match(r'<img [^>]*alt="[^"]{20,}" src="data:image/png;base64,', first)
    for knob in knobs:
        knob.value = knob.options[-1] if hasattr(knob, "options") else knob.max
        assert picture.value != first
        first = picture.value
    assert said.value == ""


def test_the_words_of_the_picture_follow_the_knobs():
    *knobs, _, picture = sliders.chain(live=True).children
    assert "ε = 0.1, n = 10; b = 0.00: 0.349 at n; b = 0.50" in picture.value
    knobs[0].value = 0.2
    assert "ε = 0.2, n = 10; b = 0.00: 0.107 at n" in picture.value


def test_what_cannot_be_drawn_is_said_and_the_last_picture_stays():
    def draw(x):
        if x > 0.5:
            raise ValueError("<x> is too large")
        return Figure()

    slider, said, picture = sliders.board(draw, {"x": sliders.Knob("x", 0.2)}, "nothing", live=True).children
    before = picture.value
    slider.value = 0.9
    assert (said.value, picture.value) == ("<b>&lt;x&gt; is too large</b>", before)
    slider.value = 0.3
    assert said.value == ""


def test_a_knob_starts_in_its_range():
    with pytest.raises(ValueError, match="ε starts at 2"):
        sliders.Knob("ε", 2.0)


def test_the_weight_of_the_best_critics_reward_is_the_ratio():
    t = torch.linspace(0.05, 3.0, 60, dtype=torch.float64)
    for name in sliders.PHI:
        record = get(name)
        assert torch.allclose(record.dphi(record.reward(t)), t, rtol=1e-9), name


def test_the_chains_legend_is_its_closed_form():
    left = sliders.draw_chain(0.1, 10, 0.5).axes[0]
    texts = [text.get_text() for text in left.get_legend().get_texts()]
    assert texts == [f"b = {b:.2f}: {Chain(10, 0.1, b).finish():.3f} at n" for b in (0.0, 0.5)]


def test_a_small_alpha_copies_and_deletes_and_a_large_one_wanders():
    start, _, wrong = sliders.optimum(0.01)
    assert start[0] > 0.99
    assert wrong[3] > 0.99
    wandering, _, _ = sliders.optimum(3.0)
    assert wandering[0] < 0.5
    for law in (start, wrong, wandering):
        assert math.isclose(sum(law), 1.0, rel_tol=1e-9)

"""Cost of deletion against size, noise and passes: a line only where there are bases enough, with an honest error."""

import numpy as np
import pytest

from smlib.paper.experiments.arithmetic import deletion_trends, learning
from smlib.paper.figures import deletion_trends as figures
from smlib.paper.sentences import deletion_trends as sentences
from tests.support.made_up_runs import put_planned

RATES = {"mle": 0.3, "bc": 0.5}


def found(difference, half=0.01):
    return {"difference": difference, "low": difference - half, "high": difference + half, "p_value": 0.5}


def rows(*bases):
    return [
        {"shape": shape, "way": "shared", "n_seeds": 1, "parameters": n, "cost": found(cost), "gain": found(0.02)}
        for shape, n, cost in bases
    ]


FOUR = rows(("4x64", 10**5, 0.05), ("8x96", 10**6, 0.03), ("12x192", 10**7, 0.01), ("2x192", 10**6, 0.03))


def test_the_line_is_the_one_through_points_that_lie_on_one():
    line = deletion_trends.by_size(FOUR)
    assert line["status"] == "fitted"
    assert [base["shape"] for base in line["bases"]] == ["4x64", "8x96", "2x192", "12x192"]  # smallest first
    assert line["cost"]["slope"]["difference"] == pytest.approx(-0.02)
    assert line["cost"]["widened"] == 1.0
    assert line["cost"]["far"]["7 billion"]["difference"] == pytest.approx(0.05 - 0.02 * np.log10(7e4), abs=1e-5)
    assert line["gain"]["slope"]["difference"] == pytest.approx(0.0, abs=1e-6)


def test_its_error_is_that_of_least_squares_and_grows_with_distance_and_scatter():
    line = deletion_trends.by_size(FOUR)["cost"]
    x, s = np.array([5.0, 6.0, 6.0, 7.0]), 0.01 / 1.96
    design = np.stack([np.ones(4), x], 1)
    covariance = np.linalg.inv(design.T @ design) * s**2
    t = 4.302653  # of Student's law with two degrees of freedom
    at = np.array([1.0, np.log10(135e6)])
    far = line["far"]["135 million"]
    assert far["high"] - far["difference"] == pytest.approx(t * np.sqrt(at @ covariance @ at), rel=1e-3)
    assert line["slope"]["high"] - line["slope"]["difference"] == pytest.approx(t * np.sqrt(covariance[1, 1]), rel=1e-3)
    width = {name: end["high"] - end["low"] for name, end in line["far"].items()}
    assert width["7 billion"] > width["135 million"]
    scattered = [*FOUR[:3], *rows(("2x192", 10**6, 0.13))]
    wider = deletion_trends.by_size(scattered)["cost"]
    assert wider["widened"] > 5
    assert wider["far"]["135 million"]["high"] - wider["far"]["135 million"]["low"] > 5 * width["135 million"]


def test_below_four_sizes_there_is_no_line_and_that_is_said():
    for few in (FOUR[:3], [], rows(*[(f"{n}x9", 10**6, 0.1) for n in range(4)])):
        line = deletion_trends.by_size(few)
        assert line["status"] == "too few sizes"
        assert "cost" not in line
    (said,) = sentences.size(deletion_trends.by_size(FOUR[:3]))
    assert said.startswith("Size: too few sizes for a line, 3 where 4 are needed; nothing is said of 135 million")
    with_other = [*FOUR[:3], {**FOUR[3], "way": "left out"}]
    assert deletion_trends.by_size(with_other)["status"] == "too few sizes"


def test_the_sentences_say_what_the_line_says_of_larger_models():
    cost, gain, caution = sentences.size(deletion_trends.by_size(FOUR))
    assert "a line through 4 bases of 0.10 to 10.00 million parameters" in cost
    assert (
        "ten times the parameters change the loss in writing by −2.0 points (95 %: −3.6 to −0.4), which tells" in cost
    )
    assert "Drawn on, the loss in writing is −1.3 (" in cost
    assert "points at 135 million parameters and −4.7 (" in cost
    assert "which does not tell its sign" in gain
    assert caution == (
        "Drawing a line on over 3 powers of ten is a guess and no measurement. Some of these bases have 1 seed."
    )


def test_what_no_accuracy_can_be_is_said_to_be_so():
    steep = rows(("4x64", 10**5, 0.5), ("8x96", 10**6, 0.1), ("2x192", 1.1 * 10**6, 0.0), ("3x160", 10**6, 0.2))
    found_ = deletion_trends.by_size(steep)
    assert "reaches differences that no accuracy can have" in sentences.size(found_)[-1]
    assert "reaches" not in sentences.size(deletion_trends.by_size(FOUR))[-1]
    apart = [{**row, "parameters": 2**n * row["parameters"]} for n, row in enumerate(steep)]  # no two of one size
    said = sentences.title({"passes": [], "size": deletion_trends.by_size(apart)})
    assert said.startswith("A line through the sizes leaves open whether it loses or wins at 7 billion (−")
    line = rows(("4x64", 10**5, 0.05), ("8x96", 10**6, 0.03), ("12x192", 10**7, 0.01), ("2x192", 10**8, -0.01))
    sure = deletion_trends.by_size([{**row, "cost": found(row["cost"]["difference"], 1e-4)} for row in line])
    assert "says −4.7 (" in sentences.title({"passes": [], "size": sure})


def test_depth_is_compared_at_equal_size_alone():
    said = sentences.depth(deletion_trends.by_size(FOUR))
    assert said.startswith(
        "Depth at about 1.0 million parameters, the loss in writing: 8 layers +3.0 points (95 %: +2.0 to"
    )
    assert "and 2 layers +3.0" in said
    assert said.endswith("with 1 seed.")
    title = sentences.title({"passes": [], "size": deletion_trends.by_size(FOUR)})
    assert title == "With as many parameters 8 layers lose 3.0 points and 2 layers lose 3.0"
    assert "only one base of each size" in sentences.depth(deletion_trends.by_size(FOUR[:3]))
    assert sentences.depth(deletion_trends.by_size([])) == "Depth: not run."


@pytest.fixture
def planned(tmp_path):
    configs = learning.cells("full")
    for seed in (0, 1):
        for cell in ("mle", "bc-ground_truth-0.2"):
            put_planned(f"{cell}-s{seed}", configs[f"{cell}-s{seed}"], tmp_path, RATES)
    return tmp_path


def test_passes_and_noise_are_read_from_the_plans_runs(planned):
    found = deletion_trends.trends("smoke", FOUR, planned)  # smoke has no run: the full preset's
    assert [row["passes"] for row in found["passes"]] == pytest.approx([4.8 * k for k in range(1, 9)])
    assert found["passes"][0]["cost"] == {"difference": -0.2, "low": -0.2, "high": -0.2}  # of the made-up curves
    assert found["passes"][0]["gain"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert [(row["level"], row["status"]) for row in found["noise"]] == [
        (0.05, "not run"), (0.2, "run"), (0.4, "not run"),
    ]  # fmt: skip
    assert found["noise"][1]["n_seeds"] == 2
    assert found["noise"][1]["cost"]["difference"] == pytest.approx(-0.2, abs=0.1)
    said = sentences.told(found)
    assert "writing has lost nothing to MLE from 5 passes on" in said
    assert "not run: η = 0.05 and 0.4." in said
    table = figures.noise_table(found)
    assert table.loc["η = 0.05", "seeds"] == "not run"


def test_both_panels_are_drawn_and_a_missing_line_is_said(planned):
    whole = deletion_trends.trends("full", FOUR, planned)
    left, right = figures.passes_and_sizes(whole).axes
    assert len(left.lines) == 3  # cost, gain, zero
    assert [line.get_linestyle() for line in right.lines].count(":") == 2
    assert max(max(line.get_xdata()) for line in right.lines if line.get_linestyle() == ":") == pytest.approx(7e9)
    low, high = right.get_ylim()
    assert -25 < low < -20  # made-up passes lose −20 points; the line is not followed to 7 billion
    assert high < 25
    few = deletion_trends.trends("full", FOUR[:2], planned)
    made = figures.passes_and_sizes(few)
    assert made.axes[1].get_title() == "2 of 4 sizes: no line"
    assert made.get_suptitle().replace("\n", " ").endswith("too few sizes for a line")
    assert list(figures.size_table(few).index) == ["4x64", "8x96"]
    only = {**whole, "passes": []}
    assert figures.passes_and_sizes(only).legends[0].get_texts()[0].get_text() == "writing, lost to MLE"
    with pytest.raises(ValueError, match="no run of the study is there"):
        figures.passes_and_sizes({**few, "passes": [], "size": deletion_trends.by_size([])})


def test_one_seed_has_no_interval(tmp_path):
    configs = learning.cells("full")
    for cell in ("mle-s0", "bc-ground_truth-0.2-s0"):
        put_planned(cell, configs[cell], tmp_path, RATES)
    rows_ = deletion_trends.by_pass("full", tmp_path)
    assert rows_[0]["cost"] == {"difference": -0.2, "low": None, "high": None}
    assert "with one seed" in sentences.passes(rows_)
    assert sentences.passes([]) == "Passes over the questions: not run."

"""The common look of figures: the same bytes for the same data, legible, and no torch."""

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from smlib.files import ResultError
from smlib.paper import figures
from smlib.paper.figures import (
    ablations,
    arithmetic,
    divergences,
    families,
    overhead,
    style,
    tasks,
    theory,
    walkthrough,
    words,
)


def drawn() -> Figure:
    made, axes = figures.figure(height=3.0)
    for shift, method in enumerate(figures.METHODS):
        axes.errorbar([0, 1], [shift, shift + 1], yerr=0.1, **figures.method_style(method).kwargs())
    axes.set(xlabel="noise level η", ylabel="accuracy", title="All methods")
    axes.legend()
    return made


def test_equal_figures_are_equal_bytes(tmp_path: Path) -> None:
    one = figures.save(drawn(), "fig3", "full", tmp_path / "a").read_bytes()
    two = figures.save(drawn(), "fig3", "full", tmp_path / "b").read_bytes()
    assert one == two
    assert one.startswith(b"\x89PNG")
    assert b"matplotlib" not in one.lower()


def test_a_figure_is_wide_enough_for_print(tmp_path: Path) -> None:
    png = figures.save(drawn(), "fig3", "full", tmp_path).read_bytes()
    width, height = struct.unpack(">II", png[16:24])
    assert (width, height) == (1400, 600)


def test_only_the_full_preset_lands_in_the_committed_folder(tmp_path: Path) -> None:
    assert figures.figure_path("fig3", "full", tmp_path) == tmp_path / "fig3.png"
    for preset in ("smoke", "quick", "paper"):
        assert figures.figure_path("fig3", preset, tmp_path) == tmp_path / preset / "fig3.png"


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="unknown preset 'fast'"):
        figures.figure_path("fig3", "fast", tmp_path)
    with pytest.raises(ResultError, match="cannot name a figure"):
        figures.figure_path("../fig3", "full", tmp_path)
    with pytest.raises(ResultError, match=r"no style for method 'smm'; known: mle, bc, sm"):
        figures.method_style("smm")


def test_methods_differ_without_colour() -> None:
    looks = list(figures.METHODS.values())
    assert len({look.marker for look in looks}) == len(looks)
    assert len({str(look.linestyle) for look in looks}) == len(looks)
    assert len({look.color for look in looks}) == len(looks)


def test_figures_tables_and_status_load_no_torch() -> None:
    program = "import sys, smlib.paper.figures, smlib.paper.tables, smlib.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_predicted_gain_is_measured_from_mle_at_temperature_one() -> None:
    labels = {"mle / t1": 0.5, "mle / truncation": 0.52, "bc-random-0.2 / t1": 0.47, "sm-random-0.2 / t1": 0.6}
    item = {"rows": [{"label": k, "ours": v} for k, v in labels.items()]}
    table = arithmetic.predicted_gain(item)
    assert table.iloc[:, 0].tolist() == ["+2.0", "-3.0"]
    assert table.index[1] == "BC, temperature 1, random noise η = 0.2"


def test_a_curve_has_the_quartiles_of_its_turns() -> None:
    turns = {"mle": [[1.0, 1.0, 2.0]], "sm": [[1.5, 2.0, 8.0]]}
    measured = {"noise": {"x": [0.1], "mle": [1.0], "sm": [2.0], "turns": turns}}
    made = overhead.curves(measured)
    bar = made.axes[0].collections[-1].get_segments()[0]  # type: ignore[attr-defined]
    assert bar[:, 1].tolist() == [1.75, 3.0]  # of 1.5, 2 and 4, the ratios turn by turn
    assert made.axes[0].lines[-1].get_ydata().tolist() == [2.0]  # type: ignore[union-attr]


def test_the_papers_errors_of_a_ratio_are_those_of_its_parts() -> None:
    assert overhead.PAPER["text"] == pytest.approx((5.3 / 1.5, 8.1 / 1.5), rel=1e-12)
    relative = (0.5 / 5.3) ** 2 + (0.1 / 1.5) ** 2
    assert overhead.PAPER_ERRORS["text"][0] == pytest.approx(5.3 / 1.5 * relative**0.5, rel=1e-12)


def completion(actions: list[str], correct: bool = True) -> dict[str, object]:
    question = "In base 7, what is 2 + 3? Solution: "
    return {"question": question, "answer": "5", "mistake": ["6"], "actions": actions, "correct": correct}


def test_the_walkthrough_shows_what_stands_after_each_action() -> None:
    actions = ["6", "4", "<bkspc>", "<bkspc>", "<bkspc>", "5", "<eos>"]
    assert walkthrough.states(actions) == ["6", "64", "6", "", "", "5", "5"]
    assert walkthrough.deleted(actions) == {0, 1}
    rows = [completion(["<eos>"], False), completion(["<bkspc>", "4", "<bkspc>", "5", "<eos>"])]
    item = {"details": {"completions": {"sm": rows}}}
    told = "The wrong digit 6 was given; the model deletes it, writes 4, deletes it, writes 5, ends."
    assert f"{told} The answer 5 is right." in walkthrough.alt_text(item)
    written = [text.get_text() for text in walkthrough.walkthrough(item).axes[0].texts]
    assert [word for word in written if word in ("delete", "end", "given")] == ["delete", "delete", "end", "given"]
    with pytest.raises(ResultError, match="none of the 1 completions"):
        walkthrough.recorded({"details": {"completions": {"sm": rows[:1]}}})


def test_an_exact_identity_is_said_to_be_exact() -> None:
    rows = [
        {"claim": "duality of f and φ: tv", "where": "eq. 11", "value": 0.0, "bound": 1e-9},
        {"claim": "duality of f and φ: js", "where": "eq. 11", "value": 1e-16, "bound": 1e-9},
    ]
    axis = theory.claims(rows).axes[0]
    assert [text.get_text() for text in axis.texts] == ["exactly 0"]
    assert axis.get_yticklabels()[0].get_text() == "duality of f and φ: total variation (eq. 11)"


def test_divergences_differ_without_colour() -> None:
    drawn_lines = [str(divergences.DASHES[name]) for name in divergences.DASHES if name != "js"]
    assert len(set(drawn_lines)) == len(drawn_lines)
    assert set(divergences.DASHES) == set(divergences.COLORS) - {"chi2_mixture"}


def ablated(names: list[str], value: float = 0.5) -> list[dict[str, object]]:
    rate = {"value": value, "low": value - 0.1, "high": value + 0.1}
    shares = {depth: dict.fromkeys(ablations.RATES, rate) for depth in ("1", "2")}
    return [{"name": name, "title": name, "n_seeds": 1, "recovery": shares, "accuracy": {"t1": rate}} for name in names]


def test_every_method_has_one_row_in_its_family() -> None:
    rows = ablated(["dagger-rollout_burst=4", "bc", "sm-default", "dagger", "a new one"])
    groups = {title: [row["name"] for row in group] for title, group in families.grouped(rows).items()}
    assert groups == {
        "cloned": ["bc"],
        "SequenceMatch": ["sm-default"],
        "DAgger": ["dagger", "dagger-rollout_burst=4"],
        "others": ["a new one"],
    }
    made = ablations.recovery({"methods": [*rows, {"name": "mle", "title": "MLE", "recovery": {}}]})
    labels = [label.get_text() for label in made.axes[0].get_yticklabels()]
    assert labels == [f"{name} (1 seed)" for names in groups.values() for name in names]


def test_a_variant_has_its_methods_colour() -> None:
    for name, method in {"sm-burst=4": "sm", "dagger-rollout_noise=0.1": "dagger", "direct-tv": "direct-tv"}.items():
        assert families.look(name) == figures.method_style(method)


def test_the_finding_follows_the_result() -> None:
    for value, said in ((0.3, "of 1 of 1"), (0.5, "of 0 of 1")):
        made = ablations.methods({"methods": [*ablated(["mle"]), *ablated(["bc"], value)]})
        assert f"the intervals {said} other methods lie below MLE's 0.500" in words.in_words(made)


def test_text_can_be_read_on_a_white_page() -> None:
    assert style.contrast("#000000") == pytest.approx(21.0)
    assert style.contrast(figures.PALETTE["grey"]) >= style.CONTRAST
    assert style.readable("#000000") == "#000000"
    for color in figures.PALETTE.values():
        assert style.contrast(style.readable(color)) >= style.CONTRAST
    assert style.readable(figures.PALETTE["blue"]) == figures.PALETTE["blue"].lower()


def test_a_value_far_below_is_marked_at_the_edge() -> None:
    near, bc = ({"value": v, "low": v - 0.03, "high": v + 0.03} for v in (0.68, 0.7))
    far = {"value": 0.4, "low": 0.36, "high": 0.44}
    points = [
        {"value": 0.01, "default": True, "accuracy": near},
        {"value": 1.0, "default": False, "accuracy": far, "difference": -0.28, "low": -0.3, "high": -0.2},
    ]
    study = {"sweeps": [{"title": "α", "n_seeds": 3, "bc": bc, "points": points}], "reference": {"mle": bc}}
    made = ablations.sweeps(study)
    assert made.axes[0].get_ylim()[0] > 0.6
    assert [text.get_text() for text in made.axes[0].texts] == ["0.40*"]
    assert "1: 0.4." in words.in_words(made)  # what it is, and not where its arrow stands
    assert "1 of 1 changed setting differ from the default, each by itself: α = 1 (-0.28)" in words.in_words(made)


def test_a_single_regime_has_room_for_its_axes() -> None:
    """At `quick` there is one: matplotlib laid nothing out and said so on the terminal, which is an error in tests."""
    difference = {"difference": 0.01, "low": -0.02, "high": 0.04}
    row = {
        "decoding": "t1", "title": "the default", "n_seeds": 1, "accuracy": {"mle": {"value": 0.7}},
        "differences": dict.fromkeys(("sm-bc", "sm-mle", "bc-mle"), difference),
    }  # fmt: skip
    assert style.png(ablations.regimes({"regimes": [row]}))


def test_two_panels_share_a_range_where_it_shows_both() -> None:
    def limits(theirs: float) -> list[tuple[float, float]]:
        cells = [
            {"method": m, "level": 0.2, "value": 0.5 + i / 10, "low": 0.45, "high": 0.8, "paper": theirs + i / 10,
             "paper_error": 0.1}
            for i, m in enumerate(("mle", "bc", "sm"))
        ]  # fmt: skip
        return [axis.get_ylim() for axis in tasks.methods({"cells": cells, "comparisons": []}).axes]

    near, far = limits(0.4), limits(30.0)
    assert near[0] == near[1]
    assert far[0] != far[1]
    assert far[0][1] - far[0][0] == pytest.approx(far[1][1] - far[1][0])


def test_a_difference_stands_beside_the_papers() -> None:
    cells = [{"method": m, "level": 0.2, "paper": v} for m, v in (("mle", 0.49), ("sm", 0.56), ("bc", None))]
    test = {"level": 0.2, "difference": 0.01, "low": -0.02, "high": 0.04}
    pairs = [{**test, "first": "sm", "second": "mle"}, {**test, "first": "sm", "second": "bc"}]
    lines = tasks.differences({"cells": cells, "tests": pairs}).axes[0].lines
    strokes = [line.get_xdata().tolist() for line in lines if line.get_marker() == "|"]  # type: ignore[union-attr]
    assert strokes == [[pytest.approx(0.07, abs=1e-12)], []]  # the last is the legend's

"""The confirmation of direct matching: fresh seeds, test questions, four claims, and nothing judged beside them."""

import pytest

from smlib.paper import figures
from smlib.paper.experiments.ablations import confirmation, direct_matching, regimes
from smlib.paper.experiments.ablations import study as ablations
from smlib.paper.experiments.arithmetic import divergences
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.judging.verdicts import holm
from smlib.paper.experiments.tasks import mathematics, translation
from smlib.paper.figures import ablations as ablation_figures
from tests.support.made_up_runs import replace_training


def seeds_of_other_runs() -> set[int]:
    grids = [
        arithmetic.preset("full").grid(),
        ablations.cells("full", ablations.EVERYTHING),
        translation.cells("full"),
        *(mathematics.cells(item, "full") for item in mathematics.TASKS),
        *({k: c[-1] for k, c in cells.items()} for cells in (divergences.cells("full"), regimes.cells("full"))),
        {k: c[-1] for k, c in direct_matching.cells("full").items()},
    ]
    return {config.training.seed for grid in grids for config in grid.values()}


def test_the_methods_differ_in_the_objective_alone_and_no_other_run_has_their_seeds() -> None:
    cells = confirmation.cells("full")
    assert not set(confirmation.SEEDS) & seeds_of_other_runs()
    for seed in confirmation.SEEDS:
        for task in confirmation.TASKS:
            same = {name: cells[f"{task}/{name}-s{seed}"] for name in ("mle", "direct", "direct-tv")}
            assert {c.base.task for c in same.values()} == {task}
            assert {c.n_train for c in same.values()} == {50_000}
            assert len({(c.base, c.noise, c.n_test, c.training.steps, c.training.seed) for c in same.values()}) == 1
            assert same["direct"].training.objective.mixture
            assert same["direct-tv"].training.objective.divergence == "tv"
    assert cells["mul/mle-s3"].base == mathematics.cells("tab6", "full")["mle-s0"].base
    assert len(cells) == 30


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    replace_training(monkeypatch, confirmation)
    monkeypatch.setattr(confirmation, "PRESETS", {"smoke": ("add_or_sub_in_base", "mul")})
    return confirmation.study("smoke", tmp_path)


def test_four_claims_are_judged_together_and_greedy_answers_not_at_all(made_up, tmp_path) -> None:
    rows = made_up["rows"]
    assert [(row["regime"], row["decoding"]) for row in rows] == [
        (task, decoding) for task in confirmation.TASKS for decoding in ("t1", "greedy")
    ]
    claims = [test for row in rows if row["decoding"] == "t1" for test in row["over_mle"].values()]
    assert len(claims) == 4
    assert [c["p_holm"] for c in claims] == pytest.approx(holm([c["p_value"] for c in claims]), abs=1e-6)
    for row in rows:
        for name, test in row["over_mle"].items():
            assert test["n_seeds"] == len(confirmation.SEEDS)
            gap = row["accuracy"][name]["value"] - row["accuracy"]["mle"]["value"]
            assert test["difference"] == pytest.approx(gap, abs=2e-4)
            assert ("p_holm" in test) == ("confirmed" in test) == (row["decoding"] == "t1")
    # Made-up likelihood is right in 40 % of its answers, the rest in 60 %.
    assert all(c["confirmed"] == (c["difference"] > 0 and c["p_holm"] < 0.05) for c in claims)
    assert any(c["confirmed"] for c in claims)
    drawn = figures.save(ablation_figures.direct({"confirmation": rows}, "confirmation"), "drawn", "smoke", tmp_path)
    assert drawn.stat().st_size > 5_000
    table = ablation_figures.direct_table({"confirmation": rows}, "confirmation")
    assert table["p, Holm"].tolist().count("not tested") == 4
    assert table["confirmed"].tolist().count("—") == 4


def test_a_significant_loss_confirms_nothing(tmp_path, monkeypatch) -> None:
    replace_training(monkeypatch, confirmation)
    monkeypatch.setattr(confirmation, "PRESETS", {"smoke": ("mul",)})
    worse = {"difference": -0.1, "low": -0.2, "high": -0.01, "p_value": 1e-6, "n_seeds": 5}
    monkeypatch.setattr(direct_matching, "_over", lambda ours, theirs: dict(worse))
    claims = confirmation.study("smoke", tmp_path)["rows"][0]["over_mle"].values()
    assert [claim["confirmed"] for claim in claims] == [False, False]


def test_presets_for_readers_without_hours_run_none_of_it(tmp_path) -> None:
    for preset in ("smoke", "quick", "paper"):
        assert confirmation.cells(preset) == {}
    assert confirmation.study("quick", tmp_path) == {"rows": [], "sources": []}
    assert regimes.REGIMES[confirmation.REGIME].changes == {"n_train": 50_000}

"""Divergences and ablations in the learning regime: one change of the plan each, one command, `not run` until then."""

import dataclasses

import pytest

from smlib.paper.experiments.ablations import in_learning, remaining, study
from smlib.paper.experiments.arithmetic import divergences, learning, learning_variants
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.runs.finetuning import fine_tuned
from smlib.paper.experiments.tasks import queue
from smlib.paper.figures.variants import variants_table
from smlib.paper.sentences.hours import hours
from tests.support.made_up_runs import put_planned

RATES = {"mle": 0.3, "bc": 0.5, "sm": 0.7}


def test_every_divergence_changes_nothing_else():
    made = learning_variants.cells("full")
    plan = learning.cells("full")
    assert made["sm-s0"].config == plan["sm-ground_truth-0.2-s0"]
    assert made["bc-s0"].config == plan["bc-ground_truth-0.2-s0"]
    usual = made["sm-s0"].config
    others = {name: cell for name, cell in made.items() if cell.item == divergences.ITEM}
    assert len(others) == len(divergences.VARIANTS) - 1
    for cell in others.values():
        goal = dataclasses.replace(
            cell.config.training.objective,
            divergence=usual.training.objective.divergence,
            mixture=usual.training.objective.mixture,
        )
        assert dataclasses.replace(cell.config.training, objective=goal) == usual.training
        assert cell.config.base == learning.BASE
        assert not cell.test
    assert set(queue.PLANS["g1"]("full")) == {cell.kept_as for cell in others.values()}
    assert set(learning_variants.titles()) == {label.removesuffix("-s0") for label in made}


def test_every_ablation_has_the_learning_base_and_the_headlines_noise():
    made = in_learning.cells("full", (0, 1))
    names = {label.rsplit("-s", 1)[0] for label in made}
    assert names == set(in_learning.titles())
    assert {label.rsplit("-s", 1)[1] for label in made} == {"0", "1"}
    assert all(cell.config.base == learning.BASE and cell.config.training.steps == 6_000 for cell in made.values())
    noisy = [cell for cell in made.values() if cell.config.training.eta]
    assert {cell.config.training.eta for cell in noisy} == {0.2}
    assert made["sm-alpha=0.1-s0"].config.training.objective.alpha == 0.1
    assert made["sm-backspace=False-s0"].without == ("backspace",)
    assert made["gail-s1"].config.training.times_seen == 1.0
    old = study.cells("full")
    assert old["sm-alpha=0.1-s0"].base == arithmetic.preset("full").base  # whose runs are where they were


def test_a_smoke_run_of_each_fills_its_table(tmp_path, capsys):
    given = ["--preset", "smoke", "--results-dir", str(tmp_path)]
    queue.main([*given, "--item", "g1", "--limit", "1"])
    assert capsys.readouterr().out.splitlines()[-1] == "1 runs trained"
    rows = {row["name"]: row for row in learning_variants.study("smoke", tmp_path)}
    run = [name for name, row in rows.items() if row["status"] == "run"]
    assert len(run) == 1
    cell = learning_variants.cells("smoke")[f"{run[0]}-s0"]
    found = fine_tuned(**cell.where("smoke", tmp_path))
    assert set(found) & {"val", "test"} == {"val"}
    learning_variants.main([*given, "--only", "sm"])
    in_learning.main([*given, "--only", "mle", "--only", "sm-alpha=0.1"])
    assert capsys.readouterr().out.count(" -> ") == 3
    table = variants_table(in_learning.latest("smoke", tmp_path))
    assert table.loc["SequenceMatch", "seeds"] == "1"
    assert table.loc["entropy weight α: 0.1", "over SequenceMatch, points"].count("(") == 1
    assert table.loc["GAIL", "seeds"] == "not run"
    assert {row["name"]: row for row in learning_variants.latest("smoke", tmp_path)}[run[0]]["over"]
    with pytest.raises(ValueError, match="unknown variant tv; known: bc, sm, js"):
        learning_variants.train(learning_variants.cells("smoke"), "smoke", tmp_path, ["tv"])


def test_what_is_left_is_counted_and_priced_by_what_is_there(tmp_path):
    nothing = remaining.regime("full", tmp_path)
    assert (nothing["spent"], nothing["runs"], nothing["hours"]) == (0.0, 0, None)
    said = hours(nothing)
    assert said.startswith(
        "- No run of the learning regime is there.\n- Left of its plans, at a price that no run tells"
    )
    assert "the grid of Figure 3 (70 runs)" in said
    plan = learning.cells("full")
    for label in ("mle-s0", "bc-ground_truth-0.2-s0", "sm-ground_truth-0.2-s0"):
        put_planned(label, plan[label], tmp_path, RATES)
    log = tmp_path / "full" / "timings.jsonl"
    seconds = {"mle": 3600.0, "bc": 7200.0, "sm": 10800.0}
    runs = learning.finished("full", tmp_path)
    log.write_text(
        "".join(
            f'{{"cpu_s":{seconds[label.split("-")[0]]},"hash":"{run.path.stem.rsplit("-", 1)[1]}","item":"fig3",'
            f'"name":"{label}","resumed":false}}\n'
            for label, run in runs.items()
        )
    )
    found = remaining.regime("full", tmp_path)
    assert (found["spent"], found["runs"], found["bases"]) == (6.0, 3, 0)
    left = {part["title"]: part for part in found["left"]}
    grid = left["the grid of Figure 3"]
    # 4 of MLE, 29 of BC and 34 of SequenceMatch
    assert (grid["runs"], grid["hours"]) == (67, 4 * 1.0 + 29 * 2.0 + 34 * 3.0)
    assert left["Table 6"]["runs"] == left["Table 7"]["runs"] == 18
    assert left["divergences"] == {"title": "divergences", "runs": 5, "hours": 15.0}
    assert found["hours"] == pytest.approx(sum(part["hours"] for part in found["left"]), abs=0.1)
    assert "the grid of Figure 3 (67 runs, 164.0 h)" in hours(found)
    assert hours({**found, "left": []}).endswith("Nothing is left of its plans.")

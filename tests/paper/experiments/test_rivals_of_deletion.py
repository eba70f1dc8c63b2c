"""Rivals of deletion: the runs differ in what they say they do; smoke runs fill the table, which says what lacks."""

import pytest

from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.arithmetic import rivals_of_deletion as rivals
from smlib.paper.experiments.runs.answers import OPERATORS
from smlib.paper.experiments.runs.kept import weights_of


def test_the_runs_are_the_plans_or_differ_by_what_they_say():
    made, plan = rivals.cells("full", (0, 1)), learning.cells("full")
    assert list(made)[: len(rivals.WAYS)] == [f"rival-{way}-s0" for way in rivals.WAYS]
    shared = {label: cell.kept_as for label, cell in made.items() if cell.kept_as in plan}
    assert shared == {
        f"rival-{way}-s{seed}": name.format(seed)
        for seed in (0, 1)
        for way, name in (("mle", "mle-s{}"), ("bc", "bc-ground_truth-0.2-s{}"), ("sm", "sm-ground_truth-0.2-s{}"))
    }
    assert all(made[label].config == plan[name] for label, name in shared.items())
    for way in ("soft", "masked"):
        config = made[f"rival-{way}-s0"].config
        assert (config.training.eta, config.training.steps) == (0.2, 6_000)
        assert config.base == learning.BASE
    exact = {name: made[f"rival-{name}-s0"].config.training for name in rivals.WAYS if name.startswith("exact")}
    assert {t.group for t in exact.values()} == {8}
    assert {(t.refill, t.times_seen) for t in exact.values()} == {(32, 1.0)}
    assert {name: t.rollout_noise for name, t in exact.items() if t.rollout_noise} == {"exact-tv-noise": 0.2}
    assert {name: t.eta for name, t in exact.items() if name.endswith("append")} == {
        "exact-tv-append": 0.0, "exact-chi2-append": 0.0
    }  # fmt: skip
    with pytest.raises(ValueError, match="unknown way hard; known: mle, bc"):
        rivals.cells("full", ways=("hard",))


def test_smoke_runs_fill_the_table(tmp_path, capsys):
    given = ["--preset", "smoke", "--results-dir", str(tmp_path), "--weights-dir", str(tmp_path / "weights")]
    rivals.main([*given, "--way", "mle", "--way", "soft", "--way", "masked", "--way", "exact-chi2-append"])
    assert capsys.readouterr().out.count(" -> ") == 4
    cell = rivals.cells("smoke")["rival-soft-s0"]
    assert weights_of(cell.config, cell.kept_as, tmp_path / "weights").exists()
    table = rivals.study("smoke", results_dir=tmp_path)
    rows = {(row["way"], row["decoding"]): row for row in table["rows"]}
    assert rows["bc", "t1"] == {"way": "bc", "decoding": "t1", "status": "not run"}
    assert len(table["sources"]) == 4
    soft, mle = rows["soft", "t1"], rows["mle", "t1"]
    assert soft["status"] == "run"
    assert soft["passes"] > soft["tokens"] > 0  # every deletion is read
    assert mle["passes"] == mle["tokens"]
    assert set(soft["recovery"]) == {"1", "2", "3", "4"}
    assert "recovery" not in mle
    assert "recovery" not in rows["masked", "t1"]
    for rule in OPERATORS:
        operated = rows["mle", rule]
        assert operated["passes"] <= operated["tokens"]
        assert set(operated["recovery"]) == {"1", "2", "3", "4"}
    assert rows["mle", "delete_0.2"]["recovery"]["1"]["all_removed"] > 0  # a beginner finds most digits unlikely
    assert mle["over_mle"]["difference"] == 0.0
    assert rivals.study("quick", results_dir=tmp_path)["sources"] == []

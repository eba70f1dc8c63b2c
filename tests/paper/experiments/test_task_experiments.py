"""Experiments 07, 09, 10, 11 and 12 on made-up runs: what they compare, what they write, what their figures draw."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from smlib.evaluation import PairedTest
from smlib.paper import figures
from smlib.paper.experiments.ablations import direct_matching, regimes, rivals
from smlib.paper.experiments.ablations import study as ablations
from smlib.paper.experiments.ablations.sweeps import SWEEPS
from smlib.paper.experiments.arithmetic import divergences
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.judging import method_tables, scores
from smlib.paper.experiments.report import summary as report
from smlib.paper.experiments.runs.pretraining import PretrainConfig
from smlib.paper.experiments.tasks import in_learning, mathematics, queue, translation
from smlib.paper.figures import ablations as ablation_figures
from smlib.paper.figures import divergences as divergence_figures
from smlib.paper.figures import report as report_figures
from smlib.paper.figures import tasks
from smlib.paper.figures.variants import tasks_table
from smlib.paper.results import ITEMS, read_item
from tests.support.made_up_runs import replace_training


def drawn(made: Figure, folder: Path) -> None:
    assert figures.save(made, "drawn", "smoke", folder).stat().st_size > 5_000


def test_a_spike_is_three_times_the_median_before_it() -> None:
    norms = np.ones(20)
    norms[10], norms[15], norms[2] = 3.1, 2.9, 100.0  # the third has too little before it
    assert divergences.spikes(norms, window=5).nonzero()[0].tolist() == [10]
    assert not divergences.spikes([5.0, 50.0], window=5).any()
    with pytest.raises(ValueError, match="at least 1"):
        divergences.spikes(norms, window=0)


def test_blocks_are_shares_of_consecutive_steps() -> None:
    flags = np.array([1, 1, 0, 0, 1, 0, 1], bool)
    assert divergences.blocks(flags, 3).tolist() == pytest.approx([2 / 3, 1 / 3], abs=1e-12)
    with pytest.raises(ValueError, match="at least two"):
        divergences.blocks(flags, 4)


def test_divergences_differ_in_nothing_but_the_divergence() -> None:
    cells = {name: config for name, (_, _, config) in divergences.cells("smoke").items()}
    objectives = {n: c.training.objective for n, c in cells.items() if not n.startswith("bc")}
    assert {(o.alpha, o.gamma, o.beta_floor, o.bc_steps) for o in objectives.values()} == {
        (o.alpha, o.gamma, o.beta_floor, o.bc_steps) for o in list(objectives.values())[:1]
    }
    assert objectives["js-s0"].divergence == "js"
    assert not objectives["js-s0"].mixture
    assert objectives["chi2_mixture-s0"].mixture
    assert len({c.training.eta for c in cells.values()}) == 1


@pytest.mark.parametrize("name", ["smoke", "quick", "full"])
def test_presets_are_complete(name: str) -> None:
    for item in mathematics.TASKS:
        configs = mathematics.cells(item, name)
        assert {c.base.task for c in configs.values()} == {mathematics.TASKS[item]}
        assert all(c.training.eta == 0.0 for n, c in configs.items() if n.startswith("mle"))
    assert {c.noise for n, c in translation.cells(name).items() if not n.startswith("mle")} == {"random"}
    assert ablations.DEFAULT + "-s0" in ablations.cells(name)
    assert divergences.cells(name)


def test_full_tables_have_the_columns_of_the_paper() -> None:
    for item, levels in (
        *((i, mathematics.preset(i, "full").runs.levels) for i in mathematics.TASKS),
        ("tab5", translation.preset("full").levels),
    ):
        labels = {method_tables.label(m, v) for m in method_tables.METHODS for v in levels}
        assert labels == set(ITEMS[item].numbers)


def test_translation_has_a_base_of_other_kinds_in_the_learning_regime() -> None:
    known, made = translation.cells("full"), translation.cells("full", "learning")
    assert set(made) == set(known)
    bases = {c.base for c in made.values()}
    assert [(b.other_kinds, b.mixture, b.task, b.model.layers) for b in bases] == [(True, None, "translation", 8)]
    assert {(c.training.steps, c.training.learning_rate, c.training.eval_every) for c in made.values()} == {
        (6_000, 1e-3, 0)
    }
    assert not any(c.base.other_kinds for c in known.values())
    assert translation.preset("paper", "learning") == translation.preset("paper")
    with pytest.raises(ValueError, match="unknown regime 'new'; known: known, learning"):
        translation.preset("full", "new")
    with pytest.raises(ValueError, match="other_kinds=True is of translation; a base model for mul reads a mixture"):
        PretrainConfig(task="mul", other_kinds=True)


def test_a_smoke_translation_learns_from_a_base_of_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    translation.main(["--preset", "smoke", "--results-dir", str(tmp_path), "--limit", "1"])
    assert "1 of 3: mle-s0 -> " in capsys.readouterr().out
    config = translation.cells("smoke", "learning")["mle-s0"]
    run = translation.translate(config, "mle-s0", preset="smoke", results_dir=tmp_path)
    assert run.cached
    assert set(run["test"]) == set(translation.DECODINGS)  # type: ignore[call-overload]
    rows = {(row["method"], row["level"]): row for row in in_learning.latest("tab5", "smoke", tmp_path)}
    assert (rows["mle", 0.2]["status"], rows["bc", 0.2]["status"]) == ("run", "not run")
    shown = tasks_table(list(rows.values()), digits=1)
    assert shown.loc["MLE", "η = 0.2"].endswith("(1 of 1 seeds)")
    assert shown.loc["BC", "η = 0.2"] == "not run"
    pairs = translation._pairs(config.base, config.task())  # type: ignore[arg-type]
    assert len(pairs) == config.base.questions  # type: ignore[union-attr]
    assert not any(c.isdigit() for pair in pairs for c in pair.answer)


@pytest.mark.parametrize("item", ["tab6", "tab7"])
def test_a_table_of_the_learning_regime_says_what_is_there(item: str, tmp_path: Path) -> None:
    queue.main(["--preset", "smoke", "--item", item, "--results-dir", str(tmp_path), "--only", "mle-s0"])
    rows = {row["method"]: row for row in in_learning.latest(item, "smoke", tmp_path)}
    assert {m: row["status"] for m, row in rows.items()} == {"mle": "run", "bc": "not run", "sm": "not run"}
    assert 0.0 <= rows["mle"]["value"] <= 1.0
    planned = in_learning.study(item, "full", tmp_path)
    assert {(row["method"], row["level"]) for row in planned} == {(m, v) for m in rows for v in (0.02, 0.2)}
    assert {row["planned"] for row in planned} == {3}


def test_unknown_tables_name_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown table 'tab4'; known: tab5, tab6, tab7"):
        in_learning.study("tab4", "full")
    with pytest.raises(ValueError, match="known: tab6, tab7"):
        mathematics.preset("tab5", "quick")


def paired(difference: float) -> PairedTest:
    return PairedTest(difference, difference - 0.01, difference + 0.02, 0.001, 3, 100, "made up")


def test_claims_take_the_direction_of_the_paper() -> None:
    tests = {(a, b, v): paired(0.05) for v in (0.02, 0.2) for a, b in method_tables.PAIRS}
    found = {c.claim: c for c in method_tables.comparisons("tab7", tests)}
    assert set(found) == {"SM > MLE, η = 0.02", "BC > SM, η = 0.02", "SM > MLE, η = 0.2", "SM > BC, η = 0.2"}
    turned = found["BC > SM, η = 0.02"]  # the paper: BC 0.07, SM 0.06
    assert turned.paper == pytest.approx(0.01)
    assert (turned.test.difference, turned.test.low, turned.test.high) == (-0.05, -0.07, -0.04)


def test_tables_of_methods_are_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, mathematics)
    study = mathematics.run("tab6", "smoke", tmp_path)
    written = read_item("tab6", "smoke", tmp_path)
    assert written["verdict"] == study["verdict"] != "reproduced"  # one seed
    assert [row["label"] for row in written["rows"]] == ["MLE / η = 0.2", "BC / η = 0.2", "SM / η = 0.2"]  # type: ignore[attr-defined]
    details = written["details"]
    assert isinstance(details, dict)
    for made in (tasks.methods(details), tasks.differences(details), tasks.sizes(details)):
        drawn(made, tmp_path)
    assert tasks.cell_table(details).loc["SM", "paper, η = 0.2"] == "0.56 ± 0.04"
    assert len(tasks.pair_table(details)) == len(method_tables.PAIRS)
    assert len(tasks.claim_table(details["comparisons"])) == 2


def test_divergences_are_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, divergences)
    study = divergences.run("smoke", tmp_path)
    details = read_item("g1", "smoke", tmp_path)["details"]
    assert isinstance(details, dict)
    assert [row["name"] for row in details["rows"]] == list(divergences.VARIANTS)
    assert study["rows"][1]["outside_domain"] == [0.15]
    drawn(divergence_figures.comparison(details), tmp_path)
    drawn(divergence_figures.traces(details), tmp_path)
    assert len(divergence_figures.table(details)) == 6


def test_ablations_are_written_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, ablations)
    ablations.study("smoke", tmp_path)
    details = read_item("ablations", "smoke", tmp_path)["details"]
    assert isinstance(details, dict)
    assert {s["title"] for s in details["sweeps"]} == {
        "entropy weight α",
        "training questions",
        "offset head",
        "backspace",
    }
    assert all(sum(p["default"] for p in s["points"]) == 1 for s in details["sweeps"])
    for made in (ablation_figures.sweeps, ablation_figures.methods, ablation_figures.recovery):
        drawn(made(details), tmp_path)
    table = ablation_figures.method_table(details)
    assert list(table.index[:2]) == ["MLE", "SequenceMatch"]
    assert table.loc["MLE", "step / MLE's"] == "1.00 ×"
    assert len(ablation_figures.finding_table(details)) == 4
    assert details["critic"] == {"largest": 0.3, "last_half": 0.15}
    assert ablation_figures.rivalry_table(details).index.unique().tolist() == [
        "SequenceMatch − BC",
        "SequenceMatch − MLE",
        "offline IQLearn − BC",
        "GAIL − BC",
        "direct matching, χ²-mixture − MLE",
    ]


def test_rivals_are_compared_over_the_seeds_and_rules_that_both_have() -> None:
    def answers(**bits: str) -> dict[str, object]:
        return {"val": {decoding: {"correct": c} for decoding, c in bits.items()}}

    runs = {
        "mle-s0": answers(t1="0101", greedy="0101"),
        "mle-s1": answers(t1="0101", greedy="0101"),
        "direct-s0": answers(t1="1111", greedy="0101"),
        "gail-s0": answers(t1="0000", greedy_exclude="0000"),
    }
    rows = rivals.rivalries(runs)
    assert [(r["first"], r["second"], r["decoding"], r["n_seeds"], r["difference"]) for r in rows] == [
        ("direct matching, χ²-mixture", "MLE", "t1", 1, 0.5),
        ("direct matching, χ²-mixture", "MLE", "greedy", 1, 0.0),
    ]
    # Of a method that deletes the greedy answers without repetition, of one that does not the greedy ones.
    with_sm = runs | {"sm-default-s0": answers(t1="0000", greedy="0000", greedy_exclude="1111")}
    found = {(r["first"], r["decoding"]): r["difference"] for r in rivals.rivalries(with_sm)}
    assert found["SequenceMatch", "greedy_exclude"] == 0.5
    assert all(r["p_holm"] >= r["p_value"] for r in rivals.rivalries(with_sm))


def test_gail_has_new_rollouts_under_the_noise_of_its_data_and_direct_matching_clean_data() -> None:
    cells = ablations.cells("full", ablations.EVERYTHING)
    gail, direct, mle = cells["gail-s0"], cells["direct-s0"], ablations.shared("full")["mle-s0"]
    assert (gail.training.rollout_noise, gail.training.times_seen) == (gail.training.eta, 1.0)
    assert gail.training.eta == cells["bc-s0"].training.eta
    assert (direct.noise, direct.training.eta, direct.decodings) == (mle.noise, mle.training.eta, mle.decodings)
    assert cells["direct-tv-s0"].training.objective.divergence == "tv"


def test_a_sweep_compares_over_the_seeds_that_all_its_runs_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_seeds = dataclasses.replace(arithmetic.preset("smoke"), seeds=(0, 1))
    monkeypatch.setattr(arithmetic, "PRESETS", {**arithmetic.PRESETS, "smoke": two_seeds})
    repeated = (ablations.DEFAULT, "bc", "sm-alpha=1.0")
    settings = dataclasses.replace(ablations.PRESETS["smoke"], n_seeds=2, repeated=repeated)
    monkeypatch.setattr(ablations, "PRESETS", {**ablations.PRESETS, "smoke": settings})
    assert [k for k in ablations.cells("smoke") if k.endswith("-s1")] == [f"{name}-s1" for name in repeated]
    replace_training(monkeypatch, ablations)
    study = ablations.study("smoke", tmp_path)
    seeds = {sweep["title"]: sweep["n_seeds"] for sweep in study["sweeps"]}
    assert seeds == {"entropy weight α": 2, "offset head": 1, "backspace": 1, "training questions": 1}
    runs = ablations.run("smoke", tmp_path)
    for sweep in study["sweeps"]:
        n, default = sweep["n_seeds"], next(p for p in sweep["points"] if p["default"])
        whole = [runs[f"{ablations.DEFAULT}-s{s}"]["val"]["t1"]["correct"] for s in range(n)]
        assert default["accuracy"]["value"] == pytest.approx(np.mean([c == "1" for c in "".join(whole)]), abs=1e-4)
        assert sweep["bc"]["value"] == ablations._accuracy(runs, "bc", n_seeds=n)["value"]
    assert study["n_seeds"] == 2
    assert {m["name"]: m["n_seeds"] for m in study["methods"]} == {
        "mle": 2,
        ablations.DEFAULT: 2,
        "bc": 2,
        "iqlearn": 1,
        "gail": 1,
        "direct": 1,
    }


def test_every_sweep_has_its_default_among_comparable_values() -> None:
    config = ablations.cells("full", (ablations.DEFAULT,))[f"{ablations.DEFAULT}-s0"]
    for sweep in SWEEPS.values():
        default = ablations._default(config, sweep.parameter)
        assert default in sorted([*sweep.values, default])
        assert isinstance(default, int | float)


def test_uses_of_a_rollout_change_nothing_but_the_uses() -> None:
    cells = ablations.cells("full", ablations.EVERYTHING)
    default = cells[f"{ablations.DEFAULT}-s0"].training
    for value in (1.0, 32.0):
        changed = cells[f"sm-times_seen={value}-s0"].training
        assert dataclasses.replace(changed, times_seen=default.times_seen) == default
    assert not default.paired  # else fewer rollouts were fewer data too


def test_large_training_sets_are_seen_at_large() -> None:
    for item in mathematics.TASKS:
        assert not any(c.training.paired for c in mathematics.cells(item, "full").values())
    assert not regimes.cells("full", tuple(regimes.REGIMES))["n_train=50000/mle-s0"][3].training.paired


def test_v_at_the_start_is_a_setting_of_the_run_alone() -> None:
    cells = ablations.cells("full", ablations.EVERYTHING)
    assert cells["sm-initial_value=10.0-s0"].initial_value == 10.0
    shifted, default = cells["sm-initial_value=-10.0-s0"], cells["sm-gamma=0.9-s0"]
    assert dataclasses.replace(shifted.training, objective=default.training.objective) == default.training


def test_direct_matching_meets_likelihood_with_equal_data_and_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = direct_matching.cells("full")
    assert {name.split("/")[0] for name in full} == {"default", "n_train=50000"}
    for seed in arithmetic.preset("full").seeds:
        for regime in direct_matching.PRESETS["full"]:
            same = [c for name, (_, _, _, c) in full.items() if name.startswith(regime) and name.endswith(f"-s{seed}")]
            assert len(same) == (3 if seed == 0 else 2)
            assert len({(c.n_train, c.training.steps, c.training.seed, c.noise, c.training.eta) for c in same}) == 1
    assert full["n_train=50000/mle-s0"] == regimes.cells("full")["n_train=50000/mle-s0"]  # one run, not two
    replace_training(monkeypatch, direct_matching)
    monkeypatch.setattr(direct_matching, "PRESETS", {"smoke": (regimes.DEFAULT,)})
    rows = direct_matching.study("smoke", tmp_path)["rows"]
    assert [(row["regime"], row["decoding"]) for row in rows] == [("default", "t1"), ("default", "greedy")]
    # Made-up likelihood is right in 40 % of its answers, the rest in 60 %: the difference is that of the records.
    for row in rows:
        for name, test in row["over_mle"].items():
            gap = row["accuracy"][name]["value"] - row["accuracy"]["mle"]["value"]
            assert test["difference"] == pytest.approx(gap, abs=1e-4)
            assert test["p_value"] <= test["p_holm"] <= 1.0
    study = {"direct": rows}
    drawn(ablation_figures.direct(study), tmp_path)
    assert len(ablation_figures.direct_table(study)) == 4


def test_no_ablation_looks_at_the_test_questions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_training(monkeypatch, ablations)
    runs = ablations.run("smoke", tmp_path)
    assert not any("test" in run for name, run in runs.items() if name in ablations.cells("smoke"))


def test_regimes_change_all_methods_alike_and_share_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = regimes.cells("full", tuple(regimes.REGIMES))
    for name in regimes.REGIMES:
        per_method = [full[f"{name}/{m}-s0"][3] for m in method_tables.METHODS]
        assert len({(c.n_train, c.training.steps, c.training.learning_rate, c.base) for c in per_method}) == 1
    assert full["alpha=0.1/bc-s0"] == full["default/bc-s0"]
    assert full["alpha=0.1/sm-s0"][3].training.objective.alpha == 0.1
    assert full["alpha=0.1/sm-s0"][1] == "sm-alpha=0.1-s0"  # the sweep's run, not a second one
    assert full["n_train=1000/sm-s0"][1] == "sm-n_train=1000-s0"
    assert full["base=small/mle-s0"][3].base.model.dim < full["default/mle-s0"][3].base.model.dim
    assert full["base=100000/mle-s0"][3].base.questions < full["default/mle-s0"][3].base.questions
    assert full["steps=4500/sm-s0"][3].training.objective.bc_steps == 1_500  # a third, as everywhere
    replace_training(monkeypatch, ablations, regimes)
    found = regimes.study("smoke", tmp_path)
    assert [row["regime"] for row in found["rows"][::2]] == ["default", "alpha=0.1"]
    assert found["rows"][0]["differences"]["bc-mle"]["difference"] == pytest.approx(
        found["rows"][0]["accuracy"]["bc"]["value"] - found["rows"][0]["accuracy"]["mle"]["value"], abs=1e-3
    )
    details = ablations.study("smoke", tmp_path, regimes=found)
    drawn(ablation_figures.regimes(details), tmp_path)
    assert len(ablation_figures.regime_table(details)) == 4


def test_a_finding_says_what_differs() -> None:
    default = {"value": 1.0, "default": True, "accuracy": {"value": 0.5}}
    same = {"value": 2.0, "default": False, "p_value": 0.5, "difference": 0.01, "low": -0.02, "high": 0.04}
    worse = {"value": 3.0, "default": False, "p_value": 0.001, "difference": -0.2, "low": -0.3, "high": -0.1}
    assert "differences beyond 0.040 are excluded" in ablations.finding("α", [default, same])
    assert ablations.finding("α", [default, same, worse]).endswith("significantly different: -0.200 at 3.0")


def test_the_report_is_as_good_as_its_worst_item() -> None:
    counts = {"reproduced": 3, "direction only": 0, "not reproduced": 0, "not run": 0}
    assert report.verdict(counts) == "reproduced"
    assert report.verdict({**counts, "direction only": 1}) == "direction only"
    assert report.verdict({**counts, "not run": 1}) == "not reproduced"


def test_the_report_is_made_from_result_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = report.run("smoke", tmp_path)
    assert empty["counts"]["not run"] == len(ITEMS) - 1
    drawn(report_figures.claims(empty), tmp_path)
    replace_training(monkeypatch, mathematics, ablations)
    mathematics.run("tab6", "smoke", tmp_path)
    ablations.study("smoke", tmp_path)
    study = report.run("smoke", tmp_path)
    assert study["counts"]["not run"] == len(ITEMS) - 3
    drawn(report_figures.verdicts(study), tmp_path)
    drawn(report_figures.claims(study), tmp_path)
    assert set(report_figures.number_table(study)["item"]) == {"tab6"}
    alpha = next(c for c in study["choices"] if c["question"] == "α for arithmetic")
    assert alpha["sensitivity"].startswith("entropy weight α: ")
    assert len(report_figures.item_table(study)) == len(ITEMS) - 1
    assert len(report_figures.choice_table(study)) == len(report.CHOICES)
    assert len(report_figures.erratum_table(study)) == len(report.ERRATA)


def test_every_named_sweep_exists() -> None:
    titles = {sweep.title for sweep in ablations.SWEEPS.values()}
    assert {choice.sweep for choice in report.CHOICES if choice.sweep} <= titles


def test_runs_are_found_by_name_and_seed() -> None:
    runs = {"sm-0.2-s1": {"seed": 1}, "sm-0.2-s0": {"seed": 0}, "sm-n5000-s0": {"seed": 9}}
    assert [run["seed"] for run in scores.by_prefix(runs, "sm-0.2")] == [0, 1]
    with pytest.raises(ValueError, match="no run is called bc-s0"):
        scores.by_prefix(runs, "bc")
    with pytest.raises(ValueError, match="hold no test answers by 'beam': t1"):
        scores.correctness([{"test": {"t1": {"correct": "01"}}}], "test", "beam")

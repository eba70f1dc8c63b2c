"""The learning regime: its plan, what is decided when, and what a half-finished queue shows."""

import dataclasses
import json

import pytest

from smlib.data.mixture import MIXTURES
from smlib.files import read_json
from smlib.paper.experiments.arithmetic import grid, learning
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune, fine_tuned
from smlib.paper.experiments.runs.kept import kept_policy
from smlib.paper.experiments.runs.pretraining import PretrainConfig, pretrained
from smlib.paper.experiments.tasks import mathematics, queue
from smlib.paper.figures import learning as figures
from smlib.paper.sentences import learning as sentences
from smlib.paper.sentences.learning import KINDS
from smlib.training.algorithm_1 import TrainConfig
from tests.support.made_up_runs import put_planned

RATES = {"mle": 0.3, "bc": 0.5, "sm": 0.7}


def put(label: str, config: FineTuneConfig, folder) -> None:
    put_planned(label, config, folder, RATES)


def test_the_plan_has_the_most_telling_runs_first_and_every_run_once():
    plan = list(learning.cells("full"))
    assert len(plan) == 70
    assert set(plan) == set(learning.preset("full").grid())
    first = [f"{cell}-s{seed}" for seed in range(5) for cell in ("mle", "bc-ground_truth-0.2", "sm-ground_truth-0.2")]
    assert plan[:15] == first
    assert [k for k in plan[15:] if k.endswith("-s0")] == plan[15 : 15 + 11]  # then seeds outermost


@pytest.mark.parametrize("name", ["smoke", "quick", "full"])
def test_every_base_is_apart_from_the_task_and_every_run_looks_at_the_validation_questions(name):
    chosen = learning.preset(name)
    assert chosen.base.mixture is not None
    assert all(config.base == chosen.base for config in learning.cells(name).values())
    for label, config in learning.cells(name).items():
        assert ("no_backspace" in config.curve) == (not label.startswith("mle"))
        assert config.training.steps % config.training.eval_every == 0


def test_tables_6_and_7_have_the_same_regime_with_mixtures_of_their_own():
    for item, task in mathematics.TASKS.items():
        runs = mathematics.cells(item, "full", "learning")
        assert {c.base.mixture for c in runs.values()} == {MIXTURES[task]}
        assert {(c.training.steps, c.training.learning_rate) for c in runs.values()} == {(6_000, 1e-3)}
        assert {c.training.seed for c in runs.values()} == {0, 1, 2}
        assert all(c.n_train <= c.base.mixture.apart for c in runs.values())
        assert all(c.base.mixture is None for c in mathematics.cells(item, "full").values())
    with pytest.raises(ValueError, match="unknown regime 'none'; known: known, learning"):
        mathematics.cells("tab6", "full", "none")


def test_figure_3_rests_on_what_is_complete():
    assert learning.figure_3("full") == grid.preset("full")  # until the plan's runs are all committed
    assert learning.figure_3("quick") == learning.preset("quick")


def test_table_1_rests_on_the_headline_of_this_regime(tmp_path, monkeypatch):
    asked = {}

    def note(work, calls, processes):
        asked.update({call["name"]: call for call in calls})
        raise InterruptedError("enough is known")

    monkeypatch.setattr(grid, "in_parallel", note)
    monkeypatch.setattr("smlib.paper.experiments.runs.finetuning.FineTuneConfig.prepare", lambda *_: None)
    with pytest.raises(InterruptedError):
        learning.table_1("full", tmp_path)
    plan = learning.cells("full")
    assert set(asked) == {f"{m}-ground_truth-0.2-s{seed}" for m in ("bc", "sm") for seed in range(5)}
    assert all(call["config"] == plan[name] and call["item"] == "fig3" for name, call in asked.items())


def test_the_old_regime_keeps_its_runs():
    assert grid.preset("full").base == PretrainConfig()
    assert len(grid.run("full", processes=1)) == 30  # read, not trained: the identities are what they were


def test_nothing_is_decided_before_every_seed_is_there(tmp_path):
    configs = learning.cells("full")
    for label in list(configs)[:12]:
        put(label, configs[label], tmp_path)
    study = learning.study("full", tmp_path)
    assert (study["done"], study["planned"], study["seeds"]) == (12, 70, 5)
    assert [(c["n_seeds"], c["decided"]) for c in study["claims"]] == [(4, False)] * 3
    assert all("outcome" not in claim for claim in study["claims"])
    assert figures.finding(study).startswith("undecided, 4 seeds of 5\nBC > MLE: +")
    for label in list(configs)[12:15]:
        put(label, configs[label], tmp_path)
    study = learning.study("full", tmp_path)
    assert [c["outcome"] for c in study["claims"]] == ["confirmed"] * 3
    assert all(c["p_holm"] >= c["p_value"] for c in study["claims"])
    assert "undecided" not in figures.finding(study)
    alone = dataclasses.replace(learning.preset("full"), seeds=(0,))
    single = learning.claims(alone, {"mle": {0: learning.finished("full", tmp_path)["mle-s0"]}})
    assert not any(claim["decided"] for claim in single)  # one seed speaks of one trained model
    written = learning.write("full", tmp_path)
    assert read_json(written) == json.loads(json.dumps(study))
    noted = (written.parent / "checksums.jsonl").read_bytes()
    assert learning.write("full", tmp_path) == written  # the same once more
    assert (written.parent / "checksums.jsonl").read_bytes() == noted


def test_what_is_there_is_drawn_and_what_is_not_is_said(tmp_path):
    empty = learning.study("full", tmp_path)
    assert figures.finding(empty) == "0 of 70 planned runs are there: nothing to compare yet"
    configs = learning.cells("full")
    for label in ("mle-s0", "bc-ground_truth-0.2-s0", "mle-s1"):
        put(label, configs[label], tmp_path)
    study = learning.latest("smoke", tmp_path)  # smoke has no run: the full preset's
    assert study["preset"] == "full"
    drawn = figures.curves({**study, "base": {"t1": 0.03, "greedy": 0.02}})
    labels = drawn.axes[0].get_legend_handles_labels()[1]
    assert labels == ["before", "MLE (2 seeds)", "BC (1 seed)"]
    assert max(drawn.axes[0].lines[-1].get_xdata()) == pytest.approx(38.4)
    table = figures.accuracies(study)
    assert table.loc["MLE", "seeds"] == "2 of 5"
    assert table.loc["MLE", "temperature 1, <bkspc> forbidden"] == "—"
    assert figures.taught(study).loc["MLE", "greedy − temperature 1"] == "0.000"


def with_curves(curves):
    """A study of made-up curves: method -> accuracy at temperature 1 at each look, a list a seed."""
    cells = [
        {
            "cell": method if method == "mle" else f"{method}-ground_truth-0.2",
            "curves": [{"seed": n, "step": [10, 20, 30], "t1": c, "greedy": c} for n, c in enumerate(seeds)],
        }
        for method, seeds in curves.items()
    ]
    return {"cells": cells, "claims": [{"level": 0.2}], "passes": 3.0, "steps": 30}


def test_where_the_curves_cross_and_what_is_lost_at_the_end():
    study = with_curves({"mle": [[0.2, 0.5, 0.4], [0.4, 0.5, 0.4]], "bc": [[0.2, 0.4, 0.45]], "sm": [[0.4, 0.6, 0.5]]})
    _, _, bc, sm, lost = sentences.crossings(study).splitlines()
    assert bc == (
        "- BC is 10.0 points behind MLE after 1 passes and 5.0 points ahead of it after 3: the curves cross between 2 "
        "and 3."
    )
    assert sm.endswith("and 10.0 points ahead of it after 3, and ahead each time that it was measured.")
    assert "MLE 10.0 (best after 2 passes), BC 0.0 (best after 3 passes) and SequenceMatch 10.0" in lost
    behind = sentences.crossings(with_curves({"mle": [[0.5, 0.5, 0.5]], "bc": [[0.6, 0.6, 0.4]]}))
    assert "and 10.0 points behind it after 3." in behind
    assert sentences.crossings(with_curves({"bc": [[0.1, 0.1, 0.1]]})) == "No curve of MLE is there yet."
    table = figures.by_passes(study)
    assert list(table.index) == ["1.0", "2.0", "3.0"]
    assert table["temperature 1", "MLE"].tolist() == ["0.300", "0.500", "0.400"]
    assert figures.by_passes({**study, "cells": []}).empty


def test_the_queue_trains_what_is_missing_and_keeps_what_it_is_asked_to(tmp_path, capsys):
    arguments = ["--preset", "smoke", "--results-dir", str(tmp_path), "--only", "mle-s0"]
    queue.main([*arguments, "--weights-dir", str(tmp_path / "weights")])
    config = learning.cells("smoke")["mle-s0"]
    run = fine_tuned(config, "mle-s0", item="fig3", preset="smoke", results_dir=tmp_path)
    assert run["history"]["val_step"] == [6.0, 12.0]
    assert len(run["history"]["val_t1"]) == 2
    assert not kept_policy(config, "mle-s0", tmp_path / "weights").config.backspace
    assert kept_policy(config, "other", tmp_path / "weights") is None
    queue.main(arguments)
    assert capsys.readouterr().out.splitlines()[-1] == "0 runs trained"
    assert fine_tune(config, "mle-s0", item="fig3", preset="smoke", results_dir=tmp_path) == run


def test_what_the_queue_cannot_do_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the plan has no run called mle-s9; it has mle-s0"):
        queue.train("fig3", "smoke", tmp_path, only=["mle-s9"])
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        queue.train("fig3", "smoke", tmp_path, limit=0)


def test_a_base_that_would_know_the_task_is_refused():
    with pytest.raises(ValueError, match="a base model for mul that reads mul knows the task"):
        PretrainConfig(task="mul", mixture=MIXTURES["add_or_sub_in_base"])
    config = dataclasses.replace(learning.preset("smoke").run("mle"), n_train=1_001, n_val=5, n_test=5)
    with pytest.raises(ValueError, match=r"stays apart from the first 1,000 training questions .* there are 1,001"):
        pretrained(config.base, config.task(), preset="smoke")


def test_a_curve_needs_to_know_when(tmp_path):
    with pytest.raises(ValueError, match=r"curve=\(\) and eval_every=5: give both, or neither"):
        FineTuneConfig(training=TrainConfig(eval_every=5))


def test_the_lead_over_mle_is_of_the_same_seeds_and_says_how_many(tmp_path):
    plan = learning.cells("full")
    some = ["mle-s0", "mle-s1", "bc-ground_truth-0.2-s0", "bc-ground_truth-0.2-s1", "sm-random-0.4-s0", "sm-none-0-s1"]
    for label in [*some, "bc-random-0.05-s3"]:  # whose MLE is not there
        put(label, plan[label], tmp_path)
    study, found = learning.study("full", tmp_path), learning.finished("full", tmp_path)
    leads = {cell["cell"]: cell["lead"] for cell in study["cells"]}
    assert leads["mle"] is leads["bc-random-0.05"] is None
    assert leads["bc-ground_truth-0.2"]["n_seeds"] == 2
    for cell, seeds in {"bc-ground_truth-0.2": (0, 1), "sm-random-0.4": (0,), "sm-none-0": (1,)}.items():
        bits = ["".join(found[f"{m}-s{s}"]["test"]["t1"]["correct"] for s in seeds) for m in (cell, "mle")]
        own, mle = (answers.count("1") / len(answers) for answers in bits)
        assert leads[cell]["difference"] == pytest.approx(own - mle)
    said = sentences.noise(study)
    assert "digit noise, BC: η = 0.2 " in said
    assert ", 2 seeds of 5" in said
    assert "alone, which all levels have" not in said  # no kind has two levels yet
    put("bc-ground_truth-0.4-s1", plan["bc-ground_truth-0.4-s1"], tmp_path)
    more = learning.study("full", tmp_path)
    each = {
        cell["cell"]: cell["lead"]["by_seed"]["1"] for cell in more["cells"] if cell["cell"].startswith("bc-ground")
    }
    shown = [f"{100 * each[f'bc-ground_truth-{level}']:+.1f} at η = {level}" for level in (0.2, 0.4)]
    assert f"with seed 1 alone, which all levels have: {shown[0]} and {shown[1]}." in sentences.noise(more)
    assert "no noise, SequenceMatch: +" in said
    drawn = figures.against_noise(study)
    assert [ax.get_title() for ax in drawn.axes] == ["digit noise", "random tokens"]
    ends = {kind: sorted(leads[c]["difference"] for c in leads if f"-{kind}-" in c and leads[c]) for kind in KINDS}
    title = [f"{words} " + " to ".join(f"{100 * x:+.1f}" for x in ends[kind]) for kind, words in KINDS.items()]
    assert drawn._suptitle.get_text().replace("\n", " ").replace("−", "-") == f"Points ahead of MLE: {', '.join(title)}"
    low, high = drawn.axes[0].get_ylim()
    assert low < 100 * min(x for own in ends.values() for x in own)
    assert high > 100 * max(x for own in ends.values() for x in own)
    assert list(figures.accuracies(study).index)[:2] == ["MLE", "BC, digit noise, η = 0.2"]
    none = {**study, "cells": [cell for cell in study["cells"] if cell["cell"] == "mle"]}
    assert figures.against_noise(none) is None
    assert sentences.noise(none) == "No run with noise can be set beside MLE yet."

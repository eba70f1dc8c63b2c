"""Sentences follow the numbers: another result is another sentence, and what was not run is not told."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from smlib.paper.sentences import ablations, among, bullets, learning, overhead, points, report, spread, tasks, verb

ABLATIONS = (ablations.findings, ablations.confirmation, ablations.direct, ablations.critic, ablations.recovery)


def details(repository: Path, item: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((repository / "results" / "full" / f"{item}.json").read_text())["details"]
    return kept


@pytest.fixture
def study(repository: Path) -> dict[str, Any]:
    return details(repository, "ablations")


def test_numbers_are_written_as_points() -> None:
    assert (points(0.0262), points(-0.004), points(-0.0004)) == ("+2.6", "−0.4", "0.0")
    assert spread({"difference": 0.1, "low": 0.0, "high": 0.2}) == "+10.0 points (95 %: 0.0 to +20.0)"
    assert among(["a", "b", "c"]) == "a, b and c"
    assert among(["a"]) == "a"
    assert among(["a (b, (c), d)", "e"]) == "a (b, (c), d) and e"
    assert among(["a, b", "c", "d"]) == "a, b; c; and d"
    assert (verb(0.046, "loses", "gains"), verb(-0.014, "loses", "gains")) == ("loses 4.6", "gains 1.4")
    assert bullets(["a", "", "b"]) == "- a\n- b"


def test_findings_turn_with_the_numbers(study: dict[str, Any]) -> None:
    said = ablations.findings(study)
    assert said.count("\n- ") == 4
    for row in study["confirmation"]:
        for test in row["over_mle"].values():
            test["confirmed"] = False
    for row in study["methods"]:
        for depth in row["recovery"].values():
            depth["all_removed"] = {"value": 0.5, "low": 0.4, "high": 0.6}
    for row in study["regimes"]:
        row["differences"]["sm-mle"] = {"difference": 0.1, "low": 0.05, "high": 0.15}
    turned = ablations.findings(study)
    assert "beats likelihood in 0 of 4 claims" in turned
    assert "are no clear way to recover" in turned
    assert "ahead of MLE in 6 and surely behind it in 0" in turned


def test_what_a_preset_did_not_run_is_not_told(study: dict[str, Any]) -> None:
    small = copy.deepcopy(study) | {"confirmation": [], "direct": [], "regimes": [], "critic": None, "rivalries": []}
    small["methods"] = [row | {"recovery": {}} for row in study["methods"]]
    said = [say(small) for say in ABLATIONS]
    assert said[0].startswith("- **Few settings matter.**")
    assert all("not" in part or "no part" in part for part in said[1:])


def test_the_order_of_methods_is_that_of_their_values(repository: Path) -> None:
    study = details(repository, "tab6")
    assert "At η = 0.2: MLE 66.0 %, BC" in tasks.order(study)
    for cell in study["cells"]:
        cell["value"] = {"mle": 0.1, "bc": 0.2, "sm": 0.3}[cell["method"]]
    assert "At η = 0.2: SequenceMatch 30.0 %, BC 20.0 % and MLE 10.0 %." in tasks.order(study)
    for test in study["tests"]:
        test["low"], test["high"] = -1.0, 1.0
    assert f"None of {len(study['tests'])} paired differences excludes 0." in tasks.order(study)
    assert " BLEU)" in tasks.order(details(repository, "tab5"))


def test_what_it_adds_up_to_is_read_from_the_items(repository: Path, tmp_path: Path) -> None:
    study = details(repository, "report")
    said = report.adds_up(study, "full", repository / "results")
    assert said.count("\n- ") == 7
    assert f"Of {sum(study['counts'].values())} items: " in said
    assert report.adds_up(study, "smoke", tmp_path).count("\n") == 0  # the verdicts alone: no item is there
    assert report.noise("full", tmp_path) == "This preset has no run of it."


def test_gains_are_over_the_likelihood_of_the_same_policy(repository: Path) -> None:
    theory = details(repository, "theory")
    for row in theory["restricted"]:
        row["stay"] = {"mle": 0.5, "direct": 0.4}.get(row["method"].split()[0], 0.6)
    assert "in 0 of " in report.divergences(theory)
    assert "the same share by +10.00 points from likelihood, at worst by +10.0." in report.objective(theory)


def test_missed_targets_are_named() -> None:
    names = ("sm_over_mle_step_arithmetic", "slots_sm_over_mle_text1024", "linear_share_of_step")
    more = ("attention_share_of_step", "sample_with_20pct_backspaces_over_none")
    bench: dict[str, dict[str, Any]] = {name: {"value": 0.25, "spread": [0.2, 0.3]} for name in (*names, *more)}
    bench[names[0]] |= {"target": "<= 0.2", "reached": False}
    said = overhead.bench({"bench": bench, "tab4 shared": {"sm_over_mle_step": {"value": 1.3}}})
    assert "Targets reached: 0 of 1. Missed: `sm_over_mle_step_arithmetic`." in said
    assert "take 50 % of a step's CPU time" in said


def test_the_learning_regime_says_each_claim_and_whether_it_is_decided() -> None:
    cells = [("mle", 0.71), ("bc-ground_truth-0.2", 0.754), ("bc-random-0.2", 0.4), ("sm-ground_truth-0.2", 0.738)]
    claim = {"n_seeds": 4, "level": 0.2, "difference": 0.04, "low": 0.02, "high": 0.06}
    study = {
        "seeds": 5,
        "passes": 38.4,
        "base": {"t1": 0.02, "greedy": 0.03},
        "cells": [{"cell": cell, "test": {"t1": {"value": value}}} for cell, value in cells],
        "claims": [{"claim": "BC > MLE", **claim}, {"claim": "SM > MLE"}],
    }
    said = learning.headline(study)
    assert said == (
        "The base model answers 2 % before fine-tuning. After 38 passes over the questions, at digit noise 0.2 and "
        "temperature 1, over 4 of 5 seeds: MLE 71.0 %, BC 75.4 % and SequenceMatch 73.8 % of the test questions. "
        "BC > MLE: +4.0 points (95 %: +2.0 to +6.0), undecided until every seed is there."
    )
    study["claims"] = [{"claim": "SM > BC", **claim, "n_seeds": 5, "outcome": "opposite sign"}]
    assert "over 5 seeds: " in learning.headline(study)
    assert learning.headline(study).endswith("of the opposite sign, but not significant.")
    assert learning.headline({**study, "claims": [{"claim": "SM > BC"}]}) == (
        "No run of the learning regime is there yet."
    )

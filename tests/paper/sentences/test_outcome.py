"""What README and docs/ say of all items together follows the result files, and is silent where there are none."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from smlib.paper.ledger import COMMITTED_PRESETS, ledger
from smlib.paper.readme import Generated
from smlib.paper.sentences import diverging, outcome
from smlib.paper.sentences.pages import generated


def item(repository: Path, name: str) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads((repository / "results" / "full" / f"{name}.json").read_text())
    return kept


@pytest.fixture
def learning(repository: Path) -> dict[str, Any]:
    return item(repository, "learning")


@pytest.fixture
def changed(repository: Path, tmp_path: Path) -> Path:
    """The committed results, somewhere else, where they may be changed."""
    for name in ("tab1", "fig3"):
        for source in item(repository, name)["provenance"]["sources"]:
            (tmp_path / "full" / source).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / "results" / "full" / source, tmp_path / "full" / source)
        shutil.copy(repository / "results" / "full" / f"{name}.json", tmp_path / "full")
    return tmp_path


def test_the_count_of_verdicts_is_the_ledgers() -> None:
    rows = [{"id": name, "verdict": "reproduced"} for name in ("fig1", "theory", "fig2")]
    assert (
        outcome.verdicts(rows) == "Of 3 items 3 are reproduced; all three that are exact calculations are reproduced."
    )
    rows[0]["verdict"] = "direction only"
    rows.append({"id": "report", "verdict": "not reproduced"})  # which counts the others and not itself
    said = outcome.verdicts(rows)
    assert said.startswith("Of 3 items 2 are reproduced and 1 agrees with the paper in direction only; 2 of the three")


@pytest.mark.parametrize(
    ("found", "verb"),
    [("confirmed", "is ahead of"), ("contradicted", "is behind"), ("same sign", "and"), ("opposite sign", "and")],
)
def test_a_claim_is_a_verb(found: str, verb: str, learning: dict[str, Any]) -> None:
    for claim in learning["claims"]:
        claim |= {"outcome": found, "difference": -0.0123 if found == "contradicted" else 0.0123}
    said = outcome.decided(learning)
    assert f"BC {verb} MLE" in said
    assert ("by 1.2 points" in said) == (found in outcome.WORDS)
    assert ("not told apart" in said) == (found not in outcome.WORDS)


def test_claims_that_wait_for_seeds_are_not_told(learning: dict[str, Any]) -> None:
    undecided = copy.deepcopy(learning)
    del undecided["claims"][0]["outcome"]
    assert outcome.decided(undecided).endswith("waits for the last seeds.")
    assert outcome.decided(None) == ""
    assert outcome.decided(learning | {"claims": [{"claim": "BC > MLE", "n_seeds": 0, "level": 0.2}]}) == ""


def test_which_base_an_item_has_is_read_from_its_runs(changed: Path, tmp_path: Path) -> None:
    assert (outcome.has_to_learn("tab1", changed), outcome.has_to_learn("fig3", changed)) == (True, False)
    assert outcome.has_to_learn("fig1", changed) is None
    assert outcome.started(outcome.which_bases(changed)) == (
        "Of the items, `tab1` started from a base model that had to learn its task; `fig3` started from one that knew "
        "it before, so that there was little to learn."
    )
    for path in (changed / "full" / "fig3").glob("*.json"):
        record = json.loads(path.read_text())
        record["config"]["config"]["base"]["mixture"] = {"apart": 1}
        path.write_text(json.dumps(record))
    assert outcome.has_to_learn("fig3", changed) is True
    assert outcome.started(outcome.which_bases(changed)).startswith(
        "Of the items, `fig3` and `tab1` started from a base model that had to learn"
    )
    assert outcome.behind(outcome.which_bases(changed), changed) == ""  # there is no item of the other kind
    assert outcome.started(outcome.which_bases(tmp_path / "none")) == ""


def test_the_comparisons_with_a_knowing_base_are_counted(changed: Path) -> None:
    path = changed / "full" / "fig3.json"
    record = json.loads(path.read_text())
    for claim in record["details"]["comparisons"]:
        claim["low"], claim["high"] = -0.1, 0.1
    record["details"]["comparisons"][0]["low"] = 0.05
    path.write_text(json.dumps(record))
    assert "compared 8 times with MLE or BC. It is once surely ahead and never surely behind" in outcome.behind(
        outcome.which_bases(changed), changed
    )


def test_nothing_is_said_of_what_was_not_run(tmp_path: Path) -> None:
    rows = ledger(tmp_path, COMMITTED_PRESETS)
    made = generated(rows, tmp_path)
    assert made == Generated(short=outcome.verdicts(rows), full=made.full)
    assert made.full == f"{outcome.verdicts(rows)}\n\nThis preset has no run of it."


def test_numbers_of_runs_that_go_wrong_are_their_numbers(repository: Path) -> None:
    study = item(repository, "ablations")["details"]
    point = next(p for sweep in study["sweeps"] for p in sweep["points"] if p["value"] == -10.0)
    point["accuracy"]["value"] = 0.1234
    assert "12.3 % at −10" in diverging.value(study)
    g1 = item(repository, "g1")["details"]
    g1["strong"]["rows"][0]["outside_domain"] = [0.25]
    assert diverging.spikes(g1).endswith("is 25.00 %.")
    assert "Jensen-Shannon 56 spikes in 1,000 steps" in diverging.spikes(g1)
    val = {rule: {"backspace_rate": 0.5, "accuracy": 0.25} for rule in diverging.DECODINGS}
    said = diverging.loops({f"{name}-s0": {"val": val} for name in diverging.DELETING})
    assert said.count("50 % greedily (accuracy 25.0 %)") == 3
    for row in study["methods"]:
        for depth in row["recovery"].values():
            depth["all_removed"]["value"] = 0.75
    assert diverging.deletion(study, "x").count("75 % of the prompts with 4") == 3

"""Policies that ship: each is the one of a committed run, and its card says of the weights what is true of them."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from smlib.files import ResultError, canonical_json, plain, read_json
from smlib.objectives.methods import ObjectiveConfig
from smlib.paper import checksums, shipping
from smlib.paper.experiments.runs.answers import answer
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune
from smlib.paper.experiments.runs.pretraining import PretrainConfig, TinyModel
from smlib.policies import shipped
from smlib.training.algorithm_1 import TrainConfig

MEGABYTE = 2_000_000
ASKED = 120  # questions; the whole validation split takes minutes for all policies


@pytest.mark.parametrize("name", shipped.names())
def test_a_card_belongs_to_a_committed_run_and_to_its_weights(name: str, repository: Path) -> None:
    card, recipe = shipped.card(name), shipping.RECIPES[name]
    record = read_json(repository / card.run)
    assert record["config"] == plain({"config": recipe.config(), "test": recipe.test})
    assert card.config == plain(recipe.config())
    assert {"summary": card.summary, "limits": card.limits} == shipping.words(recipe)
    assert shipping.committed(recipe, repository / "results").path == repository / card.run
    assert card.trained.keys() == shipping.outcomes(record["result"]).keys()  # type: ignore[arg-type]
    assert sum(card.trained.values()) / len(card.trained) >= shipping.ALIKE
    folder = shipped.folder_of(name)
    assert card.sha256 == {file: shipping.sha256(folder / file) for file in shipped.WEIGHTS}
    assert sum((folder / file).stat().st_size for file in shipped.WEIGHTS) < MEGABYTE
    assert (folder / "CARD.md").read_text() == shipping.as_markdown(card)
    assert "dirty" not in card.revision


def test_every_recipe_ships() -> None:
    assert sorted(shipping.RECIPES) == list(shipped.names())


@pytest.mark.parametrize("name", shipped.names())
def test_a_card_says_which_base_its_policy_started_from(name: str) -> None:
    card = shipped.card(name)
    base: Any = card.config["base"]
    learned = name in ("mle-arithmetic", "bc-arithmetic", "sm-arithmetic")
    assert (base.get("mixture") is not None) == learned  # other modules of the generator, without the task
    assert ("from a base that had to learn the task" if learned else "from a base that knew the task") in card.summary
    assert card.kept == learned
    page = shipping.as_markdown(card)
    assert ("those that the run itself left" in page, "Trained again" in page) == (learned, not learned)


@pytest.mark.parametrize("name", shipped.names())
def test_shipped_weights_are_checked_against_the_result_file_of_their_run(name: str, repository: Path) -> None:
    """Bit for bit on the machine that made the card; on another one nearly so, and nearly the run's, which was not
    rounded to bfloat16."""
    card = shipped.card(name)
    result: Any = read_json(repository / card.run)["result"]
    task = dataclasses.replace(shipping.RECIPES[name].config(), n_train=0).task()  # training questions come last
    policy, tokenizer = shipped.load(name)
    assert tokenizer.backend.to_str() == task.tokenizer.backend.to_str()  # type: ignore[attr-defined]
    for decoding, bits in card.measured["correct"].items():
        found = answer(policy, task, task.val[:ASKED], decoding=decoding, seed=card.seed).correct
        now = "".join("1" if right else "0" for right in found)
        assert _equal(now, bits[:ASKED]) >= 0.97, decoding
        assert _equal(now, result["val"][decoding]["correct"][:ASKED]) >= 0.9, decoding
        assert card.measured["accuracy"][decoding] == pytest.approx(bits.count("1") / len(bits))
        assert card.measured["accuracy"][decoding] == pytest.approx(result["val"][decoding]["accuracy"], abs=0.03)


def test_other_weights_would_be_noticed(repository: Path) -> None:
    """The test above can fail: another policy's answers agree less."""
    one, other = (shipped.card(name).measured["correct"]["t1"] for name in ("sm-arithmetic", "mle-arithmetic"))
    assert _equal(one, other) < 0.9


def _equal(one: str, other: str) -> float:
    return sum(map(str.__eq__, one, other)) / len(one)


def test_a_shipped_policy_is_ready_and_in_float32() -> None:
    policy, _ = shipped.load("sm-arithmetic")
    assert not policy.training
    assert {p.dtype for p in policy.parameters()} == {torch.float32}


def test_outcomes_and_their_agreement() -> None:
    ours = {"val": {"t1": {"correct": "0110", "accuracy": 0.5}}, "base_sha256": "01", "completions": [{"x": "1"}]}
    assert shipping.outcomes(ours) == {"val/t1/correct": "0110"}
    theirs = {"val": {"t1": {"correct": "0111", "accuracy": 0.75}}, "base_sha256": "01"}
    assert shipping.agreement(ours, theirs) == {"val/t1/correct": 0.75}
    with pytest.raises(ResultError, match=r"measured different things: test/t1/correct"):
        shipping.agreement(ours, {**theirs, "test": {"t1": {"correct": "1"}}})


def test_a_policy_of_another_run_is_told_apart() -> None:
    run = {"val": {"t1": {"correct": "1" * 60 + "0" * 40}}}
    near = {"val": {"t1": {"correct": "1" * 58 + "0" * 42}}}
    assert shipping.repeats(near, run, "it") == {"val/t1/correct": 0.98}
    less = {"val": {"t1": {"correct": "1" * 56 + "0" * 44}}}
    with pytest.raises(ResultError, match=r"it repeats 0\.960 of its outcomes .* is val/t1/correct by -0\.040"):
        shipping.repeats(less, run, "it")
    other = {"val": {"t1": {"correct": "0" * 20 + "1" * 60 + "0" * 20}}}  # equally accurate, on other questions
    with pytest.raises(ResultError, match=r"repeats 0\.600 of its outcomes .* is no share"):
        shipping.repeats(other, run, "it")


def small() -> FineTuneConfig:
    objective = ObjectiveConfig(method="bc", gamma=0.9)
    training = TrainConfig(objective, steps=4, batch_size=8, warmup_steps=1, eta=0.2, log_every=2, checkpoint_every=4)
    base = PretrainConfig(questions=128, batch_size=32, model=TinyModel(dim=16, layers=1, heads=2))
    return FineTuneConfig(base, training, n_train=40, n_val=20, n_test=10, recovery_prompts=5, examples=1)


def test_a_policy_is_trained_again_checked_and_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "results"
    recipe = shipping.Recipe("small", "fig3", "small", small, test=False)
    monkeypatch.setattr(shipping, "RECIPES", {"small-arithmetic": recipe})
    monkeypatch.setattr(shipping, "PRESET", "smoke")
    with pytest.raises(ResultError, match="no recipe ships 'sm'; known: small-arithmetic"):
        shipping.ship("sm", results, tmp_path / "shipped")
    with pytest.raises(ResultError, match="has no run small of this configuration"):
        shipping.ship("small-arithmetic", results, tmp_path / "shipped")
    run = fine_tune(small(), "small", item="fig3", preset="smoke", results_dir=results, test=False)
    card = shipping.ship("small-arithmetic", results, tmp_path / "shipped")
    assert set(card.trained.values()) == {1.0}  # the same machine: bit for bit
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    assert shipped.names() == ("small-arithmetic",)
    assert shipped.card("small-arithmetic") == card
    policy, tokenizer = shipped.load("small-arithmetic")
    assert tokenizer.vocab_size == policy.space.vocab_size
    # Sentences are written again without training, and nothing else changes.
    monkeypatch.setattr(shipping, "RECIPES", {"small-arithmetic": dataclasses.replace(recipe, limits=("It is tiny.",))})
    reworded = shipping.reword("small-arithmetic", tmp_path / "shipped")
    assert reworded == shipped.card("small-arithmetic")
    assert reworded == dataclasses.replace(card, limits=(*shipping.LIMITS, "It is tiny."))
    assert "- It is tiny." in (tmp_path / "shipped" / "small-arithmetic" / "CARD.md").read_text()
    # A run whose outcomes the policy does not repeat is another run.
    record = read_json(run.path)
    record["result"]["val"]["t1"]["correct"] = "1" * 20  # type: ignore[index]
    text = canonical_json(record)
    checksums.note(run.path, text, results / "smoke")
    run.path.write_text(text)
    with pytest.raises(ResultError, match="small-arithmetic, trained again, is not the policy of the run"):
        shipping.ship("small-arithmetic", results, tmp_path / "shipped")


def test_a_policy_that_its_run_left_is_taken_and_still_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results, models, out = tmp_path / "results", tmp_path / "models", tmp_path / "shipped"
    recipe = shipping.Recipe("small, {base}", "fig3", "small", small, test=False)
    monkeypatch.setattr(shipping, "RECIPES", {"small-arithmetic": recipe})
    monkeypatch.setattr(shipping, "PRESET", "smoke")
    run = fine_tune(small(), "small", item="fig3", preset="smoke", results_dir=results, test=False, weights_dir=models)
    again = shipping.ship("small-arithmetic", results, out)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("nothing is trained")

    monkeypatch.setattr(shipping, "trained", refused)
    kept = shipping.ship("small-arithmetic", results, out, models)
    assert (again.kept, kept.kept) == (False, True)
    assert kept == dataclasses.replace(again, kept=True)  # the same weights, bit for bit
    assert kept.summary == "small, from a base that knew the task"
    with pytest.raises(ResultError, match=r"no policy of this run is kept in .*nowhere.*leave it out to train"):
        shipping.ship("small-arithmetic", results, out, tmp_path / "nowhere")
    record = read_json(run.path)
    record["result"]["val"]["t1"]["correct"] = "1" * 20  # type: ignore[index]
    text = canonical_json(record)
    checksums.note(run.path, text, results / "smoke")
    run.path.write_text(text)
    with pytest.raises(ResultError, match=r"as kept in .* is not the policy of the run"):
        shipping.ship("small-arithmetic", results, out, models)

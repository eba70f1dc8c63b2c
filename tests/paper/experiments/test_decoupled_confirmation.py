"""The confirmation of decoupled deletion: its plan, its rivals, and what a run holds."""

import numpy as np
import pytest
import torch

from smlib.paper.experiments.arithmetic import decoupled, learning
from smlib.paper.experiments.arithmetic import decoupled_confirmation as confirmation
from smlib.paper.experiments.runs.finetuning import fine_tuned


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The smoke preset's one seed: its run, the three policies' folder, and where results are."""
    folder = tmp_path_factory.mktemp("confirmation")
    run = confirmation.run("smoke", 0, folder, folder / "weights")
    return folder, run


def policy_of(folder, part):
    from smlib.paper.experiments.runs.kept import kept_policy

    name, config = confirmation.parts("smoke", 0)[part]
    return kept_policy(config, name, folder / "weights"), config


def test_no_seed_or_question_that_chose_the_method_confirms_it():
    assert confirmation.seeds("full") == (2, 3, 4)
    assert not set(confirmation.CHOSE) & set(confirmation.seeds("full"))
    plan = learning.cells("full")
    for seed in confirmation.seeds("full"):
        assert all(config == plan[name] for name, config in confirmation.parts("full", seed).values())
    assert len(confirmation.RIVALS) == 7


def test_a_run_holds_every_way_and_answers_the_test_questions(made):
    _, run = made
    n = confirmation.parts("smoke", 0)["mle"][1].n_test
    assert {confirmation.OURS, "mle writes, sm deletes", "sm", "mle greedy", *confirmation.RIVALS} == set(run["test"])
    assert all(len(way["correct"]) == n for way in run["test"].values())
    # Two answers, and two networks, read about twice as many tokens as one.
    assert run["test"]["mle best of 2"]["passes"] > 1.5 * run["test"]["mle"]["passes"]
    assert run["test"][confirmation.OURS]["passes"] > 0
    assert run["temperature"] in confirmation.TEMPERATURES
    by = run["val_by_temperature"]
    assert by[str(run["temperature"])] == max(by.values())


def test_the_likelihood_of_an_answer_is_that_of_its_actions_one_by_one(made):
    folder, _ = made
    policy, config = policy_of(folder, "mle")
    task = config.task()
    drawn, _, _ = confirmation._drawn(policy, task, task.test[:7], config, 1.0)
    found = confirmation.log_probabilities(policy, drawn, at_a_time=3)
    for trajectory, value in zip(drawn, found, strict=True):
        state, total = trajectory.prompt.tolist(), 0.0
        for label, action in zip(trajectory.labels.tolist(), trajectory.realised.tolist(), strict=True):
            with torch.inference_mode():
                logits = policy.lm(torch.tensor([state])).logits[0, -1, : task.space.vocab_size].double()
            total += float(logits.log_softmax(-1)[label])
            state.append(action)
        assert value == pytest.approx(total, abs=1e-4)


def test_of_two_answers_the_likelier_one_counts(made):
    folder, _ = made
    policy, config = policy_of(folder, "mle")
    task = config.task()
    correct, read = confirmation.likelier(policy, task, task.test, config)
    both = [confirmation._drawn(policy, task, task.test, config, 1.0, attempt) for attempt in range(2)]
    logp = np.array([confirmation.log_probabilities(policy, drawn) for drawn, _, _ in both])
    assert correct == [both[int(b > a)][1][i] for i, (a, b) in enumerate(logp.T)]
    assert read == both[0][2] + both[1][2]
    assert not np.array_equal(both[0][0][0].labels, both[1][0][0].labels) or (logp[0] != logp[1]).any()


def test_the_study_compares_with_every_rival_and_decides_nothing_with_one_seed(made, capsys):
    folder, _ = made
    study = confirmation.study("smoke", folder)
    assert [claim["over"] for claim in study["claims"]] == list(confirmation.RIVALS.values())
    assert all(claim["p_holm"] >= claim["p_value"] and "outcome" not in claim for claim in study["claims"])
    assert (study["seeds"], study["planned"]) == (1, 1)
    assert confirmation.study("quick", folder)["claims"] == []
    assert fine_tuned(confirmation.parts("smoke", 0)["mle"][1], "mle-s0", item="fig3", preset="smoke",
                      results_dir=folder) is None  # fmt: skip
    confirmation.main(["--preset", "smoke", "--results-dir", str(folder)])
    assert "seed 0: not finished: mle-s0" in capsys.readouterr().out


def test_claims_are_decided_by_the_answers(monkeypatch):
    """Invented runs: right where MLE is and on every third question beside; BC answers the very same questions."""
    rng = np.random.default_rng(0)

    def invented(*, name, **_):
        mle = rng.random(300) < 0.5
        ours = mle | (np.arange(300) % 3 == 0)
        bits = {way: "".join("01"[int(b)] for b in mle) for way in confirmation.RIVALS}
        bits[confirmation.OURS] = bits["bc"] = "".join("01"[int(b)] for b in ours)
        return {"test": {way: {"correct": flags, "passes": 1.0} for way, flags in bits.items()}}

    monkeypatch.setattr(confirmation, "finished_run", invented)
    study = confirmation.study("full")
    outcomes = {claim["over"]: claim["outcome"] for claim in study["claims"]}
    assert outcomes.pop("BC, one network") == "opposite sign"  # no difference is no lead
    assert set(outcomes.values()) == {"confirmed"}
    assert all(0.1 < claim["difference"] < 0.25 for claim in study["claims"][:-1])
    found = iter([invented(name=""), invented(name=""), None])
    monkeypatch.setattr(confirmation, "finished_run", lambda **_: next(found))
    assert not any("outcome" in claim for claim in confirmation.study("full")["claims"])


def test_its_parts_are_those_of_the_exploration():
    pair = decoupled.parts("full", "bc", 2)
    parts = confirmation.parts("full", 2)
    assert (parts["mle"], parts["bc"]) == (pair["writer"], pair["deleter"])

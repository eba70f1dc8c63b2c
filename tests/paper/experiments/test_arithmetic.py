"""Presets of the arithmetic experiment, answers and recovery, the ledger's lines."""

import ctypes
import dataclasses
import signal
import sys
import weakref

import numpy as np
import pytest
import torch

from smlib.data import load_task
from smlib.edits.actions import Trajectory
from smlib.files import write_atomically
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.arithmetic import items as arithmetic_items
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.runs.answers import (
    DECODINGS,
    _shallowest,
    answer,
    recovery,
    sampling_config,
    wrong_prefixes,
)
from smlib.paper.experiments.runs.executor import in_parallel
from smlib.paper.experiments.runs.finetuning import fine_tune, objective
from smlib.paper.experiments.runs.language_models import LanguageModel
from smlib.paper.experiments.runs.pretraining import (
    BASE,
    PretrainConfig,
    TinyModel,
    checksum,
    of_present_base,
    pretrained,
    weights_file,
)
from smlib.paper.figures import arithmetic as figures
from smlib.paper.results import ResultError, Run
from smlib.policies.policy import tiny_policy
from smlib.training.memory import DeviceMemoryError

SMALL = {"difficulty": "easy", "n_train": 10, "n_val": 5, "n_test": 30}


@pytest.mark.parametrize("name", sorted(arithmetic.PRESETS))
def test_every_preset_makes_a_complete_grid(name):
    chosen = arithmetic.preset(name)
    grid = chosen.grid()
    per_seed = 2 + 2 * len(chosen.kinds) * len(chosen.levels)
    assert len(grid) == per_seed * len(chosen.seeds)
    # Fair comparison: all runs of the figure differ in the objective, the noise and the seed alone.
    same = {
        dataclasses.replace(c.training, objective=objective("bc", steps=9, alpha=1.0, gamma=0.5), eta=0.0, seed=0)
        for c in grid.values()
    }
    assert len(same) == 1
    assert {c.base for c in grid.values()} == {chosen.base}


def test_runs_without_an_alpha_are_the_same_whatever_alpha_is():
    chosen = arithmetic.preset("full")
    other = dataclasses.replace(chosen, alpha=0.5)
    for method in ("mle", "bc"):
        assert chosen.run(method) == other.run(method)
    assert chosen.run("sm") != other.run("sm")
    assert chosen.run("iqlearn").training.objective.alpha == chosen.alpha
    assert chosen.run("sm", alpha=0.3).training.objective.alpha == 0.3


def test_unknown_presets_and_decodings_name_the_known_ones():
    with pytest.raises(ResultError, match=r"unknown preset .huge."):
        arithmetic.preset("huge")
    with pytest.raises(ValueError, match="unknown decoding 'beam'; known: t1, greedy"):
        sampling_config("beam", 4)


def test_wrong_prefixes_start_with_a_wrong_digit_of_the_base():
    task = load_task(**SMALL)
    for depth in (1, 3):
        for example, prefix in zip(task.test, wrong_prefixes(task, task.test, depth, seed=4), strict=True):
            assert prefix.size == depth
            assert prefix[0] != task.answer_ids(example)[0]
            assert set(prefix.tolist()) <= set(task.noise("ground_truth", example).tokens.tolist())


def test_wrong_tokens_count_as_removed_only_once_all_are_gone():
    task = load_task(**SMALL)
    b, d = task.space.bkspc, task.tokenizer.id("1")
    prompt = task.prompt_ids(task.test[0])

    def least(*actions):  # after the two wrong digits d d
        return _shallowest(Trajectory.make(prompt, [d, d, *actions, task.space.eos], space=task.space), 2, b)

    assert least(b, b, d) == 0
    assert least(b, d, b, b) == 0
    assert least(b, d) == 1
    assert least(d, b) == 2


def test_recovery_reads_the_trajectories():
    task = load_task(**SMALL)
    policy = tiny_policy(task.space, dim=16, layers=1, heads=2, positions=64)
    found, answers = recovery(policy, task, task.test, depth=2, seed=1)
    for i, trajectory in enumerate(answers.trajectories):
        assert found.first_backspace[i] == (trajectory.realised[2] == task.space.bkspc)
        assert trajectory.realised[:2].tolist() == wrong_prefixes(task, task.test, 2, 1)[i].tolist()
    assert found.correct == answers.correct


@pytest.mark.parametrize("decoding", sorted(DECODINGS))
def test_answers_do_not_depend_on_what_else_is_asked(decoding):
    task = load_task(**SMALL)
    policy = tiny_policy(task.space, dim=16, layers=1, heads=2, positions=64, dtype=torch.float64)
    whole = answer(policy, task, task.test[:6], decoding=decoding, seed=3, max_new_tokens=6)
    part = answer(policy, task, task.test[:2], decoding=decoding, seed=3, max_new_tokens=6)
    other = answer(policy, task, task.test[:2], decoding=decoding, seed=4, max_new_tokens=6)
    first = [t.realised.tolist() for t in whole.trajectories[:2]]
    assert [t.realised.tolist() for t in part.trajectories] == first
    if "greedy" not in decoding:
        assert [t.realised.tolist() for t in other.trajectories] != first


def test_base_models_are_trained_once_and_read_after(tmp_path):
    task = load_task(**SMALL)
    config = PretrainConfig(questions=256, batch_size=64, model=TinyModel(dim=16, layers=1, heads=2, positions=64))
    first = pretrained(config, task, preset="smoke", results_dir=tmp_path)
    files = sorted(p.name for p in (tmp_path / "smoke" / "pretrained").iterdir())
    again = pretrained(config, task, preset="smoke", results_dir=tmp_path)
    assert len(files) == 1
    assert all((a == b).all() for a, b in zip(first.lm.parameters(), again.lm.parameters(), strict=True))
    assert (again.w_bkspc == again.lm.lm_head.weight.mean(0)).all()


def test_a_run_says_that_its_base_has_other_weights_now(tmp_path):
    """A made-up run and weights: what counts is that one knows the others' checksum."""
    config = PretrainConfig()
    weights = weights_file(config, "smoke", tmp_path)
    assert weights.parent == tmp_path / "smoke" / "pretrained"
    assert checksum(config, "smoke", tmp_path) is None
    write_atomically(weights, b"weights")

    def read(base):
        record = {"result": {"val": 0.5} | ({} if base is None else {BASE: base}), "provenance": {}, "seeds": [0]}
        return of_present_base(Run(record, tmp_path / "run.json"), config, "smoke", tmp_path)

    recorded = checksum(config, "smoke", tmp_path)
    assert read(recorded)["val"] == 0.5
    assert read(None)["val"] == 0.5  # from before it was recorded
    write_atomically(weights, b"others")
    with pytest.raises(ResultError, match=rf"run.json was fine-tuned from other weights than {weights} holds now"):
        read(recorded)
    write_atomically(tmp_path / "pretrained" / weights.name, b"weights")  # committed weights come first
    assert read(recorded)["val"] == 0.5
    assert checksum(LanguageModel(), "smoke", tmp_path) is None


def double(x):
    """Twice x, and the signal that the system sends to this process when its parent ends."""
    found = ctypes.c_int(-1)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(2, ctypes.byref(found))  # PR_GET_PDEATHSIG
    return 2 * x, found.value


def test_parallel_calls_keep_their_order_and_end_with_their_parent():
    found = in_parallel(double, [{"x": i} for i in range(5)], processes=2)
    assert [value for value, _ in found] == [0, 2, 4, 6, 8]
    assert sys.platform != "linux" or {sent for _, sent in found} == {signal.SIGKILL}


class Held:
    """What a run holds while it runs."""


def test_in_one_process_a_run_that_fails_lets_the_others_go_on():
    """As where they are apart; and what it held is gone, which on a GPU is the room that the next run needs."""
    kept, ended = [], []

    def run(x):
        assert not any(held() is not None for held in kept)
        if x == 1:
            held = Held()
            kept.append(weakref.ref(held))
            raise DeviceMemoryError("out of memory on the device, training: accumulation=2 halves it")
        ended.append(x)

    with pytest.raises(DeviceMemoryError, match="accumulation=2 halves it"):
        in_parallel(run, [{"x": i} for i in range(4)], processes=1)
    assert len(kept) == 1
    assert ended == [0, 2, 3]


def fake_runs(chosen, accuracy):
    """Runs of a grid whose bits are drawn with the given accuracy by method."""
    rng = np.random.default_rng(0)
    runs = {}
    for name in chosen.grid():
        p = accuracy[name.split("-")[0]]

        def bits(p=p):
            return "".join("1" if rng.random() < p else "0" for _ in range(400))

        rules = ("t1", "greedy", "no_backspace", "truncation")
        decodings = {d: {"correct": bits(), "backspace_rate": 0.1} for d in rules}
        runs[name] = {"test": decodings, "history": {"step": [1], "loss": [1.0]}, "completions": []}
        shares = {"first_backspace": bits(0.95), "all_removed": bits(0.45), "correct": bits(0.7)}
        runs[name]["recovery"] = {str(d): shares for d in (1, 2, 3, 4)}
    return runs


@pytest.mark.parametrize(
    ("accuracy", "verdict"),
    [
        ({"mle": 0.2, "bc": 0.4, "sm": 0.8}, "reproduced"),
        ({"mle": 0.4, "bc": 0.8, "sm": 0.2}, "not reproduced"),
    ],
)
def test_verdicts_follow_the_bits(accuracy, verdict, tmp_path, monkeypatch):
    chosen = dataclasses.replace(arithmetic.preset("full"), seeds=(0, 1, 2))
    monkeypatch.setattr(arithmetic_items, "preset", lambda name: chosen)
    runs = fake_runs(chosen, accuracy)
    monkeypatch.setattr(arithmetic_items, "write_item", lambda item, preset, **content: made.update({item: content}))
    made = {}
    arithmetic_items.write_fig3("full", runs, tmp_path)
    arithmetic_items.write_tab1("full", runs, tmp_path, known=runs)
    assert made["fig3"]["verdict"] == verdict
    assert made["tab1"]["verdict"] == "direction only"  # less than half removed is nearer to none than to 4 of 4
    deleted = next(row["ours"] for row in made["tab1"]["rows"] if row["label"] == "mistake deleted, SM")
    assert deleted == pytest.approx(0.45, abs=0.05)
    assert f"all deleted {deleted:.3f}" in made["tab1"]["ours"]
    cloned = [runs[f"bc-ground_truth-0.2-s{s}"]["recovery"][d]["all_removed"] for s in range(3) for d in "13"]
    bc = np.mean([float(bit) for bits in cloned for bit in bits])
    assert f"(BC: {bc:.3f}, " in made["tab1"]["ours"]  # the line does not hide what cloning alone does
    beside = [row["ours"] for row in made["tab1"]["rows"] if "knows the task, 3 wrong: all removed" in row["label"]]
    assert beside == [made["tab1"]["details"]["rates"][m]["3"]["all_removed"]["value"] for m in ("bc", "sm")]
    assert 0 < float(made["tab1"]["error"].split()[2]) < 0.15
    assert len(made["fig3"]["details"]["comparisons"]) == 4 * len(chosen.levels) + 1
    ways = made["fig3"]["details"]["parts"]
    assert {way["cell"] for way in ways} == {k.rsplit("-s", 1)[0] for k in runs} - {"mle"}
    for way in ways:  # the language model's part and the edits' add up to the whole
        whole = scores.difference(*(arithmetic_items.seeds_of(runs, cell) for cell in (way["cell"], "mle")))
        assert way["model"]["difference"] + way["edits"]["difference"] == pytest.approx(whole.difference, abs=1e-5)
    assert len(figures.parts(made["fig3"]).axes[0].get_yticks()) == len(ways)


def test_depths_of_one_question_are_not_two_questions():
    bits = "".join("1" if hit else "0" for hit in np.random.default_rng(0).random(200) < 0.4)
    shares = dict.fromkeys(("first_backspace", "all_removed", "correct"), bits)
    runs = [{"recovery": {str(d): shares for d in (1, 3)}} for _ in range(3)]
    for what, pooled in arithmetic_items._pooled(runs, (1, 3)).items():
        alone = arithmetic_items._pooled(runs, (1,))[what]
        assert (pooled.value, pooled.low, pooled.high) == pytest.approx((alone.value, alone.low, alone.high))
        assert pooled.n_items == 200


def test_parts_of_the_policy_can_be_left_out(tmp_path):
    chosen = arithmetic.preset("smoke")
    config = dataclasses.replace(chosen.run("sm"), n_train=40, n_val=10, decodings=("t1",))
    options = {"item": "ablations", "preset": "smoke", "results_dir": tmp_path, "test": False}
    whole = fine_tune(config, "whole", **options)
    bare = fine_tune(config, "bare", without=("offset_head", "backspace"), **options)
    assert "recovery" in whole
    assert "recovery" not in bare
    assert bare["val"]["t1"]["backspace_rate"] == 0.0
    assert bare["grad_norms"] != whole["grad_norms"]
    with pytest.raises(ValueError, match="cannot leave out head; known: offset_head, backspace"):
        fine_tune(config, "none", without=("head",), **options)
    assert fine_tune(config, "whole", **options)[BASE] == checksum(config.base, "smoke", tmp_path)
    write_atomically(weights_file(config.base, "smoke", tmp_path), b"others")
    with pytest.raises(ResultError, match="was fine-tuned from other weights"):
        fine_tune(config, "whole", **options)

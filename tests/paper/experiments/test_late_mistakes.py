"""Either order of digits: the same questions, the answers turned round; and what a policy sees after a wrong digit."""

import dataclasses

import numpy as np
import pytest
import torch

from smlib.data.tasks import load_task
from smlib.files import plain
from smlib.paper.experiments.arithmetic import late_mistakes, learning
from smlib.paper.experiments.runs.finetuning import FineTuneConfig
from smlib.paper.experiments.runs.visibility import KINDS, mistake, visibility
from smlib.policies.policy import tiny_policy

SIZES = {"n_train": 20, "n_val": 30, "n_test": 5, "difficulty": "easy"}


def test_the_order_is_that_of_the_answers_alone():
    most, least = load_task(**SIZES), load_task(**SIZES, answer_order="least_first")
    for one, other in zip(most.val, least.val, strict=True):
        assert one.prompt == other.prompt
        assert one.meta == other.meta
        sign = "-" if one.answer.startswith("-") else ""
        assert other.answer == sign + "".join(reversed(one.answer.removeprefix("-")))
        assert least.is_correct(other.answer, other)
    assert any(e.answer.startswith("-") for e in most.val)
    with pytest.raises(ValueError, match="unknown answer_order 'random': known are most_first, least_first"):
        load_task(answer_order="random")
    with pytest.raises(ValueError, match="answers of mul have one order"):
        load_task("mul", answer_order="least_first")
    assert "answer_order" not in plain(FineTuneConfig())
    assert plain(FineTuneConfig(answer_order="least_first"))["answer_order"] == "least_first"


def test_one_digit_is_wrong_and_the_answer_goes_on():
    task, rng = load_task(**SIZES), np.random.default_rng(0)
    for kind in KINDS:
        for example in task.val:
            made = mistake(task, example, kind, rng)
            different = np.flatnonzero(made.wrong.realised != made.wrong.labels)
            assert different.tolist() == [made.place]
            assert np.array_equal(made.right.realised, task.answer_ids(example))
            wrong = task.tokenizer.decode([int(made.wrong.realised[made.place])])
            base = example.meta["base"]
            assert 0 <= int(wrong) < base
            if kind == "carry":
                right = int(task.tokenizer.decode([int(made.wrong.labels[made.place])]))
                assert (int(wrong) - right) % base in (1, base - 1)
    with pytest.raises(ValueError, match="unknown kind of mistake 'late'; known: any, carry"):
        mistake(task, task.val[0], "late", rng)


@torch.no_grad()
def test_what_is_seen_is_one_clean_pass_a_state():
    task = load_task(**SIZES)
    policy = tiny_policy(task.space, dim=16, layers=1, heads=2, positions=64, dtype=torch.float64)
    torch.nn.init.normal_(policy.w_bkspc, generator=torch.Generator().manual_seed(0))
    found = {row["distance"]: row for row in visibility(policy, task, task.val, kind="any", seed=3, batch=7)}
    rng = np.random.default_rng([3, 29, 0])
    slow = {}
    for example in task.val:
        made = mistake(task, example, "any", rng)
        for i in range(made.place + 1, len(made.wrong)):
            row = []
            for given in (made.wrong, made.right):
                state = [*given.prompt.tolist(), *given.realised[:i].tolist()]
                n = len(state)
                mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
                hidden = policy.hidden(torch.tensor([state]), torch.arange(n)[None], mask)[0, -1:]
                law = policy.logits(hidden, None)[0].softmax(-1)
                row += [float(law[task.space.bkspc]), float(law[int(given.labels[i])])]
            slow.setdefault(i - made.place, []).append(row)
    assert set(found) == set(slow)
    for distance, rows in slow.items():
        ours = [found[distance][name] for name in ("bkspc", "correct", "bkspc_clean", "correct_clean")]
        np.testing.assert_allclose(ours, np.mean(rows, axis=0), atol=1e-6)
        assert found[distance]["n"] == len(rows)


def test_the_runs_are_the_plans_or_differ_by_their_order():
    made, plan = late_mistakes.cells("full"), learning.cells("full")
    assert list(made) == [f"late-{o}-{m}-s0" for o in ("most_first", "least_first") for m in late_mistakes.METHODS]
    assert made["late-most_first-bc-s0"] == ("bc-ground_truth-0.2-s0", plan["bc-ground_truth-0.2-s0"])
    name, other = made["late-least_first-bc-s0"]
    assert name == "late-least_first-bc-s0"
    assert dataclasses.replace(other, answer_order="most_first") == plan["bc-ground_truth-0.2-s0"]
    assert made["late-most_first-bc-burst-s0"][1].training.burst == 3
    with pytest.raises(ValueError, match="unknown order middle"):
        late_mistakes.cells("full", orders=("middle",))


def test_smoke_runs_fill_the_table(tmp_path, capsys):
    given = ["--preset", "smoke", "--results-dir", str(tmp_path), "--weights-dir", str(tmp_path / "weights")]
    late_mistakes.main([*given, "--method", "bc"])
    assert capsys.readouterr().out.count(" -> ") == 2
    rows = {(r["order"], r["method"]): r for r in late_mistakes.study("smoke", results_dir=tmp_path)["rows"]}
    assert rows["most_first", "sm"]["status"] == "not run"
    for order in ("most_first", "least_first"):
        row = rows[order, "bc"]
        assert row["n_seeds"] == 1
        for kind in KINDS:
            first = row["visible"][kind][0]
            assert first["distance"] == 1
            assert 0 < first["bkspc"] < 1
            assert 0 < first["correct"] < 1

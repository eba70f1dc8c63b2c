"""Deletions learned after writing, and a head of its own: the writing is untouched, and the study has a row of each."""

import dataclasses

import pytest
import torch

from smlib.paper.experiments.arithmetic import after_writing, deletion_cost, deletion_ways, learning
from smlib.paper.experiments.runs.finetuning import FineTuneConfig
from smlib.paper.experiments.runs.kept import kept_policy
from smlib.paper.experiments.runs.pretraining import PretrainConfig, pretraining_run
from smlib.policies.decoupled import DecoupledPolicy
from smlib.policies.deletion_head import DeletionHeadPolicy
from smlib.training.algorithm_1 import TrainConfig
from tests.support.copying import policy as small_policy

TRAINED = ("mle", "own head", "held row", "held head", "held adapters")


def test_smoke_runs_write_as_before_and_fill_the_study(tmp_path, capsys):
    given = ["--preset", "smoke", "--results-dir", str(tmp_path), "--weights-dir", str(tmp_path / "weights")]
    given += [part for way in TRAINED for part in ("--way", way)]
    deletion_cost.main(given)
    assert capsys.readouterr().out.count(" -> ") == len(TRAINED)
    rows = {row["way"]: row for row in deletion_cost.study("smoke", results_dir=tmp_path)}
    assert set(rows) == {"closed form", *TRAINED} - {"mle"}
    mle = deletion_cost.cells("smoke")["cost-8x96-mle-s0"]
    for way in after_writing.WAYS:
        run = after_writing.run("smoke", way, results_dir=tmp_path, weights_dir=tmp_path / "weights")
        assert run.cached
        writer = kept_policy(mle[3], mle[1], tmp_path / "weights")
        assert run["parameters"]["written"] == sum(p.numel() for p in writer.lm.parameters())
        assert run["parameters"]["trained"] > 0
        assert rows[way]["cost"] == {"difference": 0.0, "low": 0.0, "high": 0.0, "p_value": 1.0}
    own = deletion_cost.cells("smoke", ways=("own head",))["cost-8x96-own_head-s0"]
    assert isinstance(kept_policy(own[3], own[1], tmp_path / "weights"), DeletionHeadPolicy)
    deletion_cost.main(given)
    assert deletion_cost.study("smoke", results_dir=tmp_path) == list(rows.values())


@pytest.mark.parametrize("way", after_writing.WAYS)
def test_what_is_held_and_what_is_trained(way, tmp_path):
    config = after_writing.deletions("smoke", "8x96", 0)
    task = config.task()
    writes = config.base.model.build(task).forbid_backspace()
    before = {name: p.detach().clone() for name, p in writes.lm.named_parameters()}
    row = writes.w_bkspc.detach().clone()
    policy, counts = after_writing.learned(way, writes, config, task, tmp_path)
    assert all(torch.equal(p, before[name]) for name, p in writes.lm.named_parameters())
    dim = row.numel()
    if way == "held row":
        assert not torch.equal(policy.w_bkspc, row)
        assert counts["trained"] == dim
    elif way == "held head":
        assert torch.equal(policy.w_bkspc, row)
        assert counts["trained"] == 2 * dim * 4 * dim + 4 * dim + 4 * dim + 1
    else:
        assert isinstance(policy, DecoupledPolicy)
        assert policy.writer is writes
        assert any("lora_B" in name and p.abs().max() > 0 for name, p in policy.deleter.named_parameters())
        assert counts["trained"] < counts["written"]
    assert policy.config.backspace


def test_adapters_start_alike_from_the_same_seed(tmp_path):
    config = after_writing.deletions("smoke", "8x96", 0)
    task = config.task()
    found = []
    for n in range(2):
        torch.manual_seed(n)  # the global generator has no say
        writes = config.base.model.build(task).forbid_backspace()
        policy, _ = after_writing.learned("held adapters", writes, config, task, tmp_path / str(n))
        found.append([p.detach() for p in policy.deleter.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_the_deletions_are_learned_as_the_plan_learns_them():
    plan = learning.cells("full")["bc-ground_truth-0.2-s0"]
    ours = after_writing.deletions("full", "8x96", 0)
    assert dataclasses.replace(ours.training, eval_every=plan.training.eval_every) == plan.training
    assert (ours.noise, ours.n_train, ours.base) == (plan.noise, plan.n_train, plan.base)
    assert after_writing.writer("full", "8x96", 0)[:3] == ("fig3", "mle-s0", True)
    other = after_writing.writer("full", "4x64", 1)
    assert other[:3] == ("ablations", "cost-4x64-mle-s1", False)
    head = deletion_cost.cells("full", ways=("own head",))["cost-8x96-own_head-s0"][3]
    assert head.deletion_head
    assert head.training == plan.training


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown way soft; known: held row, held head, held adapters"):
        after_writing.run("smoke", "soft", results_dir=tmp_path)
    with pytest.raises(ValueError, match="unknown way hard; known: mle, shared"):
        deletion_cost.train("smoke", ways=("hard",), results_dir=tmp_path)
    with pytest.raises(ValueError, match=r"deletion_head=True asks for a head of its own for <bkspc>, and MLE has no"):
        FineTuneConfig(training=TrainConfig(objective=dataclasses.replace(TrainConfig().objective, method="mle")),
                       deletion_head=True)  # fmt: skip


def test_quick_says_how_a_base_of_another_size_is_made(tmp_path):
    with pytest.raises(ValueError, match=r"no base model of 12x192 .* is committed, and quick trains none") as said:
        deletion_cost.train("quick", ("12x192",), ("mle",), results_dir=tmp_path)
    assert "deletion_cost --preset full --shape 12x192 --way mle` does, in about 202 processor minutes" in str(
        said.value
    )
    deletion_ways.check_base("quick", "8x96")  # committed
    deletion_ways.check_base("full", "12x192", tmp_path)  # which trains it


def test_parameters_are_counted_as_the_committed_bases_count_them():
    there = 0
    for shape in deletion_ways.SHAPES:
        base = deletion_ways.with_shape("full", shape).base
        assert isinstance(base, PretrainConfig)
        run = pretraining_run(base, "full")
        if run is not None:
            there += 1
            assert run["parameters"] == deletion_ways.parameters(shape)
    assert there >= 2


def test_the_head_of_a_fresh_policy_has_the_probability_of_an_average_token():
    made = DeletionHeadPolicy.of(small_policy())
    assert torch.sigmoid(made.deletion(torch.randn(3, 32))).tolist() == pytest.approx([1 / 8] * 3)

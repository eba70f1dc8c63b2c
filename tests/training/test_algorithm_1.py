"""Algorithm 1: schedules, exact resume after SIGKILL, and what stops it."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.packing import pack
from smlib.files import config_hash, plain
from smlib.objectives.losses import sizes
from smlib.objectives.methods import METHODS, ObjectiveConfig, get_method, objective
from smlib.paper.results import PRESETS
from smlib.policies.policy import tiny_policy
from smlib.training.algorithm_1 import NonFiniteLossError, TrainConfig, train
from smlib.training.checkpoints import CheckpointError
from tests.support.copying import Copying, config, policy, weights
from tests.support.oracles import SPACE, float64_policy


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_learns_to_copy(method, tmp_path):
    asked = config(method, steps=60, eta=0.05)
    asked = asked.on_policy(2 if method == "exact" else None) if METHODS[method].on_policy else asked
    result = train(policy(), Copying(), asked, tmp_path, progress=False)
    # A critic's loss, or a policy gradient's, falls with nothing: of such a method, what it has in common with cloning.
    losses = [row.get("bc", row["loss"]) if METHODS[method].on_policy else row["loss"] for row in result.history]
    assert losses[-1] < losses[0] - 0.5
    assert (result.policy.config.backspace) == METHODS[method].backspace


@pytest.mark.parametrize("eta", [0.0, 0.2])
def test_a_backspace_that_is_switched_off_is_not_trained_with(eta, tmp_path):
    trained = train(policy(), Copying(), config("mle"), tmp_path / "a", progress=False).policy
    with pytest.raises(ValueError, match=r"sm deletes with <bkspc>, which is switched off.*policy.allow_backspace\(\)"):
        train(trained, Copying(), config("sm", eta=eta), tmp_path / "b", progress=False)
    assert not (tmp_path / "b").exists()
    again = train(trained.allow_backspace(), Copying(), config("sm", eta=eta), tmp_path / "b", progress=False)
    assert all(np.isfinite(row["loss"]) for row in again.history)
    assert again.policy.config.backspace


def test_an_ablation_says_that_it_has_no_backspace(tmp_path):
    made = train(policy(), Copying(), config("sm", eta=0.0), tmp_path, progress=False, without_backspace=True)
    assert not made.policy.config.backspace
    assert all(np.isfinite(row["loss"]) for row in made.history)
    for method, eta in (("sm", 0.2), ("dagger", 0.0)):
        with pytest.raises(ValueError, match="has demonstrations that delete; set eta=0"):
            train(policy(), Copying(), config(method, eta=eta), tmp_path, progress=False, without_backspace=True)


def test_what_does_not_fit_into_the_models_context_is_refused_before_it_is_trained_on(tmp_path):
    whole = config("sm", rollout_tokens=29)  # 2 + 29 + <eos> are the 32 positions
    train(policy(), Copying(), whole, tmp_path / "a", progress=False)
    message = r"rollout_tokens=30 and <eos>, take 33 tokens, and the model's context is 32: lower rollout_tokens"
    with pytest.raises(ValueError, match=message):
        train(policy(), Copying(), config("sm", rollout_tokens=30), tmp_path / "b", progress=False)
    assert not (tmp_path / "b").exists()

    class Long(Copying):
        def reference(self, index):
            return np.array([2 + index] * 40 + [1], np.int32)

    with pytest.raises(ValueError, match=r"of a batch take 43 tokens, .* is 32: shorten the data's examples"):
        train(policy(), Long(), config("mle"), tmp_path / "c", progress=False)


def test_same_seed_same_weights_and_another_seed_others(tmp_path):
    runs = [
        weights(train(policy(), Copying(), config(seed=s), tmp_path / str(i), progress=False))
        for i, s in enumerate((0, 0, 1))
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


class Many(Copying):
    """As many copies of the five questions as a buffer of four never holds."""

    def __init__(self):
        self.seen = []

    def __len__(self):
        return 60

    def demonstration(self, index, rng, eta, burst):
        self.seen.append(index)
        return super().demonstration(index % 5, rng, eta, burst)

    def rollout_prompt(self, index, rng):
        return super().rollout_prompt(index % 5, rng)

    def reference(self, index):
        return super().reference(index % 5)


def test_the_data_come_from_all_of_d_unless_they_are_paired(tmp_path):
    data, paired = Many(), Many()
    train(policy(), data, config("sm"), tmp_path / "a", progress=False)
    train(policy(), paired, config("sm", paired=True), tmp_path / "b", progress=False)
    drawn, windowed = (found[-16 * 4 :] for found in (data.seen, paired.seen))  # before them the run's identity looks
    assert sorted(drawn[:60]) == list(range(60))  # 16 steps of 4: an epoch of 60, each once, and four more
    assert len(set(windowed)) == 4 + 16 * 4 // 2 - 2  # the first four, and two more every two steps but the first


def test_paired_data_share_their_prompts_with_rollouts(tmp_path, monkeypatch):
    from smlib.training import batches as training

    laid = []

    def watched(groups, space, *, model, **options):
        laid.append([(list(map(bool, m)), {t.prompt.tobytes() for t in g}) for g, m in zip(groups, model, strict=True)])
        return pack(groups, space, model=model, **options)

    monkeypatch.setattr(training, "pack", watched)
    for name, paired in (("a", True), ("b", False)):
        train(policy(), Copying(), config("sm", paired=paired), tmp_path / name, progress=False)
    together, apart = laid[15], laid[31]
    assert [flags for flags, _ in together] == [[False, True]] * 4
    assert all(len(prompts) == 1 for _, prompts in together)
    assert [flags for flags, _ in apart] == [[False]] * 4 + [[True]] * 4


@pytest.mark.parametrize("paired", [False, True])
def test_methods_see_the_same_examples_in_the_same_order(paired, tmp_path):
    orders = {}
    for method in ("mle", "bc", "sm", "dagger"):
        seen = orders.setdefault(method, [])

        class Watched(Copying):
            def demonstration(self, index, rng, eta, burst, seen=seen):
                seen.append(index)
                return super().demonstration(index, rng, eta, burst)

        train(policy(), Watched(), config(method, paired=paired), tmp_path / method, progress=False)
    assert orders["mle"] == orders["bc"] == orders["sm"] == orders["dagger"]
    assert len(orders["mle"]) == 5 + 16 * 4  # the run's identity looks at each of the five first


def test_beta_is_one_then_falls_to_the_floor():
    goal = ObjectiveConfig(bc_steps=10, anneal_steps=20, beta_floor=0.2)
    assert [goal.beta(k) for k in (0, 9, 10, 20, 30, 99)] == pytest.approx([1, 1, 1, 0.6, 0.2, 0.2])
    assert ObjectiveConfig(method="bc", bc_steps=0).beta(50) == 1.0


def test_the_mixture_regulariser_is_chi_squares_unless_it_is_asked_for():
    assert ObjectiveConfig().mixture
    assert not ObjectiveConfig(divergence="js").mixture
    assert ObjectiveConfig(divergence="js", mixture=True).mixture is True
    assert ObjectiveConfig(mixture=False).mixture is False
    assert plain(ObjectiveConfig(divergence="js"))["mixture"] is False  # a run's identity holds what was done


@pytest.mark.parametrize("mixture", [None, True, False])
def test_a_copy_with_another_divergence_is_the_one_made_from_nothing(mixture):
    for before, after in (("chi2", "js"), ("js", "chi2")):
        copied = dataclasses.replace(ObjectiveConfig(divergence=before, mixture=mixture), divergence=after)
        made = ObjectiveConfig(divergence=after, mixture=mixture)
        assert copied == made
        assert bool(copied.mixture) == bool(made.mixture) == (after == "chi2" if mixture is None else mixture)
        assert config_hash(copied) == config_hash(made)
    assert dataclasses.replace(ObjectiveConfig(), divergence="js", mixture=True).mixture is True


def test_the_identity_of_an_objective_is_what_it_always_was():
    """As committed results have it: the identity shows whether the mixture is there, and not how that was asked for."""
    assert config_hash(ObjectiveConfig()) == config_hash(ObjectiveConfig(mixture=True)) == "ea4e4bf61b07"
    assert config_hash(ObjectiveConfig(divergence="js")) == "ccdb51329b87"
    assert config_hash(TrainConfig()) == "1e804357cab7"


@pytest.mark.parametrize(("method", "steps"), [("sm", 4), ("iqlearn", 5)])  # beta leaves 1 after step 4
def test_a_run_that_is_cloning_alone_says_so(method, steps, tmp_path):
    # Under these tests a warning is an error. (pytest.warns would repeat those of whatever is imported meanwhile.)
    with pytest.raises(UserWarning, match=f"bc_steps=4 all of this run's steps={steps} .* none is {method}: lower"):
        train(policy(), Copying(), config(method, steps=steps), tmp_path, progress=False)


@pytest.mark.parametrize("name", PRESETS)
def test_no_preset_is_cloning_or_warming_up_alone(name):
    from smlib.paper.experiments.ablations import regimes
    from smlib.paper.experiments.ablations import study as ablations
    from smlib.paper.experiments.arithmetic import divergences
    from smlib.paper.experiments.arithmetic import grid as arithmetic
    from smlib.paper.experiments.tasks import mathematics, translation
    from smlib.paper.experiments.text import study as text

    runs = [*arithmetic.preset(name).grid().values(), *text.preset(name).grid().values()]
    runs += [c for item in mathematics.TASKS for c in mathematics.cells(item, name).values()]
    runs += [c for kind in (ablations, translation) for c in kind.cells(name).values()]
    runs += [cell[-1] for kind in (divergences, regimes) for cell in kind.cells(name).values()]
    goals = [(r.training.objective, r.training.steps) for r in runs]
    annealed = [(goal, steps) for goal, steps in goals if get_method(goal.method).annealed]
    assert annealed
    assert all(goal.beta(steps - 1) < 1.0 for goal, steps in annealed)
    assert all(r.training.warmup_steps < r.training.steps for r in runs)
    without = [r.training for r in runs if getattr(r, "noise", "vocabulary") == "none"]
    assert all(t.eta == t.rollout_noise == 0.0 for t in without)


@pytest.mark.parametrize("method", ["mle", "bc", "sm", "dagger", "iqlearn", "unlikelihood"])
def test_the_parts_of_a_batch_add_up_to_its_gradient(method):
    """Demonstrations with noise are of different lengths, so a mean of the parts' means would be another loss."""
    rng, data = np.random.default_rng(1), Copying()
    groups = [[data.demonstration(i, rng, 0.5, 1)] for i in range(4)] + [
        [data.demonstration(i, rng, 0.3, 1)] for i in range(3)
    ]
    flags = [[False]] * 4 + [[True]] * 3 if get_method(method).rollouts else [[False]] * 7
    assert len({len(t) for g in groups for t in g}) > 2
    goal = ObjectiveConfig(method=method, alpha=0.1, gamma=0.9, bc_steps=0, anneal_steps=0)

    def gradient(parts):
        model = float64_policy()
        if not get_method(method).backspace:
            groups_of = [[Trajectory.make([0, 2], [2] * (1 + i) + [1], space=SPACE)] for i in range(7)]
        else:
            groups_of = groups
        batches = [pack([groups_of[i] for i in p], SPACE, model=[flags[i] for i in p]) for p in parts]
        whole = sizes(batches) if len(parts) > 1 else None
        total = sum(objective(model, b, goal, 9, None, whole).total for b in batches)
        total.backward()
        found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        return total.detach(), found

    loss, expected = gradient([range(7)])
    in_parts, found = gradient([[0, 1, 4], [2, 3, 5, 6]])
    torch.testing.assert_close(in_parts, loss, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_accumulation_sees_the_same_batch(tmp_path):
    one = train(policy(), Copying(), config("sm"), tmp_path / "a", progress=False)
    two = train(policy(), Copying(), config("sm", accumulation=2), tmp_path / "b", progress=False)
    for a, b in zip(one.history, two.history, strict=True):
        assert a.keys() == b.keys()
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-2)


def test_rollouts_are_sampled_in_batches_of_the_size_that_is_asked_for(tmp_path, monkeypatch):
    from smlib.training import rollouts

    sizes_asked, real = [], rollouts.sample

    def watched(*arguments, batch_size, **options):
        sizes_asked.append(batch_size)
        return real(*arguments, batch_size=batch_size, **options)

    monkeypatch.setattr(rollouts, "sample", watched)
    usual = train(policy(), Copying(), config(), tmp_path / "a", progress=False)
    small = train(policy(), Copying(), config(rollout_batch=1), tmp_path / "b", progress=False)
    assert set(sizes_asked) == {None, 1}
    assert [row["loss"] for row in small.history] == pytest.approx([row["loss"] for row in usual.history], rel=1e-4)


def test_a_size_of_rollout_batches_that_is_not_given_leaves_a_runs_identity():
    assert config_hash(config()) == config_hash(config(rollout_batch=None)) != config_hash(config(rollout_batch=8))
    assert "rollout_batch" not in plain(config())


def test_a_folder_belongs_to_its_data_and_to_what_training_started_from(tmp_path):
    class Other(Copying):
        def rollout_prompt(self, index, rng):
            return np.array([0, 6 - index], np.int32)

    train(policy(), Copying(), config(), tmp_path, progress=False)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        train(policy(), Other(), config(), tmp_path, progress=False)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        train(tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=32, seed=1), Copying(), config(), tmp_path)


def test_dropout_follows_from_the_seed_and_leaves_the_callers_generator_alone(tmp_path):
    def dropping():
        made = policy()
        for layer in made.lm.model.layers:
            layer.self_attn.attention_dropout = 0.3
        return made

    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = train(dropping(), Copying(), config("bc"), tmp_path / "a", progress=False)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    again = train(dropping(), Copying(), config("bc"), tmp_path / "b", progress=False)
    without = train(policy(), Copying(), config("bc"), tmp_path / "c", progress=False)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(without))


@pytest.mark.parametrize(("method", "moves"), [("bc", False), ("sm", True)])
def test_the_offset_head_moves_only_where_the_loss_depends_on_it(method, moves, tmp_path):
    trained = train(policy(), Copying(), config(method), tmp_path, progress=False).policy
    assert bool(trained.offset.outer.weight.abs().sum() > 0) == moves


def test_the_backspace_row_has_a_learning_rate_of_its_own(tmp_path):
    def moved(rate):
        model, before = policy(), policy()
        settings = config("bc", steps=1, warmup_steps=0, eta=0.3, weight_decay=0.0, bkspc_rate=rate)
        train(model, Copying(), settings, tmp_path / str(rate))
        row = (model.w_bkspc - before.w_bkspc).detach().abs().max()
        others = [
            (a - b).detach().abs().max() for a, b in zip(model.lm.parameters(), before.lm.parameters(), strict=True)
        ]
        return float(row), float(max(others))

    (row, others), (faster, same) = moved(1.0), moved(10.0)
    assert same == others > 0
    assert faster == pytest.approx(10 * row, rel=1e-4)  # Adam's first step is the learning rate


def test_metrics_are_written_and_named(tmp_path):
    result = train(
        policy(), Copying(), config(eval_every=8), tmp_path, evaluate=lambda p: {"accuracy": 0.5}, progress=False
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == result.history
    last = [row for row in rows if "loss" in row][-1]
    assert {"step", "beta", "lr", "bc", "phi", "phi_end", "value_data", "value_model", "mixture"} <= set(last)
    assert [row["step"] for row in rows if "val_accuracy" in row] == [8, 16]
    assert sum(len(row.get("grad_norms", [])) for row in rows) == 16


RUN = """
import sys
sys.path[:0] = [{root!r}]
import torch
torch.set_num_threads(1)
from tests.support.copying import Copying, config, policy
from smlib.training import batches as training
if {slow}:
    real = training.pack
    def pack(*a, **k):
        import time; time.sleep(0.05); return real(*a, **k)
    training.pack = pack
from smlib.training.algorithm_1 import train
result = train(policy(), Copying(), config(steps=24), {folder!r}, progress=False)
result.policy.save({folder!r} + "/policy")
"""


def test_a_killed_run_resumes_to_the_same_bytes(tmp_path, repository):
    def start(folder, slow):
        code = RUN.format(root=str(repository), folder=str(folder), slow=slow)
        return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(repository)})

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, False).wait(120) == 0
    process = start(killed, True)
    deadline = time.monotonic() + 120
    while not (killed / "checkpoint" / "run.json").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.12)  # into the steps after the checkpoint, which are lost and have to be repeated
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "policy").exists()
    assert start(killed, False).wait(120) == 0
    for name in ("metrics.jsonl", "policy/lm/model.safetensors", "policy/policy.safetensors"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    train(policy(), Copying(), config(), tmp_path, progress=False)
    with pytest.raises(CheckpointError, match="belongs to another run"):
        train(policy(), Copying(), config(learning_rate=1e-3), tmp_path, progress=False)
    trained = policy()
    train(trained, Copying(), config(), tmp_path / "b", progress=False)
    with pytest.raises(CheckpointError, match=r"name another folder, .* Or the policy in memory has been trained"):
        train(trained, Copying(), config(), tmp_path / "b", progress=False)
    train(policy(), Copying(), config(), tmp_path / "b", progress=False)  # built anew it goes on
    (tmp_path / "checkpoint" / "trainable.safetensors").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="is corrupt"):
        train(policy(), Copying(), config(), tmp_path, progress=False)


def test_data_of_another_action_space_is_refused(tmp_path):
    data = Copying()
    for other in (ActionSpace(SPACE.vocab_size - 1, eos=SPACE.eos), ActionSpace(SPACE.vocab_size, eos=SPACE.eos + 1)):
        data.space = other
        with pytest.raises(ValueError, match=f"{other.vocab_size} tokens with <eos> {other.eos} and <bkspc>"):
            train(policy(), data, config("mle"), tmp_path / "run", progress=False)
        data.task = types.SimpleNamespace(space=data.__dict__.pop("space"))
        with pytest.raises(ValueError, match="make the data with the tokeniser"):
            train(policy(), data, config("mle"), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    data.task.space = ActionSpace(SPACE.vocab_size, eos=SPACE.eos)
    train(policy(), data, config("mle", steps=3), tmp_path / "run", progress=False)


@pytest.mark.parametrize("number", [np.float32(0.5), torch.tensor(0.5), 0.5, np.float64(0.5)])
def test_an_evaluation_may_give_numbers_of_any_kind(number, tmp_path):
    settings = config("bc", steps=2, warmup_steps=1, eval_every=1)
    train(policy(), Copying(), settings, tmp_path, progress=False, evaluate=lambda _: {"accuracy": number})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [v for row in rows for k, v in row.items() if "accuracy" in k] == [0.5, 0.5]
    with pytest.raises(TypeError, match="accuracy is a tuple: expected a number"):
        train(policy(), Copying(), settings, tmp_path / "b", progress=False, evaluate=lambda _: {"accuracy": (1, 2)})


def test_a_loss_that_is_not_finite_stops_with_its_batch(tmp_path):
    broken = policy()
    with torch.no_grad():
        broken.w_bkspc.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError, match=r"nan at step 0: nll = nan; the batch is in .*nonfinite-step-0.json"):
        train(broken, Copying(), config(), tmp_path, progress=False)
    groups = json.loads((tmp_path / "nonfinite-step-0.json").read_text())
    assert Trajectory.make(**groups[0][0], space=SPACE).prompt.tolist()[0] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"eta": 1.5}, "eta is a probability, got 1.5"),
        ({"bkspc_rate": 0.0}, "bkspc_rate must be positive"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
        ({"clip_norm": float("nan")}, "clip_norm must be positive"),
        ({"clip_norm": float("inf")}, "clip_norm must be positive and finite"),
        ({"burst": 0}, "burst must be positive"),
        ({"learning_rate": 0.0}, "learning_rate must be positive and finite"),
        ({"times_seen": 0.0}, "times_seen must be positive and finite"),
        ({"seed": -1}, "seed must not be negative"),
        ({"chunk": 0}, "chunk must be at least 1, or None"),
        ({"vocabulary_tile": -1}, "vocabulary_tile must be at least 1, 0 for never, or None, got -1"),
        ({"flex_from": -5}, "flex_from must be at least 1, 0 for never, or None, got -5"),
        ({"warmup_steps": -3}, "warmup_steps must not be negative"),
        ({"rollout_batch": 0}, "rollout_batch must be at least 1"),
        ({"accumulation": 3}, "no multiple of accumulation"),
        ({"checkpoint_every": 5}, "no multiple of log_every"),
        ({"times_seen": 0.1, "refill": 1}, "generate at least"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppo"}, "unknown method 'ppo'; known: mle, bc, sm"),
        ({"divergence": "helinger"}, "unknown divergence 'helinger'"),
        ({"alpha": 0.0}, "alpha must be positive"),
        ({"gamma": 1.0}, "gamma must lie strictly"),
        ({"beta_floor": 2.0}, "beta_floor"),
    ],
)
def test_impossible_objectives_are_refused(changes, message):
    with pytest.raises((ValueError, KeyError), match=message):
        ObjectiveConfig(**changes)

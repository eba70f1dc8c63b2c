"""What trackers show: what a slow computation gives too, in the files of TensorBoard and in the hands of others."""

import sys
import types

import numpy as np
import pytest
import torch

from smlib.edits.algorithm_a import algorithm_a
from smlib.policies.loading import load_policy
from smlib.training.batches import Batches
from smlib.training.reading import read_data
from smlib.training.shown_edits import show_edits
from smlib.training.trainer import SequenceMatchTrainer
from smlib.training.vital_signs import edits, of_batch, of_policy
from tests.support.finetuning import arguments, prompted
from tests.support.models import saved_model

SIGNS = {
    "trie/saved",
    "trie/padding",
    "bkspc/rate",
    "rollouts/length",
    "buffer/age",
    "value/data",
    "value/rollouts",
    "reward/data",
    "reward/rollouts",
    "bkspc/probability",
    "bkspc/at_mistakes",
    "beta",
    "actions_per_second",
}


def drawn(folder, step=12):
    policy, tokenizer = load_policy(saved_model(folder / "base"), dtype=torch.float64)
    args = arguments(folder / "run", eta=0.4)
    data = read_data(prompted(), tokenizer, policy.max_positions, args)
    batches = Batches(policy, data, args.train_config(20))
    batches.begin()
    batches.populate(step - 3)
    return policy, tokenizer, data, batches.draw(step, "cpu")


def test_the_signs_of_a_batch_are_what_counting_gives(tmp_path):
    policy, _, _, batch = drawn(tmp_path)
    found = of_batch(batch, 12, policy.space)
    every = [t for part in batch.groups for group in part for t in group]
    rollouts = [e.rollout for e in batch.entries]
    slots = sum(algorithm_a(t, policy.space).inputs.size for t in every)
    inserted = sum(t.prompt.size + int((t.realised != policy.space.bkspc).sum()) for t in every)
    assert found["trie/saved"] == pytest.approx(1 - inserted / slots)
    assert found["trie/saved"] > 0.05
    deleted = sum(int((r.realised == policy.space.bkspc).sum()) for r in rollouts)
    assert found["bkspc/rate"] == pytest.approx(deleted / sum(len(r) for r in rollouts))
    assert found["buffer/age"] == 3.0
    assert found["rollouts/length"] == np.mean([int((r.realised != policy.space.bkspc).sum()) for r in rollouts])


def test_the_signs_of_a_policy_are_those_of_its_logits(tmp_path):
    policy, _, _, batch = drawn(tmp_path)
    found = of_policy(policy, batch, 0.9)
    (part,) = batch.packed
    with torch.no_grad():
        logits = policy.eval().state_logits(part)
    v, p = logits.logsumexp(-1), logits.softmax(-1)[:, policy.space.bkspc]
    rollout = part.model[part.trajectory]
    reward = logits[part.visit_state, part.label] - 0.9 * v[part.visit_next]
    deletes = part.label == policy.space.bkspc
    expected = {
        "value/data": v[part.visit_state][~rollout],
        "value/rollouts": v[part.visit_state][rollout],
        "reward/data": reward[~rollout],
        "reward/rollouts": reward[rollout],
        "bkspc/probability": p[part.visit_state][~rollout],
        "bkspc/at_mistakes": p[part.visit_state][~rollout & deletes],
    }
    assert found == pytest.approx({name: float(values.mean()) for name, values in expected.items()}, rel=1e-10)


def test_looking_changes_nothing(tmp_path):
    policy, tokenizer, data, _ = drawn(tmp_path)
    policy.train()
    state = torch.get_rng_state()
    text = edits(policy, data, tokenizer.decode, prompts=2, longest=6, seed=0, mark="[X]")
    assert torch.equal(state, torch.get_rng_state())
    assert policy.training
    assert text == edits(policy, data, tokenizer.decode, prompts=2, longest=6, seed=0, mark="[X]")
    assert text.count(" | ") == 2
    assert text.startswith(tokenizer.decode(data.rollout_prompt(0, np.random.default_rng(0)).tolist()))


def test_tensorboard_has_every_sign_and_the_edits(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    args = arguments(
        tmp_path / "run", report_to="tensorboard", max_steps=12, edits_steps=6, logging_steps=3, eta=0.4, save_steps=12
    )
    SequenceMatchTrainer(str(saved_model(tmp_path / "base")), args, prompted(), eval_dataset=prompted()[:3]).train()
    (folder,) = {path.parent for path in (tmp_path / "run" / "runs").rglob("events.*")}
    events = EventAccumulator(str(folder)).Reload()
    scalars = set(events.Tags()["scalars"])
    assert {f"train/{name}" for name in (*SIGNS, "loss", "grad_norm", "parts/bc", "parts/mixture")} <= scalars
    assert [e.step for e in events.Scalars("train/loss")] == [3, 6, 9, 12]
    assert all(np.isfinite(e.value) for name in scalars for e in events.Scalars(name))
    (name,) = [tag for tag in events.Tags()["tensors"] if "edits" in tag]
    assert [e.step for e in events.Tensors(name)] == [6, 12]
    assert " | " in events.Tensors(name)[0].tensor_proto.string_val[0].decode()


class Config(dict):
    """The configuration of a run in a tracker."""

    def update(self, values, allow_val_change=False):
        super().update(values)


def stand_in(name, monkeypatch):
    """A module in the place of a tracker's package, which keeps what transformers' own callback hands to it."""
    module = types.ModuleType(name)
    module.config, module.rows, module.run = Config(), [], None

    def begin(**options):
        module.run = types.SimpleNamespace(summary={}, _label=lambda **label: None)

    module.init, module.log = begin, module.rows.append
    module.finish = module.define_metric = lambda *names, **options: None
    nothing = types.SimpleNamespace(get=lambda: None)
    module.context_vars = types.SimpleNamespace(current_space_id=nothing, current_project=nothing)
    monkeypatch.setitem(sys.modules, name, module)
    for part in ("sdk", "sdk.lib", "sdk.lib.config_util"):
        monkeypatch.setitem(sys.modules, f"{name}.{part}", types.ModuleType(f"{name}.{part}"))
    sys.modules[f"{name}.sdk.lib.config_util"].ConfigError = type("ConfigError", (Exception,), {})
    monkeypatch.setattr(f"transformers.integrations.integration_utils.is_{name}_available", lambda: True)
    return module


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_other_trackers_are_given_the_same_by_name(tracker, tmp_path, monkeypatch):
    module = stand_in(tracker, monkeypatch)
    args = arguments(tmp_path / "run", report_to=tracker, max_steps=12, edits_steps=12, logging_steps=6, eta=0.4)
    SequenceMatchTrainer(str(saved_model(tmp_path / "base")), args, prompted()).train()
    first, second = (row for row in module.rows if "train/loss" in row)
    assert (first["train/global_step"], second["train/global_step"]) == (6, 12)
    assert set(second) >= {f"train/{name}" for name in SIGNS}
    assert isinstance(second["train/edits"], str)
    assert (module.config["method"], module.config["model_type"]) == ("sm", "llama")


def test_a_tracker_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("nothing"))
    monkeypatch.setattr("transformers.integrations.integration_utils.is_wandb_available", lambda: False)
    args = arguments(tmp_path / "run", report_to="wandb")
    with pytest.raises(RuntimeError, match=r"(?i)wandb.*install"):
        SequenceMatchTrainer(str(saved_model(tmp_path / "base")), args, prompted())


def test_edits_stand_above_the_bar_in_full(tmp_path, capfd):
    args = arguments(tmp_path / "run", max_steps=4, edits_steps=2, method="bc", disable_tqdm=False, rollout_tokens=12)
    trainer = SequenceMatchTrainer(str(saved_model(tmp_path / "base")), args, prompted())
    assert [type(c).__name__ for c in trainer.callback_handler.callbacks if "Progress" in str(type(c).__mro__)] == [
        "BarWithEdits"
    ]
    trainer.train()
    out, err = capfd.readouterr()
    texts = [(row["step"], row["edits"]) for row in trainer.state.log_history if "edits" in row]
    assert [step for step, _ in texts] == [2, 4]
    for step, text in texts:
        assert f"edits after step {step}:\n{text}\n" in out
    assert "too long" not in out
    assert out.count("{'loss'") == 4
    assert "4/4" in err  # the bar itself


def test_a_bar_of_a_notebook_has_them_too_and_obeys_no_escape(capsys):
    trainer = types.SimpleNamespace(
        args=types.SimpleNamespace(disable_tqdm=False),
        callback_handler=types.SimpleNamespace(callbacks=[object()]),
        added=[],
    )
    trainer.add_callback = trainer.added.append
    show_edits(trainer)
    (beside,) = trainer.added
    first = types.SimpleNamespace(is_world_process_zero=True, global_step=7)
    beside.on_log(None, first, None, logs={"loss": 1.0})
    assert capsys.readouterr().out == ""
    beside.on_log(None, first, None, logs={"edits": "a | \x1b[2Jb\n\nc | d"})
    assert capsys.readouterr().out == "edits after step 7:\na | \\x1b[2Jb\n\nc | d\n\n"
    beside.on_log(None, types.SimpleNamespace(is_world_process_zero=False), None, logs={"edits": "a"})
    assert capsys.readouterr().out == ""

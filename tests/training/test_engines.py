"""Rollouts beside training: the same bits as copies of the policy that are kept, and clear ends of what fails."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from smlib.edits.noise import NoiseLaw
from smlib.files import plain
from smlib.generation.sampling import SamplingConfig
from smlib.objectives.methods import METHODS
from smlib.policies.adapters import with_adapters
from smlib.policies.policy import Policy
from smlib.policies.sources import Lora
from smlib.training import background, batches, engines
from smlib.training.algorithm_1 import TrainConfig, train
from smlib.training.background import BackgroundEngine, RolloutWorkerError
from smlib.training.engines import InProcessEngine, Schedule, Supply
from smlib.training.policy_copy import moving, read_into, rebuilt, structure, write
from smlib.training.preflight import check_run
from smlib.training.rollouts import SamplingTask
from smlib.training.trainer import SequenceMatchTrainer
from tests.support import processes
from tests.support.copying import Copying, config, policy, weights
from tests.support.endless import endless
from tests.support.finetuning import arguments, losses, prompted
from tests.support.models import saved_model
from tests.support.stale_engine import Brittle, KeptCopies, alive, forked


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(background, "launched", forked)


def beside(method="sm", **changes):
    """A run of 20 steps whose rollouts are of weights that are 2 or 3 steps old."""
    usual = {"rollout_engine": "background", "rollout_staleness": 3, "rollout_refresh": 2}
    asked = config(method, steps=20, log_every=1, checkpoint_every=0, **{**usual, **changes})
    return asked.on_policy(2 if method == "exact" else None) if METHODS[method].on_policy else asked


def trained(asked, folder, monkeypatch=None, data=None, **options):
    """A run; with `monkeypatch` by the slow engine."""
    if monkeypatch is not None:
        monkeypatch.setattr(batches, "engine_of", lambda policy, config: KeptCopies(policy))
    try:
        return train(policy(), data or Copying(), asked, folder, progress=False, **options)
    finally:
        if monkeypatch is not None:
            monkeypatch.setattr(batches, "engine_of", engines.engine_of)


def same(one, other):
    assert one.history == other.history
    assert torch.equal(weights(one), weights(other))


@pytest.mark.filterwarnings("ignore:(gail|exact) needs rollouts of the present policy")
@pytest.mark.parametrize("method", ["sm", "dagger", "gail", "exact"])  # exact: in groups of two from a prompt
def test_a_process_beside_training_gives_the_bits_of_copies_that_are_kept(method, tmp_path, monkeypatch):
    asked = beside(method, rollout_noise=0.3)
    found = trained(asked, tmp_path / "a")
    same(found, trained(asked, tmp_path / "b", monkeypatch))
    here = dataclasses.replace(asked, rollout_engine="in_process", rollout_staleness=None, rollout_refresh=1)
    fresh = trained(here, tmp_path / "c")
    assert [row["loss"] for row in fresh.history] != [row["loss"] for row in found.history]
    assert not any("rollout_staleness_max" in row for row in fresh.history)
    stale = [row for row in found.history if "rollout_staleness_max" in row]
    assert [row["step"] for row in stale] == list(range(6, 21))  # the first five are cloning alone
    assert {row["rollout_staleness_max"] for row in stale} <= {2.0, 3.0}
    assert all(row["rollout_staleness_mean"] <= row["rollout_staleness_max"] for row in stale)


def test_without_staleness_it_is_the_run_in_this_process(tmp_path):
    found = trained(beside(rollout_staleness=0, rollout_refresh=1), tmp_path / "a")
    same_but = [{k: v for k, v in row.items() if not k.startswith("rollout_staleness")} for row in found.history]
    other = trained(config("sm", steps=20, log_every=1, checkpoint_every=0), tmp_path / "b")
    assert same_but == other.history
    assert torch.equal(weights(found), weights(other))


def test_a_run_in_this_process_keeps_its_identity():
    added = {"rollout_engine", "rollout_staleness", "rollout_refresh", "rollout_device"}
    assert not added & set(plain(TrainConfig()))
    assert set(plain(TrainConfig(rollout_engine="background", rollout_staleness=9))) & added == {
        "rollout_engine",
        "rollout_staleness",
    }


class Interrupted(Copying):
    """Data that end a run after so many demonstrations."""

    def __init__(self, after):
        self.left = after

    def demonstration(self, *arguments):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return super().demonstration(*arguments)


def test_a_run_that_was_interrupted_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    asked = dataclasses.replace(beside(rollout_staleness=5), checkpoint_every=9)
    whole = trained(asked, tmp_path / "a", monkeypatch)
    with pytest.raises(KeyboardInterrupt, match=r"stopped at step 11 of 20; .* goes on from step 9"):
        trained(asked, tmp_path / "b", data=Interrupted(5 + 11 * 4 + 2))
    with np.load(tmp_path / "b" / "checkpoint" / "buffer.npz") as kept:
        assert {name.split("_")[1] for name in kept.files if name.startswith("ahead_")} == {"9", "10", "11", "12", "13"}
    same(trained(asked, tmp_path / "b"), whole)


def test_a_checkpoint_without_what_was_asked_for_is_refused():
    made = batches.Batches(policy(), Copying(), config("sm"))
    made.begin()
    supply = Supply(made.supply.source, made.buffer, Schedule(2, 4, 20, lead=2), InProcessEngine(policy()), 2)
    with pytest.raises(RuntimeError, match="due at step 8 and were to be sampled with the weights of step 6, and the"):
        supply.populate(8)


def test_what_runs_freely_never_exceeds_its_bound(tmp_path):
    asked = dataclasses.replace(beside(rollout_engine="free_running"), checkpoint_every=10)
    found = trained(asked, tmp_path)
    stale = [row["rollout_staleness_max"] for row in found.history if "rollout_staleness_max" in row]
    assert len(stale) == 15
    assert max(stale) <= 3
    assert all(np.isfinite(row["loss"]) for row in found.history)


class Late(KeptCopies):
    """Is ready so many looks after it was asked, or when it is waited for."""

    def __init__(self, policy, looks):
        super().__init__(policy)
        self.looks, self.seen = looks, {}

    def ready(self, due):
        self.seen[due] = self.seen.get(due, 0) + 1
        return self.seen[due] > self.looks


@pytest.mark.parametrize(("looks", "steps"), [(0, [4, 5, 8, 12]), (2, [4, 7, 10, 14]), (99, [4, 8, 12, 16])])
def test_what_runs_freely_enters_when_it_is_there_and_at_its_step_at_the_latest(looks, steps):
    made = batches.Batches(policy(), Copying(), config("sm"))
    supply = Supply(made.supply.source, made.buffer, Schedule(4, 4, 17, lead=4), Late(policy(), looks), 2, free=True)
    made.begin()
    entered = []
    for step in range(17):
        before = made.buffer.entered, [e.rollout is None for e in made.buffer.entries]
        supply.populate(step)
        if (made.buffer.entered, [e.rollout is None for e in made.buffer.entries]) != before:
            entered.append(step)
        assert all(e.stale <= 4 for e in made.buffer.entries)
    assert made.buffer.entered == 4 + 4 * 2
    assert entered == steps


@pytest.mark.parametrize("lead", [0, 1, 3, 8])
@pytest.mark.parametrize("refresh", [1, 2, 3])
@pytest.mark.parametrize("first", [0, 1, 5, 12])
def test_everything_due_is_asked_for_once_and_in_time(lead, refresh, first):
    plan = Schedule(first, interval=4, steps=40, lead=lead, refresh=refresh)
    due = [k for k in range(40) if plan.is_due(k)]
    assert due == sorted({first, *range(4 * (first // 4 + 1), 40, 4)})
    asked = [(k, step) for step in range(40) for k in plan.due(step)]
    in_time = [k for k in due if plan.weights(k) == k]
    assert sorted([k for k, _ in asked] + in_time) == due
    for k, step in asked:
        assert step == plan.weights(k) < k
        assert step % refresh == 0
        assert k - step <= lead + refresh - 1


# What fails


def brittle():
    made = policy()
    made.__class__ = Brittle
    made.made_in = os.getpid()
    return made


def gone(folder_before):
    return folders() <= folder_before


def folders():
    return set(Path(background.tempfile.gettempdir()).glob("smlib-rollouts-*"))


def test_an_error_in_the_worker_ends_training_with_its_words(tmp_path):
    before = folders()
    with pytest.raises(RolloutWorkerError) as said:
        train(brittle(), Copying(), beside(), tmp_path, progress=False)
    assert str(said.value).startswith(
        "the process that samples rollouts failed while sampling the rollouts of step 5: "
        "OSError: the head has come off (stale_engine.py, line "
    )
    assert str(said.value).endswith('in logits: raise OSError("the head has come\\noff"))')
    assert "Traceback" in said.value.__notes__[0]
    assert gone(before)


def test_a_worker_that_is_killed_ends_training_and_is_named(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(background, "launched", lambda *given: started.append(forked(*given)) or started[-1])

    def kill(policy):
        os.kill(started[0].pid, signal.SIGKILL)
        started[0].wait(20)
        return {}

    asked = dataclasses.replace(beside(), eval_every=9)
    with pytest.raises(RolloutWorkerError, match=r"ended by signal SIGKILL, as the system does when memory is short"):
        trained(asked, tmp_path, evaluate=kill)


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def refuse(*given):
        raise OSError(28, os.strerror(28))

    engine = BackgroundEngine(policy())
    monkeypatch.setattr("smlib.training.policy_copy.save_file", refuse)
    with pytest.raises(RolloutWorkerError, match=r"No space left on device; set TMPDIR to a folder with more space"):
        engine.start()
    assert engine.folder is None


def test_what_cannot_be_sent_is_refused(tmp_path):
    strange = policy()
    strange.lm.own = lambda x: x
    with pytest.raises(TypeError, match=r"this LlamaForCausalLM cannot be copied into another process .*in_process"):
        structure(strange, tmp_path / "a")
    engine = BackgroundEngine(policy())

    class Own(NoiseLaw):
        pass

    law = Own(Copying.law.tokens, Copying.law.probs)
    task = SamplingTask([], [], [law], SamplingConfig(max_new_tokens=4), None)
    with pytest.raises(TypeError, match="noise law of the data cannot be sent to another process"):
        engine.submit(3, task)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rollout_engine": "thread"}, "unknown rollout_engine 'thread'; known: in_process, background, free_running"),
        ({"rollout_staleness": 3}, "rollout_staleness=3 is of rollouts beside training: set rollout_engine to"),
        ({"rollout_refresh": 2}, "rollout_refresh=2 is of rollouts beside training"),
        ({"rollout_device": "cpu"}, "rollout_device='cpu' is of rollouts beside training"),
        (
            {"rollout_engine": "background", "rollout_staleness": 1, "rollout_refresh": 4},
            "rollout_staleness=1 cannot be kept with weights of every 4 steps, rollout_refresh: they are up to 3",
        ),
        ({"rollout_engine": "background", "rollout_staleness": -1}, "rollout_staleness must not be negative, got -1"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(changes, said):
    with pytest.raises(ValueError, match=said.replace("(", r"\(")):
        config("sm", **changes)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("cuda:64", r"rollout_device='cuda:64': this machine has .*cuda.*\. Name another, or leave it out"),
        ("gpu1", r"rollout_device='gpu1': expected the name of a device, such as cuda:1 or cpu"),
    ],
)
def test_a_device_that_is_not_there_is_said_before_anything_starts(name, said, tmp_path):
    before = folders()
    with pytest.raises(ValueError, match="(?i)" + said):
        trained(beside(rollout_device=name), tmp_path)
    assert gone(before)


def test_the_copy_is_on_the_device_that_is_named(tmp_path):
    copied = rebuilt(structure(policy(), tmp_path / "all"), tmp_path / "all", torch.device("cpu"))
    assert copied.device == torch.device("cpu")
    found = trained(dataclasses.replace(beside(rollout_device="cpu"), steps=8), tmp_path / "a")
    same(found, trained(dataclasses.replace(beside(), steps=8), tmp_path / "b"))


def test_a_refill_of_time_is_the_bound_where_none_is_given():
    assert config("sm").staleness == 0
    assert config("sm", rollout_engine="background").staleness == 1
    assert TrainConfig(rollout_engine="background", rollout_refresh=5).staleness == 36


def test_a_policy_gradient_of_stale_rollouts_is_warned_of():
    asked = beside("gail")
    with pytest.warns(UserWarning, match="gail needs rollouts of the present policy, and with rollout_engine=backgr"):
        check_run(policy(), Copying(), asked, None)


# Through the trainer


def test_the_trainer_has_the_same_bits_and_goes_on_to_them(tmp_path, monkeypatch):
    base = str(saved_model(tmp_path / "base"))

    def curve(name, resume=None):
        beside = {"rollout_engine": "background", "rollout_staleness": 4, "rollout_refresh": 2}
        args = arguments(tmp_path / name, max_steps=14, **beside)
        trainer = SequenceMatchTrainer(base, args, prompted())
        trainer.train(resume_from_checkpoint=resume)
        return trainer.state.log_history, losses(trainer)

    history, found = curve("a")
    shown = [row["rollouts/staleness_max"] for row in history if "rollouts/staleness_max" in row]
    assert set(shown) == {3.0, 4.0}
    assert len(found) == 14
    assert curve("a", str(tmp_path / "a" / "checkpoint-8"))[1] == found
    monkeypatch.setattr(batches, "engine_of", lambda policy, config: KeptCopies(policy))
    assert curve("b")[1] == found


# The copy


def adapted():
    base = policy()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Policy(with_adapters(base.lm.requires_grad_(False), Lora(r=2, alpha=4)), base.config)


@pytest.mark.parametrize("make", [policy, adapted, lambda: policy().to(torch.bfloat16)])
def test_a_copy_has_the_same_tensors_and_takes_new_ones(make, tmp_path):
    made = make()
    made.lm.get_input_embeddings().register_forward_hook(_hook())
    made.critic = torch.nn.Linear(2, 2)
    copied = rebuilt(structure(made, tmp_path / "all"), tmp_path / "all")
    assert copied.critic is None
    made.critic = None
    assert not copied.training
    before, after = made.state_dict(), copied.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for p in copied.parameters()]
    with torch.no_grad():
        for p in moving(made).values():
            p.add_(0.5)
    write(moving(made), tmp_path / "new", 12)
    assert not all(torch.equal(p, moving(copied)[name]) for name, p in moving(made).items())
    assert read_into(copied, tmp_path / "new") == 12
    assert all(torch.equal(p, moving(copied)[name]) for name, p in moving(made).items())


def _hook():
    def make_inputs_require_grads(module, given, found):
        found.requires_grad_(True)

    return make_inputs_require_grads


def test_tied_weights_stay_tied(tmp_path):
    made = policy()
    made.lm.lm_head.weight = made.lm.get_input_embeddings().weight
    copied = rebuilt(structure(made, tmp_path / "all"), tmp_path / "all")
    assert copied.lm.lm_head.weight is copied.lm.get_input_embeddings().weight


# The real process

SCRIPT = """
import signal

# Whoever runs the tests in the background of a shell hands down an ignored SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from tests.support.endless import endless
endless(Path({folder!r}))
"""


def ended(folder, seconds=300):
    """Waits until the worker and its folder are gone."""
    pid, private = json.loads((folder / "worker.json").read_text())
    end = time.monotonic() + seconds
    while alive(pid) or Path(private).exists():
        assert time.monotonic() < end, "the worker goes on"
        time.sleep(0.2)


def wait_for(sign, running, seconds=600):
    end = time.monotonic() + seconds
    while not sign():
        assert time.monotonic() < end, "nothing came"
        assert running()
        time.sleep(0.1)


@pytest.mark.slow
def test_ctrl_c_leaves_no_process_and_no_folder(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT.format(folder=str(tmp_path)))  # without a guard around its lines
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([".", *sys.path])}
    running = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py")], stderr=subprocess.PIPE, text=True, env=environment
    )
    log = tmp_path / "run" / "metrics.jsonl"
    learned = lambda: log.exists() and "rollout_staleness" in log.read_text()  # noqa: E731
    wait_for(learned, lambda: running.poll() is None)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=300)
    assert "KeyboardInterrupt: stopped at step" in said
    ended(tmp_path)


def test_a_kill_leaves_no_process_and_no_folder(tmp_path):
    running = processes.SERVER.Process(target=endless, args=(tmp_path,))
    running.start()
    wait_for((tmp_path / "worker.json").exists, running.is_alive)
    running.kill()
    running.join()
    ended(tmp_path)


@pytest.mark.slow
def test_two_processes_with_a_worker_each_are_one(tmp_path):
    ends = processes.start("beside_training", tmp_path)
    for status, text in ends:
        assert status == 0, text
    one = processes.beside_training(tmp_path / "alone")
    with np.load(tmp_path / "beside-0.npz") as first, np.load(tmp_path / "beside-1.npz") as second:
        for part, values in one.items():
            np.testing.assert_array_equal(first[part], second[part])
            np.testing.assert_allclose(first[part], values, rtol=1e-10, atol=1e-10, err_msg=part)
    said = "free_running takes rollouts as they come, and 2 processes would each have others"
    assert all(said in text for _, text in ends)

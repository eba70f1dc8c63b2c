"""Two processes on this machine that train together through gloo, as `accelerate launch` would start them.

They are forked from a server that has imported torch and smlib once, so that a pair starts in no time.
"""

import dataclasses
import importlib
import json
import multiprocessing
import os
import signal
import socket
from unittest import mock

import numpy as np
import peft  # noqa: F401 (for the server: imported once, and not in every process)
import torch
import torch.distributed.fsdp  # for the server, as peft
from accelerate import Accelerator
from transformers import TrainerCallback

from smlib.policies.adapters import with_adapters
from smlib.policies.policy import Policy
from smlib.policies.sources import Lora
from smlib.training import algorithm_1, background
from smlib.training.algorithm_1 import train
from smlib.training.batches import Batches
from smlib.training.checkpoints import run_identity, trainable
from smlib.training.processes import Processes
from smlib.training.trainer import SequenceMatchTrainer
from tests.support.copying import Copying, config
from tests.support.finetuning import arguments, losses, prompted
from tests.support.oracles import float64_policy

METHODS = ("mle", "bc", "sm", "iqlearn", "dagger", "direct", "exact", "gail", "unlikelihood", "soft", "masked")
LONG = METHODS if os.environ.get("SMLIB_LONG_TESTS") else ("bc", "sm")
"""Methods that are trained for 20 steps; the others for 8."""

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])


def cases():
    """Name -> method, adapters, dtype, further settings of each run that is compared."""
    found = {}
    for method in METHODS:
        found[f"{method}-full"] = (method, False, torch.float64, {})
        found[f"{method}-lora"] = (method, True, torch.float64, {})
    found["sm-float32"] = ("sm", False, torch.float32, {"learning_rate": 1e-3})
    found["sm-parts"] = ("sm", False, torch.float64, {"accumulation": 2, "chunk": 3})
    found["sm-paired"] = ("sm", False, torch.float64, {"paired": True, "rollout_noise": 0.3})
    return found


def policy_of(adapters, dtype):
    """The same weights in every process."""
    made = float64_policy(positions=32)
    if adapters:
        with torch.random.fork_rng():
            torch.manual_seed(4)
            made = Policy(with_adapters(made.lm.requires_grad_(False), Lora(r=2, alpha=4)), made.config).double()
            for name, p in made.named_parameters():  # fresh adapters add nothing
                if "lora_B" in name:
                    torch.nn.init.normal_(p, std=0.2)
    return made.to(dtype)


def settings(method, **changes):
    """A short run of the method, with rollouts from its middle on."""
    asked = config(method, steps=20 if method in LONG else 8, log_every=1, checkpoint_every=0, **changes)
    return asked.on_policy(2 if method == "exact" else None) if method in ("exact", "gail") else asked


class Kept(Batches):
    """Batches that a test asks for their buffer, at the end of a run."""

    last = None

    def __init__(self, *given):
        super().__init__(*given)
        Kept.last = self

    @classmethod
    def buffer(cls):
        """The examples, their rollouts and their steps, as a checkpoint has them."""
        return {f"buffer.{name}": values for name, values in cls.last.buffer.state_dict().items()}


def run(name, folder):
    """Trains one case; its losses, gradient norms, final weights and replay buffer."""
    method, adapters, dtype, changes = cases()[name]
    policy = policy_of(adapters, dtype)
    with mock.patch.object(algorithm_1, "Batches", Kept):
        result = train(policy, Copying(), settings(method, **changes), folder / name, progress=False)
    found = {n: p.detach().double().numpy() for n, p in trainable(policy).items()}
    found["losses"] = np.array([row["loss"] for row in result.history])
    found["norms"] = np.array([norm for row in result.history for norm in row["grad_norms"]])
    return found | Kept.buffer()


def all_cases(folder):
    for name in cases():
        found = run(name, folder)
        np.savez(folder / f"{name}-{rank()}.npz", allow_pickle=False, **found)
    trainer_cases(folder)


def trainer_cases(folder):
    for name in TRAINED:
        found = run_trainer(name, folder, per_device=4 // int(os.environ.get("WORLD_SIZE", "1")))
        np.savez(folder / f"{name}-{rank()}.npz", allow_pickle=False, **found)


TRAINED = {
    "trainer-mle": ("mle", "base", None),
    "trainer-sm": ("sm", "base", None),
    "trainer-sm-lora": ("sm", "base", Lora(r=2, alpha=4)),
    "trainer-sm-tied-head": ("sm", "tied", Lora(r=2, alpha=4, unembedding=True)),
}
"""Runs of the trainer: the method, the folder of the model, its adapters."""


def run_trainer(name, folder, per_device):
    """The same through `SequenceMatchTrainer`, on the model in `folder/base` or `folder/tied`."""
    method, base, lora = TRAINED[name]
    args = arguments(folder / name, method=method, max_steps=8, per_device_train_batch_size=per_device, save_steps=100)
    trainer = SequenceMatchTrainer(str(folder / base), args, prompted(), peft_config=lora)
    done = trainer.train()
    # transformers adds up in float32, and takes the mean over processes of what each of them calls its loss.
    np.testing.assert_allclose(done.training_loss, np.mean(losses(trainer)), rtol=1e-5)
    return learned(trainer)


def learned(trainer):
    """Losses, final weights and replay buffer of a trainer."""
    found = {n: p.detach().double().numpy() for n, p in trainable(trainer.policy).items()}
    buffer = {f"buffer.{name}": values for name, values in trainer.batches.buffer.state_dict().items()}
    return found | buffer | {"losses": np.array(losses(trainer))}


class Ends(TrainerCallback):
    """Ends one process in the middle of step 7, by an error or by a kill."""

    def __init__(self, number, kill):
        self.number, self.kill = number, kill

    def on_pre_optimizer_step(self, args, state, control, **others):
        if rank() == self.number and state.global_step == 6:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("the disk is gone")


def checkpointed_trainer(folder, each=2, **options):
    """A trainer of 10 steps that writes a checkpoint at the fourth and the eighth."""
    args = arguments(folder / "trained", max_steps=10, save_steps=4, per_device_train_batch_size=each)
    return SequenceMatchTrainer(str(folder / "base"), args, prompted(), **options)


def trainer_fails(folder):
    """Process 1 fails in the trainer."""
    checkpointed_trainer(folder, callbacks=[Ends(1, kill=False)]).train()


def trainer_killed(folder):
    """Process 1 is killed in the trainer, after a checkpoint."""
    checkpointed_trainer(folder, callbacks=[Ends(1, kill=True)]).train()


def trainer_resumed(folder, each=2):
    """What was killed, to its end."""
    trainer = checkpointed_trainer(folder, each)
    trainer.train(resume_from_checkpoint=True)
    found = learned(trainer)
    if rank() == 0:
        np.savez(folder / "resumed.npz", allow_pickle=False, **found)
    return found


def trainer_cannot_begin(folder):
    """Process 1 does not find the data."""
    args = arguments(folder / "trained", max_steps=4, per_device_train_batch_size=2)
    SequenceMatchTrainer(str(folder / "base"), args, str(folder / f"rows-{rank()}.jsonl")).train()


class Failing(Copying):
    """Data that cannot be read any more after a while, in one process."""

    def __init__(self, rank, kill=False):
        self.left, self.mine, self.kill = 30, rank, kill

    def demonstration(self, *arguments):
        self.left -= 1
        if self.left < 0 and rank() == self.mine:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("the disk is gone")
        return super().demonstration(*arguments)


def failing(folder):
    """Process 0 or 1 fails in the middle; the name of the folder ends in which."""
    train(policy_of(False, torch.float64), Failing(int(folder.name[-1])), settings("sm"), folder, progress=False)


def killed(folder):
    """Process 1 is killed in the middle, after a checkpoint."""
    train(policy_of(False, torch.float64), Failing(1, kill=True), checkpointed(), folder / "run", progress=False)


def resumed(folder):
    """What was killed, to its end."""
    policy = policy_of(False, torch.float64)
    with mock.patch.object(algorithm_1, "Batches", Kept):
        result = train(policy, Copying(), checkpointed(), folder / "run", progress=False)
    if rank() == 0:
        found = {n: p.detach().numpy() for n, p in trainable(policy).items()} | Kept.buffer()
        np.savez(folder / "resumed.npz", losses=[row["loss"] for row in result.history], **found)


def checkpointed():
    """`settings("sm")` with checkpoints."""
    return dataclasses.replace(settings("sm"), checkpoint_every=2)


def beside_training(folder):
    """A run whose rollouts a worker of each process samples; then one that is refused."""
    background.launched = importlib.import_module("tests.support.stale_engine").forked
    asked = dataclasses.replace(settings("sm"), rollout_engine="background", rollout_staleness=3)
    policy = policy_of(False, torch.float64)
    result = train(policy, Copying(), asked, folder / "run", progress=False)
    found = {n: p.detach().numpy() for n, p in trainable(policy).items()}
    found["losses"] = np.array([row["loss"] for row in result.history])
    if "RANK" in os.environ:
        np.savez(folder / f"beside-{rank()}.npz", **found)
        try:
            train(policy, Copying(), dataclasses.replace(asked, rollout_engine="free_running"), folder / "free")
        except (ValueError, RuntimeError) as error:  # its own, or the other's
            print(error)
    return found


SIZES = {"batch": 4, "refill": 4, "times_seen": 2.0, "rollout": 6, "dim": 16, "layers": 1, "heads": 2}
"""Of the smallest shape that `smlib.bench.processes` times."""


def timed(folder):
    """What `smlib bench --processes` starts."""
    measured, workloads = (importlib.import_module(f"smlib.bench.{name}") for name in ("processes", "workloads"))
    shape = dataclasses.replace(workloads.ARITHMETIC, **SIZES)
    measured.main([json.dumps(dataclasses.asdict(shape)), str(folder)])


class Other(Copying):
    """Other answers in process 1."""

    def reference(self, index):
        return super().reference((index + rank()) % 5)


def different(folder):
    """Every way in which processes can be started differently, one after another; what they said."""
    Accelerator()
    here, said = Processes(rank(), 2), []
    moved, plain = policy_of(False, torch.float64), policy_of(False, torch.float64)
    moved.w_bkspc.data += rank()
    for policy, data, asked in (
        (plain, Copying(), settings("sm", seed=rank())),
        (plain, Other(), settings("sm")),
        (moved, Copying(), settings("sm")),
        (plain, Copying(), settings("sm")),
    ):
        try:
            here.check_same(asked, run_identity(asked, policy, data), data)
        except ValueError as error:
            said.append(str(error))
    (folder / f"said-{rank()}.json").write_text(json.dumps(said))
    train(plain, Copying(), settings("sm", batch_size=3, refill=3), folder / "odd", progress=False)


def rank():
    """The number of this process."""
    return int(os.environ.get("RANK", "0"))


def start(job, folder, count=2, seconds=240):
    """Runs a job, a function or the name of one here, in so many processes; the exit status and the output of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [folder / f"{getattr(job, '__name__', job)}-{r}.log" for r in range(count)]
    started = [SERVER.Process(target=_enter, args=(job, folder, r, count, port, logs[r])) for r in range(count)]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
        process.kill()  # where it has not ended
        process.join()
    return [(process.exitcode, log.read_text()) for process, log in zip(started, logs, strict=True)]


def _enter(job, folder, number, count, port, log):
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}
    own = {**shared, "RANK": number, "LOCAL_RANK": number, "ACCELERATE_USE_CPU": "true"}
    os.environ.update({name: str(value) for name, value in own.items()})
    torch.set_num_threads(1)
    (job if callable(job) else globals()[job])(folder)

"""Jobs of two processes that split the model between them, see `tests.support.processes`."""

import copy
import dataclasses
import json
import os
import time

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from smlib.policies.policy import Policy
from smlib.policies.sources import Lora
from smlib.training.algorithm_1 import train
from smlib.training.checkpoints import trainable
from smlib.training.trainer import SequenceMatchTrainer
from tests.support import processes
from tests.support.copying import Copying
from tests.support.finetuning import arguments, losses, prompted
from tests.support.models import saved_model
from tests.support.processes import policy_of, rank, settings

SOME = ("mle-lora", "bc-full", "sm-full", "dagger-lora", "direct-full", "sm-float32")
"""Of `processes.cases`, those that are compared by default; all of them take three minutes."""

HEAD = Lora(r=2, alpha=4, unembedding=True)
TRAINED = {
    "tied": ("tied", None, {"save_steps": 4, "gradient_accumulation_steps": 2}),
    "tied-head": ("tied", HEAD, {}),
    "recomputed": ("llama", None, {"method": "bc", "gradient_checkpointing": True}),
}
"""Runs of the trainer: the model, its adapters, further arguments."""

_IN_16_BITS = ("llama", None, {"bf16": True, "dtype": "float32", "learning_rate": 1e-4})
ROUNDED = {"rounded": _IN_16_BITS, "rounded-whole": _IN_16_BITS}
"""One more, whose passes are in 16 bits, with pieces and with the whole model in each process."""


def ask(**more):
    """Sets what `accelerate launch --use_fsdp --fsdp_version 2` would, and more of it."""
    os.environ.update({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", **more})


def keep(folder, name, found):
    np.savez(folder / f"{name}-{rank()}.npz", allow_pickle=False, **found)


def bases(folder):
    """The models of `TRAINED`, from one process: transformers writes the files of a model from the first alone."""
    for kind in ("tied", "llama"):
        saved_model(folder / f"base-{kind}", kind)


def some_cases(folder):
    """The default cases, one after another."""
    ask()
    for name in SOME:
        keep(folder, name, processes.run(name, folder))
    for name in TRAINED:
        keep(folder, name, run_trainer(name, folder, each=2))
    keep(folder, "evaluated", evaluated(folder))
    (folder / f"gathers-{rank()}.json").write_text(json.dumps([gathers(folder, 1), gathers(folder, None)]))
    # The last, as Accelerate keeps the precision that it was first told.
    keep(folder, "rounded", run_trainer("rounded", folder, each=2))
    del os.environ["ACCELERATE_USE_FSDP"]
    keep(folder, "rounded-whole", run_trainer("rounded-whole", folder, each=2))
    print(f"processor: {time.process_time():.0f} s")


def all_cases(folder):
    """Every method, with all weights and with adapters, for 20 steps."""
    ask(FSDP_RESHARD_AFTER_FORWARD="false")
    for name in processes.cases():
        keep(folder, name, long_run(name, folder))


def long_run(name, folder):
    """A case of `processes`, of 20 steps whatever the method."""
    method, adapters, dtype, changes = processes.cases()[name]
    asked = dataclasses.replace(settings(method, **changes), steps=20)
    policy = policy_of(adapters, dtype)
    return result_of(policy, train(policy, Copying(), asked, folder / f"long-{name}", progress=False))


def result_of(policy, result):
    found = {n: p.detach().double().numpy() for n, p in trainable(policy).items()}
    return found | {"losses": np.array([row["loss"] for row in result.history if "loss" in row])}


def run_trainer(name, folder, each):
    """One of `TRAINED`; what resumes from a checkpoint has the same end."""
    kind, lora, changes = {**TRAINED, **ROUNDED}[name]
    base = folder / f"base-{kind}"
    parts = changes.get("gradient_accumulation_steps", 1)
    changes = {"max_steps": 8, "save_steps": 100, **changes, "per_device_train_batch_size": each // parts}
    args = arguments(folder / f"trainer-{name}", eval_strategy="steps", eval_steps=3, edits_steps=4, **changes)
    seen = Pieces()
    trainer = SequenceMatchTrainer(str(base), args, prompted(), prompted(4), peft_config=lora, callbacks=[seen])
    trainer.train()
    found = {n: p.detach().double().numpy() for n, p in trainable(trainer.policy).items()}
    found |= {"losses": np.array(losses(trainer))}
    found |= {"eval": np.array([row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row])}
    trainer.save_model()
    if changes["save_steps"] == 4:
        again = SequenceMatchTrainer(str(base), args, prompted(), prompted(4), peft_config=lora)
        again.train(resume_from_checkpoint=str(folder / f"trainer-{name}" / "checkpoint-4"))
        found |= {f"resumed.{n}": p.detach().double().numpy() for n, p in trainable(again.policy).items()}
    (folder / f"pieces-{name}-{rank()}.json").write_text(json.dumps(seen.found))
    return found


class Pieces(TrainerCallback):
    """How many numbers this process has, of weights, gradients and the optimiser's state, and how many there are."""

    found = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **others):
        own = [p for p in model.parameters() if p.requires_grad]
        gradients = [p.grad for p in own if p.grad is not None]
        self.found = {"weights": counts(own), "gradients": counts(gradients)}

    def on_optimizer_step(self, args, state, control, optimizer=None, **others):
        self.found["state"] = counts([s["exp_avg"] for s in optimizer.state.values()])


def counts(tensors):
    local = [t.to_local() if hasattr(t, "to_local") else t for t in tensors]
    return [sum(t.numel() for t in local), sum(t.numel() for t in tensors)]


def evaluated(folder):
    """A run that looks at its policy in the middle, copies and saves it; then another with the same policy."""
    policy = policy_of(False, torch.float64)
    told = []

    def evaluate(here):
        copied = copy.deepcopy(here)
        for name, p in here.named_parameters():
            assert torch.equal(p, copied.get_parameter(name)), name
        if rank() == 0:
            here.save(folder / "middle")
            read = Policy.load(folder / "middle", base=lambda _: copied.lm)
            loaded = load_file(folder / "middle" / "lm" / "model.safetensors")
            assert torch.equal(read.w_bkspc, here.w_bkspc)
            for name, p in here.lm.named_parameters():
                assert torch.equal(p, loaded[name]), name
        told.append(float(sum(p.detach().sum() for p in here.parameters())))
        return {"sum": told[-1]}

    asked = settings("dagger", eval_every=4)
    train(policy, Copying(), asked, folder / "first", progress=False, evaluate=evaluate)
    assert type(policy.lm.model.layers[0]).__name__ == "LlamaDecoderLayer"
    result = train(policy, Copying(), settings("direct"), folder / "second", progress=False)
    return result_of(policy, result) | {"told": np.array(told)}


def gathers(folder, chunk):
    """How often a unit is gathered in one step."""
    calls, plain = [], torch.distributed.all_gather_into_tensor

    def counted(*arguments, **options):
        calls.append(1)
        return plain(*arguments, **options)

    torch.distributed.all_gather_into_tensor = counted
    try:
        asked = dataclasses.replace(settings("mle"), steps=1, chunk=chunk, warmup_steps=0)
        train(policy_of(False, torch.float64), Copying(), asked, folder / f"chunk-{chunk}", progress=False)
    finally:
        torch.distributed.all_gather_into_tensor = plain
    return len(calls)


def killed(folder):
    ask()
    processes.killed(folder)


def resumed(folder):
    ask()
    processes.resumed(folder)


def failing(folder):
    ask()
    processes.failing(folder)


def trainer_killed(folder):
    ask()
    processes.trainer_killed(folder)


def trainer_resumed(folder):
    ask()
    processes.trainer_resumed(folder)


def refused(folder):
    ask(FSDP_OFFLOAD_PARAMS="true")
    train(policy_of(False, torch.float64), Copying(), settings("bc"), folder / "refused", progress=False)

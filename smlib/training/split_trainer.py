"""transformers' `Trainer` on a policy that may be split over the processes (`smlib.training.sharding`).

transformers would hand model and optimiser to Accelerate, move a model whole to the device first, and write what it
splits in files of its own. Here the model is cut when the optimiser is made, Accelerate gets the optimiser alone, and a
checkpoint holds whole tensors: it is that of one process, and any number of them goes on from it.
"""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from smlib.policies.policy import Policy
from smlib.training.processes import Processes
from smlib.training.run_files import alone_in, own_tensors, whole_checkpoint
from smlib.training.sharding import Shards, whole_state
from smlib.training.sharding_plan import Sharding, check_can_be_split, unsaid


class SplitTrainer(Trainer):
    """What of transformers' trainer is another thing where a model is split; all as it was where it is not."""

    policy: Policy
    processes: Processes
    split: Sharding | None
    shards: Shards | None = None
    # Attributes of transformers' Trainer that are set here too.
    optimizer: Any
    lr_scheduler: Any

    def check_split(self, args: Any, optimizers: tuple[Any, Any]) -> None:
        """Raises ValueError for what a split model cannot be trained with."""
        if self.split is None:
            return
        check_can_be_split(self.policy)
        name = str(getattr(args.optim, "value", args.optim))
        if optimizers[0] is not None:
            raise ValueError("the optimiser holds whole weights, and FSDP2 splits them: leave out optimizers")
        if args.fp16:
            raise ValueError("fp16 scales the loss by what all gradients are, and each process has a piece: use bf16")
        if not name.startswith("adamw_torch"):
            raise ValueError(f"optim={name!r} does not take the pieces of FSDP2: choose adamw_torch")

    def predict(self, test_dataset: Any, *arguments: Any, **options: Any) -> NoReturn:
        """Raises NotImplementedError: a policy acts, and has no prediction of a row."""
        raise NotImplementedError(
            "SequenceMatchTrainer has no predictions: write completions with smlib.sample(trainer.policy, ...) or "
            "smlib generate --model, and measure held-out data with evaluate()"
        )

    def alone(self) -> AbstractContextManager[None]:
        """Lets no other process train in `output_dir`."""
        return alone_in(Path(self.args.output_dir), self.processes.leads)

    def create_accelerator_and_postprocess(self) -> None:
        """Accelerate is not told of the splitting, nor by the environment of what no argument says."""
        with unsaid():
            super().create_accelerator_and_postprocess()

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        if self.split is None:
            super()._move_model_to_device(model, device)

    def cut(self) -> None:
        """Splits the model, before its optimiser is made."""
        if self.split is not None and self.shards is None:
            self.shards = Shards(self.model, self.processes, self.split)

    def add_up(self) -> None:
        """The gradients of what every process has all of."""
        if self.shards is not None:
            self.shards.add_up()

    def join(self) -> None:
        """Makes the policy whole again, in every process."""
        if self.shards is not None:
            self.shards.dissolve()
            self.shards = self.optimizer = self.lr_scheduler = None
            self.model_wrapped = self.model

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[Any]:
        """16-bit passes where they are asked for: Accelerate puts them around a model that it prepares."""
        if self.shards is None:
            plain: AbstractContextManager[Any] = super().autocast_smart_context_manager(cache_enabled)
            return plain
        rounding: AbstractContextManager[Any] = self.accelerator.autocast()
        return rounding

    def _wrap_model(self, model: nn.Module, *arguments: Any, **options: Any) -> nn.Module:
        if self.shards is None:
            wrapped: nn.Module = super()._wrap_model(model, *arguments, **options)
            return wrapped
        self.shards.hold(self.optimizer)
        return _Prepared(self.model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.shards is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_state(self.optimizer, self.args.should_save)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        step = self.state.global_step
        folder = Path(self._get_output_dir(trial)) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        with whole_checkpoint(folder, step, self.processes.leads):
            super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with nullcontext() if checkpoint is None else own_tensors(Path(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with nullcontext() if checkpoint is None else own_tensors(Path(checkpoint)):
            super()._load_rng_state(checkpoint)


class _Prepared(nn.Module):
    """Around a model that Accelerate is not to prepare: transformers sees that it is another object."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model

    def forward(self, *arguments: Any) -> Any:
        return self.module(*arguments)

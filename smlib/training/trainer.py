"""Algorithm 1 in the conventions of transformers and TRL: `SequenceMatchTrainer`.

It is a `transformers.Trainer`: callbacks, trackers, checkpoints, resuming and the hub are transformers'. What is
trained on and towards is that of `smlib.training.algorithm_1.train`, which is the one to read: batches, rollouts and
replay buffer (`smlib.training.batches`), packing, objective and optimiser are the same code, and a test pins both to
one curve.
"""

import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from smlib.data.continuations import inner_decoder
from smlib.data.tokenizers import PretrainedTokenizer
from smlib.environment import check_environment
from smlib.objectives.adversarial import Critic
from smlib.objectives.methods import get_method
from smlib.policies.wrapping import as_policy, check_backspace_name, lora_of
from smlib.training import preflight, run_files
from smlib.training.batches import Batches, dropout_of_step, stop_if_infinite
from smlib.training.checkpoints import run_identity
from smlib.training.evaluation import held_out
from smlib.training.memory import for_devices, room
from smlib.training.model_card import model_card, write_facts
from smlib.training.module import PolicyUnderTraining
from smlib.training.parameters import critic_apart, decayed_apart, drop_idle_gradients
from smlib.training.processes import Processes, begun_together
from smlib.training.reading import read_data, read_eval
from smlib.training.sharding import full, whole
from smlib.training.sharding_plan import asked, check_engine
from smlib.training.shown_edits import show_edits
from smlib.training.split_trainer import SplitTrainer
from smlib.training.trainer_config import SequenceMatchConfig
from smlib.training.vital_signs import Watch


class SequenceMatchTrainer(SplitTrainer):
    """Trains a causal language model to write and to delete.

    Args:
        model: a name (the hub is asked only with `local_files_only=False` in `args`), a folder, a causal language
            model of transformers (loaded with `attn_implementation="sdpa"`), with adapters of peft or without, or a
            `Policy`.
        args: a `SequenceMatchConfig`; its defaults when omitted.
        train_dataset: columns as `smlib.data.columns` reads them (a `datasets` data set, streaming or not, a list of
            rows, a JSONL or parquet file), or a data set of smlib (`smlib.training.dataset.Dataset`).
        eval_dataset: the same, or several by name.
        processing_class: the tokeniser; the one beside the model when omitted.
        peft_config: fresh adapters, a `LoraConfig` of peft or a `Lora`; all weights are trained when omitted.
        callbacks, optimizers: as in `transformers.Trainer`.

    Attributes:
        policy: what is trained. tokenizer: its tokeniser, in smlib's form.

    Raises:
        ValueError, TypeError: what cannot be trained; the message names the value and the cure. What `load_policy` says
            of a model.

    >>> policy, tokenizer = smlib.load_shipped("sm-arithmetic")
    >>> rows = [{"prompt": "Work out 1 + 2. Solution: ", "completion": "3"}]
    >>> args = SequenceMatchConfig(output_dir="mine", method="bc", max_steps=2, max_length=64, edits_steps=0)
    >>> SequenceMatchTrainer(policy, args, rows, processing_class=tokenizer).train()  # doctest: +ELLIPSIS
    {'train_runtime': ...}
    TrainOutput(global_step=2, ...)
    """

    control: Any  # an attribute of transformers' Trainer that is set here too

    @begun_together
    def __init__(
        self,
        model: Any,
        args: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
    ) -> None:
        args = SequenceMatchConfig() if args is None else args
        if not isinstance(args, SequenceMatchConfig):
            raise TypeError(f"args is a {type(args).__name__}: expected a SequenceMatchConfig")
        check_environment(several=True)
        if train_dataset is None:
            raise ValueError("there is nothing to train on: give train_dataset")
        args._n_gpu = min(args.n_gpu, 1)  # as train() does: one device, and no copies of the model on the others
        self.policy, self.tokenizer = as_policy(
            model,
            processing_class,
            lora=lora_of(peft_config),
            offset_head=args.offset_head,
            eos_token=args.eos_token,
            seed=args.seed,
            **(args.loading() if isinstance(model, str | os.PathLike) else {}),
        )
        check_backspace_name(self.tokenizer, args.backspace_token)
        self.data = read_data(train_dataset, self.tokenizer, self.policy.max_positions, args)
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        steps_an_epoch = math.ceil(len(self.data) / batch)
        self._steps_an_epoch = max(1, args.max_steps if getattr(self.data, "in_order", False) else steps_an_epoch)
        steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * self._steps_an_epoch)
        self.train_config = args.train_config(steps, eta=getattr(self.data, "eta", None))
        self.method = get_method(self.train_config.objective.method)
        self._check(args.without_backspace)
        self.processes = Processes.of_arguments(args)
        self.split = asked(self.processes)
        check_engine(self.split, args.rollout_engine)
        self.check_split(args, optimizers)
        self.batches = Batches(self.policy, self.data, self.train_config, self.processes)
        super().__init__(
            model=PolicyUnderTraining(self.policy, self.data.branches),
            args=args,
            train_dataset=self.data,
            eval_dataset=read_eval(eval_dataset, self.tokenizer, self.policy.max_positions, args),
            processing_class=self.tokenizer.backend if isinstance(self.tokenizer, PretrainedTokenizer) else None,
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self._identity: dict[str, Any] = {}
        self._dropout: torch.Tensor | None = None
        show_edits(self)
        decode = inner_decoder(self.tokenizer)
        self.watch = Watch(self.policy, self.data, self.train_config, args, decode, self.processes)

    # What is trained on

    def _check(self, without_backspace: bool) -> None:
        config, name = self.train_config, self.train_config.objective.method
        preflight.check_run(self.policy, self.data, config, None)
        preflight.settle_backspace(self.policy, name, config.eta, without_backspace)
        preflight.settle_memory(self.policy, config.vocabulary_tile, config.flex_from)
        if self.method.rollouts:
            preflight.check_rollouts_fit(self.policy, self.data, config.rollout_tokens)
        if self.method.on_policy:
            places = min(config.buffer_size, len(self.data) * config.group)
            preflight.check_on_policy(name, config.refill, config.times_seen, places)
        preflight.check_group(self.policy, config.objective, config.group, config.rollout_noise)

    def get_train_dataloader(self) -> DataLoader:
        """Places of a schedule: a batch is made when its step begins, from rollouts of the present policy."""
        places = range(self._steps_an_epoch * self.args.gradient_accumulation_steps)
        return DataLoader(places, batch_size=1, collate_fn=lambda place: {"place": place})  # type: ignore[arg-type]

    def num_examples(self, dataloader: DataLoader) -> int:
        """Examples of the training set."""
        return len(self.data)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], None]:
        """The batch of the step that begins, in its parts: refill and populate the buffer, then draw."""
        step = self.state.global_step
        over = step >= self.state.max_steps  # a finished run that is resumed: transformers would take one step more
        self.control.should_training_stop |= over
        if over or not [place for _, place in zip(range(num_batches), epoch_iterator, strict=False)]:
            return [], None
        self.batches.populate(step)
        batch = self.batches.draw(step, self.args.device)
        last = len(batch.packed) - 1
        return [{"part": i, "last": i == last, "batch": batch} for i in range(last + 1)], None

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser that `args` name, with Algorithm 1's groups of parameters."""
        if self.optimizer is None:
            self.cut()
            kind, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, self.model)
            groups = decayed_apart(
                self.policy, self.args.learning_rate, self.args.weight_decay, self.train_config.bkspc_rate
            )
            self.optimizer = kind(groups, **options)
        return self.optimizer

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """The gradient of one part of a batch. The losses of the parts add up to that of the whole.

        Raises:
            NonFiniteLossError: the loss is NaN or infinite.
        """
        model.train()
        step, config, batch = self.state.global_step, self.train_config, inputs["batch"]
        part = batch.packed[inputs["part"]]
        going_on = self._dropout if inputs["part"] else None
        with dropout_of_step(config.seed, step, self.args.device, going_on, self.processes.rank) as reached:
            with self.compute_loss_context_manager():
                loss = model(part, config.objective, step, config.chunk, batch.whole)
            stop_if_infinite(loss, step, batch.groups[inputs["part"]], Path(self.args.output_dir), self.processes)
            self.accelerator.backward(self.processes.averaged(loss.total))
        self._dropout = reached[0]
        self.watch.part(loss)
        if inputs["last"]:
            self.add_up()
            drop_idle_gradients(self.policy, config.objective, step)
            self.watch.step(batch, step)
        return self.processes.averaged(loss.total.detach())  # transformers takes the mean over processes

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """The policy's gradients and the critic's are clipped apart; the norm is the policy's."""
        critic, own = critic_apart(self.policy)
        norm = self.accelerator.clip_grad_norm_(own, self.args.max_grad_norm)
        if critic:
            self.accelerator.clip_grad_norm_(critic, self.args.max_grad_norm)
        return full(norm)

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> Any:
        """Trains; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: the folder of a checkpoint; True for the newest complete one in `output_dir`.

        Raises:
            CheckpointError: a checkpoint of another run, with what differs; one that cannot be read.
            ValueError: True, and there is none. NonFiniteLossError: the loss is NaN or infinite. DeviceMemoryError: so.
            FolderInUseError: another process trains in `output_dir`.
        """
        with self.processes.together(), room("training", for_devices(self.args)), self.alone():
            return self._trained(resume_from_checkpoint, options)

    def _trained(self, resume_from_checkpoint: str | bool | None, options: dict[str, Any]) -> Any:
        # The identity first: what the run starts from is the model as it is before anything is loaded into it.
        if not self._identity:
            self.policy.critic = Critic(self.policy) if self.method.critic else None
            start = run_identity({}, self.policy, self.data)
            self._identity = run_files.identity_of(self.train_config, start)
            self.processes.check_same(self.args.alike(self.train_config), start, self.data)
        if resume_from_checkpoint is True:
            resume_from_checkpoint = str(run_files.newest_checkpoint(Path(self.args.output_dir)))
        if resume_from_checkpoint:
            run_files.check_same_run(Path(resume_from_checkpoint), self._identity)
        else:
            self.batches = Batches(self.policy, self.data, self.train_config, self.processes)
            self.batches.begin()
        self.watch.begin()
        try:
            done = super().train(resume_from_checkpoint=resume_from_checkpoint or None, **options)
            self.join()
            return done
        finally:
            self.batches.close()
            self.policy.critic = None
            self.policy.eval()

    # Files

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        with whole(self.policy, "cpu"):
            if not self.args.should_save:
                return
            folder.mkdir(parents=True, exist_ok=True)
            run_files.place_policy(self.policy, self.tokenizer, folder)
        (folder / "training_args.json").write_text(self.args.to_json_string())
        write_facts(folder / "card.json", self.policy, self.train_config, self.state.log_history, len(self.data))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        self.batches.settle()
        with whole(self.policy, "cpu"):
            if self.args.should_save:
                run_files.save_run(Path(output_dir), self.policy, self.batches.buffer, self._identity)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        run_files.load_weights(Path(resume_from_checkpoint), self.policy)

    def _load_best_model(self) -> None:
        run_files.load_weights(Path(self.state.best_model_checkpoint), self.policy)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            run_files.load_buffer(Path(checkpoint), self.policy, self.batches.buffer)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if str(self.args.hub_strategy.value) != "end":
            self._save()  # transformers would copy files that a policy does not have
        super()._push_from_checkpoint(checkpoint_folder)

    def create_model_card(self, model_name: str | None = None, **options: Any) -> None:
        """Writes `README.md` into `output_dir`: method, base, parameters, last numbers, how to load it."""
        if self.is_world_process_zero():
            text = model_card(model_name, self.policy, self.train_config, self.state.log_history, len(self.data))
            (Path(self.args.output_dir) / "README.md").write_text(text, encoding="utf-8")

    # What is shown

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Adds the parts of the loss, the vital signs and the edits to a row of training."""
        if "loss" in logs:
            logs |= self.watch.row(self.state.global_step)
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """The loss on held-out data, see `smlib.training.evaluation.held_out`; several data sets one after another."""
        data = self.eval_dataset if eval_dataset is None else eval_dataset
        data = self.eval_dataset[data] if isinstance(data, str) else data
        if data is None:
            raise ValueError("there is nothing to evaluate on: give eval_dataset, or set eval_strategy='no'")
        if isinstance(data, Mapping):
            every: dict[str, float] = {}
            for name, one in data.items():
                every |= self.evaluate(one, ignore_keys, f"{metric_key_prefix}_{name}")
            return every
        began = time.perf_counter()
        held = read_data(data, self.tokenizer, self.policy.max_positions, self.args)
        found = held_out(self.policy, held, self.train_config, self.args.eval_batch_size, self.args.device)
        found["runtime"] = time.perf_counter() - began
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

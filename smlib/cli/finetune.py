"""`smlib finetune`: a language model of your own on data of your own, from options or a YAML file.

The options are the fields of `FinetuneArguments` and of `smlib.training.trainer_config.SequenceMatchConfig`
(`smlib.cli.long_options`); in a file given by `--config` they have the same names, and options on the command
line win. It runs alone or under `accelerate launch -m smlib finetune`, in as many processes as
that starts (docs/machines.md).
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from inspect import get_annotations
from pathlib import Path
from typing import Annotated, Any

import typer

from smlib.cli.stopping import Stopped, command
from smlib.files import ResultError

PASSED_ON = {"ignore_unknown_options": True, "help_option_names": []}
"""Settings of the command: its options are none of typer's, and neither is its help."""

ABOUT_THE_INPUT = (ValueError, TypeError, OSError, ImportError, RuntimeError)
"""What the library raises of options, data, models and folders, each with one line that says what to do."""

HUB = ("huggingface_hub", "httpx", "httpx2")
"""Packages whose errors are about the hub."""

OFTEN = (
    "output_dir",
    "max_steps",
    "num_train_epochs",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta2",
    "optim",
    "max_grad_norm",
    "seed",
    "logging_steps",
    "report_to",
    "disable_tqdm",
    "eval_strategy",
    "eval_steps",
    "save_steps",
    "save_total_limit",
    "resume_from_checkpoint",
)
"""Options that are transformers' and that most runs set; the help lists them before the rest of transformers'."""


@dataclass
class FinetuneArguments:
    """What is trained on what; all else is in `SequenceMatchConfig`."""

    model: str | None = field(
        default=None,
        metadata={
            "aliases": ["--model_name_or_path"],
            "help": "smollm2, a folder, or (with --local_files_only false) a name on the hub: any causal "
            "language model.",
        },
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "aliases": ["--dataset_name"],
            "help": "A .jsonl, .json or .parquet file, or (as above) a name on the hub; its columns are text, or "
            "prompt and completion, or messages, or prompt and actions.",
        },
    )
    dataset_split: str = field(default="train", metadata={"help": "Which split of a data set on the hub."})
    eval_dataset: str | None = field(
        default=None, metadata={"help": "Held-out data, named as --dataset is; needs --eval_strategy; left out: none."}
    )
    eval_split: str = field(default="test", metadata={"help": "Which split of held-out data on the hub."})
    streaming: bool = field(default=False, metadata={"help": "Read the data as they are needed; needs max_steps."})
    use_peft: bool = field(default=False, metadata={"help": "Train low-rank adapters and leave the weights alone."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters, such as 64."})
    lora_alpha: int = field(default=16, metadata={"help": "The adapters are scaled by this over their rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapters' inputs, such as 0.05."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Names of the layers that get adapters, such as q_proj v_proj; left out: every linear one."},
    )
    lora_unembedding: bool = field(
        default=False, metadata={"help": "Train the whole unembedding layer as well, as the paper does (App. E)."}
    )


def finetune(
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Options and their values, see --help.", show_default=False)
    ] = None,
) -> None:
    """Fine-tune any causal language model on your own data, with deletion; `--help` lists all options.

    Example: smlib finetune --model smollm2 --dataset my.jsonl --method sm
    """
    run(arguments or [])


def run(arguments: Sequence[str]) -> None:
    """Trains and saves, as the arguments say; raises `ResultError` for what cannot be done."""
    from safetensors import SafetensorError

    from smlib.cli.long_options import LongOptions
    from smlib.training.algorithm_1 import NonFiniteLossError
    from smlib.training.processes import Processes
    from smlib.training.trainer_config import SequenceMatchConfig

    kinds = (FinetuneArguments, SequenceMatchConfig)
    own = [name for name in get_annotations(SequenceMatchConfig) if name not in OFTEN]
    parser = LongOptions(
        kinds,
        prog="smlib finetune",
        usage="smlib finetune [--config FILE] --model MODEL --dataset DATASET [--OPTION VALUE ...]",
        description="Fine-tune a causal language model with SequenceMatch. Options may stand in a YAML file, --config, "
        "under the same names; those on the command line win.",
        sections={
            "what is trained on what": [f.name for f in fields(FinetuneArguments)],
            "SequenceMatch": own,
            "of transformers' TrainingArguments, what most runs set": OFTEN,
        },
        rest="of transformers' TrainingArguments, the others",
    )
    parser.set_defaults(debug=[])  # transformers' parser makes None of it, which its own type does not allow
    if "-h" in arguments or "--help" in arguments:
        parser.print_help()
        return
    given, config = _without_config(list(arguments))
    known = {f.name for kind in kinds for f in fields(kind) if f.init}
    try:
        options = [*(_from_yaml(config, known) if config else []), *given]
        what, args, *rest = parser.parse_args_into_dataclasses(options, return_remaining_strings=True)
        parser.check_known([word for words in rest for word in words], known)
        with Processes.of_arguments(args).together():  # what fails in one process is said by all
            _train(what, args)
    except (SafetensorError, NonFiniteLossError, *ABOUT_THE_INPUT) as error:
        raise ResultError(str(error)) from error


def _train(what: FinetuneArguments, args: Any) -> None:
    from smlib.data.rows import rows_of
    from smlib.policies.loading import Lora
    from smlib.training.folder import check_folder
    from smlib.training.memory import for_loading, room
    from smlib.training.trainer import SequenceMatchTrainer

    if not (what.model and what.model.strip()) or not (what.dataset and what.dataset.strip()):
        missing = "dataset" if what.model and what.model.strip() else "model"
        raise ValueError(
            f"there is no {missing}: name one with --{missing}, as in smlib finetune --model smollm2 --dataset my.jsonl"
        )
    check_folder(args.output_dir)
    _check_unfinished(args)
    targets = tuple(what.lora_target_modules or ()) or None
    lora = Lora(what.lora_r, what.lora_alpha, what.lora_dropout, what.lora_unembedding, targets)
    _check_used(what, args)
    hub = not args.local_files_only
    train = rows_of(what.dataset, split=what.dataset_split, streaming=what.streaming, download=hub)
    evaluated = what.eval_dataset
    held_out = None if evaluated is None else rows_of(evaluated, split=what.eval_split, download=hub)
    with room("loading the model", for_loading(args.dtype, args.load_in_4bit)), _hub_told("nothing was trained"):
        trainer = SequenceMatchTrainer(what.model, args, train, held_out, peft_config=lora if what.use_peft else None)
    resume = args.resume_from_checkpoint
    try:
        trainer.train(resume_from_checkpoint=True if str(resume).lower() == "true" else resume)
    except KeyboardInterrupt as error:
        raise Stopped(_where(trainer, resume)) from error
    except Exception:
        _close_bars(trainer)
        raise
    trainer.save_model()
    if args.push_to_hub:
        with _hub_told(f"the policy is in {args.output_dir}, and was not pushed"):
            trainer.push_to_hub()
    if trainer.is_world_process_zero():
        print(f"saved in {args.output_dir}; try: smlib generate --model {shlex.quote(args.output_dir)} --prompt '...'")


def _check_used(what: FinetuneArguments, args: Any) -> None:
    """Raises ValueError for options that would do nothing: of adapters without adapters, of evaluation without one, of
    splits for files, and what scripts of transformers do besides."""
    changed = [f"--{f.name}" for f in fields(what) if f.name.startswith("lora_") and getattr(what, f.name) != f.default]
    if changed and not what.use_peft:
        raise ValueError(
            f"{', '.join(changed)} say what adapters are like, and without adapters all weights are trained: "
            "add --use_peft true, or leave them out"
        )
    for name, source, split in (
        ("dataset_split", what.dataset, what.dataset_split),
        ("eval_split", what.eval_dataset, what.eval_split),
    ):
        (usual,) = (f.default for f in fields(what) if f.name == name)
        if source is not None and split != usual and Path(source).is_file():
            raise ValueError(
                f"--{name} {split} is for data sets of the hub, and {source} is a file, all of whose rows are read: "
                "leave it out, or write the rows that you mean into a file of their own"
            )
    if args.do_predict:
        raise ValueError(
            "--do_predict does nothing here: write completions with smlib generate --model, or look at held-out data "
            "while training with --eval_dataset and --eval_strategy"
        )
    if what.eval_dataset is not None and str(args.eval_strategy.value) == "no":
        raise ValueError(
            f"--eval_dataset {what.eval_dataset} would not be looked at: say when, as by --eval_strategy steps "
            "--eval_steps 100, or --eval_strategy epoch"
        )


def _check_unfinished(args: Any) -> None:
    """Raises ValueError where another run has left its policy: it would be replaced, and its checkpoints mixed."""
    from smlib.policies.policy import SAVED

    finished = Path(args.output_dir) / SAVED
    if finished.is_file() and not args.resume_from_checkpoint:
        raise ValueError(
            f"{args.output_dir} holds a finished policy: name another folder with --output_dir, or remove this one. "
            "A run cannot be made longer: to train its policy further, start another with "
            f"--model {shlex.quote(args.output_dir)}"
        )


def _where(trainer: Any, resume: Any) -> str:
    """The step that a trainer reached, and the command that goes on from its newest checkpoint."""
    from smlib.training.run_files import newest_checkpoint

    reached = f"stopped at step {trainer.state.global_step} of {trainer.state.max_steps}"
    try:
        kept = newest_checkpoint(Path(trainer.args.output_dir))
    except ValueError:
        return f"{reached}, before the first checkpoint (--save_steps). Begin again with: {command()}"
    more = () if resume else ("--resume_from_checkpoint", "true")
    return f"{reached}; {kept} is its last checkpoint. Go on with: {command(*more)}"


def _close_bars(trainer: Any) -> None:
    """Ends the line of the progress bar, so that what is said of an error stands on a line of its own."""
    for callback in trainer.callback_handler.callbacks:
        bar = getattr(callback, "training_bar", None)
        if bar is not None:
            bar.close()


@contextmanager
def _hub_told(so_far: str) -> Iterator[None]:
    """Tells what the hub's client raises in one line; its errors come from the HTTP package that its release uses."""
    try:
        yield
    except Exception as error:
        if not any(kind.__module__.split(".")[0] in HUB for kind in type(error).__mro__):
            raise
        raise ValueError(
            f"the hub cannot be reached, or refuses: {error}; {so_far}. Leave out --push_to_hub, or see that the "
            "network is there and that you are logged in (hf auth login)"
        ) from error


def _without_config(arguments: list[str]) -> tuple[list[str], str | None]:
    """The arguments without `--config FILE`, and the file."""
    for i, argument in enumerate(arguments):
        if argument.startswith("--config="):
            return [*arguments[:i], *arguments[i + 1 :]], argument.removeprefix("--config=")
        if argument == "--config":
            if i + 1 == len(arguments):
                raise ResultError("--config is followed by no file: name a YAML file")
            return [*arguments[:i], *arguments[i + 2 :]], arguments[i + 1]
    return arguments, None


def _from_yaml(path: str, known: set[str]) -> list[str]:
    """The options of a YAML file as they would stand on the command line."""
    import yaml

    try:
        stored = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}; name a YAML file with --config") from error
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"{path} holds a {type(stored).__name__}: expected one option a line, such as `method: sm`")
    strange = [str(name) for name in stored if name not in known]
    if strange:
        raise ValueError(f"{path} has unknown options: {', '.join(strange)}; `smlib finetune --help` lists those known")
    options: list[str] = []
    for name, value in stored.items():
        if value is None:
            continue
        options.append(f"--{name}")
        if isinstance(value, list):
            options += [str(item) for item in value]
        else:
            options.append(json.dumps(value) if isinstance(value, dict) else str(value))
    return options

"""The data of a `SequenceMatchTrainer`: columns, or a data set of smlib as it is."""

from collections.abc import Mapping
from typing import Any

from smlib.data.columns import from_columns
from smlib.data.rows import rows_of
from smlib.data.tokenizers import TextTokenizer
from smlib.kinds import lacking
from smlib.objectives.methods import get_method
from smlib.training.dataset import Dataset
from smlib.training.trainer_config import SequenceMatchConfig


def read_data(source: Any, tokenizer: TextTokenizer, context: int | None, args: SequenceMatchConfig) -> Dataset:
    """A data set of Algorithm 1 from whatever a trainer is given.

    Args:
        source: a `Dataset` of smlib, or what `smlib.data.columns.from_columns` takes.
        context: of the model, in tokens; None where it does not say.

    Raises:
        ValueError: no length of states to be had; what `from_columns` says.
    """
    if not lacking(source, Dataset):
        kept: Dataset = source
        return kept
    longest = min((n for n in (args.max_length, context) if n is not None), default=None)
    if longest is None:
        raise ValueError("the model's configuration names no context length: set max_length")
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
    places = args.max_steps * batch + args.buffer_size + args.refill if args.max_steps > 0 else None
    return from_columns(
        rows_of(source, download=not args.local_files_only),
        tokenizer,
        max_length=longest,
        max_prompt_length=args.max_prompt_length,
        noise=args.noise,
        backspace=args.backspace_token,
        mistakes=args.mistakes,
        clean=not get_method(args.method).backspace or args.without_backspace,
        eta=args.eta,
        chat_template=args.chat_template_path,
        places=places,
        keep=2 * args.buffer_size + 1_024,
    )


def read_eval(source: Any, tokenizer: TextTokenizer, context: int | None, args: SequenceMatchConfig) -> Any:
    """Held-out data: None, one data set, or several by name (a mapping).

    Raises:
        ValueError: a stream, which has no end to stop at; what `read_data` says.
    """
    if source is None:
        return None
    if isinstance(source, Mapping):
        return {name: read_eval(one, tokenizer, context, args) for name, one in source.items()}
    data = read_data(source, tokenizer, context, args)
    if getattr(data, "in_order", False):
        raise ValueError("eval_dataset is a stream, which has no end to stop at: give some of its rows, as by "
                         "list(dataset.take(200))")  # fmt: skip
    return data

"""What went wrong, as a user is told of it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from smlib.files import ResultError
from smlib.generation.decoding import SamplingConfig


@contextmanager
def told(*kinds: type[Exception], before: str = "", after: str = "") -> Iterator[None]:
    """Where what is raised of these kinds is about the input: the user is told in one line, without a traceback."""
    try:
        yield
    except kinds as error:
        raise ResultError(f"{before}{error}{after}") from error


def check_sampling(reads: int, prompt: int, config: SamplingConfig, seeds: Sequence[int]) -> None:
    """Raises `ResultError` if a prompt of so many tokens leaves no room in what a model reads, or a seed is none."""
    if reads - prompt < config.max_new_tokens:
        raise ResultError(
            f"the prompt has {prompt} tokens and the model reads {reads}: no room for {config.max_new_tokens} more; "
            "shorten the prompt or lower --max-tokens"
        )
    with told(ValueError):
        for seed in seeds:
            check_seed(seed)


def check_seed(seed: int) -> None:
    """Raises ValueError for what torch does not take as a seed."""
    if not 0 <= seed < 2**63:
        raise ValueError(f"a seed lies between 0 and 2^63 - 1, got {seed}")

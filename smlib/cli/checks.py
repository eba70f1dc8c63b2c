"""What commands check of their input before they start, and how an error of the input is told: in one line."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from smlib.files import ResultError
from smlib.generation.decoding import SamplingConfig
from smlib.policies.policy import Policy


def check_sampling(policy: Policy, prompt: int, config: SamplingConfig, seeds: Sequence[int]) -> None:
    """Raises `ResultError` if a prompt of so many tokens leaves no room, a seed is none, or deletions are soft."""
    if policy.config.keep_edits:
        raise ResultError(
            "this policy reads what was deleted (soft deletion, method soft), which is not shown as it is written: "
            "sample it in Python by smlib.sample, as docs/your-own-model.md does"
        )
    reads = policy.max_positions
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


@contextmanager
def told(*kinds: type[Exception], before: str = "", after: str = "") -> Iterator[None]:
    """Where what is raised of these kinds is about the input: the user is told in one line, without a traceback."""
    try:
        yield
    except kinds as error:
        raise ResultError(f"{before}{error}{after}") from error

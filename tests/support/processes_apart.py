"""What one process keeps that another would not have: locks on files, and Accelerate's first settings."""

from pathlib import Path

from smlib.locks import lock


def free(file: Path) -> bool:
    """Whether another process would get a lock: it belongs to the file as it was opened, and not to us."""
    with file.open("r+") as again:
        try:
            lock(again.fileno(), wait=False)
        except BlockingIOError:
            return False
        return True


def forget_accelerates_state() -> None:
    """A process keeps the first settings that Accelerate was given; a user's process has none yet."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()

"""What dependencies say on a reader's screen and nobody asked for: left out by name, so that all else stays.

A line that a reader has to wonder about costs more than it tells. Each of these has been looked at: it warns of nothing
that could be wrong with a result.
"""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

BITSANDBYTES = "bitsandbytes.backends.cpu.ops"
"""The logger of bitsandbytes that speaks when it is imported."""


def hush_bitsandbytes() -> None:
    """Leaves out one warning of bitsandbytes about a kernel that it would fetch from the hub; others are shown.

    transformers imports peft for its learning-rate schedules, and peft imports bitsandbytes wherever that is installed,
    so that the warning came up in every process that trained, without a 4-bit weight in it. Where there are 4-bit
    weights it has nothing to say either: they are multiplied by the kernels that come with bitsandbytes, and code of
    the hub is never run here.
    """
    logger = logging.getLogger(BITSANDBYTES)
    if _no_hub_kernel not in logger.filters:
        logger.addFilter(_no_hub_kernel)


def _no_hub_kernel(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith("Failed to load CPU gemm_4bit_forward from kernels-community")


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers about reading and writing weights, which take seconds at the sizes here.

    The reader's own setting is as it was afterwards.
    """
    from transformers.utils import logging as theirs

    shown = theirs.is_progress_bar_enabled()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            theirs.enable_progress_bar()


@contextmanager
def without_lines(pattern: str) -> Iterator[None]:
    """Leaves out the lines on standard error that hold `pattern`, a regular expression, written by compiled code too.

    Such code writes to the file descriptor and knows no logger. All other lines appear when the block ends.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            for line in caught:
                if not re.search(pattern, line.decode(errors="replace")):
                    os.write(2, line)

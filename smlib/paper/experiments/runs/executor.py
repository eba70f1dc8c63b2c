"""Where independent runs are computed: here in processes side by side, or on a Ray cluster.

    runs = in_parallel(fine_tune, calls)

Every run is one call with its own seed, so that neither their number nor their place changes a result. A cluster is
asked for by the environment variable `SMLIB_RAY`, which `smlib reproduce --ray` sets for the notebooks that it runs.
"""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch

RAY = "SMLIB_RAY"
"""Names the cluster: `auto` for the one that this machine belongs to, or its address."""
PR_SET_PDEATHSIG = 1
"""Of `<sys/prctl.h>`: the signal that a process gets when its parent ends."""


def workers() -> int:
    """Processes to run side by side: SMLIB_WORKERS, or the cores this process may use; one where there is a GPU."""
    asked = os.environ.get("SMLIB_WORKERS")
    if asked:
        return max(1, int(asked))
    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def in_parallel(function: Callable[..., Any], calls: Sequence[Mapping[str, Any]], processes: int | None = None) -> list:
    """`function(**call)` for each call, in the order of the calls: in fresh processes of one thread each, or on Ray.

    One thread a process is the fastest way to spend two cores on small models, and keeps sums in a fixed order. On
    Linux the processes end with their parent, however it ends.

    Args:
        processes: how many side by side; `workers()` when omitted. A cluster decides for itself.

    Raises:
        ResultError: a cluster that does not answer, or whose workers have another smlib. What a run raises, after the
            others have ended.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if os.environ.get(RAY) and calls:
        from smlib.paper.experiments.runs.cluster import on_cluster

        return on_cluster(function, calls, os.environ[RAY])
    count = min(processes or workers(), len(calls))
    if count <= 1:
        return _one_by_one(function, calls)
    with ProcessPoolExecutor(
        count, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    ) as pool:
        futures = [pool.submit(function, **call) for call in calls]
        return [future.result() for future in futures]


def _one_by_one(function: Callable[..., Any], calls: Sequence[Mapping[str, Any]]) -> list:
    """The same in this process; what one run raises is raised when the others have ended, as where they are apart."""
    found, failures = [], list[Exception]()
    for call in calls:
        try:
            found.append(function(**call))
        except Exception as error:
            _let_go(error)
            failures.append(error)
    if failures:
        raise failures[0]
    return found


def _let_go(error: BaseException | None) -> None:
    """Forgets what the frames of a failed run hold: a model that filled a GPU would leave no room for the next run."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _start_worker(parent: int) -> None:
    torch.set_num_threads(1)
    _end_with(parent)


def _end_with(parent: int) -> None:
    """Have the system kill this process when its parent ends: left alone it would train on and hold its run's lock."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before the system was asked
        os._exit(1)

"""Independent runs on a Ray cluster: sent out one by one, their files brought home, a lost worker's run repeated.

A worker has smlib installed and nothing else of this project. It gets the base models with its run, computes in a
folder of its own with one thread, and sends back the files. They are put among the results here as each run ends, so
that what is done stays done whatever happens to the others, and the cache answers for all of them in the end.

Ray passes Python objects between its processes by pickle: connect to clusters of your own only.
"""

import importlib
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from smlib.files import ResultError
from smlib.paper.elsewhere import Files, adopt, differing, fingerprint, lay_out, needed, written
from smlib.paper.experiments.runs.cluster_progress import LOOK, Listener, new_board, telling
from smlib.paper.results import NotCachedError, reading_only

RETRIES = 3
"""How often a run is begun again whose worker or machine was lost."""
PATIENCE = 10
"""Seconds that an address has to answer in."""


def on_cluster(function: Callable[..., Any], calls: Sequence[Mapping[str, Any]], address: str) -> list:
    """`function(**call)` for each call on a Ray cluster, in the order of the calls; what is cached is only read.

    Args:
        function: of a module, with the arguments `preset` and `results_dir`, whose result lands in the cache.
        address: `auto` for the cluster that this machine belongs to, or `HOST:PORT`.

    Raises:
        ResultError: Ray is not installed; no cluster answers; its workers have another smlib or other packages. What a
            run raises, after the others have ended.
    """
    missing = [call for call in calls if not _cached(function, call)]
    for call in missing:
        _check_stays_in_results(call)
    if missing:
        with _connected(address):
            _send_out(function, missing)
    with reading_only():
        return [function(**call) for call in calls]


def _cached(function: Callable[..., Any], call: Mapping[str, Any]) -> bool:
    try:
        with reading_only():
            function(**call)
    except NotCachedError:
        return False
    return True


def _check_stays_in_results(call: Mapping[str, Any]) -> None:
    """Raises `ResultError` for a run that would leave files beside its results: they would stay on the worker."""
    beside = [name for name, value in call.items() if isinstance(value, Path) and name != "results_dir"]
    if beside:
        raise ResultError(
            f"{_named(call)} would keep files in {beside[0]}={call[beside[0]]}, and only results come home from a "
            "cluster: leave it out, or compute here, without --ray"
        )


def _send_out(function: Callable[..., Any], calls: Sequence[Mapping[str, Any]]) -> None:
    """Has the cluster compute the calls, and adopts the files of each as it ends."""
    import ray

    gpus = 1 if torch.cuda.is_available() and ray.cluster_resources().get("GPU") else 0
    remote: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=RETRIES, retry_exceptions=False)(compute)
    bases: dict[tuple[str, str], Any] = {}
    waiting: dict[Any, Mapping[str, Any]] = {}
    here, board = fingerprint(), new_board()
    listener = Listener(board, len(calls))
    for call in calls:
        place = (str(call["preset"]), str(call["results_dir"]))
        if place not in bases:
            bases[place] = ray.put(needed(*place))
        sent = remote.remote(function.__module__, function.__qualname__, dict(call), bases[place], here, board)
        waiting[sent] = call
    failures: list[Exception] = []
    try:
        while waiting:
            ended, _ = ray.wait(list(waiting), num_returns=1, timeout=LOOK)
            listener.look(len(calls) - len(waiting) + len(ended))
            for reference in ended:
                call = waiting.pop(reference)
                try:
                    adopt(ray.get(reference), call["results_dir"])
                except ray.exceptions.RayTaskError as error:
                    failures.append(_cause(error))
                except ray.exceptions.RayError as error:
                    failures.append(ResultError(f"{_named(call)} was lost {RETRIES + 1} times: {_line(error)}"))
    except BaseException:  # Ctrl-C above all: nothing is left running on the cluster
        for reference in waiting:
            ray.cancel(reference, force=True)
        raise
    if failures:
        others = f" (and {len(failures) - 1} more of {len(calls)} runs failed)" if len(failures) > 1 else ""
        first = failures[0]
        raise (ResultError(f"{first}{others}") if isinstance(first, ResultError) else first)


def compute(
    module: str,
    name: str,
    call: Mapping[str, Any],
    bases: Files,
    expected: Mapping[str, str],
    board: Any = None,
) -> Files:
    """What a worker does: one run in a folder of its own; returns the files that it wrote.

    Args:
        board: where it is told how far the run is, see `smlib.paper.experiments.runs.cluster_progress`.

    Raises:
        ResultError: this place has another smlib, or other versions of what numbers depend on.
    """
    found = differing(expected, fingerprint())
    if found:
        raise ResultError(
            f"the worker on {socket.gethostname()} differs: {found}. Install the same commit and the pinned packages "
            "(constraints.txt) on every machine of the cluster"
        )
    torch.set_num_threads(1)
    with telling(board), tempfile.TemporaryDirectory(prefix="smlib-run-") as folder:
        root = Path(folder)
        lay_out(bases, root)
        getattr(importlib.import_module(module), name)(**{**call, "results_dir": root})
        return written(root, bases)


def _cause(error: Any) -> Exception:
    """What the run itself raised."""
    cause = getattr(error, "cause", None)
    return ResultError(str(cause)) if isinstance(cause, ResultError) else cause if cause is not None else error


def _named(call: Mapping[str, Any]) -> str:
    return f"the run {call.get('name', 'without a name')}"


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]


@contextmanager
def _connected(address: str) -> Iterator[None]:
    """A connection to the cluster, for the time of the block; one that is there already is left as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ResultError("a cluster needs Ray: pip install 'smlib[cluster]'") from error
    if ray.is_initialized():
        yield
        return
    check_address(address)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ResultError(f"no Ray cluster answers at {address}: {_line(error)} {_cure()}") from error
    try:
        yield
    finally:
        ray.shutdown()


def check_answers(address: str) -> None:
    """Raises `ResultError` where Ray is not installed or no cluster answers, before anything is sent to one."""
    with _connected(address):
        pass


def check_address(address: str) -> None:
    """Raises `ResultError` for an address of another form, or where nothing answers."""
    if address == "auto":
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65_536):
        raise ResultError(f"--ray {address!r}: expected auto, or HOST:PORT such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
    except OSError as error:
        raise ResultError(f"no Ray cluster answers at {address} ({error.strerror or error}). {_cure()}") from error


def _cure() -> str:
    return "Start one with `ray start --head`, and join other machines to it with `ray start --address HOST:PORT`"

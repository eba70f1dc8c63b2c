"""What a step of training costs along the number of processes that share its batch: `smlib bench --processes`.

It is `smlib.training.algorithm_1.train` itself, rollouts included, in fresh processes that are started as torchrun
starts them (docs/machines.md): one thread each, gloo, the same batch in all. A turn is one start of each number of
processes; the clock is the wall's, since the seconds of several processes are not one's own. What is timed is the
steps between two refills, the first refill and whatever comes before it left out.
"""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smlib.bench.timing import figure
from smlib.bench.workloads import ARITHMETIC, Shape, dataset, sampling_job
from smlib.environment import LAUNCHED, PROCESSES
from smlib.objectives.methods import ObjectiveConfig, get_method
from smlib.training.algorithm_1 import TrainConfig, train

METHODS = ("mle", "sm")
COUNTS = (1, 2)
TURNS = 3


def run(quick: bool = False, tell: Callable[[str], None] = lambda part: None) -> dict[str, Any]:
    """The entries of `smlib bench --processes`, see `as_figures`; two minutes on two cores, `quick` under one.

    Args:
        quick: one turn. tell: called with the name of each part before it is measured.
    """
    tell(f"training in {' and in '.join(str(count) for count in COUNTS)} processes")
    return as_figures(along_processes(turns=1 if quick else TURNS))


def as_figures(found: Mapping[str, Any]) -> dict[str, Any]:
    """What `along_processes` found: seconds of a step, SM over MLE, and each number of processes over the first."""
    counts, turns = found["x"], found["turns"]
    figures: dict[str, Any] = {}
    for k, count in enumerate(counts):
        for method in METHODS:
            name = f"processes_{count}_{method}_step"
            figures[name] = figure(turns[method][k], "s", "none", "wall")
            if k:
                ratios = [a / b for a, b in zip(turns[method][k], turns[method][0], strict=True)]
                figures[f"{name}_over_{counts[0]}"] = figure(ratios, "ratio", f"{counts[0]} process", "wall")
        ratios = [a / b for a, b in zip(turns["sm"][k], turns["mle"][k], strict=True)]
        figures[f"processes_{count}_sm_over_mle"] = figure(ratios, "ratio", "MLE, as many processes", "wall")
    return figures


def along_processes(shape: Shape = ARITHMETIC, counts: Sequence[int] = COUNTS, turns: int = TURNS) -> dict[str, Any]:
    """Median seconds of a step at each number of processes: `{x: [...], mle: [...], sm: [...], turns: {...}}`.

    `turns[method][k]` holds the seconds behind the median at x[k], as in the other curves of `06_overhead`.

    Args:
        counts: numbers of processes; each divides the shape's batch. turns: how often each is started.

    Raises:
        ValueError: a number of processes that does not divide the batch. RuntimeError: a process that failed.
    """
    for count in counts:
        if count < 1 or shape.batch % count:
            raise ValueError(f"{count} processes do not divide a batch of {shape.batch}: choose other counts")
    seconds: dict[str, list[list[float]]] = {method: [[] for _ in counts] for method in METHODS}
    for turn in range(turns):
        places = list(range(len(counts)))
        for k in places if turn % 2 == 0 else places[::-1]:
            found = started(shape, counts[k])
            for method in METHODS:
                seconds[method][k].append(found[method])
    medians = {method: [float(np.median(own)) for own in seconds[method]] for method in METHODS}
    return {"x": list(counts), **medians, "turns": seconds, "cores": len(os.sched_getaffinity(0))}


def started(shape: Shape, count: int) -> dict[str, float]:
    """Seconds of a step of each method in so many fresh processes; raises RuntimeError where one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="smlib-bench-") as name:
        folder = Path(name)
        command = [sys.executable, "-m", "smlib.bench.processes", json.dumps(dataclasses.asdict(shape)), name]
        logs = [folder / f"{rank}.log" for rank in range(count)]
        running = []
        for rank, log in enumerate(logs):
            with log.open("w") as stream:
                environment = _environment(rank, count, port)
                running.append(subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT))
        try:
            statuses = [process.wait() for process in running]
        finally:
            for process in running:
                process.kill()
        for status, log in zip(statuses, logs, strict=True):
            if status:
                said = (log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
                raise RuntimeError(f"a process of {count} that train together ended with status {status}: {said}")
        found: dict[str, float] = json.loads((folder / "seconds.json").read_text())
        return found


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    """Of one of several processes; one alone is told of no others."""
    others = {*PROCESSES, *LAUNCHED, "LOCAL_RANK"}
    plain = {name: value for name, value in os.environ.items() if name not in others}
    plain |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    if count == 1:
        return plain
    return plain | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def seconds_a_step(shape: Shape, method: str, folder: Path) -> float:
    """Seconds of a step of `train` in this process and those that train with it, a refill's share included."""
    data, space = dataset(shape)
    policy, *_ = sampling_job(shape, data, space, [i % len(data) for i in range(shape.refill)], 0)
    stamps: list[float] = []

    def stamp(_policy: object) -> dict[str, float]:
        stamps.append(time.perf_counter())
        return {}

    config = TrainConfig(
        ObjectiveConfig(method=method, bc_steps=0, anneal_steps=0),
        steps=2 * shape.interval,
        batch_size=shape.batch,
        learning_rate=1e-5,
        warmup_steps=0,
        eta=shape.eta if get_method(method).noise else 0.0,
        buffer_size=shape.refill,
        refill=shape.refill,
        times_seen=shape.times_seen,
        rollout_tokens=shape.rollout,
        row_len=shape.row_len,
        chunk=shape.chunk,
        log_every=2 * shape.interval,
        eval_every=shape.interval,
        checkpoint_every=0,
    )
    train(policy, data, config, folder, evaluate=stamp, progress=False)
    return (stamps[1] - stamps[0]) / shape.interval


def main(arguments: Sequence[str]) -> None:
    """One of the processes: the shape as JSON, and the folder that the first of them writes its seconds into."""
    shape, folder = Shape(**json.loads(arguments[0])), Path(arguments[1])
    found = {method: seconds_a_step(shape, method, folder / method) for method in METHODS}
    if os.environ.get("RANK", "0") == "0":
        (folder / "seconds.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])

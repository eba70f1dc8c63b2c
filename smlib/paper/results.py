"""Results on disk: one JSON file a finished run, cached by content, and one a paper item, read by the ledger.

    run = results.run_cached("fig3", "sm-gt-0.1", config, compute, preset=preset, seeds=[0], version_key="training")
    results.write_item("fig3", preset, ours=0.71, error=0.02, n_seeds=3, verdict="direction only", sources=[run])
    results.finish(["fig3"], preset, results_dir)          # the last cell of a notebook

A run's file name carries a hash of its item, name, config, seeds and the versions of the code behind it, so a
finished run is found again and never repeated, and a changed config or a changed algorithm never meets an old file.
The code's versions are `NUMERICS_VERSION`. Files hold no times: the same seed on the same machine gives the same
bytes. Times go to `results/<preset>/timings.jsonl`.
"""

import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from smlib.environment import check_environment
from smlib.files import (
    ResultError,
    append_line,
    canonical_json,
    config_hash,
    plain,
    project_root,
    read_json,
    resolve,
    write_atomically,
)
from smlib.locks import lock
from smlib.paper import checksums
from smlib.paper.fresh import FreshRound, Standing, begin_fresh, fresh_round
from smlib.paper.items import ITEMS, PRESETS, VERDICTS, Item, check_preset, get_item
from smlib.paper.ledger import finish, item_path, ledger, read_item, write_item
from smlib.paper.numerics import NUMERICS_VERSION, numerics
from smlib.paper.provenance import checkout, provenance

__all__ = [
    "ITEMS",
    "NUMERICS_VERSION",
    "PRESETS",
    "VERDICTS",
    "FreshRound",
    "Item",
    "NotCachedError",
    "ResultError",
    "Run",
    "begin_fresh",
    "check_preset",
    "finish",
    "finished_run",
    "fresh_round",
    "get_item",
    "item_path",
    "ledger",
    "load_run",
    "locked",
    "project_root",
    "provenance",
    "read_item",
    "reading_only",
    "resolve",
    "run_cached",
    "write_item",
]

SCHEMA = 1
SHARED = "shared"
"""A folder beside the items' for runs that several of them use, such as the pretrained model."""


_READING_ONLY: ContextVar[bool] = ContextVar("reading_only", default=False)


class NotCachedError(ResultError):
    """A run would have to be computed where results are only read."""


@contextmanager
def reading_only() -> Iterator[None]:
    """Within it `run_cached` raises `NotCachedError` instead of computing what is not there."""
    before = _READING_ONLY.set(True)
    try:
        yield
    finally:
        _READING_ONLY.reset(before)


class Run(dict[str, object]):
    """The result of one run, with the file it is kept in (`path`), its provenance and its seeds.

    `cached` says whether it was read from a file, and not computed by the call that returned it.
    """

    cached = True

    def __init__(self, record: Mapping[str, object], path: Path) -> None:
        result = record["result"]
        assert isinstance(result, Mapping)
        super().__init__(result)
        self.path = path
        self.provenance = record["provenance"]
        self.seeds = record["seeds"]


def run_cached(
    item: str,
    name: str,
    config: object,
    compute: Callable[[Path], Mapping[str, object]],
    *,
    preset: str,
    seeds: Sequence[int],
    version_key: str | Sequence[str],
    results_dir: str | os.PathLike[str] = "results",
    fresh: bool | None = None,
    beside: Path | None = None,
) -> Run:
    """The result of `compute`, from `results/<preset>/<item>/<name>-<hash>.json` if it was computed before.

    `compute` gets a scratch folder for checkpoints, which outlives a killed process and is removed once the result
    is written: a long run resumes from it. `version_key` names the entries of `NUMERICS_VERSION` that the numbers
    depend on. `fresh` computes again and then replaces the file; by default `smlib reproduce --fresh` decides (every
    run that was finished before it started counts as absent). `beside` is a file that `compute` leaves besides the
    result, such as weights: without it the result counts as absent too. Processes that ask for the same run at the same
    time wait for one another, so it is computed once.

    Raises `NotCachedError` within `reading_only()` where it would compute, and
    `ResultError` for an unknown item, preset or version key, a NaN or infinity in the result (named), and a
    file at that name which is torn or belongs to another config or code version: it is left as it is.
    """
    identity = _identity(item, name, config, preset, seeds, version_key)
    preset_dir = resolve(results_dir) / preset
    path = _kept_at(identity, results_dir)
    folder, digest = path.parent, path.stem.rsplit("-", 1)[1]
    standing = Standing(preset_dir, path.relative_to(preset_dir).as_posix())

    def finished() -> bool:
        repeat = standing.to_repeat if fresh is None else fresh
        return path.exists() and not repeat and (beside is None or beside.exists())

    if finished():  # without the lock, which would write: a checkout that cannot be written to can be read
        return load_run(path, expect=identity)
    if _READING_ONLY.get():
        raise NotCachedError(f"{path} is not there, and nothing is to be computed here")
    with locked(folder / "scratch" / f".{path.stem}.lock"):
        if finished():  # by a process that held the lock
            return load_run(path, expect=identity)
        scratch = folder / "scratch" / path.stem
        if standing.stale_scratch if fresh is None else fresh:
            shutil.rmtree(scratch, ignore_errors=True)
        resumed = scratch.exists()
        scratch.mkdir(parents=True, exist_ok=True)
        standing.note("begun")
        check_environment()  # the cache's files and locks are of one process
        revision = checkout()  # before: the checkout may have moved on when a long run ends
        wall, cpu = time.perf_counter(), time.process_time()
        result = plain(dict(compute(scratch)), f"{item}/{name}")
        timing = {
            "item": item,
            "name": name,
            "hash": digest,
            "resumed": resumed,
            "wall_s": round(time.perf_counter() - wall, 3),
            "cpu_s": round(time.process_time() - cpu, 3),
            "peak_rss_mib": _peak_rss_mib(),
        }
        text = canonical_json({**identity, "result": result, "provenance": provenance(seeds, preset) | revision})
        checksums.note(path, text, preset_dir)
        write_atomically(path, text)
        standing.note("finished")
        append_line(preset_dir / "timings.jsonl", timing)
        shutil.rmtree(scratch, ignore_errors=True)
        made = load_run(path, expect=identity)  # as whoever comes later reads it: same order of keys, same types
        made.cached = False
        return made


def finished_run(
    item: str,
    name: str,
    config: object,
    *,
    preset: str,
    seeds: Sequence[int],
    version_key: str | Sequence[str],
    results_dir: str | os.PathLike[str] = "results",
) -> Run | None:
    """The result that `run_cached` would read, and None where it would have to compute it; the same arguments."""
    identity = _identity(item, name, config, preset, seeds, version_key)
    path = _kept_at(identity, results_dir)
    return load_run(path, expect=identity) if path.exists() else None


def load_run(path: str | os.PathLike[str], expect: Mapping[str, object] | None = None) -> Run:
    """Read a run's file; raises `ResultError` if it is torn, edited, no run, or of another config or code version.

    Without `expect` the versions written in the file are compared with the present `NUMERICS_VERSION`.
    """
    source = Path(path)
    record = read_json(source)
    missing = {"schema", "item", "name", "preset", "config", "seeds", "numerics", "provenance", "result"} - set(record)
    if missing:
        raise ResultError(f"{source} is no result of a run: it lacks {', '.join(sorted(missing))}")
    if expect is None:
        then = record["numerics"]
        assert isinstance(then, Mapping)
        expect = {"schema": SCHEMA, "numerics": numerics(tuple(str(key) for key in then))}
    for key, wanted in expect.items():
        if record[key] != wanted:
            raise ResultError(
                f"{source} has {key} {record[key]!r}, expected {wanted!r}: it comes from another config or code "
                "version and was left as it is. Move it away, or recompute with `smlib reproduce --fresh`"
            )
    if source.parent.parent.name == record["preset"]:
        checksums.check(source, source.parent.parent)
    return Run(record, source)


def _identity(
    item: str, name: str, config: object, preset: str, seeds: Sequence[int], version_key: str | Sequence[str]
) -> dict[str, object]:
    if item != SHARED:
        get_item(item)
    if not name or not all(c.isalnum() or c in "-_.=+" for c in name):
        raise ResultError(f"{name!r} cannot name a run: letters, digits and -_.=+ only, since it becomes a file name")
    return {
        "schema": SCHEMA,
        "item": item,
        "name": name,
        "preset": check_preset(preset),
        "config": plain(config, "config"),
        "seeds": [int(seed) for seed in seeds],
        "numerics": numerics((version_key,) if isinstance(version_key, str) else tuple(version_key)),
    }


def _kept_at(identity: Mapping[str, object], results_dir: str | os.PathLike[str]) -> Path:
    """The file of a run of this identity."""
    digest = config_hash({key: identity[key] for key in ("item", "name", "config", "seeds", "numerics")})
    folder = resolve(results_dir) / str(identity["preset"]) / str(identity["item"])
    return folder / f"{identity['name']}-{digest}.json"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock that the system releases when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as stream:
        lock(stream.fileno())
        yield


def _peak_rss_mib() -> float:
    """Peak resident memory of this process so far; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)

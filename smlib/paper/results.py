"""Results on disk: one JSON file a finished run, cached by content, and one a paper item, read by the ledger.

    run = results.run_cached("fig3", "sm-gt-0.1", config, compute, preset=preset, seeds=[0], version_key="training")
    results.write_item("fig3", preset, ours=0.71, error=0.02, n_seeds=3, verdict="direction only", sources=[run])
    results.finish(["fig3"], preset, results_dir)          # the last cell of a notebook

A run's file name carries a hash of its item, name, config, seeds and the versions of the code behind it, so a
finished run is found again and never repeated, and a changed config or a changed algorithm never meets an old file.
The code's versions are `NUMERICS_VERSION`. Files hold no times: the same seed on the same machine gives the same
bytes. Times go to `results/<preset>/timings.jsonl`.
"""

import fcntl
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
    "project_root",
    "provenance",
    "read_item",
    "resolve",
    "run_cached",
    "write_item",
]

SCHEMA = 1
SHARED = "shared"
"""A folder beside the items' for runs that several of them use, such as the pretrained model."""
FRESH = ".fresh-since"
"""A file of the preset's folder while a `smlib reproduce --fresh` is unfinished; see `FreshRound`."""


class Run(dict[str, object]):
    """The result of one run, with the file it is kept in (`path`), its provenance and its seeds."""

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

    Raises `ResultError` for an unknown item, preset or version key, a NaN or infinity in the result (named), and a
    file at that name which is torn or belongs to another config or code version: it is left as it is.
    """
    identity = _identity(item, name, config, preset, seeds, version_key)
    path = _kept_at(identity, results_dir)
    folder, digest = path.parent, path.stem.rsplit("-", 1)[1]
    with _lock(folder / "scratch" / f".{path.stem}.lock"):
        scratch = folder / "scratch" / path.stem
        recompute, stale_scratch = _freshness(fresh, path, scratch)
        if path.exists() and not recompute and (beside is None or beside.exists()):
            return load_run(path, expect=identity)
        if stale_scratch:
            shutil.rmtree(scratch, ignore_errors=True)
        resumed = scratch.exists()
        scratch.mkdir(parents=True, exist_ok=True)
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
        record = {**identity, "result": result, "provenance": provenance(seeds, preset) | revision}
        write_atomically(path, canonical_json(record))
        append_line(resolve(results_dir) / preset / "timings.jsonl", timing)
        shutil.rmtree(scratch, ignore_errors=True)
        return load_run(path, expect=identity)  # as whoever comes later reads it: same order of keys, same types


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
    """Read a run's file; raises `ResultError` if it is torn, not a run, or of another config or code version.

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


def _freshness(fresh: bool | None, path: Path, scratch: Path) -> tuple[bool, bool]:
    """Whether to compute although a result exists, and whether to drop an unfinished run's checkpoints."""
    if fresh is not None:
        return fresh, fresh
    since = float(os.environ.get("SMLIB_FRESH_SINCE") or 0.0)

    def older(what: Path) -> bool:
        return what.exists() and what.stat().st_mtime < since

    return older(path), older(scratch)


@dataclass(frozen=True)
class FreshRound:
    """A `smlib reproduce --fresh` that was begun and is not finished.

    It is kept in a file, so that one that was killed can go on: runs that were finished since it began are not
    repeated again. It belongs to the notebooks that were asked for, and is over when a call has done all of them.
    """

    path: Path
    since: float
    notebooks: tuple[str, ...]

    def __str__(self) -> str:
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"the `{self.options}` begun {begun} in {self.path.parent}"

    @property
    def options(self) -> str:
        """What to give `smlib reproduce` to go on."""
        if {item.notebook for item in ITEMS.values()} <= set(self.notebooks):
            return "--fresh"
        return "--fresh --only " + ",".join(item.id for item in ITEMS.values() if item.notebook in self.notebooks)

    def covers(self, notebooks: Sequence[str]) -> bool:
        """Whether all of these are among the notebooks that are being repeated."""
        return set(notebooks) <= set(self.notebooks)

    def end(self) -> None:
        """Everything is done: the next `--fresh` repeats it again."""
        self.path.unlink(missing_ok=True)


def fresh_round(preset: str, results_dir: str | os.PathLike[str] = "results") -> FreshRound | None:
    """The unfinished `--fresh` of a preset, if there is one; raises `ResultError` if its file is damaged."""
    path = resolve(results_dir) / check_preset(preset) / FRESH
    if not path.exists():
        return None
    record = read_json(path)
    since, notebooks = record.get("since"), record.get("notebooks")
    if not isinstance(since, float) or not isinstance(notebooks, list):
        raise ResultError(f"{path} does not say when a `--fresh` began, and of which notebooks; delete it")
    return FreshRound(path, since, tuple(map(str, notebooks)))


def begin_fresh(notebooks: Sequence[str], preset: str, results_dir: str | os.PathLike[str] = "results") -> FreshRound:
    """Begin to repeat the runs of these notebooks, or go on with what was begun for them and others.

    Raises `ResultError` if one was begun that leaves out some of them: its time is not theirs.
    """
    found = fresh_round(preset, results_dir)
    if found is None:
        path = resolve(results_dir) / preset / FRESH
        found = FreshRound(path, time.time(), tuple(sorted(notebooks)))
        write_atomically(path, canonical_json({"since": found.since, "notebooks": found.notebooks}))
    elif not found.covers(notebooks):
        raise ResultError(f"{found} is not finished: give `{found.options}` first, or delete {found.path} to drop it")
    return found


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock that the system releases when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _peak_rss_mib() -> float:
    """Peak resident memory of this process so far; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)

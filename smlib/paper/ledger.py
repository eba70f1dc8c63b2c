"""The ledger: for every figure and table, the paper's value, ours, its error bar, the verdict and where it came from.

An item's file, `results/<preset>/<id>.json`, is written by its notebook from finished runs and names them with
their checksums. The ledger reads these files and nothing else.
"""

import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from smlib.files import ResultError, canonical_json, plain, read_json, resolve, write_atomically
from smlib.paper.items import ITEMS, check_preset, check_verdict, error_bar, get_item
from smlib.paper.numerics import NUMERICS_VERSION
from smlib.paper.provenance import provenance

SCHEMA = 1
LEDGER_PRESETS = ("paper", "full", "quick")
"""Whose value counts, best first. A smoke run proves that a notebook works and nothing about the paper."""

COMMITTED_PRESETS = ("paper", "full")
"""Whose result files are in git, and so the only ones that the README shows."""

LEDGER_FIELDS = (
    "id",
    "title",
    "notebook",
    "preset",
    "paper",
    "ours",
    "error",
    "n_seeds",
    "verdict",
    "provenance",
)

ROW_FIELDS = ("label", "paper", "ours", "error")

_written: set[tuple[str, str, Path]] = set()
"""Items written by this process, which is what lets `finish` tell this run's file from last week's."""


def item_path(item: str, preset: str, results_dir: str | os.PathLike[str] = "results") -> Path:
    """Where an item's file is kept."""
    return resolve(results_dir) / check_preset(preset) / f"{get_item(item).id}.json"


def write_item(
    item: str,
    preset: str,
    *,
    ours: float | str | None,
    error: float | str | None = None,
    n_seeds: int,
    verdict: str,
    paper: float | str | None = None,
    rows: Sequence[Mapping[str, object]] = (),
    details: Mapping[str, object] | None = None,
    sources: Sequence[object] = (),
    results_dir: str | os.PathLike[str] = "results",
) -> Path:
    """Write `results/<preset>/<id>.json` atomically and return its path.

    `ours` and `error` are the one line of the ledger (an error in words where no single bar belongs to the line, such
    as a largest gap); `rows` the table behind it, each with `label`, `paper`, `ours` and `error`; `details` anything a
    figure or table needs besides (JSON types). `n_seeds` is 0 for an exact result, which has no seed. `sources` are the
    runs it was made from (`Run` objects or paths inside `results/<preset>`).
    `paper` defaults to the paper's value in `smlib.paper.items`.

    Raises `ResultError` for an unknown id, preset or verdict, a verdict without a value, a NaN, a row that lacks a
    field, or a source that is absent or of another preset.
    """
    record = get_item(item)
    check_verdict(verdict)
    if verdict == "not run" or ours is None:
        raise ResultError(
            f"{item}: an item is written once it has a value, with a verdict on it; got {ours!r}, {verdict!r}"
        )
    if n_seeds < 0:
        raise ResultError(f"{item}: n_seeds is {n_seeds}; it counts seeds, and is 0 for an exact result")
    path = item_path(item, preset, results_dir)
    checked = [_row(item, row) for row in rows]
    runs = [_source(item, source, path.parent) for source in sources]
    seeds = sorted({int(seed) for run, _ in runs for seed in run.get("seeds", [])})  # type: ignore[attr-defined]
    content = {
        "schema": SCHEMA,
        "id": item,
        "preset": preset,
        "paper": record.paper if paper is None else paper,
        "ours": plain(ours, f"{item}.ours"),
        "error": plain(error, f"{item}.error"),
        "n_seeds": n_seeds,
        "verdict": verdict,
        "rows": checked,
        "details": plain(details or {}, f"{item}.details"),
        "provenance": {**provenance(seeds, preset), **_origin(runs)},
    }
    text = canonical_json(content)
    if path.exists():
        read_item(item, preset, results_dir)  # a file that is not this item's is reported, not overwritten
    write_atomically(path, text)
    _written.add((item, preset, path.parent))
    return path


def read_item(item: str, preset: str, results_dir: str | os.PathLike[str] = "results") -> dict[str, object]:
    """An item's file, checked; raises `ResultError` if it is absent, torn, or not what its name says."""
    path = item_path(item, preset, results_dir)
    content = read_json(path)
    for key, wanted in (("schema", SCHEMA), ("id", item), ("preset", preset)):
        if content.get(key) != wanted:
            raise ResultError(
                f"{path} has {key} {content.get(key)!r}, expected {wanted!r}; it was left as it is. "
                f"Move it away and run `smlib reproduce --preset {preset} --only {item}`"
            )
    missing = {"paper", "ours", "error", "n_seeds", "verdict", "rows", "details", "provenance"} - set(content)
    if missing:
        raise ResultError(f"{path} lacks {', '.join(sorted(missing))}; move it away and run the item again")
    check_verdict(str(content["verdict"]))
    return content


def ledger(
    results_dir: str | os.PathLike[str] = "results", presets: Sequence[str] = LEDGER_PRESETS
) -> list[dict[str, object]]:
    """One object for every id, with exactly `LEDGER_FIELDS`, from the first of `presets` that has been run.

    An item whose runs were made by code of another version keeps its value, and its provenance gains `stale`, a list
    of what changed since.
    """
    rows = []
    for item in ITEMS.values():
        row: dict[str, object] = dict.fromkeys(LEDGER_FIELDS)
        row.update(id=item.id, title=item.title, notebook=item.notebook, paper=item.paper)
        row.update(n_seeds=0, verdict="not run")
        for preset in presets:
            if item_path(item.id, preset, results_dir).exists():
                content = read_item(item.id, preset, results_dir)
                for name in ("preset", "paper", "ours", "error", "n_seeds", "verdict"):
                    row[name] = content[name]
                row["provenance"] = _with_staleness(content["provenance"])
                break
        rows.append(row)
    return rows


def finish(items: Sequence[str], preset: str, results_dir: str | os.PathLike[str] = "results") -> None:
    """The last cell of a notebook: check that it wrote its items, print their line of the ledger, report success.

    `smlib reproduce` counts a notebook as done when this was reached, and not by the absence of an exception: a
    timed-out cell or an early exit leave no exception behind. `items` is empty for a notebook that only reads.
    Raises `ResultError` if an item was not written by this very run.
    """
    check_preset(preset)
    for item in items:
        if (item, preset, item_path(item, preset, results_dir).parent) not in _written:
            raise ResultError(
                f"this notebook did not write item {item!r} for preset {preset!r}: "
                "call smlib.paper.results.write_item before finish"
            )
        content = read_item(item, preset, results_dir)
        ours = f"{content['ours']}{error_bar(content['error'])}"  # type: ignore[arg-type]
        print(f"{item}: paper {content['paper']} | ours {ours} | {content['verdict']}")
    marker = os.environ.get("SMLIB_FINISH_MARKER")
    if marker:
        write_atomically(marker, canonical_json({"items": list(items), "preset": preset, "at": time.time()}))


def _row(item: str, row: Mapping[str, object]) -> dict[str, object]:
    if set(row) != set(ROW_FIELDS):
        raise ResultError(
            f"{item}: a row has the fields {', '.join(ROW_FIELDS)}; got {', '.join(sorted(map(str, row)))}"
        )
    return {key: plain(row[key], f"{item}.rows[{row['label']}].{key}") for key in ROW_FIELDS}


def _source(item: str, source: object, preset_dir: Path) -> tuple[dict[str, object], Path]:
    """The record and path of a run that an item rests on."""
    path = Path(getattr(source, "path", source))  # type: ignore[arg-type]
    path = resolve(path)
    if not path.is_relative_to(preset_dir):
        raise ResultError(f"{item}: the source {path} lies outside of {preset_dir}; an item mixes no presets")
    return {**read_json(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}, path.relative_to(preset_dir)


def _origin(runs: Sequence[tuple[dict[str, object], Path]]) -> dict[str, object]:
    """Checksums of the runs behind an item, and the code versions and revisions that they were made with."""
    numerics: dict[str, int] = {}
    revisions = set()
    for run, _ in runs:
        for key, number in run.get("numerics", {}).items():  # type: ignore[attr-defined]
            numerics[key] = min(number, numerics.get(key, number))
        origin = run.get("provenance", {})
        assert isinstance(origin, Mapping)
        revisions.add(f"{origin.get('git_revision')}{' (dirty)' if origin.get('git_dirty') else ''}")
    return {
        "sources": {path.as_posix(): run["sha256"] for run, path in runs},
        "source_revisions": sorted(revisions),
        "numerics": numerics,
    }


def _with_staleness(origin: object) -> dict[str, object]:
    assert isinstance(origin, Mapping)
    then = origin.get("numerics", {})
    stale = [
        f"{key}: made with version {number}, the code is at {NUMERICS_VERSION.get(key, 'none')}"
        for key, number in then.items()
        if NUMERICS_VERSION.get(key) != number
    ]
    return {**origin, **({"stale": stale} if stale else {})}

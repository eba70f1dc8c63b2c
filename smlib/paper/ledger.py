"""The ledger: for every figure and table, the paper's value, ours, its error bar, the verdict and where it came from.

An item's file, `results/<preset>/<id>.json`, is written by its notebook from finished runs and names them with
their checksums. It is written when its numbers or the runs behind it change, and else left as it is: whoever reads
committed results again leaves them as they were. The ledger reads these files and nothing else.
"""

import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from smlib.files import ResultError, canonical_json, plain, read_json, resolve, write_atomically
from smlib.paper import checksums
from smlib.paper.items import ITEMS, check_preset, check_verdict, error_bar, get_item
from smlib.paper.origins import origin_of, reading_of, source_of, with_staleness
from smlib.paper.provenance import provenance
from smlib.screen import visible

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

FIELD_KINDS: Mapping[str, tuple[type, ...]] = {
    "paper": (str, int, float),
    "ours": (str, int, float),
    "error": (str, int, float, type(None)),
    "n_seeds": (int,),
    "rows": (list,),
    "details": (dict,),
    "provenance": (dict,),
}
"""What an item's file holds under each name."""

ROW_FIELDS = ("label", "paper", "ours", "error")

SAME = {"rel_tol": 1e-9, "abs_tol": 1e-12}
"""Two numbers this close are the same: another processor may round the last digits of a statistic otherwise."""

_written: dict[tuple[str, str, Path], str] = {}
"""Items that this process wrote, or found to be as it would have written them -> what it says of the runs behind them.
It is what lets `finish` tell this run's file from last week's."""


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

    A file that is there already with the same numbers, from the same runs, keeps its bytes and so its provenance.

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
    runs = [source_of(item, source, path.parent) for source in sources]
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
        "provenance": {**provenance(seeds, preset), **origin_of(runs)},
    }
    kept = read_item(item, preset, results_dir) if path.exists() else None  # another's file is reported, not replaced
    if kept is None or not _unchanged(kept, content):
        text = canonical_json(content)
        checksums.note(path, text, path.parent)
        write_atomically(path, text)
    _written[item, preset, path.parent] = reading_of(sources, runs)
    return path


def _unchanged(kept: Mapping[str, object], made: Mapping[str, object]) -> bool:
    """Whether two records of an item have the same numbers, from the same runs."""
    sources = [record["provenance"].get("sources") for record in (kept, made)]  # type: ignore[attr-defined]
    numbers = [{key: value for key, value in record.items() if key != "provenance"} for record in (kept, made)]
    return sources[0] == sources[1] and _same(*numbers)


def _same(one: object, other: object) -> bool:
    """Equal JSON values, but for the rounding of floats."""
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, **SAME)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


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
    for key, kinds in FIELD_KINDS.items():
        if not isinstance(content[key], kinds) or isinstance(content[key], bool):
            raise ResultError(
                f"{path} has a {type(content[key]).__name__} as {key}, which no item has; restore it with "
                f"`git checkout`, or move it away and run `smlib reproduce --preset {preset} --only {item}`"
            )
    checksums.check(path, path.parent)
    return content


def check_results(results_dir: str | os.PathLike[str], presets: Sequence[str]) -> None:
    """Raises `ResultError` if none of these presets has an item's file in this folder: it is another folder."""
    folder = resolve(results_dir)
    if any(item_path(item, preset, folder).exists() for preset in presets for item in ITEMS):
        return
    if not folder.is_dir():
        what = f"{folder} does not exist"
        cure = "run smlib inside its repository, or name the folder with --results-dir"
    elif len(presets) == 1:
        what = f"{folder} holds no results of the preset {presets[0]}"
        cure = f"`smlib reproduce --preset {presets[0]}` makes them"
    else:
        what = f"{folder} holds no results (no {', '.join(f'{preset}/<item>.json' for preset in presets)})"
        cure = "name the folder with --results-dir, or make them with `smlib reproduce`"
    raise ResultError(f"{what}: {cure}")


def ledger(
    results_dir: str | os.PathLike[str] = "results",
    presets: Sequence[str] = LEDGER_PRESETS,
    damaged: list[str] | None = None,
) -> list[dict[str, object]]:
    """One object for every id, with exactly `LEDGER_FIELDS`, from the first of `presets` that has been run.

    An item whose runs were made by code of another version, were repeated since or are gone keeps its value, and its
    provenance gains `stale`, a list of what changed since.

    Args:
        damaged: gets a message for each item whose file, or a run behind it, cannot be used; the item counts as not
            run. Without it the first one is raised as `ResultError`.
    """
    rows = []
    for item in ITEMS.values():
        row: dict[str, object] = dict.fromkeys(LEDGER_FIELDS)
        row.update(id=item.id, title=item.title, notebook=item.notebook, paper=item.paper)
        row.update(n_seeds=0, verdict="not run")
        for preset in presets:
            path = item_path(item.id, preset, results_dir)
            if path.exists():
                try:
                    content = read_item(item.id, preset, results_dir)
                    row["provenance"] = with_staleness(content["provenance"], path.parent)
                    row.update(
                        {name: content[name] for name in ("preset", "paper", "ours", "error", "n_seeds", "verdict")}
                    )
                except ResultError as error:
                    if damaged is None:
                        raise
                    damaged.append(str(error))
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
    reading: dict[str, str] = {}
    for item in items:
        key = (item, preset, item_path(item, preset, results_dir).parent)
        if key not in _written:
            raise ResultError(
                f"this notebook did not write item {item!r} for preset {preset!r}: "
                "call smlib.paper.results.write_item before finish"
            )
        reading[item] = _written[key]
        content = read_item(item, preset, results_dir)
        ours = f"{content['ours']}{error_bar(content['error'])}"  # type: ignore[arg-type]
        print(visible(f"{item}: paper {content['paper']} | ours {ours} | {content['verdict']}"))
        if reading[item]:
            print(f"{item}: {reading[item]}")
    marker = os.environ.get("SMLIB_FINISH_MARKER")
    if marker:
        record = {"items": list(items), "preset": preset, "at": time.time(), "runs": reading}
        write_atomically(marker, canonical_json(record))


def _row(item: str, row: Mapping[str, object]) -> dict[str, object]:
    if set(row) != set(ROW_FIELDS):
        raise ResultError(
            f"{item}: a row has the fields {', '.join(ROW_FIELDS)}; got {', '.join(sorted(map(str, row)))}"
        )
    return {key: plain(row[key], f"{item}.rows[{row['label']}].{key}") for key in ROW_FIELDS}

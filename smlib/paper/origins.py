"""What an item rests on: the runs behind it, their checksums, what made them, and what has changed since."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from smlib.files import ResultError, read_json, resolve
from smlib.paper import checksums
from smlib.paper.numerics import NUMERICS_VERSION
from smlib.paper.provenance import changed_since


def source_of(item: str, source: object, preset_dir: Path) -> tuple[dict[str, object], Path]:
    """The record and path of a run that an item rests on."""
    path = Path(getattr(source, "path", source))  # type: ignore[arg-type]
    path = resolve(path)
    if not path.is_relative_to(preset_dir):
        raise ResultError(f"{item}: the source {path} lies outside of {preset_dir}; an item mixes no presets")
    checksums.check(path, preset_dir)
    return {**read_json(path), "sha256": checksums.sha256(path)}, path.relative_to(preset_dir)


def origin_of(runs: Sequence[tuple[dict[str, object], Path]]) -> dict[str, object]:
    """Checksums of the runs behind an item, and what they were made with: code, revisions, machines, packages."""
    numerics: dict[str, int] = {}
    revisions, made = set(), {"machine": list[object](), "versions": list[object]()}
    for run, _ in runs:
        for key, number in run.get("numerics", {}).items():  # type: ignore[attr-defined]
            numerics[key] = min(number, numerics.get(key, number))
        origin = run.get("provenance", {})
        assert isinstance(origin, Mapping)
        revisions.add(_revision_of(run))
        for what, found in made.items():
            if origin.get(what) not in found:
                found.append(origin.get(what))
    return {
        "sources": {path.as_posix(): run["sha256"] for run, path in runs},
        "source_revisions": sorted(revisions),
        "source_machines": made["machine"],
        "source_versions": made["versions"],
        "numerics": numerics,
    }


def with_staleness(origin: object, folder: Path) -> dict[str, object]:
    """An item's provenance with what has changed since; `ResultError` if a run behind it is not what smlib wrote."""
    assert isinstance(origin, Mapping)
    then, sources = origin.get("numerics", {}), origin.get("sources", {})
    if not isinstance(then, Mapping) or not isinstance(sources, Mapping):
        raise ResultError(f"an item in {folder} does not say which runs it rests on: it was edited or damaged")
    stale = [
        f"{key}: made with version {number}, the code is at {NUMERICS_VERSION.get(key, 'none')}"
        for key, number in then.items()
        if NUMERICS_VERSION.get(key) != number
    ]
    for name, digest in sources.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ResultError(f"an item in {folder} names {name!r} as a run, which lies elsewhere: it was edited")
        if not path.is_file():
            stale.append(f"the run {name} is not there")
        elif checksums.sha256(path) != digest:
            checksums.check(path, folder)
            if name not in checksums.noted(folder):
                raise ResultError(f"{path} is not the run that an item was made from: it was edited or damaged")
            stale.append(f"the run {name} has been repeated since")
    return {**origin, **({"stale": stale} if stale else {})}


def reading_of(sources: Sequence[object], runs: Sequence[tuple[dict[str, object], Path]]) -> str:
    """`30 of 30 runs read from the cache, made at 4672b80; sources differ in 12 files`; empty if all were computed."""
    read = [record for source, (record, _) in zip(sources, runs, strict=True) if getattr(source, "cached", True)]
    if not read:
        return ""
    made = sorted({_revision_of(record) for record in read})
    names = [f"{r.split()[0][:9]}{' (dirty)' if r.endswith('(dirty)') else ''}" for r in made]
    at = ", ".join(names[:3]) + (f" and {len(names) - 3} other revisions" if len(names) > 3 else "")
    differing = next(filter(None, map(changed_since, made)), "")
    return f"{len(read)} of {len(runs)} runs read from the cache, made at {at}" + (
        f"; {differing}" if differing else ""
    )


def _revision_of(run: Mapping[str, object]) -> str:
    origin = run.get("provenance", {})
    assert isinstance(origin, Mapping)
    return f"{origin.get('git_revision')}{' (dirty)' if origin.get('git_dirty') else ''}"

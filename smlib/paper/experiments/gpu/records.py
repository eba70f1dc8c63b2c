"""The files of a visit to a GPU: one JSON file a part, and one a run of the regime study, with the device named.

`results/gpu/<part>.json` is no item of the ledger and belongs to no preset. Unlike the files of runs these hold
seconds, since seconds are what they are about. A part that failed leaves a file too, which says why, unless an earlier
visit's success is there: that one stays.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.files import ResultError, canonical_json, config_hash, read_json, resolve, write_atomically
from smlib.paper.provenance import provenance

FOLDER = "gpu"
SCHEMA = 1
DONE, FAILED = "done", "failed"

PARTS: Mapping[str, str] = MappingProxyType(
    {
        "tests": "every test that needs a CUDA device",
        "tables": "Tables 3 and 4 at the paper's shape, with peak memory",
        "sampler": "the sampler's tokens a second against transformers' generate",
        "regime": "the regime study at 135 million parameters",
    }
)
"""The parts in the order in which they are run."""


def folder(results_dir: str | Path) -> Path:
    """Where the files are."""
    return resolve(results_dir) / FOLDER


def path_of(name: str, results_dir: str | Path) -> Path:
    """The file of a part, or of a run of a part."""
    return folder(results_dir) / f"{name}.json"


def write(
    name: str,
    result: Mapping[str, Any],
    *,
    dry: bool,
    seconds: float,
    results_dir: str | Path,
    config: object = None,
    error: str = "",
) -> Path:
    """Keeps what a part found, whole or not at all.

    Args:
        name: of the part or of the run. config: what distinguishes a run from another of the same name.
        error: why the part failed; empty for one that succeeded.
    """
    record = {
        "schema": SCHEMA,
        "name": name,
        "status": FAILED if error else DONE,
        "device": device_name(),
        "dry": dry,
        "seconds": round(seconds, 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "config": config,
        "config_hash": config_hash(config),
        "result": dict(result),
        "error": error,
        "provenance": provenance(preset="smoke" if dry else "paper"),
    }
    path = path_of(name, results_dir)
    kept = finished(name, results_dir, config)
    if error and kept is not None:
        return path
    return write_atomically(path, canonical_json(record))


def finished(name: str, results_dir: str | Path, config: object = None) -> dict[str, Any] | None:
    """The record of a part or run that succeeded with this configuration; None where there is none."""
    path = path_of(name, results_dir)
    if not path.is_file():
        return None
    try:
        record = read_json(path)
    except ResultError:
        return None  # a torn file of a foreign tool: it is made again
    same = record.get("schema") == SCHEMA and record.get("config_hash") == config_hash(config)
    return record if same and record.get("status") == DONE else None


def read_all(results_dir: str | Path = "results") -> dict[str, dict[str, Any]]:
    """Every record by its name, failed ones too; empty where no GPU was ever asked.

    Raises:
        ResultError: a file that is no JSON object.
    """
    return {path.stem: read_json(path) for path in sorted(folder(results_dir).glob("*.json"))}


def device_name() -> str:
    """The GPU's name, or the processor's where there is none; torch is asked only where it is there already."""
    machine = provenance(preset="smoke")["machine"]
    assert isinstance(machine, Mapping)
    return str(machine.get("gpu") or machine["cpu"])

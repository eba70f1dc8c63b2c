"""What the numbers cost: processor time of the runs whose result files are there."""

import json
import os
from collections import defaultdict

from smlib.files import resolve
from smlib.paper.items import check_preset


def processor_hours(preset: str, results_dir: str | os.PathLike[str] = "results") -> dict[str, float]:
    """Hours of processor time by item (and `shared`), from `timings.jsonl`, for result files that still exist.

    A run that was killed counts from its last resumption only, and a run on a GPU counts its host: at least this much.
    """
    folder = resolve(results_dir) / check_preset(preset)
    log = folder / "timings.jsonl"
    if not log.exists():
        return {}
    last = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        last[folder / entry["item"] / f"{entry['name']}-{entry['hash']}.json"] = entry
    hours: defaultdict[str, float] = defaultdict(float)
    for path, entry in last.items():
        if path.exists():
            hours[entry["item"]] += entry["cpu_s"] / 3600.0
    return dict(sorted(hours.items()))

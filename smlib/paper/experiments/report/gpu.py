"""What a GPU measured beside what this machine's runs have, where there is either (`results/gpu`, docs/gpu.md)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from smlib.paper.experiments.gpu import records
from smlib.paper.experiments.report.summary import presets_read
from smlib.paper.ledger import item_path, read_item

NOT_RUN = "not run"
RATIOS = {"sm_over_mle_step": "gradient step", "sm_over_mle_amortised": "amortised"}
FASTER = "sample_tokens_per_s_over_generate"
MEMORY = "peak_memory_sm_over_mle"
MODELS = {"smollm2": "SmolLM2's size", "llama2_nf4": "Llama-2-7b's size, NF4"}
METHODS = ("mle", "bc", "sm", "decoupled")
SHOWN = ("t1", "greedy")


def beside(results_dir: str | Path = "results", preset: str = "full") -> list[dict[str, str]]:
    """Rows with `what`, `cpu`, `gpu` and `device`; `not run` where there is nothing, and why where a part failed.

    Dry runs count as none.
    """
    every = records.read_all(results_dir)
    found = {name: record for name, record in every.items() if not record["dry"]}
    rows: list[dict[str, str]] = []
    for item, title in (("tab3", "Table 3"), ("tab4", "Table 4")):
        cpu = _ratios(item, preset, results_dir)
        for key, what in RATIOS.items():
            gpu = _part(every, found, "tables", lambda r, key=key, item=item: _value(r[item][key]))
            rows.append(_row(f"{title}: SM / MLE, {what}", cpu.get(key, NOT_RUN), gpu))
        peak = _part(every, found, "tables", lambda r, item=item: _value(r[item][MEMORY]))
        rows.append(_row(f"{title}: SM / MLE, peak memory", "—", peak))
    for key, title in MODELS.items():
        gpu = _part(every, found, "sampler", lambda r, key=key: _value(r[key][FASTER]))
        rows.append(_row(f"sampler / generate, {title}", "—", gpu))
    for method in METHODS:
        for rule in SHOWN:
            rows.append(_row(f"accuracy, {method}, {rule}", "—", _accuracy(found, method, rule)))
    tests = _part(every, found, "tests", lambda r: f"{r['passed']} of {r['tests']} passed")
    return [*rows, _row("tests on the device", "—", tests)]


def _row(what: str, cpu: str, gpu: tuple[str, str]) -> dict[str, str]:
    return {"what": what, "cpu": cpu, "gpu": gpu[0], "device": gpu[1]}


def _part(every: Mapping[str, Any], found: Mapping[str, Any], part: str, read: Any) -> tuple[str, str]:
    """What a part's record says, and on which device."""
    record = found.get(part) or every.get(part)
    if record is not None and record["status"] == records.FAILED:
        return f"failed: {record['error'].splitlines()[0]}", record["device"]
    if part not in found or record is None:
        return NOT_RUN, "—"
    return read(record["result"]), record["device"]


def _accuracy(found: Mapping[str, Any], method: str, rule: str) -> tuple[str, str]:
    runs = [r for n, r in found.items() if n.startswith(f"regime-{method}-s") and r["status"] == records.DONE]
    values = [run["result"]["test"][rule]["accuracy"] for run in runs if rule in run["result"]["test"]]
    if not values:
        return NOT_RUN, "—"
    seeds = f"{len(values)} seed{'s' if len(values) > 1 else ''}"
    return f"{float(np.mean(values)):.3f} ({seeds})", runs[0]["device"]


def _ratios(item: str, preset: str, results_dir: str | Path) -> dict[str, str]:
    """The committed ratios of a table: amortised and step, from its rows in seconds."""
    for name in presets_read(preset):
        if item_path(item, name, results_dir).exists():
            rows: Any = read_item(item, name, results_dir)["rows"]
            cells = {row["label"]: row["ours"] for row in rows}
            return {
                key: f"{cells[f'SM / {what}'] / cells[f'MLE / {what}']:.2f}"
                for key, what in RATIOS.items()
                if f"SM / {what}" in cells and cells.get(f"MLE / {what}")
            }
    return {}


def _value(entry: Mapping[str, Any]) -> str:
    return f"{float(entry['value']):.2f}"

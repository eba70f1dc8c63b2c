"""Tables 3 and 4 (App. F): what SequenceMatch costs over maximum likelihood, where it goes, and how it scales.

Where data and rollouts are drawn apart, as Algorithm 1 does and Figure 3's runs do, a rollout brings its own prompt. So
Table 4 is measured in that layout, in rows as long as theirs, and once more with prompts shared (`TrainConfig.paired`)
and rows as short as possible, as Table 3 and the curves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from smlib import bench
from smlib.bench import peers, processes
from smlib.bench.steps import DenseAlgorithmA, GradientStep
from smlib.bench.timing import in_turns, seconds_of
from smlib.bench.workloads import (
    ARITHMETIC,
    LLAMA,
    TEXT,
    Shape,
    dataset,
    groups,
    policy_for,
    sampling_job,
    with_context,
)
from smlib.generation.sampling import sample
from smlib.paper.items import over_mle
from smlib.paper.results import NotCachedError, Run, check_preset, finished_run, get_item, run_cached, write_item

TITLES = {"tab3": ("text", "text1024"), "tab4": ("arithmetic", "arithmetic")}
KEYS = ("bench", "training", "sampling")
ROW_LEN = 128  # of `arithmetic.ArithmeticPreset`


@dataclass(frozen=True)
class OverheadPreset:
    """Shapes and grids. `turns`: how often the rivals of a comparison take turns; `table_turns`: for the tables.

    The curves vary one number of a shape: the text shape's context, and the arithmetic shape's batch, noise level,
    share of examples that have a rollout, and number of times that a rollout is used.
    """

    arithmetic: Shape = ARITHMETIC
    text: Shape = TEXT
    turns: int = 3
    table_turns: int = 9
    contexts: tuple[int, ...] = (128, 256, 512, 1024, 2048)
    batches: tuple[int, ...] = (1, 4, 16, 64)
    levels: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)
    shares: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0)
    times_seen: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    dense_up_to: int = 1024
    seeds: tuple[int, ...] = field(default=(0,))


SMALL: dict[str, Any] = {"dim": 32, "layers": 2, "heads": 2}
PRESETS: Mapping[str, OverheadPreset] = MappingProxyType(
    {
        "smoke": OverheadPreset(
            arithmetic=replace(ARITHMETIC, batch=4, refill=4, **SMALL),
            text=replace(TEXT, context=128, prompt=32, rollout=64, refill=2, vocab=256, **SMALL),
            turns=1,
            table_turns=2,
            contexts=(64, 128),
            batches=(1, 4),
            levels=(0.0, 0.3),
            shares=(0.0, 1.0),
            times_seen=(1.0, 8.0),
        ),
        "quick": OverheadPreset(turns=2, table_turns=4, contexts=(128, 256, 512), batches=(1, 8, 32)),
        "full": OverheadPreset(),
        "paper": OverheadPreset(
            arithmetic=replace(ARITHMETIC, batch=8, refill=32, **LLAMA),
            text=replace(TEXT, batch=1, refill=2, vocab=32_000, **LLAMA),
            contexts=(128, 256, 512, 1024),
        ),
    }
)


def run(preset: str, results_dir: str | Path = "results") -> dict[str, Run]:
    """All measurements of the notebook: `tab3`, `tab4`, `tab4 shared`, `breakdown`, `curves`, `bench`; writes the two
    items."""
    chosen = PRESETS[check_preset(preset)]
    jobs = {
        "tab3": ("tab3", "table", lambda: table(chosen.text, TITLES["tab3"][1], chosen)),
        "tab4": (
            "tab4",
            "as_trained",
            lambda: table(as_trained(chosen.arithmetic), TITLES["tab4"][1], chosen, apart=True),
        ),
        "tab4 shared": ("tab4", "table", lambda: table(chosen.arithmetic, TITLES["tab4"][1], chosen)),
        "breakdown": ("tab4", "breakdown", lambda: breakdowns(chosen)),
        "curves": ("tab4", "curves", lambda: curves(chosen)),
    }
    if preset != "smoke":  # the sizes of `smlib bench` are its own, and not a smoke test's
        jobs["bench"] = ("tab4", "bench", lambda: dict(bench.run(quick=preset == "quick")))
    found = {}
    for key, (item, name, compute) in jobs.items():
        found[key] = run_cached(
            item,
            name,
            chosen,
            lambda _, compute=compute: compute(),  # type: ignore[misc]
            preset=preset,
            seeds=chosen.seeds,
            version_key=KEYS,
            results_dir=results_dir,
        )
    for item in ("tab3", "tab4"):
        _write(item, preset, found[item], found, results_dir)
    return found


def beside_trl(preset: str, results_dir: str | Path = "results") -> Run | None:
    """TRL's trainers beside ours (`smlib.bench.peers`): what `full` measured, and measured there where TRL is
    installed; None where nobody has."""
    check_preset(preset)
    measured: dict[str, Any] = {
        "item": "tab4",
        "name": "peers",
        "config": {"shape": peers.PEERS},
        "preset": "full",
        "seeds": (0,),
        "version_key": KEYS,
        "results_dir": results_dir,
    }
    there = finished_run(**measured)
    if there is not None or preset != "full" or not peers.available():
        return there
    return run_cached(compute=lambda _: peers.run(), **measured)


def in_processes(preset: str, results_dir: str | Path = "results") -> Run | None:
    """A step of training along the number of processes (`smlib.bench.processes`): what `full` measured, and measured
    there; None where nobody has."""
    check_preset(preset)
    measured: dict[str, Any] = {
        "item": "tab4",
        "name": "processes",
        "config": {"shape": ARITHMETIC, "counts": processes.COUNTS, "turns": processes.TURNS},
        "preset": "full",
        "seeds": (0,),
        "version_key": KEYS,
        "results_dir": results_dir,
    }
    there = finished_run(**measured)
    if there is not None or preset != "full":
        return there
    try:
        return run_cached(compute=lambda _: processes.along_processes(), **measured)
    except NotCachedError:  # where results are only read
        return None


def as_trained(shape: Shape) -> Shape:
    """The arithmetic shape in rows of the length that Figure 3's runs have."""
    return replace(shape, row_len=ROW_LEN)


def table(shape: Shape, name: str, preset: OverheadPreset, *, apart: bool = False) -> dict[str, Any]:
    """The entries of one of the paper's tables, as `smlib bench` measures them, without the shape in their names."""
    turns = preset.table_turns
    figures = bench.training(name, shape, turns=turns, sampling_turns=max(1, turns // 3), apart=apart)
    return {key.replace(f"_{name}", ""): value for key, value in figures.items()}


def breakdowns(preset: OverheadPreset) -> dict[str, Any]:
    """Median seconds of each part of a step, and a step's share of sampling, for MLE, SM and the paper's format."""
    found = {}
    for name, shape in (("arithmetic", preset.arithmetic), ("text", preset.text)):
        data, space = dataset(shape)
        steps = bench.gradient_steps(shape, data, space)
        noisy = groups(shape, data, space, method="sm")
        steps["dense"] = DenseAlgorithmA(policy_for(shape, space), noisy, branches=data.branches)
        found[name] = {key: _parts(step, preset.turns) for key, step in steps.items()}
        job = sampling_job(shape, data, space, [i % len(data) for i in range(shape.refill)], seed=0)
        refill = seconds_of(lambda job=job: sample(*job))  # type: ignore[misc]
        for key in ("sm", "dense"):
            found[name][key]["sampling"] = refill / shape.interval
    return found


def _parts(step: GradientStep, turns: int) -> dict[str, float]:
    step()
    rows = [step.breakdown() for _ in range(turns)]
    return {part: float(np.median([row[part] for row in rows])) for part in rows[0]}


def curves(preset: OverheadPreset) -> dict[str, Any]:
    """Median seconds of a gradient step along each axis: `{axis: {x: [...], mle: [...], sm: [...], turns: {...}}}`.

    `turns[method][k]` holds the seconds behind the median at x[k].
    """
    base = preset.arithmetic
    found = {
        "context": _curve([with_context(preset.text, c) for c in preset.contexts], preset, dense=True),
        "batch": _curve([replace(base, batch=b) for b in preset.batches], preset, dense=False),
        "noise": _curve([replace(base, eta=e) for e in preset.levels], preset, dense=False),
        "rollout share": _curve([base] * len(preset.shares), preset, dense=False, shares=preset.shares),
        "times seen": _amortised(base, preset),
    }
    for axis, values in (("context", preset.contexts), ("batch", preset.batches), ("noise", preset.levels)):
        found[axis]["x"] = list(values)
    found["rollout share"]["x"] = list(preset.shares)
    return found


def _curve(
    shapes: list[Shape], preset: OverheadPreset, *, dense: bool, shares: tuple[float, ...] | None = None
) -> dict[str, Any]:
    series: dict[str, list[float | None]] = {"mle": [], "sm": []}
    if dense:
        series["dense"] = []
    turns: dict[str, list[list[float]]] = {name: [] for name in series}
    for k, shape in enumerate(shapes):
        data, space = dataset(shape)
        policy = policy_for(shape, space)
        batch = {m: groups(shape, data, space, method=m, share=shares[k] if shares else 1.0) for m in ("mle", "sm")}
        options: dict[str, Any] = {"row_len": shape.row_len, "chunk": shape.chunk, "branches": data.branches}
        rivals = {m: GradientStep(policy, batch[m], m, **options) for m in ("mle", "sm")}
        if dense and shape.context <= preset.dense_up_to:
            rivals["dense"] = DenseAlgorithmA(policy, batch["sm"], branches=data.branches)
        times = in_turns(rivals, preset.turns)
        for name, values in series.items():
            values.append(times.median(name) if name in rivals else None)
            turns[name].append(times.seconds.get(name, []))
    return {**series, "turns": turns}


def _amortised(shape: Shape, preset: OverheadPreset) -> dict[str, Any]:
    """A step with its share of a refill, which is used `times seen` times: only the share changes."""
    data, space = dataset(shape)
    times = in_turns(bench.gradient_steps(shape, data, space), preset.turns)
    job = sampling_job(shape, data, space, [i % len(data) for i in range(shape.refill)], seed=0)
    refill = float(np.median([seconds_of(lambda: sample(*job)) for _ in range(preset.turns)]))
    step = times.median("sm")
    shares = [refill / replace(shape, times_seen=seen).interval for seen in preset.times_seen]
    return {
        "x": list(preset.times_seen),
        "mle": [times.median("mle")] * len(shares),
        "sm": [step + share for share in shares],
        "turns": {
            "mle": [times.seconds["mle"]] * len(shares),
            "sm": [[seconds + share for seconds in times.seconds["sm"]] for share in shares],
        },
    }


def _write(item: str, preset: str, own: Run, all_runs: Mapping[str, Run], results_dir: str | Path) -> None:
    ratio, amortised = (_entry(own, f"sm_over_mle_{what}") for what in ("step", "amortised"))
    step: Any = own["mle_step"]
    paper = {label: number.value for label, number in get_item(item).numbers.items()}
    ours = f"SM / MLE: gradient step {ratio[0]:.2f}×, amortised {amortised[0]:.2f}×"
    if item == "tab4":
        shared = [_entry(all_runs["tab4 shared"], f"sm_over_mle_{what}")[0] for what in ("step", "amortised")]
        ours += f"; prompts shared {shared[0]:.2f}× and {shared[1]:.2f}×"
    write_item(
        item,
        preset,
        ours=ours,
        error=f"quartiles {_range(ratio[1])} and {_range(amortised[1])}",
        n_seeds=1,
        verdict=verdict((ratio[1], amortised[1]), [over_mle(item, cell)[0] for cell in ("gradient step", "amortised")]),
        rows=_rows(own, paper),
        details={"rule": RULE, "turns": step["n"], "shape": TITLES[item][0], "clock": step["clock"]},
        sources=[own] if item == "tab3" else list(all_runs.values()),
        results_dir=results_dir,
    )


RULE = (
    "reproduced: both ratios, quartiles included, are within a quarter of the paper's; direction only: SequenceMatch "
    "costs more than MLE, but by another factor; not reproduced: otherwise"
)


def verdict(quartiles: Sequence[Sequence[float]], paper: Sequence[float]) -> str:
    """By `RULE`; `direction only` is what we hope for: the packing is there to make the overhead smaller."""
    if all(abs(end / b - 1) <= 0.25 for ends, b in zip(quartiles, paper, strict=True) for end in ends):
        return "reproduced"
    return "direction only" if min(min(ends) for ends in quartiles) > 1 else "not reproduced"


def _rows(own: Run, paper: Mapping[str, float]) -> list[dict[str, object]]:
    """The cells of the paper's table, in seconds; theirs are of Llama-2-7b on four A4000, ours of a tiny Llama."""
    mle, sm, refill = (_entry(own, name) for name in ("mle_step", "sm_step", "sampling"))
    steps = _entry(own, "steps_per_sample")
    share = sm[0] + refill[0] / steps[0]
    cells = {
        "MLE / gradient step": mle,
        "MLE / amortised": mle,
        "SM / gradient step": sm,
        "SM / sampling": refill,
        "SM / steps per sample": steps,
        "SM / amortised": (share, sm[1]),
    }
    return [
        {"label": label, "paper": paper[label], "ours": value, "error": (spread[1] - spread[0]) / 2}
        for label, (value, spread) in cells.items()
    ]


def _entry(own: Run, name: str) -> tuple[float, list[float]]:
    entry: Any = own[name]
    return float(entry["value"]), list(entry["spread"])


def _range(spread: list[float]) -> str:
    return f"{spread[0]:.2f} to {spread[1]:.2f}"

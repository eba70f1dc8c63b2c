"""What the objective's parameters do: one setting changed at a time, judged on the validation split (beyond the paper).

None of them looks at the test questions. Runs that Figure 3 has already
(noise levels, MLE, no demonstrations) are read from there, and of them too the validation answers alone.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from smlib.evaluation import clustered_interval
from smlib.objectives.methods import ByDivergence, get_method
from smlib.paper.experiments.ablations.rivals import DEFAULT, METHODS, TITLES, critic_estimate, rivalries
from smlib.paper.experiments.ablations.sweeps import SWEEPS, Sweep
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.arithmetic.grid import ArithmeticPreset
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.findings import finding, summary
from smlib.paper.experiments.judging.verdicts import RULE, Comparison, judge
from smlib.paper.experiments.overhead.method_costs import method_costs
from smlib.paper.experiments.runs.executor import in_parallel
from smlib.paper.experiments.runs.finetuning import REMOVALS, FineTuneConfig, fine_tune
from smlib.paper.results import Run, check_preset, write_item

ITEM, KIND = "ablations", "ground_truth"


@dataclass(frozen=True)
class AblationPreset:
    """Which runs (all if `only` is empty), and at how many of the seeds of `arithmetic`.

    Attributes:
        repeated: the runs that have every seed, if not all have; the others have the first.
    """

    only: tuple[str, ...] = ()
    n_seeds: int = 1
    repeated: tuple[str, ...] = ()


FIRST = (DEFAULT, "bc", "iqlearn", "dagger", "sm-alpha=1.0", "sm-mixture=False")

PRESETS: Mapping[str, AblationPreset] = MappingProxyType(
    {
        "smoke": AblationPreset(
            (
                *(DEFAULT, "bc", "iqlearn", "gail", "direct"),
                *("sm-alpha=1.0", "sm-n_train=1000", "sm-offset_head=False", "sm-backspace=False"),
            )
        ),
        "quick": AblationPreset(FIRST),
        # The paper's claim, the methods and the parameters that it leaves unsaid at every seed, the rest at the first.
        "full": AblationPreset(
            n_seeds=3,
            repeated=(
                *FIRST,
                "direct-tv",
                *(f"sm-{k}" for k in ("alpha=0.001", "alpha=0.1", "gamma=0.9", "gamma=0.998", "paired=True")),
            ),
        ),
        "paper": AblationPreset(),
    }
)


EVERYTHING = (DEFAULT, *METHODS, *(f"sm-{s.parameter}={value}" for s in SWEEPS.values() for value in s.values))


def level(preset: str) -> float:
    """The noise level of every run that does not sweep it: the middle one of Figure 3."""
    levels = arithmetic.preset(preset).levels
    return levels[len(levels) // 2]


def seeds(preset: str) -> tuple[int, ...]:
    """The seeds of every run: the first ones of Figure 3."""
    return arithmetic.preset(preset).seeds[: _settings(preset).n_seeds]


def cells(preset: str, only: tuple[str, ...] = (), regime: ArithmeticPreset | None = None) -> dict[str, FineTuneConfig]:
    """Every run by `<name>-s<seed>`: the default, the other methods, the sweeps around the default; seeds outermost.

    Args:
        only: names without seed; the preset's when omitted.
        regime: another grid in the place of Figure 3's old one, with the seeds and the level of its middle.
    """
    chosen, settings = regime or arithmetic.preset(preset), _settings(preset)
    eta, every = chosen.levels[len(chosen.levels) // 2], chosen.seeds[: settings.n_seeds]

    def one(method: str, seed: int, full: bool, changes: Mapping[str, Any]) -> FineTuneConfig:
        own = {k: v for k, v in changes.items() if k in ("n_train", "initial_value")}
        rest = {k: v for k, v in changes.items() if k not in (*own, *REMOVALS)}
        noisy = get_method(method).noise
        config = chosen.run(
            method, KIND if noisy else "none", 0.0 if "backspace" in changes or not noisy else eta, seed, **rest
        )
        training = config.training.on_policy() if get_method(method).on_policy else config.training
        config = dataclasses.replace(config, training=training, examples=0, **own)
        return config if full else dataclasses.replace(config, recovery_prompts=0, decodings=("t1", "greedy_exclude"))

    wanted = only or settings.only
    made: dict[str, FineTuneConfig] = {}
    for seed in every:
        found = {DEFAULT: one("sm", seed, True, {})}
        found |= {name: one(method, seed, True, changes) for name, (method, changes) in METHODS.items()}
        for sweep in SWEEPS.values():
            for value, name in _names(sweep).items():
                if not (sweep.parameter == "n_train" and value == chosen.n_train):
                    found[name] = one("sm", seed, name in TITLES, {sweep.parameter: value})
        repeated = seed == every[0] or not settings.repeated
        here = [k for k in found if (not wanted or k in wanted) and (repeated or k in settings.repeated)]
        made |= {f"{k}-s{seed}": found[k] for k in here}
    return made


def shared(preset: str) -> dict[str, FineTuneConfig]:
    """Runs of Figure 3 whose validation answers are read here: MLE, every noise level, no demonstrations."""
    chosen, grid = arithmetic.preset(preset), arithmetic.preset(preset).grid()
    names = ["mle", "sm-none-0"]
    if len(chosen.levels) > 1:
        names += [f"sm-{KIND}-{v}" for v in chosen.levels]
    return {f"{n}-s{s}": grid[f"{n}-s{s}"] for s in seeds(preset) for n in names}


def run(
    preset: str, results_dir: str | Path = "results", only: tuple[str, ...] = (), processes: int | None = None
) -> dict[str, Run]:
    """The runs of a preset, computed or read."""
    own, others = cells(preset, only), {} if only else shared(preset)
    next(iter(own.values())).prepare(preset, results_dir)
    calls = [
        {"config": c, "name": k, "item": item, "preset": preset, "results_dir": results_dir, "test": test}
        | {"without": tuple(part for part in REMOVALS if k.startswith(f"sm-{part}=False"))}
        for configs, item, test in ((others, "fig3", True), (own, ITEM, False))
        for k, c in configs.items()
    ]
    return dict(zip([*others, *own], in_parallel(fine_tune, calls, processes), strict=True))


def study(
    preset: str,
    results_dir: str | Path = "results",
    processes: int | None = None,
    regimes: Mapping[str, Any] | None = None,
    direct: Mapping[str, Any] | None = None,
    confirmation: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Runs everything, writes the ledger's line for `ablations`, and returns what its figures and tables show.

    Args:
        regimes, direct, confirmation: what the studies of `smlib.paper.experiments.ablations.regimes`,
            `direct_matching` and `confirmation` returned, to go into the same item.
    """
    runs = run(preset, results_dir, processes=processes)
    chosen = arithmetic.preset(preset)
    sweeps = [_sweep(runs, s, preset) for s in SWEEPS.values() if any(_found(runs, n) for n in _names(s).values())]
    if len(chosen.levels) > 1:
        sweeps.append(_noise_sweep(runs, preset))
    measured = method_costs(preset, results_dir)
    costs = {method: cost for run in measured.values() for method, cost in run.items()}
    methods = [_method(runs, name, costs) for name in ("mle", *TITLES) if _found(runs, name)]
    sm, bc = (scores.by_prefix(runs, name) for name in (DEFAULT, "bc"))
    judgement = judge([Comparison("SM > BC, validation", scores.difference(sm, bc, "val"))])
    made: dict[str, Any] = {
        "eta": level(preset),
        "n_val": len(sm[0]["val"]["t1"]["correct"]),
        "n_seeds": len(sm),
        "reference": {"bc": _accuracy(runs, "bc"), "sm": _accuracy(runs, DEFAULT), "mle": _accuracy(runs, "mle")},
        "sweeps": sweeps,
        "regimes": regimes["rows"] if regimes else [],
        "direct": direct["rows"] if direct else [],
        "confirmation": confirmation["rows"] if confirmation else [],
        "methods": methods,
        "rivalries": rivalries(runs),
        "critic": critic_estimate(runs),
        "no_demonstrations": _accuracy(runs, "sm-none-0"),
        "verdict": judgement.verdict,
        "why": judgement.why,
        "comparisons": list(judgement.comparisons),
        "rule": RULE,
    }
    rows = []
    for sweep in sweeps:
        for p in sweep["points"]:
            rows.append(_row(f"{sweep['title']} = {p['value']}", p["accuracy"]))
    rows += [_row(f"{m['title']} / temperature 1", m["accuracy"]["t1"]) for m in methods]
    reference = made["reference"]
    write_item(
        ITEM,
        preset,
        ours=", ".join(f"{t} {reference[m]['value']:.3f}" for t, m in (("MLE", "mle"), ("BC", "bc"), ("SM", "sm")))
        + " on validation; "
        + summary(sweeps),
        n_seeds=len(sm),
        verdict=judgement.verdict,
        rows=rows,
        details=made,
        sources=[
            *runs.values(),
            *measured.values(),
            *(s for part in (regimes, direct, confirmation) if part for s in part["sources"]),
        ],
        results_dir=results_dir,
    )
    return made


def _settings(preset: str) -> AblationPreset:
    return PRESETS[check_preset(preset)]


def _found(runs: Mapping[str, Any], name: str) -> bool:
    return any(k.rsplit("-s", 1)[0] == name for k in runs)


def _accuracy(
    runs: Mapping[str, Any], name: str, decoding: str = "t1", n_seeds: int | None = None
) -> dict[str, object]:
    return scores.estimate_record(scores.accuracy(scores.by_prefix(runs, name)[:n_seeds], "val", decoding))


def _row(label: str, record: Mapping[str, Any]) -> dict[str, object]:
    error = max(record["high"] - record["value"], record["value"] - record["low"])
    return {"label": label, "paper": None, "ours": record["value"], "error": scores.number(error)}


def _points(runs: Mapping[str, Any], names: Mapping[Any, str], default: str) -> dict[str, Any]:
    """Every value of a sweep in order, and BC, over the seeds that all of them have."""
    n_seeds = min(len(scores.by_prefix(runs, name)) for name in names.values())
    points = [_point(runs, name, default, value, n_seeds) for value, name in names.items()]
    bc = _accuracy(runs, "bc", n_seeds=n_seeds)
    return {"n_seeds": n_seeds, "bc": bc, "points": sorted(points, key=lambda p: p["value"])}


def _point(runs: Mapping[str, Any], name: str, default: str, value: Any, n_seeds: int) -> dict[str, Any]:
    """One value of a sweep: its accuracy, and its paired difference from the default."""
    point = {"value": value, "default": name == default, "accuracy": _accuracy(runs, name, n_seeds=n_seeds)}
    if name != default:
        found, usual = (scores.by_prefix(runs, n)[:n_seeds] for n in (name, default))
        test = scores.difference(found, usual, "val")
        point |= {
            "difference": scores.number(test.difference),
            "low": scores.number(test.low),
            "high": scores.number(test.high),
            "p_value": scores.number(test.p_value, 6),
        }
    return point


def _names(sweep: Sweep) -> dict[Any, str]:
    """Run name, without seed, of each value of a sweep."""
    return {value: f"sm-{sweep.parameter}={value}" for value in sweep.values}


def _sweep(runs: Mapping[str, Any], sweep: Sweep, preset: str) -> dict[str, Any]:
    """Points of a sweep, the default among them, and the finding in one sentence."""
    config = cells(preset, (DEFAULT,))[f"{DEFAULT}-s{seeds(preset)[0]}"]
    names = {value: name for value, name in _names(sweep).items() if _found(runs, name)}
    return _described(sweep.title, _points(runs, {**names, _default(config, sweep.parameter): DEFAULT}, DEFAULT))


def _noise_sweep(runs: Mapping[str, Any], preset: str) -> dict[str, Any]:
    names = {0.0: "sm-none-0"} | {v: f"sm-{KIND}-{v}" for v in arithmetic.preset(preset).levels}
    return _described("noise level η", _points(runs, names, names[level(preset)]))


def _described(title: str, found: Mapping[str, Any]) -> dict[str, Any]:
    return {"title": title, **found, "finding": finding(title, found["points"])}


def _default(config: FineTuneConfig, parameter: str) -> Any:
    if parameter in REMOVALS:
        return True
    for holder in (config.training, config.training.objective, config):
        if hasattr(holder, parameter):
            found = getattr(holder, parameter)
            return bool(found) if isinstance(found, ByDivergence) else found
    raise ValueError(f"no parameter {parameter!r} in a run's configuration")


def _method(runs: Mapping[str, Any], name: str, costs: Mapping[str, Any]) -> dict[str, Any]:
    """Accuracy by decoding rule, share of backspaces, cost of a step over MLE's, recovery after k wrong tokens."""
    chosen = scores.by_prefix(runs, name)
    decodings = list(chosen[0]["val"])
    recovery = {} if name == "mle" else chosen[0].get("recovery", {})
    return {
        "name": name,
        "title": "MLE" if name == "mle" else TITLES[name],
        "n_seeds": len(chosen),
        "accuracy": {d: _accuracy(runs, name, d) for d in decodings},
        "backspace_rate": scores.number(scores.backspace_rate(chosen, "val")),
        "cost": costs[name.split("-")[0]]["value"],
        "recovery": {
            depth: {
                what: scores.estimate_record(
                    clustered_interval(np.array([[float(b) for b in r["recovery"][depth][what]] for r in chosen]))
                )
                for what in ("first_backspace", "all_removed", "correct")
            }
            for depth in recovery
        },
    }

"""From the runs of the arithmetic grid to the ledger's `fig3` and `tab1`: curves, tests, rates, completions."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smlib.evaluation import Estimate, clustered_interval, paired_difference
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.arithmetic.grid import ArithmeticPreset
from smlib.paper.experiments.arithmetic.learning import figure_3 as preset
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.verdicts import RULE, Comparison, Rate, judge
from smlib.paper.results import write_item

KINDS = {"ground_truth": "digit noise", "random": "random noise"}
DEPTHS_OF_TABLE_1 = (1, 3)  # wrong tokens before the first right action in the paper's four examples: 3, 1, 3, 1
TABLE_1_RATES = {"all_removed": 1.0, "correct": 0.75}  # 4 of 4 and 3 of 4
RULE_TAB1 = (
    "reproduced: the 95 % intervals of SequenceMatch's rates after 1 and 3 wrong tokens (a question's mean over both) "
    "reach those of the paper's 4 of 4 removed and 3 of 4 right and lie nearer to these than to 0; direction only: the "
    "first action is <bkspc> at most prompts; not reproduced: otherwise"
)


def seeds_of(runs: Mapping[str, scores.Result], prefix: str) -> list[scores.Result]:
    """The runs of one cell of the grid, by seed."""
    return scores.by_prefix(runs, prefix)


def curves(chosen: ArithmeticPreset, runs: Mapping[str, scores.Result], decoding: str) -> list[dict[str, object]]:
    """Accuracy of every method, noise kind and level under one decoding rule: the points of Figure 3."""
    points: list[dict[str, object]] = []

    def add(method: str, kind: str, level: float, cell: str) -> None:
        found = seeds_of(runs, cell)
        if decoding in found[0]["test"]:
            estimate = scores.estimate_record(scores.accuracy(found, "test", decoding))
            points.append({"method": method, "kind": kind, "level": level, **estimate})

    for kind in chosen.kinds:
        add("mle", kind, 0.0, "mle")
        add("sm", kind, 0.0, "sm-none-0")
        for level in chosen.levels:
            for method in ("bc", "sm"):
                add(method, kind, level, f"{method}-{kind}-{level}")
    return points


def claims(chosen: ArithmeticPreset, runs: Mapping[str, scores.Result], decoding: str = "t1") -> list[Comparison]:
    """What Sec. 6.1.1 says of Figure 3, as paired comparisons.

    SM above BC and above MLE at every level of both kinds of noise; BC above MLE at the highest level of digit noise.
    ("Random noise does not help BC" claims an absence, which no test can confirm; it is shown, not judged.)
    """
    mle = seeds_of(runs, "mle")
    made = []
    for kind in chosen.kinds:
        for level in chosen.levels:
            sm, bc = (seeds_of(runs, f"{m}-{kind}-{level}") for m in ("sm", "bc"))
            where = f"{KINDS[kind]}, η = {level}"
            made.append(Comparison(f"SM > BC, {where}", scores.difference(sm, bc, "test", decoding)))
            made.append(Comparison(f"SM > MLE, {where}", scores.difference(sm, mle, "test", decoding)))
    top = max(chosen.levels)
    if "ground_truth" in chosen.kinds:
        bc = seeds_of(runs, f"bc-ground_truth-{top}")
        made.append(Comparison(f"BC > MLE, digit noise, η = {top}", scores.difference(bc, mle, "test", decoding)))
    return made


def parts(runs: Mapping[str, scores.Result]) -> list[dict[str, object]]:
    """How far each editing policy is from MLE at temperature 1, in three steps that can be measured apart.

    `model`: with `<bkspc>` forbidden, over MLE: what learning from noised answers did to the language model.
    `edits`: with its own `<bkspc>`, over itself without: what editing gives back.
    `perfect`: sampled from p^2 / (p + 0.1 u) of its own p, over itself without: what the edits of a perfect clone
    of digit noise would give (Sec. 4.2, notebook 02).
    """
    base = scores.correctness(seeds_of(runs, "mle"))
    made: list[dict[str, object]] = []
    for cell in sorted({k.rsplit("-s", 1)[0] for k in runs} - {"mle"}):
        found = seeds_of(runs, cell)
        own, without, law = (scores.correctness(found, "test", d) for d in ("t1", "no_backspace", "truncation"))
        steps = {"model": (without, base), "edits": (own, without), "perfect": (law, without)}
        tests = {name: scores.paired_record(paired_difference(a, b)) for name, (a, b) in steps.items()}
        made.append({"cell": cell, **tests})
    return made


def write_fig3(name: str, runs: Mapping[str, scores.Result], results_dir: str | Path = "results") -> None:
    """The ledger's line for Figure 3: the three methods with digit noise of the middle level, at temperature 1."""
    chosen = preset(name)
    judgement = judge(claims(chosen, runs))
    level = chosen.levels[len(chosen.levels) // 2]
    kind = "ground_truth" if "ground_truth" in chosen.kinds else chosen.kinds[0]
    cells = {"MLE": "mle", "BC": f"bc-{kind}-{level}", "SM": f"sm-{kind}-{level}"}
    headline = {title: scores.accuracy(seeds_of(runs, cell)) for title, cell in cells.items()}
    rows = []
    for decoding in ("t1", "greedy", "greedy_exclude", "top_p", "min_p", "no_backspace", "truncation"):
        for cell in sorted({k.rsplit("-s", 1)[0] for k in runs}):
            found = seeds_of(runs, cell)
            if decoding in found[0]["test"]:
                rows.append(scores.row(f"{cell} / {decoding}", scores.accuracy(found, "test", decoding)))
    write_item(
        "fig3",
        name,
        ours=f"{KINDS[kind]}, η = {level:g}: " + ", ".join(f"{title} {e.value:.3f}" for title, e in headline.items()),
        error=scores.within(headline.values()),
        n_seeds=len(chosen.seeds),
        verdict=judgement.verdict,
        rows=rows,
        details={
            "headline": f"accuracy at temperature 1, {KINDS[kind]}, η = {level:g}",
            "why": judgement.why,
            "rule": RULE,
            "comparisons": list(judgement.comparisons),
            "points": {d: curves(chosen, runs, d) for d in ("t1", "greedy")},
            "parts": parts(runs),
            "training": {k: _history(v) for k, v in runs.items() if k.endswith(f"-s{chosen.seeds[0]}")},
        },
        sources=list(runs.values()),
        results_dir=results_dir,
    )


def _history(run: scores.Result) -> dict[str, object]:
    history = run["history"]
    assert isinstance(history, Mapping)
    return {name: history[name] for name in ("step", "loss", "bc", "mixture", "nll") if name in history}


def rates(runs: Sequence[scores.Result], depth: int) -> dict[str, dict[str, Any]]:
    """Shares with intervals after `depth` wrong tokens."""
    table: dict[str, dict[str, Any]] = {}
    for what in ("first_backspace", "all_removed", "correct"):
        bits = [[float(b) for b in run["recovery"][str(depth)][what]] for run in runs]
        table[what] = scores.estimate_record(clustered_interval(np.array(bits)))
    return table


def _pooled(runs: Sequence[scores.Result], depths: Sequence[int]) -> dict[str, Estimate]:
    """The shares of `rates` over several depths. All depths ask the same questions, so that a question counts once,
    with its mean over depths."""
    return {
        what: clustered_interval(
            np.array([[[float(b) for b in run["recovery"][str(d)][what]] for d in depths] for run in runs]).mean(1)
        )
        for what in ("first_backspace", "all_removed", "correct")
    }


def write_tab1(
    name: str,
    runs: Mapping[str, scores.Result],
    results_dir: str | Path = "results",
    known: Mapping[str, scores.Result] | None = None,
) -> None:
    """The ledger's line for Table 1: how often SequenceMatch removes all wrong tokens, mean over 1 and 3 of them.

    Args:
        runs: of `learning.table_1`. known: runs from a base that knows the task, whose shares stand beside.
    """
    level = learning.headline_level(learning.preset(name))
    cells = {m: seeds_of(runs, f"{m}-ground_truth-{level}") for m in ("bc", "sm")}
    depths = sorted(int(d) for d in cells["sm"][0]["recovery"])
    table = {m: {str(d): rates(found, d) for d in depths} for m, found in cells.items()}
    beside = {
        f"{m}, base that knows the task": {
            str(d): rates(seeds_of(known, f"{m}-ground_truth-{level}"), d) for d in depths
        }
        for m in cells
        if known
    }
    used = [d for d in DEPTHS_OF_TABLE_1 if d in depths]
    both = {method: _pooled(found, used) for method, found in cells.items()}
    pooled = both["sm"]
    reached = {
        what: Rate(what, pooled[what].low, pooled[what].high, rate, n=4).reached for what, rate in TABLE_1_RATES.items()
    }
    if all(reached.values()):
        verdict = "reproduced"
    elif pooled["first_backspace"].value > 0.5:
        verdict = "direction only"
    else:
        verdict = "not reproduced"
    rows = [
        scores.row("mistake deleted, SM", pooled["all_removed"], paper=1.0),
        scores.row("right answer, SM", pooled["correct"], paper=0.75),
    ]
    for method, by_depth in {**table, **beside}.items():
        for depth, shares in by_depth.items():
            for what, record in shares.items():
                error = scores.number(max(record["high"] - record["value"], record["value"] - record["low"]))
                label = f"{method}, {depth} wrong: {what.replace('_', ' ')}"
                rows.append({"label": label, "paper": None, "ours": record["value"], "error": error})
    removed, correct = ({m: both[m][what] for m in both} for what in TABLE_1_RATES)
    write_item(
        "tab1",
        name,
        ours=f"after 1 or 3 wrong digits: all deleted {removed['sm'].value:.3f}, right answer "
        f"{correct['sm'].value:.3f} (BC: {removed['bc'].value:.3f}, {correct['bc'].value:.3f})",
        error=scores.within([*removed.values(), *correct.values()]),
        n_seeds=len(cells["sm"]),
        verdict=verdict,
        rows=rows,
        details={
            "headline": f"share of prompts with 1 or 3 wrong digits at which SequenceMatch (η = {level}) deletes all",
            "rule": RULE_TAB1,
            "reached": reached,
            "rates": table,
            "known": beside,
            "completions": {m: found[0]["completions"] for m, found in cells.items()},
        },
        sources=[run for found in cells.values() for run in found],
        results_dir=results_dir,
    )


def summary(
    name: str,
    runs: Mapping[str, scores.Result],
    results_dir: str | Path = "results",
    table_1: Mapping[str, scores.Result] | None = None,
) -> dict[str, Any]:
    """Writes both items of the notebook and returns what `smlib.paper.results.read_item` reads back.

    Args:
        table_1: runs of Table 1, where they are others than Figure 3's.
    """
    from smlib.paper.results import read_item

    others = table_1 is not None and learning.figure_3(name) != learning.preset(name)
    write_fig3(name, runs, results_dir)
    write_tab1(name, runs if table_1 is None else table_1, results_dir, runs if others else None)
    return {item: read_item(item, name, results_dir) for item in ("fig3", "tab1")}

"""Tables 2 and 8 from the runs' files: MAUVE of all methods together, error bars, paired tests, verdicts."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smlib.evaluation import (
    Estimate,
    MauveSettings,
    PairedTest,
    clustered_interval,
    crossed_interval,
    diversity_report,
    mauve,
    ngram_entropy,
    paired_difference,
    paired_permutation,
    perplexity,
)
from smlib.experiments.scores import number, row, within
from smlib.experiments.text_features import features, mauve_difference, mauve_error
from smlib.experiments.verdicts import RULE, RULE_WITH_RATES, Comparison, Rate, judge
from smlib.items import get_item
from smlib.results import Run, run_cached, write_item

LABELS: Mapping[str, str] = {
    "mle": "MLE",
    "contrastive": "CS",
    "unlikelihood": "ULK",
    "bc": "BC",
    "sm": "SM",
    "iqlearn": "IQL",
}
"""Columns of Table 2 by their labels in `smlib.items`; offline IQLearn is not in the paper."""

RESAMPLES = 999
"""Of the bootstrap behind MAUVE's error bars."""

Runs = Mapping[str, Run]


def by_method(runs: Runs) -> dict[str, list[Run]]:
    """Runs `<method>-s<seed>` by column of the table, in the order of their seeds; contrastive search reads MLE's."""
    found: dict[str, list[Run]] = {}
    for name in sorted(runs, key=lambda n: int(n.rsplit("-s", 1)[1])):
        found.setdefault(name.rsplit("-s", 1)[0], []).append(runs[name])
    if "mle" in found:
        found["contrastive"] = found["mle"]
    return {method: found[method] for method in LABELS if method in found}


def draws(method: str, runs: Sequence[Run]) -> list[Mapping[str, Any]]:
    """Every evaluation draw of every seed."""
    decoding = "contrastive" if method == "contrastive" else "sample"
    return [draw for run in runs for draw in run["generations"][decoding]]  # type: ignore[index]


def mauve_scores(
    runs: Runs,
    settings: MauveSettings,
    features_name: str,
    *,
    preset: str,
    results_dir: str | Path = "results",
    download: bool = False,
) -> Run:
    """MAUVE of every draw, and the paired tests of SequenceMatch against each other method; computed once, cached.

    A prompt after which any method wrote nothing is left out for all of them, and counted: MAUVE depends on n.
    """
    methods = by_method(runs)
    config = {
        "runs": {name: Path(run.path).name for name, run in runs.items()},
        "settings": settings,
        "features": features_name,
        "resamples": RESAMPLES,
    }

    def compute(_: Path) -> dict[str, object]:
        human = methods["mle"][0]["human"]
        assert isinstance(human, list)
        texts = {m: [d["texts"] for d in draws(m, found)] for m, found in methods.items()}
        kept = [
            i
            for i in range(len(human))
            if human[i].strip() and all(draw[i].strip() for of_method in texts.values() for draw in of_method)
        ]
        if not kept:
            raise ValueError(f"after each of {len(human)} prompts some method wrote nothing: MAUVE has no sample")
        every = {m: [draw[i] for draw in of_method for i in kept] for m, of_method in texts.items()}
        together = [human[i] for i in kept] + [text for of_method in every.values() for text in of_method]
        rows = np.split(features(features_name, together, download=download), len(together) // len(kept))
        h, rest = rows[0], iter(rows[1:])
        seen: dict[str, NDArray[np.float32]] = {m: np.stack([next(rest) for _ in texts[m]]) for m in texts}
        scores = {m: [mauve(draw, h, settings) for draw in found] for m, found in seen.items()}
        tests = {}
        if "sm" in seen:
            for m, found in seen.items():
                if m != "sm":
                    test = mauve_difference(
                        h, seen["sm"], _repeated(found, len(seen["sm"])), settings, n_seeds=len(methods["sm"])
                    )
                    tests[m] = {k: getattr(test, k) for k in PairedTest.__dataclass_fields__}
        return {
            "values": {m: [number(s.value, 6) for s in found] for m, found in scores.items()},
            "errors": {m: number(mauve_error(h, found, settings, resamples=RESAMPLES), 6) for m, found in seen.items()},
            "seed_std": {m: [number(s.seed_std, 6) for s in found] for m, found in scores.items()},
            "settings": next(iter(scores.values()))[0].description,
            "excluded": len(human) - len(kept),
            "tests": tests,
        }

    seeds = sorted({int(s) for run in runs.values() for s in run.seeds})  # type: ignore[attr-defined]
    return run_cached(
        "tab2",
        "mauve",
        config,
        compute,
        preset=preset,
        seeds=seeds,
        version_key="evaluation",
        results_dir=results_dir,
    )


def _repeated(rows: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Draws repeated to a number of draws: contrastive search has one a seed."""
    return np.concatenate([rows] * -(-count // len(rows)))[:count] if len(rows) != count else rows


def _tokens(draw: Mapping[str, Any]) -> list[list[int]]:
    return [[int(t) for t in line.split()] for line in draw["tokens"]]


def table(runs: Runs, scores: Run) -> dict[str, dict[str, Any]]:
    """Per method: an `Estimate` for each metric, and plain numbers about edits and what was excluded."""
    found: dict[str, dict[str, Any]] = {}
    for method, own in by_method(runs).items():
        every = draws(method, own)
        n_prompts = len(own[0]["likelihood"]["tokens"]) - int(scores["excluded"])  # type: ignore[call-overload,index]
        reports = [diversity_report(_tokens(d), unit="token ids") for d in every]
        nats = np.array([run["likelihood"]["nats"] for run in own])  # type: ignore[index]
        tokens_only = np.array([run["likelihood"]["nats_tokens_only"] for run in own])  # type: ignore[index]
        counts = own[0]["likelihood"]["tokens"]  # type: ignore[index]
        actions = np.concatenate([d["actions"] for d in every])
        decoding = "contrastive" if method == "contrastive" else "sample"
        found[method] = {
            "MAUVE": _mauve_estimate(scores, method, n_seeds=len(own), n_prompts=n_prompts),
            "entropy": crossed_interval(_complete([_per_prompt(run, decoding, _entropy) for run in own])),
            "diversity": crossed_interval(_complete([_per_prompt(run, decoding, _diversity) for run in own])),
            "perplexity": None if method == "contrastive" else perplexity(nats.mean(0), counts),
            "perplexity_tokens_only": None if method == "contrastive" else perplexity(tokens_only.mean(0), counts),
            "entropies_per_generation": np.mean([r.entropy_per_generation for r in reports], 0).tolist(),
            "entropies_pooled": np.mean([r.entropy for r in reports], 0).tolist(),
            "diversity_pooled": float(np.mean([r.diversity_pooled for r in reports])),
            "backspace_rate": float(np.concatenate([d["backspaces"] for d in every]).sum() / actions.sum()),
            "deleted": float(np.mean(np.concatenate([d["deleted"] for d in every]))),
            "length": float(np.mean([len(t) for d in every for t in _tokens(d)])),
            "ended": float(np.mean(np.concatenate([d["ended"] for d in every]))),
            "too_short": int(sum(r.n_excluded for r in reports)),
        }
    return found


def _mauve_estimate(scores: Run, method: str, *, n_seeds: int, n_prompts: int) -> Estimate:
    """Mean over seeds and draws; the error is that of prompts (bootstrap) and, with several seeds, of seeds."""
    values = np.array(scores["values"][method])  # type: ignore[index]
    error = float(scores["errors"][method])  # type: ignore[index]
    if n_seeds > 1:
        error = float(np.hypot(error, values.reshape(n_seeds, -1).mean(1).std(ddof=1) / np.sqrt(n_seeds)))
    value, half = float(values.mean()), 1.96 * error
    how = f"bootstrap of {n_prompts} prompts, {n_seeds} seed(s), 95%"
    return Estimate(value, max(0.0, value - half), min(1.0, value + half), error, n_seeds, n_prompts, how)


def _diversity(tokens: Sequence[list[int]]) -> NDArray[np.float64]:
    """Diversity of each generation, NaN where it has fewer than four tokens."""
    report = diversity_report(tokens)
    each = np.full(len(tokens), np.nan)
    each[list(report.counted)] = report.per_generation
    return each


def _entropy(tokens: Sequence[list[int]]) -> NDArray[np.float64]:
    """Entropy of the unigrams of each generation in nats, NaN where there are fewer than four tokens."""
    return np.array([ngram_entropy([t], 1, pooled=False) if len(t) >= 4 else np.nan for t in tokens])


def _per_prompt(run: Run, decoding: str, measure: Callable[..., NDArray[np.float64]]) -> NDArray[np.float64]:
    """The mean over draws for each prompt [prompts]; NaN where one of them could not be measured."""
    return np.mean([measure(_tokens(draw)) for draw in run["generations"][decoding]], 0)  # type: ignore[index]


def _complete(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """[seeds, prompts that were measured for every seed]."""
    table = np.stack(rows)
    return table[:, np.isfinite(table).all(0)]


def comparisons(runs: Runs, scores: Run) -> list[Comparison]:
    """The orders that Table 2 shows: MAUVE of SequenceMatch above each; perplexity of MLE below SequenceMatch's;
    diversity of MLE above that of contrastive search."""
    methods, paper = by_method(runs), get_item("tab2").numbers
    made = []
    for other, stored in scores["tests"].items():  # type: ignore[attr-defined]
        label = LABELS[other]
        if f"{label} / MAUVE" in paper:
            gap = paper["SM / MAUVE"].value - paper[f"{label} / MAUVE"].value
            made.append(Comparison(f"MAUVE: SM > {label}", PairedTest(**stored), round(gap, 4)))
    if {"mle", "sm"} <= set(methods):
        rates = {
            m: np.array([run["likelihood"]["nats"] for run in methods[m]])  # type: ignore[index]
            / np.array(methods[m][0]["likelihood"]["tokens"])  # type: ignore[index]
            for m in ("mle", "sm")
        }
        test = paired_difference(rates["sm"], rates["mle"])
        gap = np.log(paper["SM / perplexity"].value / paper["MLE / perplexity"].value)
        made.append(Comparison("log-perplexity: SM > MLE", test, round(float(gap), 4)))
    if "contrastive" in methods:
        sampled = np.stack([_per_prompt(run, "sample", _diversity) for run in methods["mle"]])
        searched = np.stack([_per_prompt(run, "contrastive", _diversity) for run in methods["mle"]])
        whole = np.isfinite(sampled).all(0) & np.isfinite(searched).all(0)
        test = paired_permutation(sampled[:, whole], searched[:, whole])
        gap = paper["MLE / diversity"].value - paper["CS / diversity"].value
        made.append(Comparison("diversity: MLE > CS", test, round(gap, 4)))
    return made


def write_table_2(runs: Runs, scores: Run, preset: str, results_dir: str | Path = "results") -> None:
    """The ledger's line and rows for `tab2`."""
    paper = get_item("tab2").numbers
    found = table(runs, scores)
    rows = []
    for method, metrics in found.items():
        for metric in ("MAUVE", "entropy", "diversity", "perplexity"):
            estimate: Estimate | None = metrics[metric]
            if estimate is not None:
                label = f"{LABELS[method]} / {metric}"
                rows.append(row(label, estimate, paper[label].value if label in paper else None))
    judgement = judge(comparisons(runs, scores))
    order = sorted(found, key=lambda m: -found[m]["MAUVE"].value)
    write_item(
        "tab2",
        preset,
        ours="MAUVE: " + " > ".join(f"{LABELS[m]} {found[m]['MAUVE'].value:.2f}" for m in order),
        error=within(metrics["MAUVE"] for metrics in found.values()),
        n_seeds=len(by_method(runs)["mle"]),
        verdict=judgement.verdict,
        rows=rows,
        details={
            "why": judgement.why,
            "rule": RULE,
            "comparisons": judgement.comparisons,
            "mauve": scores["settings"],
            "excluded_prompts": scores["excluded"],
            "variants": "entropy: unigrams of token ids per generation, nats; diversity: token ids per generation; "
            "perplexity: human text given <bos>, probability spent on <bkspc> counted; intervals of 95 %",
            "methods": {
                m: {k: v if not isinstance(v, Estimate) else number(v.value) for k, v in metrics.items()}
                for m, metrics in found.items()
            },
        },
        sources=[*runs.values(), scores],
        results_dir=results_dir,
    )


def recovery_rates(runs: Runs) -> dict[str, dict[str, Estimate]]:
    """Per method with a backspace: shares of prompts, random token and clean; at once, removed, and exactly."""
    found: dict[str, dict[str, Estimate]] = {}
    for method, own in by_method(runs).items():
        if all("corrupted" in run for run in own) and method != "contrastive":
            found[method] = {
                f"{kind} / {what}": clustered_interval(corrupted_table(own, kind, what))
                for kind in ("random", "clean")
                for what in ("at_once", "removed", "probability")
            }
    return found


def corrupted_table(runs: Sequence[Run], kind: str, what: str) -> NDArray[np.float64]:
    """[seeds, prompts], each in [0, 1]."""
    return np.array([[float(v) for v in run["corrupted"][kind][what]] for run in runs])  # type: ignore[index]


def write_table_8(runs: Runs, preset: str, results_dir: str | Path = "results", *, actions: int) -> None:
    """The ledger's line and rows for `tab8`; `actions`: within which the token may be removed."""
    (paper,) = get_item("tab8").numbers.values()
    rates, own = recovery_rates(runs), by_method(runs)["sm"]
    best, clean = rates["sm"]["random / at_once"], rates["sm"]["clean / at_once"]
    rows = [row("first action is backspace", best, paper.value)]
    rows += [row(f"{LABELS[m]} / {what}", estimate) for m, every in rates.items() for what, estimate in every.items()]
    test = paired_difference(corrupted_table(own, "random", "at_once"), corrupted_table(own, "clean", "at_once"))
    claim = Comparison("SM: a random last token is deleted at once more often than the true one", test)
    judgement = judge([claim], [Rate("share deleted at once", best.low, best.high, paper.value)])
    shares = [f"{LABELS[m]} {rates[m]['random / at_once'].value:.3f}" for m in ("sm", "bc") if m in rates]
    write_item(
        "tab8",
        preset,
        ours=f"deleted at once: {', '.join(shares)}, true tokens {clean.value:.3f}",
        error=f"SM ± {best.error:.3f}",
        n_seeds=len(own),
        verdict=judgement.verdict,
        rows=rows,
        details={
            "why": judgement.why,
            "rule": RULE_WITH_RATES,
            "comparisons": judgement.comparisons,
            "examples": own[0]["corrupted"]["examples"],  # type: ignore[index]
            "clean": number(clean.value),
            "actions": actions,
        },
        sources=list(runs.values()),
        results_dir=results_dir,
    )

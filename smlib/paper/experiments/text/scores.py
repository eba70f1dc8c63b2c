"""Tables 2 and 8 from the runs' files: error bars over articles, paired tests, verdicts.

The prompts come from a few long articles, and what two prompts share by their article they share in every metric: the
errors of all of them are those of drawing articles (`smlib.evaluation.intervals.by_cluster`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smlib.evaluation import (
    Estimate,
    PairedTest,
    clustered_interval,
    crossed_interval,
    diversity_report,
    ngram_entropy,
    paired_difference,
    perplexity,
    ratio_values,
)
from smlib.paper.experiments.judging.scores import number, row, within
from smlib.paper.experiments.judging.verdicts import RULE, RULE_WITH_RATES, Comparison, Rate, judge
from smlib.paper.experiments.text.mauve import Runs, by_method, draws
from smlib.paper.items import get_item
from smlib.paper.results import Run, write_item

LABELS: Mapping[str, str] = {
    "mle": "MLE",
    "contrastive": "CS",
    "unlikelihood": "ULK",
    "bc": "BC",
    "sm": "SM",
    "iqlearn": "IQL",
}
"""Columns of Table 2 by their labels in `smlib.paper.items`; offline IQLearn is not in the paper."""

RANDOM = (
    "Questions are prompts here, and what counts as drawn are articles: prompts of one article go together in every "
    "error and every swap"
)
"""What the tests of this experiment take as random."""

PROMPTS_OF_TABLE_8 = 5


def _tokens(draw: Mapping[str, Any]) -> list[list[int]]:
    return [[int(t) for t in line.split()] for line in draw["tokens"]]


def table(runs: Runs, scores: Run) -> dict[str, dict[str, Any]]:
    """Per method: an `Estimate` for each metric, and plain numbers about edits and what was excluded."""
    found: dict[str, dict[str, Any]] = {}
    for method, own in by_method(runs).items():
        every = [draw for run in own for draw in draws(method, run)]
        reports = [diversity_report(_tokens(d), unit="token ids") for d in every]
        nats, counts = _nats(own)
        tokens_only, _ = _nats(own, "nats_tokens_only")
        articles = articles_of(scores, len(counts))
        actions = np.concatenate([d["actions"] for d in every])
        searched = method == "contrastive"
        found[method] = {
            "MAUVE": Estimate(**scores["estimates"][method]),  # type: ignore[index]
            "entropy": _mean_of(_entropy, method, own, articles),
            "diversity": _mean_of(_diversity, method, own, articles),
            "perplexity": None if searched else perplexity(nats, counts, clusters=articles),
            "perplexity_tokens_only": None if searched else perplexity(tokens_only, counts, clusters=articles),
            "mauve_package": number(float(np.mean(scores["package"][method]["value"]))),  # type: ignore[index]
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


def articles_of(scores: Run, n: int) -> NDArray[np.int64]:
    """Number of the article of each of the first n prompts; raises ValueError if fewer are known."""
    known = scores["articles"]
    assert isinstance(known, list)
    if len(known) < n:
        raise ValueError(f"the articles of {len(known)} prompts are known, of {n} prompts they are needed")
    return np.unique(known[:n], return_inverse=True)[1].astype(np.int64)


def _nats(runs: Sequence[Run], which: str = "nats") -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Negative log-likelihoods [seeds, prompts] and numbers of tokens [prompts]."""
    nats = np.array([run["likelihood"][which] for run in runs])  # type: ignore[index]
    return nats, np.array(runs[0]["likelihood"]["tokens"])  # type: ignore[index]


def _diversity(tokens: Sequence[list[int]]) -> NDArray[np.float64]:
    """Diversity of each generation, NaN where it has fewer than four tokens."""
    report = diversity_report(tokens)
    each = np.full(len(tokens), np.nan)
    each[list(report.counted)] = report.per_generation
    return each


def _entropy(tokens: Sequence[list[int]]) -> NDArray[np.float64]:
    """Entropy of the unigrams of each generation in nats, NaN where there are fewer than four tokens."""
    return np.array([ngram_entropy([t], 1, pooled=False) if len(t) >= 4 else np.nan for t in tokens])


def _per_prompt(measure: Callable[..., NDArray[np.float64]], method: str, runs: Sequence[Run]) -> NDArray[np.float64]:
    """[seeds, prompts]: the mean over draws, NaN where one of them could not be measured."""
    return np.array([np.mean([measure(_tokens(draw)) for draw in draws(method, run)], 0) for run in runs])


def _mean_of(
    measure: Callable[..., NDArray[np.float64]], method: str, runs: Sequence[Run], articles: NDArray[np.int64]
) -> Estimate:
    """Over seeds and the prompts that were measured for every seed."""
    values = _per_prompt(measure, method, runs)
    whole = np.isfinite(values).all(0)
    return crossed_interval(values[:, whole], clusters=articles[whole])


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
        rates = {m: ratio_values(*_nats(methods[m])) for m in ("mle", "sm")}
        test = paired_difference(rates["sm"], rates["mle"], clusters=articles_of(scores, rates["sm"].shape[1]))
        gap = np.log(paper["SM / perplexity"].value / paper["MLE / perplexity"].value)
        made.append(Comparison("log-perplexity: SM > MLE", test, round(float(gap), 4)))
    if "contrastive" in methods:
        sampled, searched = (_per_prompt(_diversity, m, methods["mle"]) for m in ("mle", "contrastive"))
        whole = np.isfinite(sampled).all(0) & np.isfinite(searched).all(0)
        articles = articles_of(scores, whole.size)[whole]
        test = paired_difference(sampled[:, whole], searched[:, whole], clusters=articles)
        gap = paper["MLE / diversity"].value - paper["CS / diversity"].value
        made.append(Comparison("diversity: MLE > CS", test, round(gap, 4)))
    return made


def write_table_2(runs: Runs, scores: Run, preset: str, results_dir: str | Path = "results") -> None:
    """The ledger's line and rows for `tab2`."""
    paper = get_item("tab2").numbers
    found = table(runs, scores)
    rows: list[dict[str, object]] = []
    for method, metrics in found.items():
        for metric in ("MAUVE", "entropy", "diversity", "perplexity"):
            estimate: Estimate | None = metrics[metric]
            if estimate is not None:
                label = f"{LABELS[method]} / {metric}"
                rows.append(row(label, estimate, paper[label].value if label in paper else None))
        label = f"{LABELS[method]} / MAUVE by the package"
        rows.append({"label": label, "paper": None, "ours": metrics["mauve_package"], "error": None})
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
            "rule": f"{RULE}. {RANDOM}",
            "comparisons": judgement.comparisons,
            "mauve": scores["settings"],
            "excluded_prompts": scores["excluded"],
            "variants": "entropy: unigrams of token ids per generation, nats; diversity: token ids per generation; "
            "perplexity: human text given <bos>, probability spent on <bkspc> counted; intervals of 95 % over articles",
            "methods": {
                m: {k: v if not isinstance(v, Estimate) else number(v.value) for k, v in metrics.items()}
                for m, metrics in found.items()
            },
        },
        sources=[*runs.values(), scores],
        results_dir=results_dir,
    )


def recovery_rates(runs: Runs, scores: Run) -> dict[str, dict[str, Estimate]]:
    """Per method with a backspace: shares of prompts, random token and clean; at once, removed, and exactly.

    Args:
        scores: knows the prompts' articles.
    """
    found: dict[str, dict[str, Estimate]] = {}
    for method, own in by_method(runs).items():
        if all("corrupted" in run for run in own) and method != "contrastive":
            tables = {
                f"{kind} / {what}": corrupted_table(own, kind, what)
                for kind in ("random", "clean")
                for what in ("at_once", "removed", "probability")
            }
            found[method] = {
                name: clustered_interval(t, clusters=articles_of(scores, t.shape[1])) for name, t in tables.items()
            }
    return found


def corrupted_table(runs: Sequence[Run], kind: str, what: str) -> NDArray[np.float64]:
    """[seeds, prompts], each in [0, 1]."""
    return np.array([[float(v) for v in run["corrupted"][kind][what]] for run in runs])  # type: ignore[index]


def write_table_8(runs: Runs, scores: Run, preset: str, results_dir: str | Path = "results", *, actions: int) -> None:
    """The ledger's line and rows for `tab8`; `actions`: within which the token may be removed."""
    (paper,) = get_item("tab8").numbers.values()
    rates, own = recovery_rates(runs, scores), by_method(runs)["sm"]
    best, clean = rates["sm"]["random / at_once"], rates["sm"]["clean / at_once"]
    rows = [row("first action is backspace", best, paper.value)]
    rows += [row(f"{LABELS[m]} / {what}", estimate) for m, every in rates.items() for what, estimate in every.items()]
    random, true = (corrupted_table(own, kind, "at_once") for kind in ("random", "clean"))
    test = paired_difference(random, true, clusters=articles_of(scores, random.shape[1]))
    claim = Comparison("SM: a random last token is deleted at once more often than the true one", test)
    share = Rate("share deleted at once", best.low, best.high, paper.value, chance=clean.value, n=PROMPTS_OF_TABLE_8)
    judgement = judge([claim], [share])
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
            "rule": f"{RULE_WITH_RATES}. {RANDOM}",
            "comparisons": judgement.comparisons,
            "examples": own[0]["corrupted"]["examples"],  # type: ignore[index]
            "clean": number(clean.value),
            "actions": actions,
        },
        sources=[*runs.values(), scores],
        results_dir=results_dir,
    )

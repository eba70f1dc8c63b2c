"""Tables 5 to 7: MLE, BC and SequenceMatch at two noise levels, with the paper's number beside each of ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from smlib.evaluation import Estimate, PairedTest
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.verdicts import RULE, Comparison, judge
from smlib.paper.results import get_item, write_item

TITLES = {"mle": "MLE", "bc": "BC", "sm": "SM"}
METHODS = tuple(TITLES)
PAIRS = (("sm", "mle"), ("sm", "bc"), ("bc", "mle"))
"""Which methods are tested against each other; the verdict rests on the first two, which are about SequenceMatch."""

Cell = tuple[str, float]  # method, noise level
Pair = tuple[str, str, float]  # first, second, noise level


def label(method: str, level: float) -> str:
    """The label of a cell, as `smlib.paper.items` has it: 'SM / η = 0.2'."""
    return f"{TITLES[method]} / η = {level:g}"


def comparisons(item: str, tests: Mapping[Pair, PairedTest]) -> list[Comparison]:
    """SM against MLE and BC at each level, in the direction of the paper's table.

    A pair that the paper prints as equal makes no claim. A test is of first minus second; where the paper has the
    second ahead, its sign is turned.
    """
    paper = get_item(item).numbers
    found = []
    for (first, second, level), test in tests.items():
        if (first, second) not in PAIRS[:2] or label(first, level) not in paper:
            continue
        gap = round(float(paper[label(first, level)].value - paper[label(second, level)].value), 6)
        if gap == 0:
            continue
        ahead, behind = (first, second) if gap > 0 else (second, first)
        turned = test if gap > 0 else reversed_test(test)
        found.append(Comparison(f"{TITLES[ahead]} > {TITLES[behind]}, η = {level:g}", turned, paper=abs(gap)))
    return found


def reversed_test(test: PairedTest) -> PairedTest:
    """The same test of second minus first."""
    return PairedTest(-test.difference, -test.high, -test.low, test.p_value, test.n_seeds, test.n_items, test.method)


def write_table(
    item: str,
    preset: str,
    estimates: Mapping[Cell, Estimate],
    tests: Mapping[Pair, PairedTest],
    *,
    n_seeds: int,
    sources: Sequence[Any],
    results_dir: str | Path,
    details: Mapping[str, object],
    digits: int = 3,
) -> dict[str, Any]:
    """Writes the item with its verdict and returns what its figure and tables show (JSON types).

    Args:
        estimates: value with interval of each cell. tests: paired tests, `PAIRS` at each level.
        details: what the figures need besides.
    """
    paper = get_item(item).numbers
    judgement = judge(comparisons(item, tests) or _all(tests))
    top = max(level for _, level in estimates)
    study: dict[str, Any] = {
        "cells": [
            {
                "method": method,
                "level": level,
                "paper": _value(paper, method, level),
                "paper_error": _value(paper, method, level, "error"),
                **scores.estimate_record(estimate),
            }
            for (method, level), estimate in estimates.items()
        ],
        "tests": [
            {
                "first": first,
                "second": second,
                "level": level,
                "difference": scores.number(test.difference),
                "low": scores.number(test.low),
                "high": scores.number(test.high),
                "p_value": scores.number(test.p_value, 6),
                "method": test.method,
            }
            for (first, second, level), test in tests.items()
        ],
        "n_seeds": n_seeds,
        "verdict": judgement.verdict,
        "why": judgement.why,
        "comparisons": list(judgement.comparisons),
        "rule": RULE,
        **details,
    }
    rows = [scores.row(label(m, v), e, _value(paper, m, v)) for (m, v), e in estimates.items()]
    shown = ", ".join(
        f"{TITLES[m]} {e.value:.{digits}f} ± {e.error:.{digits}f}" for (m, v), e in estimates.items() if v == top
    )
    write_item(
        item,
        preset,
        ours=f"η = {top:g}: {shown}",
        n_seeds=n_seeds,
        verdict=judgement.verdict,
        rows=rows,
        details=study,
        sources=sources,
        results_dir=results_dir,
    )
    return study


def _value(paper: Mapping[str, Any], method: str, level: float, what: str = "value") -> float | None:
    number = paper.get(label(method, level))
    return None if number is None else getattr(number, what)


def _all(tests: Mapping[Pair, PairedTest]) -> list[Comparison]:
    """For noise levels that the paper does not have (smoke): SequenceMatch ahead of both, as it claims throughout."""
    return [
        Comparison(f"{TITLES[first]} > {TITLES[second]}, η = {level:g}", test)
        for (first, second, level), test in tests.items()
        if (first, second) in PAIRS[:2]
    ]

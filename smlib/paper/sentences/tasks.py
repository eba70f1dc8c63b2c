"""What the three further tasks found (`08_translation`, `09_multiplication`, `10_prime_factors`), in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

from smlib.paper.sentences.wording import among, bullets, percent, points

TITLES = {"mle": "MLE", "bc": "BC", "sm": "SequenceMatch"}
Study = Mapping[str, Any]


def order(study: Study) -> str:
    """Every method at every noise level, best first, and which paired differences are sure."""
    said = [f"At η = {level:g}: {among(_ranked(study['cells'], level, study))}." for level in _levels(study["cells"])]
    sure = [_pair(test, study) for test in study["tests"] if _excludes_zero(test)]
    total = len(study["tests"])
    told = f"{len(sure)} of {total} paired differences exclude 0"
    return bullets(
        [*said, f"{told}: {'; '.join(sure)}." if sure else f"None of {total} paired differences excludes 0."]
    )


def greedy(study: Study) -> str:
    """The same order under greedy decoding, and how often the policies delete."""
    said = [
        f"Greedy, η = {level:g}: {among(_ranked(study['greedy'], level, study))}." for level in _levels(study["greedy"])
    ]
    rates = [
        f"{TITLES[cell.split('-')[0]]}, η = {cell.split('-')[1]}: {percent(rate, 1)}"
        for cell, rate in study["backspace_rate"].items()
    ]
    return bullets([*said, f"Share of `<bkspc>` among the actions at temperature 1: {'; '.join(rates)}."])


def _levels(cells: Sequence[Mapping[str, Any]]) -> list[float]:
    return sorted({cell["level"] for cell in cells})


def _ranked(cells: Sequence[Mapping[str, Any]], level: float, study: Study) -> list[str]:
    chosen = sorted((cell for cell in cells if cell["level"] == level), key=lambda cell: -cell["value"])
    return [f"{TITLES[cell['method']]} {_value(cell['value'], study)}" for cell in chosen]


def _pair(test: Mapping[str, Any], study: Study) -> str:
    shown = points(test["difference"] / (100 if _is_bleu(study) else 1))
    return f"{TITLES[test['first']]} less {TITLES[test['second']]} at η = {test['level']:g} ({shown} {_unit(study)})"


def _value(value: float, study: Study) -> str:
    return f"{value:.1f}" if _is_bleu(study) else percent(value, 1)


def _unit(study: Study) -> str:
    return "BLEU" if _is_bleu(study) else "points"


def _is_bleu(study: Study) -> bool:
    return "signature" in study


def _excludes_zero(test: Mapping[str, Any]) -> bool:
    return bool(test["low"] > 0 or test["high"] < 0)

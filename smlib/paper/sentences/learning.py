"""What the learning regime says (`04_arithmetic`): a base model that has to learn the task, in sentences."""

from collections.abc import Iterator, Mapping
from typing import Any

from smlib.paper.sentences.wording import among, bullets, percent, points, spread

KINDS = {"ground_truth": "digit noise", "random": "random tokens"}
NAMES = {"mle": "MLE", "bc": "BC", "sm": "SequenceMatch"}
SAID = {
    "confirmed": "confirmed",
    "contradicted": "contradicted",
    "same sign": "of that sign, but not significant",
    "opposite sign": "of the opposite sign, but not significant",
}


def headline(study: Mapping[str, Any]) -> str:
    """The plan's three claims in one paragraph: accuracy of each method, its lead, and whether that is decided.

    Args:
        study: of `experiments.arithmetic.learning.study`.
    """
    tested = [claim for claim in study["claims"] if "difference" in claim]
    if not tested:
        return "No run of the learning regime is there yet."
    level = tested[0]["level"]
    shown = []
    for cell in study["cells"]:
        method = cell["cell"].split("-")[0]
        if cell["cell"] == "mle" or cell["cell"].endswith(f"-ground_truth-{level}"):
            shown.append(f"{NAMES[method]} {percent(cell['test']['t1']['value'], 1)}")
    seeds = min(claim["n_seeds"] for claim in tested)
    of = str(seeds) if seeds == study["seeds"] else f"{seeds} of {study['seeds']}"
    before = f"answers {percent(study['base']['t1'])} before fine-tuning" if study["base"] else "has not read the task"
    claims = [f"{claim['claim']}: {spread(claim)}, {_said(claim)}" for claim in tested]
    return (
        f"The base model {before}. After {study['passes']:.0f} passes over the questions, at digit noise {level} and "
        f"temperature 1, over {of} seeds: {among(shown)} of the test questions. {'; '.join(claims)}."
    )


def noised(study: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The cells with edits that can be set beside MLE: `method`, `kind`, `level` and `lead`, in the order of tables."""
    found = []
    for cell in sorted(study["cells"], key=lambda cell: placed(cell["cell"])):
        if cell.get("lead") is not None:
            method, kind, level = cell["cell"].split("-")
            found.append({"method": method, "kind": kind, "level": float(level), "lead": cell["lead"]})
    return found


def placed(cell: str) -> tuple[int, int, float]:
    """Where a cell stands in a table: by method, kind of noise and level."""
    method, kind, level = (*cell.split("-"), "none", "0")[:3]
    return list(NAMES).index(method), ["none", *KINDS].index(kind), float(level)


def by_noise(study: Mapping[str, Any]) -> str:
    """From which to which lead over MLE each kind of noise goes, as a figure's title."""
    said = []
    for kind, words in KINDS.items():
        leads = sorted(float(cell["lead"]["difference"]) for cell in noised(study) if cell["kind"] == kind)
        if leads:
            ends = dict.fromkeys(points(lead) for lead in (leads[0], leads[-1]))
            said.append(f"{words} {' to '.join(ends)}")
    return f"Points ahead of MLE: {', '.join(said)}" if said else "No run with noise can be set beside MLE yet"


def noise(study: Mapping[str, Any]) -> str:
    """The lead over MLE at each level and kind of noise that was run, with how many seeds it has."""
    said = []
    for words, name, own in _levels(study):
        each = [
            (f"η = {cell['level']:g} " if cell["kind"] in KINDS else "")
            + f"{spread(cell['lead'])}{_few(cell['lead']['n_seeds'], study['seeds'])}"
            for cell in own
        ]
        said.append(f"{words}, {name}: {'; '.join(each)}.")
    said += _shared(study)
    lead = "Ahead of MLE with the same seeds, in points, on the test questions at temperature 1:\n\n"
    return lead + bullets(said) if said else "No run with noise can be set beside MLE yet."


def _shared(study: Mapping[str, Any]) -> list[str]:
    """The levels of one kind with the seeds that all of them have, where some have more: what noise alone does."""
    said = []
    for words, name, own in _levels(study):
        seeds = [set(cell["lead"]["by_seed"]) for cell in own]
        common = sorted(set.intersection(*seeds), key=int)
        if len(own) > 1 and common and any(len(more) > len(common) for more in seeds):
            means = [sum(cell["lead"]["by_seed"][s] for s in common) / len(common) for cell in own]
            each = [f"{points(m)} at η = {cell['level']:g}" for m, cell in zip(means, own, strict=True)]
            which = f"seed{'' if len(common) == 1 else 's'} {among(common)}"
            said.append(f"{words}, {name}, with {which} alone, which all levels have: {among(each)}.")
    return said


def _levels(study: Mapping[str, Any]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """Kind of noise and method, in words, with their cells in the order of the levels; none that has no cell."""
    for kind, words in {**KINDS, "none": "no noise"}.items():
        for method, name in NAMES.items():
            own = [cell for cell in noised(study) if (cell["method"], cell["kind"]) == (method, kind)]
            if own:
                yield words, name, own


def _few(seeds: int, planned: int) -> str:
    return "" if seeds == planned else f", {seeds} seed{'' if seeds == 1 else 's'} of {planned}"


def crossings(study: Mapping[str, Any]) -> str:
    """Where each method's curve crosses MLE's for good, and what each loses from its best look to its last.

    Args:
        study: of `experiments.arithmetic.learning.study`. The means over seeds of the claims' cells, temperature 1 and
            the validation questions.
    """
    means = headline_curves(study)
    if "mle" not in means:
        return "No curve of MLE is there yet."
    passes, said = [step * study["passes"] / study["steps"] for step in means["mle"]["step"]], []
    for method, curve in means.items():
        if method == "mle":
            continue
        lead = [own - mle for own, mle in zip(curve["t1"], means["mle"]["t1"], strict=True)]
        ahead = next((i for i in range(len(lead)) if all(gap > 0 for gap in lead[i:])), None)
        first = f"{NAMES[method]} is {_beside(lead[0])} MLE after {passes[0]:.0f} passes"
        end = f"{_beside(lead[-1])} it after {passes[-1]:.0f}"
        if ahead is None:
            said.append(f"{first} and {end}.")
        elif ahead == 0:
            said.append(f"{first} and {end}, and ahead each time that it was measured.")
        else:
            said.append(f"{first} and {end}: the curves cross between {passes[ahead - 1]:.0f} and {passes[ahead]:.0f}.")
    falls = []
    for method, curve in means.items():
        best = max(range(len(passes)), key=lambda i: float(curve["t1"][i]))
        lost = curve["t1"][best] - curve["t1"][-1]
        falls.append(f"{NAMES[method]} {points(lost).removeprefix('+')} (best after {passes[best]:.0f} passes)")
    said.append(f"From its best measurement to its last one each has lost, in points: {among(falls)}.")
    return "On the validation questions, at temperature 1:\n\n" + bullets(said)


def _beside(lead: float) -> str:
    return f"{points(abs(lead)).removeprefix('+')} points {'ahead of' if lead > 0 else 'behind'}"


def headline_curves(study: Mapping[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Method of the claims -> `step`, and mean accuracy over its seeds by decoding rule, at each look."""
    level, found = study["claims"][0]["level"], dict[str, dict[str, list[float]]]()
    for cell in study["cells"]:
        name = cell["cell"]
        if name == "mle" or name.endswith(f"-ground_truth-{level}"):
            rules = [rule for rule in cell["curves"][0] if rule not in ("seed", "step")]
            every = {rule: list(zip(*(curve[rule] for curve in cell["curves"]), strict=True)) for rule in rules}
            means = {rule: [sum(look) / len(look) for look in looks] for rule, looks in every.items()}
            found[name.split("-")[0]] = {"step": list(cell["curves"][0]["step"]), **means}
    return found


def _said(claim: Mapping[str, Any]) -> str:
    return SAID[claim["outcome"]] if "outcome" in claim else "undecided until every seed is there"

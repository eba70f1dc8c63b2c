"""What the cost of deletion depends on (`15_deletion`), in sentences: size, noise, passes over the questions."""

from collections.abc import Mapping, Sequence
from math import log10
from typing import Any

from smlib.paper.sentences.wording import among, bullets, points, spread, verb

NAMES = {"cost": "the loss in writing", "gain": "the gain by edits"}


def told(found: Mapping[str, Any]) -> str:
    """All of it as a list.

    Args:
        found: of `experiments.arithmetic.deletion_trends.trends`.
    """
    return bullets([passes(found["passes"]), noise(found["noise"]), depth(found["size"]), *size(found["size"])])


def title(found: Mapping[str, Any]) -> str:
    """Of the figure: the cost at the first and the last look of training; then the deepest and the flattest base of one
    size, or where no two bases are of one size what there is of a line.
    """
    rows, said = found["passes"], ""
    if rows:
        first, last = rows[0], rows[-1]
        said = (
            f"Writing {_writing(first)} points after {first['passes']:.0f} passes and {_writing(last)} after "
            f"{last['passes']:.0f}; edits {_edits(first)} and then {_edits(last)}"
        )
    fitted, alike = found["size"]["status"] == "fitted", of_one_size(found["size"]["bases"])
    if alike:
        deep, flat = alike[0], alike[-1]
        rest = (
            f"with as many parameters {_layers(deep)} layers {verb(deep['cost']['difference'], 'lose', 'gain')} points "
            f"and {_layers(flat)} layers {verb(flat['cost']['difference'], 'lose', 'gain')}"
        )
    elif fitted:
        rest = _drawn_on(*list(found["size"]["cost"]["far"].items())[-1])
    else:
        rest = "too few sizes for a line"
    return f"{said}; {rest}" if said else rest[0].upper() + rest[1:]


def passes(rows: Sequence[Mapping[str, Any]]) -> str:
    """From how many passes on learning to delete costs nothing, and what edits win then."""
    if not rows:
        return "Passes over the questions: not run."
    last = rows[-1]
    seeds = f"over {last['n_seeds']} seeds" if last["n_seeds"] > 1 else "with one seed"
    free = next((i for i in range(len(rows)) if all(row["cost"]["difference"] <= 0 for row in rows[i:])), None)
    until = (
        f"writing has lost nothing to MLE from {rows[free]['passes']:.0f} passes on"
        if free is not None
        else "writing loses to MLE to the end"
    )
    return (
        f"Passes over the questions: after {rows[0]['passes']:.0f} writing {_writing(rows[0])} points and "
        f"edits {_edits(rows[0])}; after {last['passes']:.0f} writing {_writing(last)} and edits {_edits(last)}, "
        f"{seeds}; {until}."
    )


def _writing(row: Mapping[str, Any]) -> str:
    return verb(row["cost"]["difference"], "loses", "gains")


def _edits(row: Mapping[str, Any]) -> str:
    return verb(row["gain"]["difference"], "win", "lose")


def noise(rows: Sequence[Mapping[str, Any]]) -> str:
    """Cost and gain at each level that was run, and which were not."""
    there = [row for row in rows if row["status"] == "run"]
    said = [
        f"at η = {row['level']:g} {NAMES['cost']} is {spread(row['cost'])} and {NAMES['gain']} {spread(row['gain'])}"
        for row in there
    ]
    missing = [f"{row['level']:g}" for row in rows if row["status"] != "run"]
    lacks = f"not run: η = {among(missing)}" if missing else ""
    return f"Digit noise: {'; '.join([*said, *([lacks] if lacks else [])])}." if rows else ""


def depth(found: Mapping[str, Any]) -> str:
    """The bases of nearly one size side by side, deepest first: what depth does at equal parameters."""
    if not found["bases"]:
        return "Depth: not run."
    alike = of_one_size(found["bases"])
    if not alike:
        return "Depth at equal parameters: only one base of each size is there."
    each = [f"{_layers(row)} layers {spread(row['cost'])}{_seeds(row)}" for row in alike]
    return f"Depth at about {alike[0]['parameters'] / 1e6:.1f} million parameters, {NAMES['cost']}: {among(each)}."


def of_one_size(bases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The largest group of bases whose numbers of parameters are within a quarter, deepest first; none if it is one."""
    groups = [[b for b in bases if 0.8 < b["parameters"] / a["parameters"] < 1.25] for a in bases]
    alike = max(groups, key=len) if groups else []
    return sorted(alike, key=lambda row: -_layers(row)) if len(alike) > 1 else []


def _layers(row: Mapping[str, Any]) -> int:
    return int(row["shape"].split("x")[0])


def _seeds(row: Mapping[str, Any]) -> str:
    return "" if row["n_seeds"] >= 3 else f" with {row['n_seeds']} seed{'' if row['n_seeds'] == 1 else 's'}"


def size(found: Mapping[str, Any]) -> list[str]:
    """The line against size with its error, and what it says of models that were not measured here."""
    bases = found["bases"]
    if found["status"] != "fitted":
        return [
            f"Size: too few sizes for a line, {len(bases)} where {found['needed']} are needed; nothing is said of 135 "
            "million or 7 billion parameters."
        ]
    low, high = bases[0]["parameters"], bases[-1]["parameters"]
    said = []
    for what, words in NAMES.items():
        line = found[what]
        slope = line["slope"]
        told = "which tells its sign" if slope["low"] * slope["high"] > 0 else "which does not tell its sign"
        far = [f"{_between(end)} points at {name} parameters" for name, end in line["far"].items()]
        said.append(
            f"Size, a line through {len(bases)} bases of {low / 1e6:.2f} to {high / 1e6:.2f} million parameters: ten "
            f"times the parameters change {words} by {spread(slope)}, {told}. Drawn on, {words} is {among(far)}."
        )
    seeds = min(row["n_seeds"] for row in bases)
    few = f" Some of these bases have {seeds} seed{'' if seeds == 1 else 's'}." if seeds < 3 else ""
    ends = [end for what in NAMES for end in found[what]["far"].values()]
    beyond = " It knows no bounds, and reaches differences that no accuracy can have." if _impossible(ends) else ""
    guess = f"Drawing a line on over {_powers(high)} powers of ten is a guess and no measurement."
    return [*said, f"{guess}{beyond}{few}"]


def _impossible(ends: Sequence[Mapping[str, float]]) -> bool:
    """Whether a difference of two shares is beyond 1, or its interval is."""
    return any(end["low"] < -1.0 or end["high"] > 1.0 for end in ends)


def _drawn_on(name: str, end: Mapping[str, float]) -> str:
    if end["low"] < 0.0 < end["high"]:
        ends = f"{points(end['low'], 0)} to {points(end['high'], 0)}"
        return f"a line through the sizes leaves open whether it loses or wins at {name} ({ends})"
    return f"a line through the sizes says {_between(end)} points lost at {name}"


def _powers(largest: float) -> str:
    return f"{log10(7e9 / largest):.0f}"


def _between(end: Mapping[str, float]) -> str:
    return f"{points(end['difference'])} ({points(end['low'])} to {points(end['high'])})"

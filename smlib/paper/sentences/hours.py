"""What the learning regime has cost and what is left of it (`12_report`), in sentences that nobody types."""

from collections.abc import Mapping
from typing import Any

from smlib.paper.sentences.wording import among, bullets


def hours(found: Mapping[str, Any]) -> str:
    """Hours of one processor spent and left.

    Args:
        found: of `experiments.ablations.remaining.regime`.
    """
    runs = f"{found['runs']} run{'' if found['runs'] == 1 else 's'}"
    bases = f"{found['bases']} base model{'' if found['bases'] == 1 else 's'}"
    spent = f"The learning regime has taken at least {found['spent']:.1f} hours of one processor: {runs} and {bases}."
    if not found["runs"]:
        spent = "No run of the learning regime is there."
    if not found["left"]:
        return bullets([spent, "Nothing is left of its plans."])
    each = [f"{part['title']} {_of(part)}" for part in found["left"]]
    total = f"about {found['hours']:.0f} hours" if found["hours"] is not None else "at a price that no run tells yet"
    return bullets([spent, f"Left of its plans, {total} at what finished runs took: {among(each)}."])


def _of(part: Mapping[str, Any]) -> str:
    runs = f"{part['runs']} run{'' if part['runs'] == 1 else 's'}"
    return f"({runs})" if part["hours"] is None else f"({runs}, {part['hours']:.1f} h)"

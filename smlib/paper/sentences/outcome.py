"""What came out of all items together (`README.md`, `docs/results.md`), in sentences from the committed files."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.files import read_json, resolve
from smlib.paper.items import JUDGED, get_item
from smlib.paper.ledger import item_path, read_item
from smlib.paper.sentences import ablations
from smlib.paper.sentences.learning import NAMES, headline
from smlib.paper.sentences.wording import among, bullets, percent, points

PRESET = "full"
EXACT = ("fig1", "theory", "fig2")
"""Items that compare a formula or a scheme with an exact calculation."""

COMPARED = ("fig3", "tab5", "tab6", "tab7")
"""Items that compare SequenceMatch with MLE and BC by the score of answers."""

VERBS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "reproduced": ("is reproduced", "are reproduced"),
        "direction only": ("agrees with the paper in direction only", "agree with the paper in direction only"),
        "not reproduced": ("is not reproduced", "are not reproduced"),
        "not run": ("was not run", "were not run"),
    }
)
"""A verdict as the verb of a sentence, of one item and of several."""

WORDS = {"confirmed": "is ahead of", "contradicted": "is behind"}
"""A decided claim, `A > B`, as a verb between the two; any other outcome tells them not apart."""

Record = Mapping[str, Any]


def short(
    rows: Sequence[Record], bases: Mapping[str, bool | None], results_dir: str | os.PathLike[str] = "results"
) -> str:
    """README's paragraphs: everything in two sentences, the study of a base that learns, and which item has which base.

    Args:
        rows: of the ledger. bases: of `which_bases`.
    """
    study = learning_study(results_dir)
    numbers = headline(study).replace("The base model", "That base model", 1) if study else ""
    paragraphs = [f"{verdicts(rows)} {decided(study)}".strip(), numbers, started(bases)]
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def full(said_in_short: str, bases: Mapping[str, bool | None], results_dir: str | os.PathLike[str] = "results") -> str:
    """The paragraphs of `docs/results.md`: those of README, and then a bullet for each part of the work."""
    tab1, tab2, study = (_details(item, results_dir) for item in ("tab1", "tab2", "ablations"))
    said = [
        behind(bases, results_dir),
        recovery(tab1) if tab1 else "",
        f"**Recovery by other means**, from a base that knew the task. {ablations.recovery(study)}" if study else "",
        cost(results_dir),
        ablations.critic(study).replace("$D$", "the divergence") if study else "",
        text(tab2) if tab2 else "",
    ]
    parts = [said_in_short, bullets(said)]
    if study:
        parts += [
            "Where a question has one answer, the occupancies of data and policy can be matched in closed form, at the "
            'price of MLE (`method="direct"`). The first runs of it, on validation questions, were exploratory:',
            ablations.direct(study),
            "The claim was then tested on test questions, with new seeds and a plan that was fixed beforehand:",
            ablations.confirmation(study),
        ]
    return "\n\n".join(parts)


def verdicts(rows: Sequence[Record]) -> str:
    """How many items have which verdict, and how many of the exact ones are reproduced."""
    verdict = {str(row["id"]): str(row["verdict"]) for row in rows if row["id"] in JUDGED}
    count = Counter(verdict.values())
    said = among([f"{count[name]} {verbs[count[name] != 1]}" for name, verbs in VERBS.items() if count[name]])
    right = sum(verdict.get(item) == "reproduced" for item in EXACT)
    exact = "all three" if right == len(EXACT) else f"{right} of the three"
    return f"Of {sum(count.values())} items {said}; {exact} that are exact calculations are reproduced."


def decided(study: Record | None) -> str:
    """The three claims of the learning regime in one sentence; empty where no run of it is there."""
    tested = [claim for claim in study["claims"] if "difference" in claim] if study else []
    if not tested:
        return ""
    if not all("outcome" in claim for claim in tested):
        return "Whether deletions pay where the base model has to learn the task waits for the last seeds."
    return f"Where the base model has to learn the task, {among([_verb(claim) for claim in tested])}."


def _verb(claim: Record) -> str:
    first, second = (NAMES[name] for name in claim["claim"].lower().split(" > "))
    size = points(abs(claim["difference"])).removeprefix("+")
    if claim["outcome"] in WORDS:
        return f"{first} {WORDS[claim['outcome']]} {second} by {size} points"
    return f"{first} and {second} are not told apart"


def started(bases: Mapping[str, bool | None]) -> str:
    """Which items on questions and answers start from a base model that has to learn its task, and which do not."""
    new, old = ([f"`{item}`" for item, kind in bases.items() if kind is wanted] for wanted in (True, False))
    said = [
        f"{among(new)} started from a base model that had to learn its task" if new else "",
        f"{among(old)} started from one that knew it before, so that there was little to learn" if old else "",
    ]
    there = [part for part in said if part]
    return f"Of the items, {'; '.join(there)}." if there else ""


def which_bases(results_dir: str | os.PathLike[str] = "results") -> dict[str, bool | None]:
    """`has_to_learn` of every item; reads each run's file once."""
    return {item: has_to_learn(item, results_dir) for item in JUDGED}


def has_to_learn(item: str, results_dir: str | os.PathLike[str] = "results") -> bool | None:
    """Whether an item's base model read other questions than the task's; None for an item without such a base.

    A base that reads a mixture of other modules, or names for translation, has to learn the task
    (`experiments.arithmetic.learning`, `experiments.tasks.translation`).
    """
    path = item_path(item, PRESET, results_dir)
    if not path.exists():
        return None
    origin: Any = read_item(item, PRESET, results_dir)["provenance"]
    found = [_base(path.parent / source) for source in origin.get("sources", {})]
    mixtures = [base.get("mixture") is not None or base.get("other_kinds", False) for base in found if base is not None]
    return all(mixtures) if mixtures else None


def _base(run: Path) -> Record | None:
    """The configuration of a run's pretrained base; None where it has none."""
    config: Any = read_json(run)["config"]
    inner = config.get("config", config)
    base = inner.get("base") if isinstance(inner, Mapping) else None
    return base if isinstance(base, Mapping) else None


def behind(bases: Mapping[str, bool | None], results_dir: str | os.PathLike[str] = "results") -> str:
    """How often SequenceMatch is surely ahead of MLE or BC, or behind, where the base model knew the task."""
    used = [item for item in COMPARED if bases[item] is False]
    ends = [pair for item in used for pair in _intervals(_details(item, results_dir))]
    if not ends:
        return ""
    ahead, less = sum(low > 0 for low, _ in ends), sum(high < 0 for _, high in ends)
    return (
        f"**A base model that knows the task** ({among([f'`{item}`' for item in used])}). SequenceMatch was compared "
        f"{len(ends)} times with MLE or BC. It is {_times(ahead)} surely ahead and {_times(less)} surely behind, which "
        f"means that the interval of 95 % excludes 0."
    )


def _times(number: int) -> str:
    return "never" if not number else "once" if number == 1 else f"{number} times"


def _intervals(details: Record) -> list[tuple[float, float]]:
    """Ends of the intervals of SequenceMatch less another method, of a figure's claims or of a table's tests."""
    if "tests" in details:
        return [(test["low"], test["high"]) for test in details["tests"] if test["first"] == "sm"]
    return [(claim["low"], claim["high"]) for claim in details["comparisons"] if claim["claim"].startswith("SM > ")]


def recovery(tab1: Record) -> str:
    """How often the fewest and the most wrong digits are all deleted, by method and by what the base model knew."""
    few, many = min(tab1["rates"]["sm"], key=int), max(tab1["rates"]["sm"], key=int)

    def shares(rates: Record) -> str:
        return among([percent(rates[depth]["all_removed"]["value"]) for depth in (few, many)])

    said = []
    for group, where in (("rates", "from a base model that had to learn the task"), ("known", "from one that knew it")):
        named = [f"{NAMES[name.split(',')[0]]} {shares(rates)}" for name, rates in tab1[group].items()]
        said += [f"{where}, {among(named)}"] if named else []
    return (
        f"**Recovery.** After {few} and after {many} wrong digits, all of them are deleted in this share of prompts: "
        f"{'; '.join(said)}."
    )


def cost(results_dir: str | os.PathLike[str] = "results") -> str:
    """What SequenceMatch costs over MLE, text and arithmetic, as the two tables have it."""
    said = [
        f"{get_item(item).title} (`{item}`): {read_item(item, PRESET, results_dir)['ours']}"
        for item in ("tab3", "tab4")
        if item_path(item, PRESET, results_dir).exists()
    ]
    return f"**Cost.** {'. '.join(said)}." if said else ""


def text(tab2: Record) -> str:
    """What the comparisons of running text came to, each with its outcome."""
    said = [f"{claim['claim']} ({claim['outcome']})" for claim in tab2["comparisons"]]
    return f"**Text.** The paper's claims about Table 2: {'; '.join(said)}."


def sensitivities(report: Record) -> str:
    """How much each choice that the paper leaves open matters, a bullet each where an ablation measured it.

    Args:
        report: details of the item.
    """
    measured = [(c["question"], c["sensitivity"]) for c in report["choices"] if c["sensitivity"] != "not measured"]
    # A finding begins with the name of its sweep, which is the question in other words.
    said = [(question, found.replace("(True)", "(on)").replace("(False)", "(off)")) for question, found in measured]
    return bullets([f"**{question}.** {found.partition(': ')[2] or found}." for question, found in said])


def learning_study(results_dir: str | os.PathLike[str] = "results") -> Record | None:
    """What the committed runs of the learning regime say; None where there is no such file."""
    path = resolve(results_dir) / PRESET / "learning.json"
    return read_json(path) if path.is_file() else None


def _details(item: str, results_dir: str | os.PathLike[str]) -> Any:
    path = item_path(item, PRESET, results_dir)
    return read_item(item, PRESET, results_dir)["details"] if path.exists() else None

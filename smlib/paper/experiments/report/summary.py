"""The report: every item's verdict, what the paper left open and how much it matters, where the paper is wrong.

Built from result files alone; nothing is trained or sampled here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smlib.paper.costs import processor_hours
from smlib.paper.experiments.judging.verdicts import RULE
from smlib.paper.experiments.report.errata import ERRATA
from smlib.paper.items import JUDGED
from smlib.paper.ledger import COMMITTED_PRESETS, LEDGER_PRESETS, read_item
from smlib.paper.results import get_item, item_path, ledger, write_item

ITEM = "report"
VERDICT_RULE = (
    "the worst verdict of the other items, where 'not run' counts as 'not reproduced'; the number of each verdict "
    "is what the report says"
)


@dataclass(frozen=True)
class Choice:
    """Something the paper leaves open.

    Attributes:
        question: what is not said. ours: what is done here, and where it is set.
        sweep: title of the ablation that measures it, empty where none does.
    """

    question: str
    ours: str
    sweep: str = ""


CHOICES = (
    Choice(
        "α for arithmetic",
        "0.01, the paper's for text; 0.1 at first, until it had cost points on validation questions; App. G.1 has both",
        "entropy weight α",
    ),
    Choice("γ for arithmetic", "0.95, fixed beforehand; the sweep uses validation questions alone", "discount γ"),
    Choice(
        "normalisation across lengths",
        "sums over data and over rollouts, each by its number of trajectories; all by the data's discounted length",
    ),
    Choice("does γ^t restart after the prompt", "yes: t counts the actions of the solution"),
    Choice("sampling temperature of the arithmetic evaluation", "1; greedy, top-p and truncation beside it"),
    Choice(
        "optimiser", "AdamW, betas 0.9 and 0.95, weight decay 0.01, linear warm-up, cosine decay, norms clipped at 1"
    ),
    Choice(
        "learning rate",
        "3e-4 for the small Llamas of 04 and 07 to 11, 1e-3 where they have to learn the task; 2e-4 for SmolLM2 in 05 "
        "(5e-4 at quick)",
    ),
    Choice(
        "start and learning rate of the <bkspc> row",
        "the mean of the other rows, and their rate; ten times it for text (05), where steps are few",
    ),
    Choice("c of the mixture regulariser", "c β = 1/4, from c = β = 1/2 (App. D.4)", "mixture regulariser"),
    Choice(
        "which data are beside a rollout",
        "all of D in turn, as in Algorithm 1; Tables 2 and 8, and App. G.1 at α = 0.1: the examples whose rollouts are "
        "drawn, so that the two share a prompt",
        "data from the rollouts' prompts",
    ),
    Choice("reuse of rollouts", "8 times each, oldest replaced first", "uses of a rollout"),
    Choice("floor of β", "0.2 (App. E)", "floor of the BC weight β"),
    Choice("may noise strike twice at one position", "yes: the number of mistakes there is geometric"),
    Choice("depth of injected mistakes", "one token", "noise tokens in a row"),
    Choice("do rollouts run under the noise of Sec. 4.2", "no", "execution noise in rollouts"),
    Choice("over-long sequences", "forced to <eos>; what the model chose stays the label"),
    Choice("n-gram entropy, diversity", "per generation, on tokens, then averaged; entropy of unigrams in nats"),
    Choice(
        "MAUVE's features and scale",
        "of a small sentence encoder (the paper names none), same settings for all methods",
    ),
    Choice("Algorithm A: several backspaces, backspace at the root", "a replay of the actions is the definition"),
)
"""Design decisions that a reader of the paper has to make, each with its measured sensitivity where there is one."""


def presets_read(preset: str) -> tuple[str, ...]:
    """Whose values the report shows: for `full` and `paper` committed ones, for `quick` also quick ones, or smoke's."""
    if preset == "smoke":
        return ("smoke",)
    return COMMITTED_PRESETS if preset in COMMITTED_PRESETS else LEDGER_PRESETS


def collect(preset: str, results_dir: str | Path = "results") -> dict[str, Any]:
    """Every other item's line with the reason of its verdict, the comparisons behind it, and the rows with a paper
    value (JSON types). An item that rests on no comparisons gives the rule of its own as the reason."""
    items: list[dict[str, Any]] = []
    for line in ledger(results_dir, presets_read(preset)):
        if line["id"] == ITEM:
            continue
        content = {} if line["preset"] is None else read_item(str(line["id"]), str(line["preset"]), results_dir)
        details: Any = content.get("details", {})
        rows: Any = content.get("rows", [])
        items.append(
            {
                **{name: line[name] for name in ("id", "title", "preset", "paper", "ours", "error", "n_seeds")},
                "section": get_item(str(line["id"])).section,
                "notebook": line["notebook"],
                "verdict": line["verdict"],
                "why": details.get("why") or details.get("rule", ""),
                "comparisons": details.get("comparisons", []),
                "rows": [row for row in rows if row["paper"] is not None],
            }
        )
    counts = dict.fromkeys(("reproduced", "direction only", "not reproduced", "not run"), 0)
    for item in items:
        counts[item["verdict"]] += 1
    return {
        "items": items,
        "counts": counts,
        "choices": choices(_sweeps(preset, results_dir)),
        "errata": [vars(erratum) for erratum in ERRATA],
        "hours": {item: round(h, 2) for item, h in processor_hours(preset, results_dir).items()},
        "rule": RULE,
        "verdict_rule": VERDICT_RULE,
    }


def choices(sweeps: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """The open points, each with the finding of its sweep where that was run."""
    findings = {sweep["title"]: sweep["finding"] for sweep in sweeps}
    missing = "measured in 11_ablations, not run yet"
    return [
        {
            "question": choice.question,
            "ours": choice.ours,
            "sensitivity": findings.get(choice.sweep, missing) if choice.sweep else "not measured",
        }
        for choice in CHOICES
    ]


def _sweeps(preset: str, results_dir: str | Path) -> list[Any]:
    for name in presets_read(preset):
        if item_path("ablations", name, results_dir).exists():
            details: Any = read_item("ablations", name, results_dir)["details"]
            return list(details["sweeps"])
    return []


def verdict(counts: Mapping[str, int]) -> str:
    """The worst of the items' verdicts, by `VERDICT_RULE`."""
    if counts["not reproduced"] or counts["not run"]:
        return "not reproduced"
    return "direction only" if counts["direction only"] else "reproduced"


def run(preset: str, results_dir: str | Path = "results") -> dict[str, Any]:
    """Collects the report, writes the ledger's line for `report`, and returns what its tables and figures show."""
    study = collect(preset, results_dir)
    counts = study["counts"]
    seeds = [item["n_seeds"] for item in study["items"] if item["n_seeds"]]
    write_item(
        ITEM,
        preset,
        ours=", ".join(f"{counts[v]} {v}" for v in counts if counts[v]) + f", of {len(JUDGED)} items",
        n_seeds=min(seeds, default=0),
        verdict=verdict(counts),
        details=study,
        results_dir=results_dir,
    )
    return study

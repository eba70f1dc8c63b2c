"""Methods of equal standing beside SequenceMatch, and who is ahead of whom on the validation questions."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from smlib.evaluation import paired_difference
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.verdicts import holm

DEFAULT = "sm-default"

METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "bc": ("bc", {}),
        "iqlearn": ("iqlearn", {}),
        "dagger": ("dagger", {}),
        "dagger-rollout_noise=0.1": ("dagger", {"rollout_noise": 0.1}),
        "gail": ("gail", {}),
        "direct": ("direct", {}),
        "direct-tv": ("direct", {"divergence": "tv"}),
        "bc-burst=4": ("bc", {"burst": 4}),
        **{
            f"{method}-rollout_burst=4": (method, {"rollout_noise": 0.1, "rollout_burst": 4})
            for method in ("sm", "dagger")
        },
    }
)
"""Other methods at the default's settings, with bursts and execution noise where they apply. Those without noise have
clean data, as MLE; GAIL's rollouts are under the noise of its data."""

TITLES = {
    DEFAULT: "SequenceMatch",
    "bc": "BC",
    "iqlearn": "offline IQLearn",
    "dagger": "DAgger",
    "dagger-rollout_noise=0.1": "DAgger, execution noise",
    "gail": "GAIL",
    "direct": "direct matching, χ²-mixture",
    "direct-tv": "direct matching, total variation",
    "dagger-rollout_burst=4": "DAgger, execution noise of 4",
    "bc-burst=4": "BC, bursts of 4",
    "sm-burst=4": "SequenceMatch, bursts of 4",
    "sm-rollout_noise=0.1": "SequenceMatch, execution noise",
    "sm-rollout_burst=4": "SequenceMatch, execution noise of 4",
}

PAIRS = (
    (DEFAULT, "bc"),
    (DEFAULT, "mle"),
    ("iqlearn", "bc"),
    ("dagger", "bc"),
    ("gail", "bc"),
    ("direct", "mle"),
    ("direct-tv", "mle"),
)
"""Each method against cloning of the same data."""


def rivalries(runs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Paired differences of accuracy, first less second, at temperature 1 and greedily, with Holm's correction over all
    of them; over the seeds that both have.

    Args:
        runs: by `<name>-s<seed>`. Pairs of which one was not run are left out.
    """
    names = {name.rsplit("-s", 1)[0] for name in runs}
    made: list[dict[str, Any]] = []
    for first, second in PAIRS:
        if not {first, second} <= names:
            continue
        ours, theirs = (scores.by_prefix(runs, name) for name in (first, second))
        seeds = min(len(ours), len(theirs))
        # Without `<bkspc>` there is nothing to exclude.
        greedy = "greedy_exclude" if "greedy_exclude" in ours[0]["val"] else "greedy"
        for decoding, other in (("t1", "t1"), (greedy, greedy if greedy in theirs[0]["val"] else "greedy")):
            right, base = (
                scores.correctness(part[:seeds], "val", rule) for part, rule in ((ours, decoding), (theirs, other))
            )
            made.append(
                {"first": _title(first), "second": _title(second), "decoding": decoding, "n_seeds": seeds}
                | scores.paired_record(paired_difference(right, base))
            )
    adjusted = holm([float(row["p_value"]) for row in made])
    return [row | {"p_holm": scores.number(p, 6)} for row, p in zip(made, adjusted, strict=True)]


def critic_estimate(runs: Mapping[str, Any]) -> dict[str, float] | None:
    """What GAIL's critic made of the divergence while it was trained, of at most 2: the largest amount, and the mean of
    the last half; None where it was not run."""
    seen = [run["history"]["chi2_mixture"] for name, run in runs.items() if name.startswith("gail-s")]
    if not seen:
        return None
    return {
        "largest": scores.number(max(abs(value) for each in seen for value in each)),
        "last_half": scores.number(scores.mean(value for each in seen for value in each[len(each) // 2 :])),
    }


def _title(name: str) -> str:
    return "MLE" if name == "mle" else TITLES[name]

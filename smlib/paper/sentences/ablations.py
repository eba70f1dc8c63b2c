"""What the ablations found (`11_ablations`), in sentences. A study of a small preset has parts only; so have these."""

from collections.abc import Mapping
from typing import Any

from smlib.paper.sentences.wording import among, bullets, percent, points, spread

DIRECT = {"direct": "the χ²-mixture", "direct-tv": "total variation"}
BLIND = 0.02
"""A critic that never estimates more than this of a divergence of at most 2 tells data and model hardly apart."""
Study = Mapping[str, Any]


def findings(study: Study) -> str:
    """The findings of all of the notebook, the surest first, a bullet each."""
    return bullets([_confirmed(study), _deep(study), _order(study), _regimes(study), _settings(study)])


def confirmation(study: Study) -> str:
    """What was confirmed of direct matching, claim by claim, and what greedy answers do."""
    rows = [row for row in study["confirmation"] if row["decoding"] == "t1"]
    if not rows:
        return "The confirmation is no part of this preset."
    said = [
        f"{row['title']}, where MLE has {percent(row['accuracy']['mle']['value'], 1)}: "
        + " and ".join(
            f"{DIRECT[name]} {spread(test)}, {'confirmed' if test['confirmed'] else 'not confirmed'}"
            for name, test in row["over_mle"].items()
        )
        for row in rows
    ]
    return bullets([*said, _greedy_stays(study)])


def direct(study: Study) -> str:
    """What the exploratory runs showed: the gap between greedy answers and samples, and what was gained of it."""
    if not study["direct"]:
        return "Direct matching is no part of this preset."
    cells = {(row["title"], row["decoding"]): row for row in study["direct"]}
    said = []
    for title in dict.fromkeys(row["title"] for row in study["direct"]):
        samples, greedy = (cells[title, rule] for rule in ("t1", "greedy"))
        gap = greedy["accuracy"]["mle"]["value"] - samples["accuracy"]["mle"]["value"]
        gains = among([f"{DIRECT[name]} {spread(test)}" for name, test in samples["over_mle"].items()])
        said.append(
            f"{title}: greedy answers of MLE are {points(abs(gap)).removeprefix('+')} points "
            f"{'better' if gap > 0 else 'worse'} than its samples. At temperature 1, less MLE: {gains}."
        )
    return bullets(said)


def critic(study: Study) -> str:
    """What GAIL's critic saw, and what its step costs."""
    rows = {row["name"]: row for row in study["methods"]}
    if not study["critic"] or "gail" not in rows:
        return "GAIL was not run with this preset."
    gail, bc = rows["gail"], rows["bc"]
    sees = "nothing" if study["critic"]["largest"] < BLIND else "something"
    accuracy = {row["name"]: percent(row["accuracy"]["t1"]["value"], 1) for row in (gail, bc)}
    return (
        f"**A critic with the policy's own network sees {sees}.** GAIL's estimate of $D$, which can reach 2, never "
        f"left 0 by more than {study['critic']['largest']:.3f}. Its accuracy is {accuracy['gail']}, BC's "
        f"{accuracy['bc']}. A step costs {gail['cost']:.1f} times MLE's, one of BC {bc['cost']:.1f} times. "
        f"({_seeds(gail['n_seeds'])} of GAIL.)"
    )


def recovery(study: Study) -> str:
    """Who deletes all of the most wrong tokens in a row, and what that costs in plain accuracy."""
    rows = [row for row in study["methods"] if row["recovery"]]
    depth = max((int(d) for row in rows for d in row["recovery"]), default=0)
    shares = {row["title"]: row["recovery"].get(str(depth)) for row in rows}
    known = sorted(((found["all_removed"]["value"], title) for title, found in shares.items() if found), reverse=True)
    if not known:
        return "Recovery was not measured with this preset."
    told = "; ".join(f"{title} ({percent(share)})" for share, title in known)
    plain = {row["title"]: row["accuracy"]["t1"]["value"] for row in rows}
    best = known[0][1]
    return (
        f"After {depth} wrong tokens all are deleted by, most often first: {told}. The first of them, {best}, answers "
        f"{percent(plain[best], 1)} of the questions as they are, MLE "
        f"{percent(next(row for row in study['methods'] if row['name'] == 'mle')['accuracy']['t1']['value'], 1)}."
    )


def _confirmed(study: Study) -> str:
    tests = [
        (row["title"].partition(",")[0], DIRECT[name], test)
        for row in study["confirmation"]
        for name, test in row["over_mle"].items()
        if row["decoding"] == "t1"
    ]
    if not tests:
        return ""
    sure = sum(bool(test["confirmed"]) for _, _, test in tests)
    said = ", ".join(f"{points(test['difference'])} points with {name} on {task}" for task, name, test in tests)
    head = "beats likelihood" if sure == len(tests) else f"beats likelihood in {sure} of {len(tests)} claims"
    return (
        f"**Matching occupancies in closed form {head}** at temperature 1, on questions and seeds that had chosen "
        f"nothing: {said} ({sure} of {len(tests)} claims confirmed). {_greedy_stays(study)}"
    )


def _greedy_stays(study: Study) -> str:
    rows = [row for row in study["confirmation"] if row["decoding"] == "greedy"]
    widest = max((max(abs(t["low"]), abs(t["high"])) for row in rows for t in row["over_mle"].values()), default=None)
    return "" if widest is None else f"Greedy answers differ by at most {100 * widest:.1f} points (95 %)."


def _deep(study: Study) -> str:
    found = {row["name"]: row["recovery"] for row in study["methods"] if row["recovery"]}
    depth = str(max((int(d) for each in found.values() for d in each), default=0))
    names = ("bc-burst=4", "sm-burst=4", "bc", "sm-default")
    if any(depth not in found.get(name, {}) for name in names):
        return ""
    rates = [found[name][depth]["all_removed"] for name in names]
    shown = [percent(rate["value"]) for rate in rates]
    apart = min(rate["low"] for rate in rates[:2]) > max(rate["high"] for rate in rates[2:])
    head = (
        "Recovery from several wrong tokens comes from demonstrations that show several"
        if apart
        else "Demonstrations with several wrong tokens are no clear way to recover from several"
    )
    return (
        f"**{head}.** After {depth} wrong tokens all are deleted in {shown[0]} of the prompts by BC and in {shown[1]} "
        f"by SequenceMatch, if demonstrations have four wrong tokens in a row; with single wrong tokens it is "
        f"{shown[2]} and {shown[3]}."
    )


def _order(study: Study) -> str:
    pairs = {(row["first"], row["second"]): row for row in study["rivalries"] if row["decoding"] == "t1"}
    said = [
        f"SequenceMatch less {other}: {spread(pairs['SequenceMatch', other])}"
        for other in ("BC", "MLE")
        if ("SequenceMatch", other) in pairs
    ]
    return f"**SequenceMatch, as the paper sets it.** {'; '.join(said)}." if said else ""


def _regimes(study: Study) -> str:
    rows = [row["differences"] for row in study["regimes"] if row["decoding"] == "t1"]
    if not rows:
        return ""
    ahead = {pair: sum(row[pair]["low"] > 0 for row in rows) for pair in ("sm-mle", "sm-bc")}
    behind = sum(row["sm-mle"]["high"] < 0 for row in rows)
    return (
        f"**Other settings for all methods.** Of {len(rows)} settings of data, steps and α, SequenceMatch is surely "
        f"ahead of MLE in {ahead['sm-mle'] or 'none'} and surely behind it in {behind}; it is surely ahead of BC in "
        f"{ahead['sm-bc'] or 'none'} (intervals of 95 % that exclude 0, temperature 1)."
    )


def _settings(study: Study) -> str:
    changed = [
        (sweep["title"], point) for sweep in study["sweeps"] for point in sweep["points"] if not point["default"]
    ]
    sure = sorted(
        ((title, p) for title, p in changed if p["low"] > 0 or p["high"] < 0), key=lambda c: -abs(c[1]["difference"])
    )
    said = ", ".join(f"{title} = {_value(p['value'])} ({points(p['difference'])} points)" for title, p in sure)
    head = "Few settings matter" if 3 * len(sure) < len(changed) else "Settings matter"
    return (
        f"**{head}.** Of {len(changed)} single changes {len(sure)} move SequenceMatch's accuracy, each tested "
        f"by itself: {said or 'none'}."
    )


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _seeds(number: int) -> str:
    return f"{number} seed{'s' if number != 1 else ''}"

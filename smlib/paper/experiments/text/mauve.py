"""MAUVE of all methods of the text experiment together: one quantisation, values, error bars, paired tests; cached."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from smlib.evaluation import JointMauve, MauveSettings, mauve
from smlib.files import config_hash
from smlib.paper.experiments.judging.scores import number
from smlib.paper.experiments.text.features import features
from smlib.paper.results import Run, run_cached

METHODS = ("mle", "contrastive", "unlikelihood", "bc", "sm", "iqlearn")
"""The columns of Table 2 in order; offline IQLearn is not in the paper."""

RESAMPLES = 1999
"""Of the bootstrap behind MAUVE's error bars, and swaps of its tests."""

Runs = Mapping[str, Run]


def by_method(runs: Runs) -> dict[str, list[Run]]:
    """Runs `<method>-s<seed>` by column of the table, in the order of their seeds; contrastive search reads MLE's."""
    found: dict[str, list[Run]] = {}
    for name in sorted(runs, key=lambda n: int(n.rsplit("-s", 1)[1])):
        found.setdefault(name.rsplit("-s", 1)[0], []).append(runs[name])
    if "mle" in found:
        found["contrastive"] = found["mle"]
    return {method: found[method] for method in METHODS if method in found}


def draws(method: str, run: Run) -> list[Mapping[str, Any]]:
    """Every evaluation draw of a run."""
    return run["generations"]["contrastive" if method == "contrastive" else "sample"]  # type: ignore[index]


def mauve_scores(
    runs: Runs,
    settings: MauveSettings,
    features_name: str,
    articles: Callable[[], Sequence[str]],
    *,
    preset: str,
    results_dir: str | Path = "results",
    download: bool = False,
) -> Run:
    """MAUVE of every method, and the paired tests of SequenceMatch against each other one; computed once, cached by the
    texts themselves.

    The values are those of `JointMauve`, whose buckets are shared by all methods; the package's own number, which
    quantises every draw with the human texts alone, stands beside them under `package`. A prompt after which any method
    wrote nothing is left out for all of them, and counted: MAUVE depends on n.

    Args:
        articles: gives the article of each prompt of the evaluation set (`TextRun.articles`), which are what was drawn;
            called only if the scores are not there yet. They are kept in the result, for the other metrics.
    """
    methods = by_method(runs)
    config = {
        "texts": {name: _digest(run) for name, run in runs.items()},
        "quantisation": "human and all methods' texts together",
        "settings": settings,
        "features": features_name,
        "resamples": RESAMPLES,
    }

    def compute(_: Path) -> dict[str, object]:
        human, titles = methods["mle"][0]["human"], list(articles())
        assert isinstance(human, list)
        texts = {m: [[d["texts"] for d in draws(m, run)] for run in found] for m, found in methods.items()}
        every = [draw for of_method in texts.values() for of_run in of_method for draw in of_run]
        kept = [i for i, text in enumerate(human) if text.strip() and all(draw[i].strip() for draw in every)]
        if not kept:
            raise ValueError(f"after each of {len(human)} prompts some method wrote nothing: MAUVE has no sample")
        rows = features(features_name, [draw[i] for draw in (human, *every) for i in kept], download=download)
        by_draw = iter(rows.reshape(1 + len(every), len(kept), -1))
        h = next(by_draw)
        seen = {m: np.stack([[next(by_draw) for _ in of_run] for of_run in found]) for m, found in texts.items()}
        joint = JointMauve.of_features(h, seen, settings, [titles[i] for i in kept], resamples=RESAMPLES)
        package = {m: [mauve(draw, h, settings) for of_run in found for draw in of_run] for m, found in seen.items()}
        return {
            "articles": titles,
            "excluded": len(human) - len(kept),
            "settings": joint.description,
            "estimates": {m: asdict(joint.estimate(m)) for m in seen},
            "values": {m: joint.values(m).mean(0).round(6).tolist() for m in seen},
            "package": {
                m: {what: [number(getattr(s, what), 6) for s in found] for what in ("value", "seed_std")}
                for m, found in package.items()
            },
            "tests": {m: asdict(joint.difference("sm", m)) for m in seen if m != "sm" and "sm" in seen},
        }

    return run_cached(
        "tab2",
        "mauve",
        config,
        compute,
        preset=preset,
        seeds=sorted({int(s) for run in runs.values() for s in run.seeds}),  # type: ignore[attr-defined]
        version_key="evaluation",
        results_dir=results_dir,
    )


def _digest(run: Run) -> str:
    """Hash of what MAUVE reads of a run: a run that was computed again may keep its file's name and not its texts."""
    every = {decoding: [draw["texts"] for draw in found] for decoding, found in run["generations"].items()}  # type: ignore[attr-defined]
    return config_hash({"generations": every, "human": run.get("human")})

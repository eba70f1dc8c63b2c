"""Table 2's scores on made-up runs: what is printed and what is judged, articles, seeds, the cache."""

from pathlib import Path

import numpy as np
import pytest

from smlib.evaluation import MauveSettings
from smlib.paper.experiments.text import mauve as text_mauve
from smlib.paper.experiments.text import scores as text_scores
from smlib.paper.experiments.text import study as text
from smlib.paper.experiments.text.mauve import mauve_scores
from smlib.paper.figures import text as figures
from smlib.paper.results import Run

N, ARTICLES = 36, [f"article {i // 3}" for i in range(36)]
SETTINGS = MauveSettings(num_buckets=5, seeds=(0, 1, 2, 3, 4))


def made_up(n_seeds=1, seed=0):
    """Runs of three methods whose texts are random words; every run has the same file name as in another call."""
    rng = np.random.default_rng(seed)

    def draw():
        tokens = [" ".join(map(str, rng.integers(0, 30, 12))) for _ in range(N)]
        zeros = [0] * N
        counts = {"actions": [13] * N, "backspaces": zeros, "deleted": zeros, "ended": [True] * N}
        return {"texts": [f"text {t}" for t in tokens], "tokens": tokens, **counts}

    runs = {}
    for s in range(n_seeds):
        for method in ("mle", "bc", "sm"):
            nats = (300 + 5 * rng.normal(size=N)).tolist()
            likelihood = {"nats": nats, "nats_tokens_only": nats, "tokens": [100] * N}
            result = {"generations": {"sample": [draw(), draw()]}, "likelihood": likelihood}
            if method == "mle":
                result["generations"]["contrastive"] = [draw()]
                result["human"] = draw()["texts"]
            runs[f"{method}-s{s}"] = Run(
                {"result": result, "provenance": {}, "seeds": [s]}, Path(f"{method}-s{s}.json")
            )
    return runs


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Features of a text are those of its own random generator; few resamples."""

    def features(name, texts, *, download=False):
        return np.array([np.random.default_rng(list(t.encode())).normal(size=4) for t in texts], np.float32)

    monkeypatch.setattr(text_mauve, "features", features)
    monkeypatch.setattr(text_mauve, "RESAMPLES", 49)


def scored(runs, tmp_path, articles=lambda: ARTICLES):
    return mauve_scores(runs, SETTINGS, "made up", articles, preset="smoke", results_dir=tmp_path)


def test_the_sign_that_is_judged_is_the_sign_that_is_printed(tmp_path):
    for seed in range(3):
        runs = made_up(seed=seed)
        scores = scored(runs, tmp_path)
        table = text_scores.table(runs, scores)
        judged = {c.claim: c.test for c in text_scores.comparisons(runs, scores)}
        labels = {text_scores.LABELS[m]: metrics for m, metrics in table.items()}
        for other in ("MLE", "CS", "BC"):
            printed = labels["SM"]["MAUVE"].value - labels[other]["MAUVE"].value
            assert judged[f"MAUVE: SM > {other}"].difference == pytest.approx(printed, abs=1e-12)
        printed = np.log(labels["SM"]["perplexity"].value / labels["MLE"]["perplexity"].value)
        assert judged["log-perplexity: SM > MLE"].difference == pytest.approx(printed)
        printed = labels["MLE"]["diversity"].value - labels["CS"]["diversity"].value
        assert judged["diversity: MLE > CS"].difference == pytest.approx(printed)


def test_every_error_is_over_articles(tmp_path):
    runs = made_up()
    scores = scored(runs, tmp_path)
    for metrics in text_scores.table(runs, scores).values():
        for what in ("MAUVE", "entropy", "diversity", "perplexity"):
            assert metrics[what] is None or "12 clusters" in metrics[what].method
    assert all("12 clusters" in c.test.method for c in text_scores.comparisons(runs, scores))


def test_seeds_that_disagree_confirm_no_diversity(tmp_path):
    """Contrastive search repeats itself under two seeds of three: plain for these prompts, not for the method."""
    runs = made_up(n_seeds=3)
    for s in (0, 1):
        found = runs[f"mle-s{s}"]["generations"]["contrastive"][0]
        found["tokens"] = [" ".join([*line.split()[: 4 + 3 * s]] * 3) for line in found["tokens"]]
    (diversity,) = (c.test for c in text_scores.comparisons(runs, scored(runs, tmp_path)) if c.claim.startswith("div"))
    assert diversity.n_seeds == 3
    assert diversity.difference > 0.3
    assert diversity.p_value > 0.01


def test_scores_belong_to_the_texts_and_not_to_their_files(tmp_path):
    first = scored(made_up(), tmp_path)
    other = made_up(seed=1)  # the same names and paths
    second = scored(other, tmp_path)
    assert first["values"] != second["values"]
    never = scored(other, tmp_path, articles=lambda: pytest.fail("the scores are there: nobody needs a tokeniser"))
    assert never["values"] == second["values"]


def test_an_empty_text_is_left_out_for_all(tmp_path):
    runs = made_up()
    runs["bc-s0"]["generations"]["sample"][1]["texts"][7] = " "
    scores = scored(runs, tmp_path)
    assert scores["excluded"] == 1
    assert scores["settings"].startswith(f"n={N - 1}/{N - 1}, 5 buckets of all 4 methods' and human texts together")
    assert len(scores["articles"]) == N


def test_the_packages_number_stands_beside_ours(tmp_path, monkeypatch):
    made = {}
    monkeypatch.setattr(text_scores, "write_item", lambda item, preset, **content: made.update(content))
    runs = made_up()
    scores = scored(runs, tmp_path)
    text_scores.write_table_2(runs, scores, "smoke", tmp_path)
    rows = {row["label"]: row["ours"] for row in made["rows"]}
    assert rows["SM / MAUVE by the package"] == pytest.approx(np.mean(scores["package"]["sm"]["value"]), abs=1e-4)
    assert "articles" in made["details"]["rule"]
    shown = figures.table_2(made)
    assert (
        shown.loc[("MAUVE, the package alone", "ours"), "SequenceMatch"] == f"{rows['SM / MAUVE by the package']:.2f}"
    )


def test_articles_are_those_of_the_evaluation_set(tmp_path):
    run = text.preset("smoke").run("mle")
    titles = run.articles(preset="smoke", results_dir=tmp_path)
    assert len(titles) == max(run.evaluation.prompts, run.evaluation.corrupted)
    assert set(titles) <= {a.title for a in run.load().test}
    assert not list(tmp_path.glob("**/*.safetensors"))  # no weights

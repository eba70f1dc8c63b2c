"""Metrics against hand counts, simulation and the packages they wrap."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smlib import evaluation
from smlib.evaluation import mauve_score
from smlib.evaluation.intervals import by_cluster, combined, crossed_variance

words = st.lists(st.sampled_from("abcd"), min_size=4, max_size=30)


# --- intervals -----------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.floats(0, 1))
def test_wilson_equals_scipy(n, share):
    k = round(n * share)
    low, high = evaluation.wilson(k, n)
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    np.testing.assert_allclose([low, high], [expected.low, expected.high], atol=1e-12)  # the same formula
    assert 0 <= low <= k / n <= high <= 1


def test_crossed_variance_is_unbiased_in_simulation():
    """Known components: var = .04/3 + .09/40 + .25/120; the mean of 4,000 estimates has a relative error below 3 %."""
    rng = np.random.default_rng(0)
    shape, draws = (3, 40), 4000
    tables = (
        0.2 * rng.standard_normal((draws, shape[0], 1))
        + 0.3 * rng.standard_normal((draws, 1, shape[1]))
        + 0.5 * rng.standard_normal((draws, *shape))
    )
    truth = 0.04 / 3 + 0.09 / 40 + 0.25 / 120
    assert np.var(tables.mean((1, 2))) == pytest.approx(truth, rel=0.06)
    estimates = np.array([crossed_variance(t)[0] for t in tables])
    assert estimates.mean() == pytest.approx(truth, rel=0.06)  # the floors add a little


@pytest.mark.parametrize(("n_seeds", "seed_sd", "item_sd"), [(1, 0.0, 1.0), (3, 0.3, 1.0), (5, 0.0, 0.0)])
def test_clustered_interval_covers(n_seeds, seed_sd, item_sd):
    """Coverage of the mean of a crossed logistic model is at least 92 % of 600 simulated tables (nominal 95 %)."""
    rng = np.random.default_rng(1)
    n_items, hits = 120, 0
    population = stats.norm.ppf((np.arange(4000) + 0.5) / 4000) * math.hypot(seed_sd, item_sd) + 0.4
    truth = float((1 / (1 + np.exp(-population))).mean())
    for _ in range(600):
        logit = 0.4 + seed_sd * rng.standard_normal((n_seeds, 1)) + item_sd * rng.standard_normal((1, n_items))
        e = evaluation.clustered_interval(rng.random((n_seeds, n_items)) < 1 / (1 + np.exp(-logit)))
        hits += e.low <= truth <= e.high
    assert hits / 600 >= 0.92


def test_clustered_interval_knows_both_clusters():
    rng = np.random.default_rng(2)
    questions = rng.random(200) < 0.6
    same = evaluation.clustered_interval(np.tile(questions, (3, 1)))  # three seeds that agree: no new information
    one = evaluation.clustered_interval(questions)
    assert same.value == one.value
    assert same.error == pytest.approx(one.error, rel=0.02)  # n against n-1 in the variance
    independent = evaluation.clustered_interval(rng.random((3, 200)) < 0.6)
    assert independent.error < 0.8 * one.error
    seeds_differ = evaluation.clustered_interval(np.array([[0.1] * 200, [0.5] * 200, [0.9] * 200]))
    assert seeds_differ.error > 0.4
    assert "n_eff" in same.method
    assert "between-seed variance unknown" in one.method


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_unanimous_answers_have_no_empty_interval(value):
    e = evaluation.clustered_interval(np.full((3, 100), value))
    assert e.value == value
    assert e.high - e.low == pytest.approx(np.ptp(evaluation.wilson(100 * value, 100)))


def test_mean_interval_equals_scipy():
    x = [0.81, 0.86, 0.79, 0.9]
    e = evaluation.mean_interval(x)
    expected = stats.ttest_1samp(x, 0).confidence_interval()
    np.testing.assert_allclose([e.low, e.high], [expected.low, expected.high])
    assert evaluation.mean_interval([1.0]).error == math.inf


def test_a_crossed_interval_is_students_for_one_seed_and_wider_where_seeds_differ():
    x = np.random.default_rng(0).normal(3.0, 1.0, 40)
    one = evaluation.crossed_interval(x)
    assert (one.low, one.high) == pytest.approx(stats.t.interval(0.95, 39, x.mean(), stats.sem(x)))
    three = evaluation.crossed_interval(np.stack([x, x + 0.5, x - 0.5]))
    assert three.value == pytest.approx(one.value)
    assert three.high - three.low > one.high - one.low
    assert (three.n_seeds, three.n_items) == (3, 40)


def test_perplexity_is_token_weighted():
    e = evaluation.perplexity([10 * math.log(4), 30 * math.log(4)], [10, 30])
    assert e.value == pytest.approx(4)
    assert (e.low, e.high) == pytest.approx((4, 4))
    uneven = evaluation.perplexity([10.0, 60.0, 30.0], [10, 30, 20])
    assert uneven.value == pytest.approx(math.exp(100 / 60))
    assert uneven.low < uneven.value < uneven.high


def test_perplexity_interval_covers():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        tokens = rng.integers(50, 400, 60)
        rate = 2 + 0.3 * rng.standard_normal(60)
        e = evaluation.perplexity(rate * tokens, tokens)
        hits += e.low <= math.exp(2) <= e.high
    assert hits / 500 >= 0.92


# --- questions in clusters ------------------------------------------------------------------------------------------


def test_the_variance_over_clusters_is_the_sandwich():
    rng = np.random.default_rng(0)
    x, articles = rng.normal(size=30), np.array(list("aaaaaaaaaaaabbbbbbbbccccccdddd"))
    sums = np.array([(x - x.mean())[articles == a].sum() for a in "abcd"])
    e = evaluation.crossed_interval(x, clusters=articles)
    assert e.value == pytest.approx(x.mean())
    assert e.se == pytest.approx(math.sqrt(4 / 3 * (sums**2).sum()) / 30)
    assert e.error == pytest.approx(stats.t.ppf(0.975, 3) * e.se)
    assert "4 clusters" in e.method
    assert e.n_items == 30
    np.testing.assert_allclose(by_cluster([x, x + 1], articles).mean(1), [x.mean(), x.mean() + 1])
    np.testing.assert_allclose(by_cluster(x, range(30)), x[None])  # clusters of one
    alone = evaluation.crossed_interval(x)
    assert evaluation.crossed_interval(x, clusters=range(30)).se == pytest.approx(alone.se)
    with pytest.raises(ValueError, match="30 labels of 1 clusters"):
        by_cluster(x, ["a"] * 30)
    with pytest.raises(ValueError, match="2 labels"):
        by_cluster(x, ["a", "b"])


def test_repeated_questions_are_no_new_ones():
    """Ten copies of every question: the interval of the questions, where the naive one is √10 times too short."""
    rng = np.random.default_rng(1)
    x = rng.random((2, 40))
    copied, articles = np.repeat(x, 10, axis=1), np.repeat(np.arange(40), 10)
    one, many = evaluation.crossed_interval(x), evaluation.crossed_interval(copied, clusters=articles)
    assert (many.low, many.high) == pytest.approx((one.low, one.high))
    a, b = (evaluation.paired_difference(y[0], y[1], clusters=c) for y, c in ((copied, articles), (x, None)))
    assert (a.low, a.high, a.p_value) == pytest.approx((b.low, b.high, b.p_value))
    tokens = rng.integers(20, 60, 40)
    p, q = (evaluation.perplexity(3 * y * n, n, clusters=c) for y, n, c in (
        (x, tokens, None), (copied, np.repeat(tokens, 10), articles)))  # fmt: skip
    assert (p.value, p.low, p.high) == pytest.approx((q.value, q.low, q.high))
    share, same = (evaluation.clustered_interval(y[0] < 0.4, clusters=c) for y, c in ((x, None), (copied, articles)))
    assert (share.low, share.high) == pytest.approx((same.low, same.high))


def test_intervals_over_a_dozen_unequal_articles_cover():
    rng = np.random.default_rng(2)
    sizes = np.array([63, 59, 55, 37, 27, 19, 10, 7, 7, 6, 4, 3, 3])
    articles = np.repeat(np.arange(13), sizes)
    hits = {"clusters": 0, "naive": 0}
    for _ in range(400):
        x = 0.5 * rng.normal(size=13)[articles] + rng.normal(size=300)
        for name, labels in (("clusters", articles), ("naive", None)):
            e = evaluation.crossed_interval(x, clusters=labels)
            hits[name] += e.low <= 0 <= e.high
    assert hits["clusters"] / 400 > 0.88  # 95 % but for the three articles that hold most prompts
    assert hits["naive"] / 400 < 0.6


def test_perplexity_of_several_seeds_knows_that_they_differ():
    rng = np.random.default_rng(0)
    tokens = np.full(80, 100)
    nats = 300 + 5 * rng.normal(size=80)
    one, three = evaluation.perplexity(nats, tokens), evaluation.perplexity([nats, nats + 20, nats - 20], tokens)
    assert three.value == pytest.approx(one.value)
    assert three.error > 5 * one.error
    assert (three.n_seeds, three.n_items) == (3, 80)


def test_errors_combine_by_satterthwaite():
    se, df = combined([(4.0, 10.0), (1.0, 2.0)])
    assert se == pytest.approx(math.sqrt(5))
    assert df == pytest.approx(25 / (16 / 10 + 1 / 2))
    assert combined([(0.0, 3.0), (0.0, 9.0)]) == (0.0, 3.0)


# --- paired tests --------------------------------------------------------------------------------------------------


def test_mcnemar_is_the_exact_binomial():
    a = np.array([1] * 9 + [0] * 2 + [1] * 20 + [0] * 5)
    b = np.array([0] * 9 + [1] * 2 + [1] * 20 + [0] * 5)
    test = evaluation.mcnemar(a, b)
    assert test.p_value == pytest.approx(2 * sum(math.comb(11, k) for k in range(3)) / 2**11)
    assert test.difference == pytest.approx(7 / 36)
    assert test.low < test.difference < test.high
    assert evaluation.mcnemar(a, a).p_value == 1


def test_paired_difference_of_one_seed_is_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 80))
    expected = stats.ttest_rel(a, b)
    test = evaluation.paired_difference(a, b)
    assert test.p_value == pytest.approx(expected.pvalue)
    np.testing.assert_allclose([test.low, test.high], list(expected.confidence_interval()))


def test_paired_tests_see_what_pairing_shows():
    """A gain on every fifth question is lost in the questions' own variance, and plain when paired."""
    rng = np.random.default_rng(0)
    b = rng.random((3, 150)) < np.linspace(0, 1, 150)
    a = b.copy()
    a[:, ::5] = True
    test = evaluation.paired_difference(a, b)
    assert test.p_value < 0.005
    assert test.low > 0
    same = evaluation.paired_difference(b, b)
    assert (same.difference, same.p_value) == (0, 1)


def test_paired_p_values_are_uniform_under_no_difference():
    rng = np.random.default_rng(3)
    p = [evaluation.paired_difference(*(rng.random((2, 3, 40)) < 0.5)).p_value for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) < 0.09  # 0.05 up to simulation noise and conservatism


# --- repetition ----------------------------------------------------------------------------------------------------


def test_rep_n_by_hand():
    text = ["a", "b", "a", "b", "a"]
    # bigrams ab ba ab ba: 2 of 4 unique; trigrams aba bab aba: 2 of 3; 4-grams: 2 of 2
    assert evaluation.rep_n(text, 2) == pytest.approx(50)
    assert evaluation.rep_n(text, 3) == pytest.approx(100 / 3)
    assert evaluation.rep_n(text, 4) == 0
    assert evaluation.diversity(text) == pytest.approx(0.5 * 2 / 3)


@given(words)
def test_diversity_bounds_and_meaning(tokens):
    d = evaluation.diversity(tokens)
    assert 0 < d <= 1
    unique = len(set(itertools.pairwise(tokens))) == len(tokens) - 1
    assert (d == 1) == unique  # a repeated longer n-gram repeats a bigram


@given(st.lists(words, min_size=1, max_size=5))
def test_entropy_is_scipys(generations):
    counts = Counter(t for g in generations for t in g)
    assert evaluation.ngram_entropy(generations, 1) == pytest.approx(stats.entropy(list(counts.values())), abs=1e-12)
    assert evaluation.ngram_entropy(generations, 1, base=2) == pytest.approx(
        stats.entropy(list(counts.values()), base=2), abs=1e-12
    )
    each = [stats.entropy(list(Counter(g).values())) for g in generations]
    assert evaluation.ngram_entropy(generations, 1, pooled=False) == pytest.approx(np.mean(each), abs=1e-12)


def test_entropy_of_uniform_tokens_is_the_logarithm():
    assert evaluation.ngram_entropy([list(range(64))], 1, base=2) == pytest.approx(6)
    assert evaluation.ngram_entropy([list(range(65))], 2) == pytest.approx(math.log(64))


def test_report_counts_what_it_leaves_out():
    generations = [[1, 2, 3, 4, 5], [7, 7, 7, 7], [1, 2], []]
    report = evaluation.diversity_report(generations)
    assert report.n_excluded == 2
    assert report.counted == (0, 1)
    assert report.per_generation == pytest.approx((1.0, evaluation.diversity([7] * 4)))
    assert report.diversity == pytest.approx(np.mean(report.per_generation))
    assert report.rep == pytest.approx(tuple(np.mean([0, evaluation.rep_n([7] * 4, n)]) for n in (2, 3, 4)))
    # pooled: bigrams 4 + 1 unique of 7, trigrams 3 + 1 of 5, 4-grams 2 + 1 of 3
    assert report.diversity_pooled == pytest.approx(5 / 7 * 4 / 5 * 1)
    assert "token ids" in report.variant
    with pytest.raises(ValueError, match="diversity is undefined"):
        evaluation.diversity_report([[1, 2], []])
    with pytest.raises(ValueError, match="rep-3 of a generation of 2 tokens is undefined"):
        evaluation.rep_n([1, 2], 3)


# --- BLEU ----------------------------------------------------------------------------------------------------------

REFERENCES = ["le chat dort sur le tapis", "il fait beau ce matin à Paris", "vingt-deux voitures rouges passent"] * 4
CLOSE = [r.replace("dort", "mange").replace("rouges", "bleues") for r in REFERENCES]
FAR = [r.replace("le", "la").replace("beau ce", "froid un").replace("vingt-deux", "dix") for r in REFERENCES]


def test_bleu_is_sacrebleus_and_not_its_transpose():
    import sacrebleu

    score = evaluation.bleu(CLOSE, REFERENCES, resamples=200)
    assert score.value == pytest.approx(sacrebleu.corpus_bleu(CLOSE, [REFERENCES]).score)
    assert score.low < score.value < score.high
    assert "tok:13a" in score.signature
    assert "version:" in score.signature
    assert evaluation.bleu(REFERENCES, REFERENCES, resamples=5).value == pytest.approx(100)
    assert evaluation.bleu([*CLOSE[:-1], ""], REFERENCES, resamples=5).n_empty == 1


def test_bleu_difference_is_paired():
    test = evaluation.bleu_difference(CLOSE, FAR, REFERENCES, resamples=300)
    a, b = (evaluation.bleu(h, REFERENCES, resamples=1).value for h in (CLOSE, FAR))
    assert test.difference == pytest.approx(a - b)
    assert test.low < test.difference < test.high
    assert evaluation.bleu_difference(CLOSE, CLOSE, REFERENCES, resamples=50).p_value == 1


def test_bleu_refuses_what_sacrebleu_would_truncate():
    with pytest.raises(ValueError, match="one reference per hypothesis"):
        evaluation.bleu(["a", "b"], ["a"])
    with pytest.raises(TypeError):
        evaluation.bleu(["a", "b"], [["a"], ["b"]])  # the transposed references
    with pytest.raises(TypeError, match="strings"):
        evaluation.bleu("ab", "ab")
    with pytest.raises(ValueError, match="reference is empty"):
        evaluation.bleu(["a"], [" "])


# --- MAUVE ---------------------------------------------------------------------------------------------------------


def test_mauve_orders_distributions_and_prints_its_settings():
    rng = np.random.default_rng(0)
    human = rng.standard_normal((120, 8))
    settings = evaluation.MauveSettings(num_buckets=8, features="gaussian", seeds=tuple(range(5)))
    near = evaluation.mauve(rng.standard_normal((120, 8)), human, settings)
    far = evaluation.mauve(rng.standard_normal((120, 8)) + 1.5, human, settings)
    assert 0 < far.value < 0.5 < near.value <= 1
    assert len(near.per_seed) == 5
    assert near.value == pytest.approx(np.mean(near.per_seed))
    for said in ("n=120/120", "8 buckets", "scaling 5", "5 k-means seeds", "gaussian"):
        assert said in near.description


def test_mauve_bad_input_is_named():
    x = np.random.default_rng(0).standard_normal((30, 4))
    with pytest.raises(ValueError, match="30 samples for 50 buckets"):
        evaluation.mauve(x, x)
    bad = x.copy()
    bad[7, 2] = np.nan
    settings = evaluation.MauveSettings(num_buckets=4)
    with pytest.raises(ValueError, match="q_features has 1 rows that are not finite, the first at 7"):
        evaluation.mauve(x, bad, settings)
    with pytest.raises(ValueError, match="one extractor"):
        evaluation.mauve(x, x[:, :3], settings)
    with pytest.raises(ValueError, match="samples × features"):
        evaluation.mauve(x[0], x, settings)
    with pytest.raises(ValueError, match="five distinct"):
        evaluation.MauveSettings(seeds=(0, 1, 2, 3, 3))


def test_mauve_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mauve", None)
    with pytest.raises(ModuleNotFoundError, match="pip install mauve-text"):
        mauve_score._package()


def test_minilm_features_place_like_texts_together():
    texts = ["The cat sleeps on the mat.", "Parliament passed the new tax law.", "A kitten is asleep on a rug."]
    x = evaluation.minilm_features(texts, batch_size=2)
    assert x.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, atol=1e-5)  # float32
    np.testing.assert_allclose(x, evaluation.minilm_features(texts, batch_size=3), atol=1e-5)  # padding has no part
    assert x[0] @ x[2] > x[0] @ x[1] + 0.3
    with pytest.raises(ValueError, match="1 empty texts, the first at 1"):
        evaluation.minilm_features(["a", " "])


# --- bad input -----------------------------------------------------------------------------------------------------


def test_intervals_bad_input_is_named():
    with pytest.raises(ValueError, match="successes"):
        evaluation.wilson(5, 4)
    with pytest.raises(ValueError, match="at least two questions"):
        evaluation.clustered_interval([[1.0], [0.0]])
    with pytest.raises(ValueError, match="not finite"):
        evaluation.clustered_interval([0.1, float("nan")])
    with pytest.raises(ValueError, match=r"values in \[0, 1\]"):
        evaluation.clustered_interval([0.1, 1.2])
    with pytest.raises(ValueError, match="finite"):
        evaluation.mean_interval([])
    with pytest.raises(ValueError, match="at least one predicted token"):
        evaluation.perplexity([1.0, 2.0], [3, 0])
    with pytest.raises(ValueError, match="confidence"):
        evaluation.wilson(1, 2, confidence=95)
    with pytest.raises(ValueError, match="same questions"):
        evaluation.paired_difference(np.ones((3, 5)), np.ones((2, 5)))
    with pytest.raises(ValueError, match="right/wrong"):
        evaluation.mcnemar([0.5, 1], [1, 1])
    with pytest.raises(ValueError, match="n >= 1"):
        evaluation.ngram_entropy([[1]], 0)
    with pytest.raises(ValueError, match="base"):
        evaluation.ngram_entropy([[1]], 1, base=1)

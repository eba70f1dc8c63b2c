"""Locale pairs: right French for hand-checked content, splits by content, tokeniser, opus_books through rows."""

import itertools
import re

import numpy as np
import pytest

from smlib.data import load_task, tasks, translation
from smlib.data.translation import SPLITS, split_of, stream

SMALL = {"n_train": 200, "n_val": 60, "n_test": 80}
TASK = load_task("translation", **SMALL)


def first(n, *args, **kwargs):
    return list(itertools.islice(stream(*args, **kwargs), n))


def contents(examples):
    return {content for e in examples for content in e.meta["key"].split(" & ")}


@pytest.mark.parametrize(
    ("english", "french"),
    [
        ("seventy-one", "soixante et onze"),
        ("Friday, March 3, 2017", "vendredi 3 mars 2017"),
        ("12.5 kilometers", "12,5 kilomètres"),
        ("in 12 days", "dans 12 jours"),
        ("1,234.50 euros", "1 234,50 euros"),
        ("1.2 million", "1,2 million"),
    ],
)
def test_the_packages_say_what_a_speaker_would(english, french):
    packages = translation._packages()
    import datetime

    say = {
        "seventy-one": lambda lo: packages["num2words"].num2words(71, lang=lo),
        "Friday, March 3, 2017": lambda lo: packages["babel.dates"].format_date(
            datetime.date(2017, 3, 3), "full", locale=lo
        ),
        "12.5 kilometers": lambda lo: packages["babel.units"].format_unit(12.5, "length-kilometer", locale=lo),
        "in 12 days": lambda lo: packages["babel.dates"].format_timedelta(
            datetime.timedelta(days=12), granularity="day", threshold=1e9, add_direction=True, locale=lo
        ),
        "1,234.50 euros": lambda lo: packages["babel.numbers"].format_currency(
            1234.5, "EUR", locale=lo, format_type="name"
        ),
        "1.2 million": lambda lo: packages["babel.numbers"].format_compact_decimal(
            1.2e6, format_type="long", locale=lo, fraction_digits=1
        ),
    }[english]
    assert translation._plain(say("en")) == english
    assert translation._plain(say("fr")) == french


def parts(content):
    """The numbers, dates and times of a content, read from its key."""
    kind, said = content.split(":", 1)
    if kind in ("date", "dates", "time", "times"):
        return {f"{kind.rstrip('s')}:{end}" for end in said.split("/")}
    number = abs(float(said.split(" ")[0]))
    if kind == "large":  # 1.2 million is a 1.2
        return {number, number / (10**9 if number >= 10**9 else 10**6)}
    return {number / 10 if kind == "percent" else number}


def test_no_number_date_or_time_is_shared_between_splits():
    pairs = {split: first(600, split, "all", 0) for split in SPLITS}
    seen = {split: {p for c in contents(examples) for p in parts(c)} for split, examples in pairs.items()}
    for a, b in itertools.combinations(SPLITS, 2):
        assert not seen[a] & seen[b]
        assert not {e.prompt for e in pairs[a]} & {e.prompt for e in pairs[b]}
    for split in SPLITS:
        assert all(split_of(p) == split for p in seen[split] if isinstance(p, str))
        kinds = [content.split(":")[0] for e in pairs[split] for content in e.meta["key"].split(" & ")]
        assert set(kinds) == {
            "cardinal", "ordinal", "decimal", "date", "time", "dates", "times", "duration", "unit", "money", "percent",
            "large",
        }  # fmt: skip
        assert 0.05 < kinds.count("times") / len(kinds) < 0.11  # one in thirteen, however rarely both ends fit


def test_streams_are_deterministic_resumable_and_clean():
    whole = first(100, "test", "all", 3)
    assert whole == first(100, "test", "all", 3)
    assert first(20, "test", "all", 3, start=70) == whole[70:90]
    assert first(5, "test", "all", 4) != whole[:5]
    banned = frozenset(e.meta["key"] for e in whole[:30])
    assert not banned & {e.meta["key"] for e in first(100, "test", "all", 3, banned)}
    for example in whole:
        assert not re.search(r"[\xa0\u202f\u2009]|\s\s|Solution", example.meta["english"] + example.answer)
        assert example.prompt == f"{example.meta['english']} Solution: "
    assert {len(e.meta["key"].split(" & ")) for e in first(60, "train", "hard")} == {3}
    assert {len(e.meta["key"].split(" & ")) for e in first(60, "train", "easy")} == {1}


def test_task_trains_its_tokenizer_on_training_pairs_only():
    assert (len(TASK.train), len(TASK.val), len(TASK.test)) == (200, 60, 80)
    assert len(TASK.keys()) == 340
    assert load_task("translation", **SMALL).train == TASK.train
    assert TASK.space.vocab_size == 1024
    for example in (*TASK.train, *TASK.test):
        ids = [*TASK.prompt_ids(example), *TASK.answer_ids(example)]
        assert TASK.tokenizer.decode(ids) == example.prompt + example.answer
        assert len(TASK.tokenizer.encode(example.answer)) < 64
    assert [TASK.tokenizer.token(i) for i in TASK.tokenizer.encode("1907")] == list("1907")


def test_noise_is_random_tokens_only():
    assert TASK.noise("random", TASK.train[0]).tokens.tolist() == list(range(3, 1024))
    with pytest.raises(ValueError, match="translation has no ground-truth noise"):
        TASK.noise("ground_truth", TASK.train[0])


def test_opus_books_goes_through_datasets_rows(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setitem(tasks._BPE_SIZE, "opus_books", 600)  # 3,000 invented pairs do not fill 8,192 tokens
    rng = np.random.default_rng(0)
    letters = list("abcdefghijklmnopqrstuvwxyz")
    words = ["".join(rng.choice(letters, rng.integers(2, 9))) for _ in range(4000)]
    pairs = [
        {"en": f"The {a} reads  {b} {c} {d}.", "fr": f"Le {a} lit {b} {c} {d}."}
        for a, b, c, d in rng.choice(words, (3000, 4)).tolist()
    ]
    pairs += [{"en": "long " * 80, "fr": "court"}, {"en": " ", "fr": "vide"}]
    rows = datasets.Dataset.from_dict({"id": list(range(len(pairs))), "translation": pairs})
    task = load_task("opus_books", n_train=120, n_val=20, n_test=30, rows=rows)
    assert (len(task.train), len(task.val), len(task.test), len(task.keys())) == (120, 20, 30, 170)
    assert all("  " not in e.prompt and "long long" not in e.prompt for e in (*task.train, *task.val, *task.test))
    with pytest.raises(ValueError, match=r"only .* distinct questions to be had, 5,000 asked for"):
        load_task("opus_books", n_train=5000, n_val=1, n_test=1, rows=rows)
    with pytest.raises(ValueError, match="no difficulty levels"):
        load_task("opus_books", difficulty="easy", rows=rows)


def test_bad_input_is_named(monkeypatch):
    with pytest.raises(ValueError, match="unknown split 'dev': known are train, val, test"):
        next(stream("dev"))
    with pytest.raises(ValueError, match="unknown difficulty"):
        next(stream("train", "tiny"))
    with pytest.raises(ValueError, match="start"):
        next(stream("train", start=-2))
    translation._packages.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "num2words", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install -e '.\[translation\]'"):
        translation._packages()

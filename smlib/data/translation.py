"""English-French pairs from locale data: `num2words` spells numbers, Babel's CLDR formats everything else
(App. G.2).

A pair says one to three things: numbers and ordinals in words, dates, times, intervals of both, durations,
quantities with units, amounts of money, percentages, large numbers. It is made of numbers, dates and times, and a hash
of each, such as `date:2017-03-03`, alone decides whether it belongs to the training, validation or test pairs; an
interval ends in the split in which it begins. So no number, date or time that a test pair says is said in a training
pair: what is spelt there does not count kilometres here.

opus_books, the corpus of the paper, comes through `datasets` where asked for.
"""

import datetime
import hashlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import count
from typing import Any, NamedTuple

from smlib.data.mathematics import Example

SPLITS = ("train", "val", "test")
PARTS: Mapping[str, tuple[int, int]] = {"easy": (1, 1), "medium": (2, 2), "hard": (3, 3), "all": (1, 3)}
CHUNK = 64  # pairs per seed
_LOCALES = ("en", "fr")
_HELD_OUT = 10  # per cent of contents for validation, and for test

_UNITS = (
    "area-square-kilometer", "area-hectare", "area-square-meter", "area-acre", "digital-gigabyte", "digital-megabit",
    "electric-ampere", "electric-volt", "energy-kilocalorie", "energy-kilojoule", "energy-kilowatt-hour",
    "frequency-megahertz", "graphics-megapixel", "length-kilometer", "length-meter", "length-centimeter", "length-mile",
    "length-foot", "length-inch", "length-light-year", "length-nautical-mile", "light-lux", "mass-tonne",
    "mass-kilogram", "mass-gram", "mass-pound", "mass-ounce", "mass-carat", "power-kilowatt", "power-horsepower",
    "pressure-bar", "pressure-hectopascal", "speed-kilometer-per-hour", "speed-meter-per-second", "speed-knot",
    "temperature-celsius", "temperature-fahrenheit", "volume-cubic-meter", "volume-liter", "volume-gallon",
    "volume-cup", "volume-tablespoon", "volume-barrel",
)  # fmt: skip
_CURRENCIES = (
    "EUR", "USD", "GBP", "JPY", "CHF", "CAD", "AUD", "SEK", "NOK", "DKK", "PLN", "CZK", "HUF", "RUB", "TRY",
    "INR", "CNY", "BRL", "MXN", "ZAR", "EGP", "MAD", "ILS", "THB",
)  # fmt: skip


class Content(NamedTuple):
    """One thing that a pair says: its key, the numbers, dates and times in it, and its text in a locale."""

    key: str
    parts: tuple[str, ...]
    text: Callable[[str], str]


def stream(
    split: str = "train",
    difficulty: str = "all",
    seed: int = 0,
    exclude: frozenset[str] = frozenset(),
    *,
    start: int = 0,
) -> Iterator[Example]:
    """Endless pairs of one split, in an order fixed by the arguments; prompts as in the arithmetic tasks.

    Args:
        split: `train`, `val` or `test`; they share no number, date or time.
        difficulty: how many things a pair says: `easy` one, `medium` two, `hard` three, `all` one to three.
        seed: selects the stream.
        exclude: keys that must not occur.
        start: index of the first pair, at the cost of at most one chunk.

    Raises:
        ValueError: unknown split or difficulty, negative start.
        ModuleNotFoundError: num2words or Babel is missing.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: known are {', '.join(SPLITS)}")
    if difficulty not in PARTS:
        raise ValueError(f"unknown difficulty {difficulty!r}: known are {', '.join(PARTS)}")
    if start < 0:
        raise ValueError(f"start must be at least 0, got {start}")
    first, skip = divmod(start, CHUNK)
    for chunk in count(first):
        rng = random.Random(f"translation/{split}/{difficulty}/{seed}/{chunk}")
        pairs: list[Example] = []
        while len(pairs) < CHUNK:
            pair = _pair(rng, split, *PARTS[difficulty])
            if pair.meta["key"] not in exclude:
                pairs.append(pair)
        yield from pairs[skip:]
        skip = 0


def pair_example(english: str, french: str, key: str) -> Example:
    """`{english} Solution: ` as prompt, the French as answer, as the arithmetic tasks are laid out (App. G.2)."""
    return Example(f"{english} Solution: ", french, {"key": key, "english": english})


def opus_books(rows: Iterable[Mapping[str, Any]] | None = None) -> Iterator[Example]:
    """Pairs of the opus_books en-fr corpus, in its order.

    Args:
        rows: rows with `translation: {en, fr}` instead of the download.

    Raises:
        ModuleNotFoundError: `datasets` is missing.
    """
    if rows is None:
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("opus_books comes through datasets: pip install -e '.[translation]'") from error
        rows = datasets.load_dataset("Helsinki-NLP/opus_books", "en-fr", split="train", streaming=True)
    for row in rows:
        english, french = (" ".join(row["translation"][language].split()) for language in _LOCALES)
        if english and french:
            yield pair_example(english, french, key=english.lower())


@lru_cache(maxsize=2**16)
def split_of(key: str) -> str:
    """Which split a number, date, time or other key belongs to: decided by its hash, whatever the seed."""
    bucket = digest(key) % 100
    return "test" if bucket < _HELD_OUT else "val" if bucket < 2 * _HELD_OUT else "train"


def digest(key: str) -> int:
    """A fixed hash of a text, 0 <= hash < 2**32."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big")


def _pair(rng: random.Random, split: str, least: int, most: int) -> Example:
    contents = [_content(rng, split) for _ in range(rng.randint(least, most))]
    style = rng.choice(("standard", "or"))
    format_list = _packages()["babel.lists"].format_list
    english, french = (
        _plain(format_list([c.text(locale) for c in contents], style=style, locale=locale)) for locale in _LOCALES
    )
    return pair_example(english, french, key=" & ".join(sorted(c.key for c in contents)))


def _content(rng: random.Random, split: str) -> Content:
    kind = rng.choice(_KINDS)  # before anything is refused, so that every split has as many intervals
    while True:
        content = kind(rng)
        if all(split_of(part) == split for part in content.parts):
            return content


def _number(value: float) -> str:
    return f"number:{abs(value):.12g}"


def _plain(text: str) -> str:
    # CLDR writes no-break and thin spaces; as in running text they are spaces here.
    return " ".join(text.replace("\u202f", " ").replace("\xa0", " ").replace("\u2009", " ").split())


def _magnitude(rng: random.Random, most: int) -> int:
    return int(math.exp(rng.uniform(0, math.log(most))))


def _cardinal(rng: random.Random) -> Content:
    n = _magnitude(rng, 10**6)
    return Content(f"cardinal:{n}", (_number(n),), lambda locale: _words(n, locale))


def _ordinal(rng: random.Random) -> Content:
    n = _magnitude(rng, 10**4)
    return Content(f"ordinal:{n}", (_number(n),), lambda locale: _words(n, locale, to="ordinal"))


def _decimal(rng: random.Random) -> Content:
    n, digits = _magnitude(rng, 10**3), rng.randint(1, 99)
    sign = rng.choice((1, 1, -1))
    value = sign * round(n + digits / 100, 2)
    return Content(f"decimal:{value}", (_number(value),), lambda locale: _words(value, locale))


def _day(rng: random.Random) -> datetime.date:
    return datetime.date(1900, 1, 1) + datetime.timedelta(days=rng.randrange(150 * 365))


def _date(rng: random.Random) -> Content:
    day, form = _day(rng), rng.choice(("medium", "long", "full"))
    key = f"date:{day}"
    return Content(key, (key,), lambda locale: str(_packages()["babel.dates"].format_date(day, form, locale=locale)))


def _time(rng: random.Random) -> Content:
    minute = rng.randrange(24 * 60)
    clock = datetime.time(*divmod(minute, 60))
    key = f"time:{clock:%H:%M}"
    return Content(
        key, (key,), lambda locale: str(_packages()["babel.dates"].format_time(clock, "short", locale=locale))
    )


def _date_interval(rng: random.Random) -> Content:
    first = _day(rng)
    last = first + datetime.timedelta(days=_magnitude(rng, 400))
    return Content(
        f"dates:{first}/{last}",
        (f"date:{first}", f"date:{last}"),
        lambda locale: str(_packages()["babel.dates"].format_interval(first, last, "yMMMd", locale=locale)),
    )


def _time_interval(rng: random.Random) -> Content:
    first = datetime.datetime(2000, 1, 1, rng.randrange(23), rng.randrange(60))
    last = first.replace(hour=rng.randint(first.hour + 1, 23), minute=rng.randrange(60))
    skeleton = {"en": "hm", "fr": "Hm"}
    return Content(
        f"times:{first:%H:%M}/{last:%H:%M}",
        (f"time:{first:%H:%M}", f"time:{last:%H:%M}"),
        lambda locale: str(_packages()["babel.dates"].format_interval(first, last, skeleton[locale], locale=locale)),
    )


def _duration(rng: random.Random) -> Content:
    unit, seconds = rng.choice(
        (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400), ("week", 604800), ("year", 31536000))
    )
    n, direction = rng.randint(1, 120), rng.choice((0, 1, -1))
    delta = datetime.timedelta(seconds=seconds * n * (direction or 1))
    return Content(
        f"duration:{n} {unit} {direction}",
        (_number(n),),
        lambda locale: str(
            _packages()["babel.dates"].format_timedelta(
                delta, granularity=unit, threshold=1e9, add_direction=direction != 0, locale=locale
            )
        ),
    )


def _quantity(rng: random.Random) -> Content:
    unit = rng.choice(_UNITS)
    n: float = _magnitude(rng, 2000)
    if rng.random() < 0.3:
        n = round(n + rng.randint(1, 9) / 10, 1)
    return Content(
        f"unit:{n} {unit}",
        (_number(n),),
        lambda locale: str(_packages()["babel.units"].format_unit(n, unit, locale=locale)),
    )


def _money(rng: random.Random) -> Content:
    currency, amount = rng.choice(_CURRENCIES), float(_magnitude(rng, 10**5))
    if rng.random() < 0.5:
        amount = round(amount + rng.randint(1, 99) / 100, 2)
    return Content(
        f"money:{amount} {currency}",
        (_number(amount),),
        lambda locale: str(
            _packages()["babel.numbers"].format_currency(amount, currency, locale=locale, format_type="name")
        ),
    )


def _percent(rng: random.Random) -> Content:
    per_mille = rng.randrange(1, 2000)
    return Content(
        f"percent:{per_mille}",
        (_number(per_mille / 10),),
        lambda locale: str(
            _packages()["babel.numbers"].format_percent(
                per_mille / 1000, "#,##0.#%" if locale == "en" else "#,##0.# %", locale=locale
            )
        ),
    )


def _large(rng: random.Random) -> Content:
    tenths, power = rng.randrange(10, 10_000), rng.choice((6, 9))
    value = tenths * 10 ** (power - 1)
    return Content(
        f"large:{value}",
        (_number(tenths / 10), _number(value)),
        lambda locale: str(
            _packages()["babel.numbers"].format_compact_decimal(
                value, format_type="long", locale=locale, fraction_digits=1
            )
        ),
    )


_KINDS: tuple[Callable[[random.Random], Content], ...] = (
    _cardinal, _ordinal, _decimal, _date, _time, _date_interval, _time_interval, _duration, _quantity,
    _quantity, _money, _percent, _large,
)  # fmt: skip


def _words(value: float, locale: str, to: str = "cardinal") -> str:
    return str(_packages()["num2words"].num2words(value, lang=locale, to=to))


@lru_cache(maxsize=1)
def _packages() -> Mapping[str, Any]:
    from importlib import import_module

    try:
        return {
            name: import_module(name)
            for name in ("num2words", "babel.dates", "babel.lists", "babel.numbers", "babel.units")
        }
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the translation pairs come from num2words and Babel ({error}): pip install -e '.[translation]'"
        ) from error

"""English and French of other kinds than the translation task's: what a base model reads that is to learn it later.

The paper's Llama has read French and English and never the pairs that it is fine-tuned on. Names of territories,
languages, scripts and months, one to three of them in a list, put a small model in that place: it sees how the two
languages spell, join words and take over names, and no number in words, date, time, quantity or amount, which are all
that the task asks for (`smlib.data.translation`). Names, like formats there, are Unicode's, by Babel.
"""

import random
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import count
from types import MappingProxyType

from smlib.data.mathematics import Example
from smlib.data.translation import CHUNK, _packages, _plain, pair_example

SHARES: Mapping[str, float] = MappingProxyType({"territory": 0.35, "language": 0.4, "script": 0.15, "month": 0.1})
"""Kind -> share of the names."""
LONGEST = 60
"""Characters of either side; longer pairs are left out."""


def stream(seed: int = 0, exclude: Collection[str] = frozenset()) -> Iterator[Example]:
    """Endless pairs of names, with repetition, in an order fixed by the arguments; prompts as in the task.

    Args:
        exclude: keys that must not occur.

    Raises:
        ModuleNotFoundError: Babel is missing.
    """
    kinds, shares = list(SHARES), list(SHARES.values())
    for chunk in count():
        rng = random.Random(f"translation_names/{seed}/{chunk}")
        pairs: list[Example] = []
        while len(pairs) < CHUNK:
            chosen = [(kind, *rng.choice(names(kind))) for kind in rng.choices(kinds, shares, k=rng.randint(1, 3))]
            key = " & ".join(sorted(f"{kind}:{code}" for kind, code, _, _ in chosen))
            style = rng.choice(("standard", "or"))
            english, french = (
                _plain(_packages()["babel.lists"].format_list([name[place] for name in chosen], style, locale))
                for place, locale in ((2, "en"), (3, "fr"))
            )
            if key not in exclude and max(len(english), len(french)) <= LONGEST:
                pairs.append(pair_example(english, french, key))
        yield from pairs


@lru_cache(maxsize=8)
def names(kind: str) -> tuple[tuple[str, str, str], ...]:
    """Code, English and French of every name of a kind that has both and holds no digit; a key of `SHARES`.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in SHARES:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(SHARES)}")
    _packages()
    from babel import Locale

    english, french = Locale("en"), Locale("fr")
    if kind == "month":
        both = [
            ({str(n): str(name) for n, name in lo.months["stand-alone"]["wide"].items()}) for lo in (english, french)
        ]
    else:
        attribute = {"territory": "territories", "language": "languages", "script": "scripts"}[kind]
        both = [{str(c): str(name) for c, name in getattr(lo, attribute).items()} for lo in (english, french)]
    ours, theirs = both
    made = [(code, _plain(ours[code]), _plain(theirs[code])) for code in sorted(ours.keys() & theirs.keys())]
    return tuple(name for name in made if not any(c.isdigit() for c in name[1] + name[2]))


def check_apart(pairs: Iterable[Example], keys: Collection[str]) -> None:
    """That no pair of a base model is among the task's.

    Args:
        pairs: of `stream`. keys: of the task's pairs.

    Raises:
        ValueError: one is; it is named, with how many there are.
    """
    known = frozenset(keys)
    shared = [pair for pair in pairs if pair.meta["key"] in known]
    if shared:
        raise ValueError(
            f"{len(shared):,} pairs of the base model are among those of the task, {shared[0].prompt.strip()!r} for "
            "one: draw them with exclude=task.keys(), and train the base model again"
        )

"""A protocol is what an object answers to, whatever Python's release makes of `__getattr__`."""

from typing import Protocol, runtime_checkable

import pytest

from smlib.kinds import lacking


@runtime_checkable
class Counts(Protocol):
    branches: bool

    def __len__(self) -> int: ...

    def demonstration(self) -> str: ...

    @property
    def name(self) -> str: ...


class Whole:
    branches = False
    name = "mine"

    def __len__(self) -> int:
        return 0

    def demonstration(self) -> str:
        return "a"


class Wrapper:
    """Hands on to what it holds; special methods have to be its own, as Python looks them up on the class."""

    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)


@pytest.mark.parametrize("value", [Whole(), Wrapper(Whole())])
def test_an_object_that_has_or_hands_on_everything_lacks_nothing(value: object) -> None:
    assert lacking(value, Counts) == []


def test_what_is_lacking_is_named() -> None:
    assert lacking(object(), Counts) == ["branches", "__len__", "demonstration", "name"]
    assert lacking(Wrapper(object()), Counts) == ["branches", "demonstration", "name"]


def test_the_protocols_of_the_library_are_read_in_full() -> None:
    from smlib.training.dataset import Dataset

    asked = ["branches", "__len__", "demonstration", "rollout_prompt", "reference", "noise_law"]
    assert lacking(object(), Dataset) == asked

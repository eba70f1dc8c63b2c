"""What the tests check beside themselves: the annotations of smlib, in every call."""

from dataclasses import dataclass

import jaxtyping
import numpy as np
import pytest
import torch
from jaxtyping import Float, Int32, TypeCheckError
from torch import Tensor

from smlib.edits.actions import ActionSpace, Trajectory, as_ids
from tests.support.typechecker import beartype, mentions, selective, with_axes


def check(function):
    return selective(function, typechecker=beartype)


def summed(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    return (x + y).sum()


def half(x: float, name: str = "x") -> float:
    return x / 2 if name == "x" else "no number"


@dataclass
class Plain:
    count: int


@dataclass
class Held:
    rows: Float[Tensor, "n d"]
    columns: Float[Tensor, "d m"]


def test_axes_have_one_size_in_a_call():
    checked = check(summed)
    checked(torch.ones(3), torch.ones(3))
    with pytest.raises(TypeCheckError):
        checked(torch.ones(3), torch.ones(4))
    with pytest.raises(TypeCheckError):
        check(Held)(torch.ones(2, 3), torch.ones(4, 2))


def test_without_axes_arguments_and_results_are_checked_too():
    checked = check(half)
    assert checked(3) == 1.5  # an int where a float is declared
    with pytest.raises(TypeCheckError):
        checked("3")
    with pytest.raises(TypeCheckError):
        checked(3.0, name="y")
    with pytest.raises(TypeCheckError):
        check(Plain)("three")
    assert with_axes(half, typechecker=beartype)(3) == 1.5


def test_it_can_be_switched_off():
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        assert check(half)(3, name="y") == "no number"
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        (int, False),
        (dict[str, tuple[int, ...]], False),
        (Int32[np.ndarray, " n"], True),
        (list[Int32[np.ndarray, " n"]] | None, True),
        ("Policy", True),  # not there yet, so nobody knows
    ],
)
def test_where_arrays_are_annotated(annotation, expected):
    assert mentions(annotation) is expected


def test_smlib_itself_is_checked():
    with pytest.raises(TypeCheckError):
        ActionSpace("ten", eos=0)
    with pytest.raises(TypeCheckError):
        Trajectory.make([0], 3, space=ActionSpace(10, eos=0))
    with pytest.raises(TypeCheckError):
        as_ids(3, [1])

"""The checker that conftest hooks into smlib: beartype, with an int accepted where a float is declared (PEP 484).

jaxtyping's hook gives every function a context for the names of its axes, which takes a binding of the signature in
each call, and that is slow. A function in whose annotations no array occurs has no
axes, so it gets beartype alone, with the same error at a wrong argument.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any, get_args

import jaxtyping
from beartype import BeartypeConf
from beartype import beartype as configurable
from jaxtyping import AbstractArray, TypeCheckError

beartype = configurable(conf=BeartypeConf(is_pep484_tower=True, violation_type=TypeCheckError))

with_axes = jaxtyping.jaxtyped


def install(package: str) -> Any:
    """Checks every annotated function of a package from its import on; the hook that jaxtyping returns."""
    jaxtyping.jaxtyped = selective
    return jaxtyping.install_import_hook(package, f"{__name__}.beartype")


def selective(*function: Any, typechecker: Any) -> Any:
    """`jaxtyping.jaxtyped` where an array is annotated, and the type checker itself where there is none."""
    if not function:
        return functools.partial(selective, typechecker=typechecker)
    [wrapped] = function
    if inspect.isclass(wrapped):
        plain = dataclasses.is_dataclass(wrapped) and not has_axes(wrapped.__init__)
        if plain and wrapped.__init__.__qualname__.startswith(wrapped.__qualname__):  # its own, not a parent's
            wrapped.__init__ = switched(wrapped.__init__, typechecker)
            return wrapped
    elif inspect.isfunction(wrapped) and not has_axes(wrapped):
        return switched(wrapped, typechecker)
    return with_axes(wrapped, typechecker=typechecker)


def switched(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    """The function with its arguments and its result checked, unless jaxtyping is switched off."""
    if not getattr(function, "__annotations__", None):
        return function
    checked = typechecker(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        return (function if jaxtyping.config.jaxtyping_disable else checked)(*args, **kwargs)

    return call


def has_axes(function: Callable[..., Any]) -> bool:
    """Whether an array of jaxtyping occurs in the annotations; also where an annotation is a string that cannot be read
    yet, to be safe."""
    return any(map(mentions, inspect.get_annotations(function).values()))


def mentions(annotation: Any) -> bool:
    """Whether an array occurs in it."""
    if isinstance(annotation, str):
        return True
    if inspect.isclass(annotation) and issubclass(annotation, AbstractArray):
        return True
    return any(map(mentions, (part for part in get_args(annotation) if not isinstance(part, list))))

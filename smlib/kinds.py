"""Whether the fields of a configuration are of the kinds that they declare.

A count such as `1e4`, a number in quotes or None where there is no None would be found late, with Python's own words,
or never.
"""

import dataclasses
import numbers
from typing import Any, get_args

WIDER: dict[Any, type] = {int: numbers.Integral, float: numbers.Real}
"""What serves for a number: numpy's own, and an integer where a float is declared."""


def check_kinds(config: Any) -> None:
    """Looks at every field of a dataclass, each declared as a class or a union of some.

    Raises:
        TypeError: a field of another kind, with its name, its value and what was expected.
    """
    for field in dataclasses.fields(config):
        value, kinds = getattr(config, field.name), get_args(field.type) or (field.type,)
        if not isinstance(value, tuple(WIDER.get(kind, kind) for kind in kinds)):
            expected = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise TypeError(f"{field.name}={value!r}: expected {expected}")


def lacking(value: object, protocol: type) -> list[str]:
    """What a protocol asks for and `value` has not, in the protocol's order; an attribute may come by `__getattr__`.

    `isinstance` says something else from Python 3.12 on: it looks attributes up without calling `__getattr__`, so that
    an object that hands on to another, as a wrapper of a data set does, is no instance any more.
    """
    asked = [*getattr(protocol, "__annotations__", {}), *vars(protocol)]
    names = dict.fromkeys(name for name in asked if not name.startswith("_") or name in ("__len__", "__call__"))
    return [name for name in names if not hasattr(value, name)]

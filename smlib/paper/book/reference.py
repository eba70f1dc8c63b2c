"""The reference: every public name of the library with its signature and its docstring, a page a folder.

Docstrings are shown as they are written, in a block of their own: they are plain text with equations, shapes and
examples in columns, which no markup would keep.
"""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType

FOLDERS = (
    "edits",
    "objectives",
    "policies",
    "generation",
    "training",
    "theory",
    "data",
    "evaluation",
    "bench",
    "widgets",
)
"""The library, in the order in which a batch goes through it."""


def page(folder: str) -> str:
    """The Markdown of a folder's page."""
    package = importlib.import_module(f"smlib.{folder}")
    parts = [f"# smlib.{folder}\n\n{_text(package)}"]
    for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        name = f"{package.__name__}.{found.name}"
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:  # a module of an extra that the book does not need
            parts.append(f"## {name}\n\nIts reference is not in this build, which lacks an extra: {error}.")
            continue
        parts.append(f"## {name}\n\n{_text(module)}")
        parts += [_entry(name, thing) for name, thing in _public(module)]
    return "\n\n".join(parts) + "\n"


def _public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Functions and classes that the module defines and does not hide, in the order of its source."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(thing) or inspect.isclass(thing):
            yield name, thing


def _entry(name: str, thing: object) -> str:
    kind = "class" if inspect.isclass(thing) else "def"
    try:
        # A default such as `<class 'str'>` is no Python.
        signature = re.sub(r"<[^<>]*>", "...", str(inspect.signature(thing)))  # type: ignore[arg-type]
    except (ValueError, TypeError):
        signature = "(...)"
    return f"### {name}\n\n```python\n{kind} {name}{signature}\n```\n\n{_text(thing)}"


def _text(thing: object) -> str:
    written = inspect.getdoc(thing)
    return f"`````text\n{written}\n`````" if written else ""

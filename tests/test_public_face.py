"""`import smlib`: names that stay, each with an example that runs, and nothing heavy until one is used."""

import ast
import doctest
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import smlib


def examples_of(name: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(inspect.getdoc(getattr(smlib, name)) or "")


@pytest.mark.parametrize("name", smlib.__all__)
def test_every_public_name_has_an_example_that_holds(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reader runs it: in the module of its own, with `smlib` imported, in a folder where it may write."""
    monkeypatch.chdir(tmp_path)
    found = getattr(smlib, name)
    examples = examples_of(name)
    assert examples, f"the docstring of smlib.{name} shows no example"
    scope: dict[str, Any] = {**vars(sys.modules[found.__module__]), "smlib": smlib}
    case = doctest.DocTest(examples, scope, name, None, None, None)
    told: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(case, out=told.append).failed
    assert not failed, "".join(told)


@pytest.mark.parametrize("module", ["smlib.policies.shipped"])
def test_other_examples_hold(module: str) -> None:
    __import__(module)
    assert doctest.testmod(sys.modules[module], extraglobs={"smlib": smlib}).failed == 0


def test_the_names_are_those_that_a_type_checker_sees(repository: Path) -> None:
    tree = ast.parse((repository / "smlib" / "__init__.py").read_text())
    (guarded,) = (node for node in tree.body if isinstance(node, ast.If))
    checked = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    offered = {
        name: (module, smlib._OWN_NAMES.get(name, name)) for module, names in smlib._HOMES.items() for name in names
    }
    assert checked == offered
    assert sorted(offered) == sorted(smlib.__all__)
    assert len(smlib.__all__) == len(set(smlib.__all__)) <= 30


def test_what_is_not_offered_is_an_error_that_lists_what_is() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'smaple'.*sample"):
        smlib.smaple  # noqa: B018
    assert set(smlib.__all__) <= set(dir(smlib))


def test_nothing_heavy_is_imported_before_a_name_is_used() -> None:
    code = (
        "import sys, smlib; smlib.shipped_policies(); "
        "print([name for name in ('torch', 'transformers', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_stability_page_names_every_public_name(repository: Path) -> None:
    page = (repository / "docs" / "stability.md").read_text()
    assert not [name for name in smlib.__all__ if f"`{name}`" not in page]

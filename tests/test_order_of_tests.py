"""Under workers the longest files of tests come first, each of them is there, and no test is lost."""

import types
from pathlib import Path

from tests import conftest


class Item:
    """What the hook asks of a test."""

    keywords: tuple[str, ...] = ()

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name


def test_the_longest_files_come_first_and_the_others_keep_their_order(repository: Path) -> None:
    tests = repository / "tests"
    assert [name for name in conftest.LONGEST_FIRST if not (tests / name).is_file()] == []
    paths = sorted(tests.rglob("test_*.py"))
    items = [Item(path, name) for path in paths for name in ("one", "two")]
    alone, shared = list(items), list(items)
    conftest.pytest_collection_modifyitems(types.SimpleNamespace(), alone)
    assert alone == items
    conftest.pytest_collection_modifyitems(types.SimpleNamespace(workerinput={}), shared)
    first = [tests / name for name in conftest.LONGEST_FIRST]
    rest = [path for path in paths if path not in first]
    assert [item.path for item in shared] == [path for path in [*first, *rest] for _ in range(2)]
    assert [item.name for item in shared] == ["one", "two"] * len(paths)

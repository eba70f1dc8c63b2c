"""Canonical JSON and atomic writes."""

import contextlib
import dataclasses
import enum
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from smlib.files import (
    ADDED_LATER,
    ResultError,
    added_later,
    append_line,
    canonical_json,
    differences,
    exchanged,
    plain,
    project_root,
    read_json,
    resolve,
    whole_folder,
    write_atomically,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_canonical_json_reads_back_the_same(value: object) -> None:
    assert json.loads(canonical_json(value)) == value


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": {"y": 1, "x": 2}}) == canonical_json({"a": {"x": 2, "y": 1}, "b": 1})


@given(JSON, JSON)
def test_nothing_differs_from_itself_and_what_differs_is_what_one_sees(before: object, now: object) -> None:
    assert differences(before, before) == {}
    assert differences({"a": before, "b": 1}, {"a": before, "b": 2}) == {"b": (1, 2)}
    assert all(one != other for one, other in differences(before, now).values())
    both = {"same": 0, "gone": {"x": 1}, "kind": {"y": 1}}, {"same": 0, "new": [1], "kind": 3}
    assert differences(*both) == {"gone.x": (1, None), "kind": (None, 3), "kind.y": (1, None), "new": (None, [1])}


def test_numpy_dataclasses_and_paths_become_plain() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        alpha: float
        widths: tuple[int, ...]
        where: Path

    config = {"config": Config(0.1, (1, 2), Path("a/b")), "mean": np.float64(0.5), "counts": np.arange(3)}
    assert json.loads(canonical_json(config)) == {
        "config": {"alpha": 0.1, "widths": [1, 2], "where": "a/b"},
        "mean": 0.5,
        "counts": [0, 1, 2],
    }


def test_a_field_added_later_leaves_finished_configs_as_they_were() -> None:
    @dataclasses.dataclass
    class Before:
        steps: int = 3

    @dataclasses.dataclass
    class After(Before):
        rate: float = dataclasses.field(default=1.0, metadata=ADDED_LATER)

    assert canonical_json(After()) == canonical_json(Before())
    assert plain(After(rate=2.0)) == {"steps": 3, "rate": 2.0}

    @dataclasses.dataclass
    class Better(Before):
        rate: float = dataclasses.field(default=2.0, metadata=added_later(before=1.0))

    assert canonical_json(Better(rate=1.0)) == canonical_json(Before())
    assert plain(Better()) == {"steps": 3, "rate": 2.0}


def test_a_member_of_an_enumeration_is_its_value() -> None:
    class Choice(enum.Enum):
        NONE = None
        MANY = (1, 2)

    assert plain({"choice": Choice.MANY, "other": Choice.NONE}) == {"choice": [1, 2], "other": None}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), np.float32("nan"), np.array([1.0, np.inf])])
def test_a_number_that_is_none_is_refused_with_its_place(bad: object) -> None:
    with pytest.raises(ResultError, match=r"result\.loss\[1\]"):
        canonical_json({"loss": [0.0, bad]}, "result")


def test_a_foreign_type_is_refused_with_its_place() -> None:
    with pytest.raises(ResultError, match=r"result\.model is a object"):
        canonical_json({"model": object()}, "result")


def test_write_replaces_whole_files_and_leaves_nothing_beside(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, "old")
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.json"]


def test_a_write_that_fails_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "file", "old")

    def full_disk(handle: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_never_leaves_half_a_file(tmp_path: Path) -> None:
    """SIGKILL a process that rewrites one file without pause; every read sees one of the two whole contents."""
    path = tmp_path / "file.json"
    program = (
        "from smlib.files import write_atomically\n"
        "contents = ['a' * 200_000, 'b' * 300_000]\n"
        "while True:\n"
        f"    for content in contents: write_atomically({str(path)!r}, content)\n"
    )
    for round_ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", program])
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.03 * (round_ + 1))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert path.read_text() in ("a" * 200_000, "b" * 300_000)


def test_appended_lines_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "timings.jsonl"
    for number in range(3):
        append_line(path, {"n": number, "text": "two\nlines"})
    assert [json.loads(line)["n"] for line in path.read_text().splitlines()] == [0, 1, 2]


@pytest.mark.parametrize(("content", "what"), [("{torn", "no valid JSON"), ("[1]", "holds a JSON list")])
def test_a_corrupt_file_says_what_to_do(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "file.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=what) as caught:
        read_json(path)
    assert "Delete it" in str(caught.value)
    assert path.read_text() == content


def test_relative_paths_start_at_the_repository(repository: Path) -> None:
    assert project_root(repository / "notebooks") == repository
    assert resolve("results") == repository / "results"
    assert resolve("/elsewhere") == Path("/elsewhere")


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "mine"

    def made() -> dict[str, list[str]]:
        return {f.name: sorted(g.name for g in f.iterdir()) for f in tmp_path.iterdir()}

    def save(*names: str, fail: bool = False) -> None:
        with whole_folder(target, "marker") as scratch:
            scratch.mkdir()
            for name in names:
                (scratch / name).touch()
            if fail:
                raise RuntimeError("no space left")

    save("marker", "one")
    assert made() == {"mine": ["marker", "one"]}
    with pytest.raises(RuntimeError, match="no space left"):
        save("marker", fail=True)
    assert made() == {"mine": ["marker", "one"]}
    save("marker", "two")
    assert made() == {"mine": ["marker", "two"]}
    (target / "marker").unlink()
    with pytest.raises(FileExistsError, match="choose a new folder"):
        save("marker")
    assert made() == {"mine": ["two"]}


SWAP = """
import os, shutil
from pathlib import Path
from smlib import files
def save(target, moment):
    done = 0
    def or_die(real):
        def step(*arguments, **options):
            nonlocal done
            done += 1
            if done > moment:
                os._exit(9)  # as a kill: no `finally` runs
            return real(*arguments, **options)
        return step
    for module, name in ((os, "replace"), (shutil, "rmtree"), (files, "exchanged")):
        setattr(module, name, or_die(getattr(module, name)))
    if {two_steps}:
        files.exchanged = lambda one, other: False
    with files.whole_folder(target, "marker") as scratch:
        scratch.mkdir()
        (scratch / "marker").write_text("new")
    os._exit(0)
for moment in range({moments}):
    if os.fork() == 0:
        save(Path({folder!r}, str(moment), "mine"), moment)
    os.wait()
"""


@pytest.mark.parametrize("two_steps", [False, True])
def test_a_kill_at_any_moment_leaves_a_whole_folder(two_steps: bool, tmp_path: Path) -> None:
    """`two_steps`: where two folders cannot change places at once, the next that is saved finds the older one."""
    moments = 10
    targets = [tmp_path / str(moment) / "mine" for moment in range(moments)]
    for target in targets:
        with whole_folder(target, "marker") as scratch:
            scratch.mkdir()
            (scratch / "marker").write_text("old")
    code = SWAP.format(folder=str(tmp_path), moments=moments, two_steps=two_steps)
    subprocess.run([sys.executable, "-c", code], check=True)
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    if exchanged(tmp_path / "here", tmp_path / "there") and not two_steps:
        assert all((target / "marker").is_file() for target in targets)
    seen = []
    for target in targets:
        with contextlib.suppress(FileNotFoundError), whole_folder(target, "marker"):
            seen.append((target / "marker").read_text())  # and nothing is made to take its place
        assert (target / "marker").read_text() == seen[-1]
    assert sorted(seen, key=["old", "new"].index) == seen
    assert (seen[0], seen[-1]) == ("old", "new")


def test_a_link_to_a_folder_is_replaced_and_not_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (tmp_path / "away" / "marker").write_text("away")
    (tmp_path / "mine").symlink_to(tmp_path / "away")
    for content in ("one", "two"):
        with whole_folder(tmp_path / "mine", "marker") as scratch:
            scratch.mkdir()
            (scratch / "marker").write_text(content)
        assert (tmp_path / "mine" / "marker").read_text() == content
    assert (tmp_path / "away" / "marker").read_text() == "away"

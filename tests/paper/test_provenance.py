"""Which commit a number came from: of the checkout that holds this very file, or none, with the reason."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smlib.paper import provenance
from smlib.paper.provenance import GitError, changed_since, git


def repository(folder: Path, *names: str) -> str:
    """A project under git with these files; returns its commit."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x = 1\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return git("rev-parse", "HEAD", at=folder)


def revision_of(package: Path, **environment: str) -> str:
    """What an smlib that lies at `package` says of its commit."""
    program = (
        f"import sys; sys.path.insert(0, {str(package.parent)!r})\n"
        "from smlib.paper import provenance\n"
        f"assert provenance.__file__.startswith({str(package)!r}), provenance.__file__\n"
        "print(provenance.checkout()['git_revision'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd="/", env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Another project under git, with smlib installed in an environment that it ignores."""
    (tmp_path / ".gitignore").write_text(".venv/\n")
    installed = tmp_path / ".venv" / "lib" / "smlib"
    source = Path(provenance.__file__).parents[1]
    shutil.copytree(source, installed, ignore=shutil.ignore_patterns("__pycache__"))
    return installed


def test_a_wheel_inside_another_project_does_not_take_its_commit(tmp_path: Path, package: Path) -> None:
    theirs = repository(tmp_path, "their.py")
    said = revision_of(package)
    assert said.startswith("no git checkout, smlib ")
    assert theirs not in said


def test_sources_without_history_are_the_commit_that_is_named(tmp_path: Path, package: Path) -> None:
    named = "0123456789abcdef" * 2 + "01234567"
    assert revision_of(package, SMLIB_REVISION=named) == named
    (tmp_path / ".gitignore").write_text("")
    ours = repository(tmp_path, "their.py")  # git holds the very files, and knows better
    assert revision_of(package, SMLIB_REVISION=named) == ours


def test_a_named_commit_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: str) -> str:
        raise GitError("no git")

    monkeypatch.setattr(provenance, "git", none)
    monkeypatch.setenv("SMLIB_REVISION", "main")
    provenance._revision.cache_clear()
    with pytest.raises(ValueError, match="SMLIB_REVISION='main': expected 40 hexadecimal digits"):
        provenance.checkout()
    provenance._revision.cache_clear()


def test_a_checkout_that_holds_the_file_gives_its_commit(tmp_path: Path, package: Path) -> None:
    (tmp_path / ".gitignore").write_text("")
    ours = repository(tmp_path, "their.py")  # as a subfolder of a larger repository would
    assert revision_of(package) == ours
    assert revision_of(package, GIT_DIR="/nonexistent") == ours  # as in a hook of another repository


def test_a_checkout_that_git_refuses_is_not_taken_for_none(tmp_path: Path, package: Path) -> None:
    (tmp_path / ".gitignore").write_text("")
    repository(tmp_path, "their.py")
    (tmp_path / ".git" / "HEAD").write_text("torn")
    assert revision_of(package).startswith(("git refuses: ", "no git checkout"))


def test_gits_own_refusal_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refused:
        returncode, stdout = 128, ""
        stderr = "fatal: detected dubious ownership in repository at '/srv/shared/smlib'\nTo add an exception ...\n"

    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Refused)
    provenance._revision.cache_clear()
    try:
        revision = provenance.checkout()["git_revision"]
    finally:
        provenance._revision.cache_clear()
    assert str(revision).startswith("git refuses: detected dubious ownership in repository, smlib ")


def test_no_git_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    with pytest.raises(GitError, match="no git"):
        git("rev-parse", "HEAD")
    assert changed_since("a" * 40) == "the sources cannot be compared: no git"


def test_how_sources_differ_is_said_in_words() -> None:
    assert changed_since(f"{'a' * 40} (dirty)") == "it was made by sources that are in no commit"
    assert changed_since("0" * 40) == "this checkout does not have that commit"

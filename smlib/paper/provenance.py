"""Where a number came from: source revision, package versions, machine, threads, seeds and preset.

Nothing here depends on the clock, so that the same seed on the same machine and revision gives the same bytes.
"""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from smlib.environment import recorded
from smlib.paper.items import check_preset

PACKAGES = (
    "smlib",
    "numpy",
    "scipy",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "mathematics-dataset",
    "mauve-text",
    "sacrebleu",
)
"""The packages whose versions can change a number."""

SOURCES = ("smlib", "notebooks", "pyproject.toml", "constraints.txt")
"""A change in one of these, not yet committed, marks a result as dirty."""

REVISION = "SMLIB_REVISION"
"""Names the commit of sources that were copied without git's history. Where git knows better it is not read."""


def provenance(seeds: Sequence[int] = (), preset: str = "quick") -> dict[str, object]:
    """Revision, versions, machine, seeds and preset as one JSON object.

    `environment` is there where a variable is set that can change last digits (`smlib.environment.RECORDED`).
    """
    variables = recorded()
    return {
        **checkout(),
        "versions": versions(),
        "machine": machine(),
        **({"environment": variables} if variables else {}),
        "seeds": [int(seed) for seed in seeds],
        "preset": check_preset(preset),
    }


def checkout() -> dict[str, object]:
    """The commit that smlib comes from and whether its sources differ from it, as they were at the first call."""
    revision, dirty = _revision()
    return {"git_revision": revision, "git_dirty": dirty}


@lru_cache(maxsize=1)
def _revision() -> tuple[str, bool]:
    """The commit of the checkout that smlib is imported from, and whether its sources differ from it.

    Without one it is said why: an installed wheel is known by its version alone, also where the environment lies inside
    another project's checkout, and so is a checkout that git refuses to read. A copy without git's history is taken for
    the commit that SMLIB_REVISION names.

    Raises:
        ValueError: SMLIB_REVISION is no commit's 40 hexadecimal digits.
    """
    try:
        git("ls-files", "--error-unmatch", "--", str(Path(__file__).resolve()))
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *SOURCES))
    except GitError as error:
        named = os.environ.get(REVISION, "")
        if not named:
            return f"{error}, smlib {_version('smlib')}", False
    if not re.fullmatch(r"[0-9a-f]{40}", named):
        raise ValueError(f"{REVISION}={named!r}: expected 40 hexadecimal digits, what `git rev-parse HEAD` prints")
    return named, False


class GitError(Exception):
    """Git has no answer; the message says why in a few words."""


def git(*arguments: str, at: Path | None = None) -> str:
    """What git says of the checkout that smlib is imported from (or of the one at `at`).

    Raises:
        GitError: there is no such checkout, no git, or git refuses, with its own words.
    """
    root = at or Path(__file__).resolve().parents[2]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**environment, "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise GitError("no git") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise GitError(f"git does not answer ({type(error).__name__})") from None
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason"])[0].removeprefix("fatal: ").removeprefix("error: ")
        if "not a git repository" in said or "did not match any file" in said:
            raise GitError("no git checkout")
        raise GitError(f"git refuses: {said.split(' at ')[0]}")  # without the folder: results are read elsewhere
    return done.stdout.strip()


def changed_since(revision: str) -> str:
    """How the library's sources differ from a result's `revision`, in words; empty where they do not.

    A revision that is followed by ` (dirty)` was one of sources that had changed already.
    """
    commit, _, dirty = revision.partition(" ")
    if dirty:
        return "it was made by sources that are in no commit"
    try:
        names = git("diff", "--name-only", commit, "--", "smlib").splitlines()
        names += git("ls-files", "--others", "--exclude-standard", "--", "smlib").splitlines()
    except GitError as error:
        unknown = "bad object" in str(error) or "unknown revision" in str(error)
        return "this checkout does not have that commit" if unknown else f"the sources cannot be compared: {error}"
    return f"sources differ in {len(names)} file{'s' if len(names) != 1 else ''}" if names else ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def _versions() -> tuple[tuple[str, str], ...]:
    found = ((package, _version(package)) for package in PACKAGES)
    return tuple((package, number) for package, number in found if number is not None)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages among `PACKAGES`."""
    return {"python": platform.python_version(), **dict(_versions())}


def machine() -> dict[str, object]:
    """CPU model, cores, threads in use, platform, and the GPU if torch is loaded and sees one."""
    described: dict[str, object] = {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "threads": _threads(),
        "platform": f"{platform.system()}-{platform.machine()}",
    }
    torch = sys.modules.get("torch")  # never imported for this: `smlib status` has to answer at once
    if torch is not None and torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


@lru_cache(maxsize=1)
def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Cores this process may run on, which in a container can be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int:
    torch = sys.modules.get("torch")
    if torch is not None:
        return int(torch.get_num_threads())
    declared = os.environ.get("OMP_NUM_THREADS", "")
    return int(declared) if declared.isdigit() else _cores()

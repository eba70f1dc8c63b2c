"""Where a number came from: source revision, package versions, machine, threads, seeds and preset.

Nothing here depends on the clock, so that the same seed on the same machine and revision gives the same bytes.
"""

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

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


def provenance(seeds: Sequence[int] = (), preset: str = "quick") -> dict[str, object]:
    """Revision, versions, machine, seeds and preset as one JSON object."""
    return {
        **checkout(),
        "versions": versions(),
        "machine": machine(),
        "seeds": [int(seed) for seed in seeds],
        "preset": check_preset(preset),
    }


def checkout() -> dict[str, object]:
    """The commit that smlib comes from and whether its sources differ from it, as they were at the first call."""
    revision, dirty = _revision()
    return {"git_revision": revision, "git_dirty": dirty}


@lru_cache(maxsize=1)
def _revision() -> tuple[str, bool]:
    """The commit of the checkout that smlib is imported from, and whether its sources differ from it."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--", *SOURCES))
    except (OSError, subprocess.SubprocessError):
        # An installed wheel, or a machine without git: the package version is all that is known.
        return f"no git checkout, smlib {_version('smlib')}", False


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

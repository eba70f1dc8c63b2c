"""What every test runs under: one thread, fixed seeds, and annotations of smlib checked as it is called.

The import hook must come before anything imports smlib: it makes jaxtyping and beartype check every annotated function,
shapes included, so a test that passes a wrong shape fails at the call and not three functions later.
"""

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]

if sys.dont_write_bytecode:
    # Without compiled files every process that a test starts compiles torch, transformers and smlib anew, which takes
    # longer than most tests. Whoever wants none beside the sources gets them aside, for workers and processes too.
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = str(REPOSITORY / ".pytest_cache" / "__pycache__")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"  # two workers of one thread each, and sums in a fixed order
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on a hub
os.environ["MPLBACKEND"] = "Agg"
for name in ("SMLIB_FINISH_MARKER", "SMLIB_FRESH_ROUND"):
    os.environ.pop(name, None)

import random
from collections.abc import Iterator

import hypothesis
import numpy as np
import pytest

from tests.support import typechecker

_hook = typechecker.install("smlib")

# Examples are derived from the test itself, so that a run is repeatable; `--hypothesis-profile=thorough` searches on.
hypothesis.settings.register_profile(
    "repeatable",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture
def repository() -> Path:
    """The root of the checkout."""
    return REPOSITORY


def seed_everything() -> None:
    """Seed every global generator; code under test should use its own, and this shows if it does not."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """Each test begins alike."""
    seed_everything()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    """So does what several tests share, which is made before `_fixed_seeds` of the first of them: without this, its
    random weights followed from the tests that the same worker had run before."""
    if fixturedef.scope != "function":
        seed_everything()


@pytest.fixture(autouse=True)
def _closed_figures() -> Iterator[None]:
    """Close what a test drew."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


LONGEST_FIRST = (
    "paper/test_notebooks_smoke.py",
    "browser/test_lab.py",
    "paper/test_reading.py",
    "training/test_engines.py",
    "training/test_sharded.py",
    "paper/experiments/test_cluster.py",
    "browser/test_book.py",
    "training/test_processes.py",
    "paper/experiments/test_gpu.py",
    "paper/test_reproduce.py",
)
"""The files of tests that take longest, the longest first: two workers that take them one after another end
together, where a long file that comes last would leave one of them without work."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` on a machine without one; under workers, put the longest files first."""
    if any("gpu" in item.keywords for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if "gpu" in item.keywords:
                    item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
    if hasattr(config, "workerinput"):
        places = {REPOSITORY / "tests" / name: place for place, name in enumerate(LONGEST_FIRST)}
        items.sort(key=lambda item: places.get(item.path, len(places)))  # the others keep their order

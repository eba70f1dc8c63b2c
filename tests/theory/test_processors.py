"""What must not depend on the processor: a part of the exact studies under other instruction sets and two threads.

Libraries choose their code by the processor they meet; these variables make them choose as they would elsewhere. See
`docs/processors.md` for what may differ and what not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.processor_probe import probe

TWO_THREADS = {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_CBWR": "AVX2",
    "OPENBLAS_CORETYPE": "Haswell",
}
# a processor without the instructions that it is told to use ends the process
WITH_AVX2 = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
SETTINGS = {
    "plain instructions": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
        "OPENBLAS_CORETYPE": "Nehalem",
    },
    "AVX2 where there is, on two threads": {**TWO_THREADS, **(AVX2 if WITH_AVX2 else {})},
}


def numbers(value: object) -> list[float]:
    """All numbers of nested lists and mappings, in order of the keys."""
    if isinstance(value, dict):
        return [number for key in sorted(value) for number in numbers(value[key])]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [float(value)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, dict]:
    """The probe's answer in a process of each kind, side by side."""
    root = Path(__file__).resolve().parents[2]
    paths = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "tests.support.processor_probe"],
            cwd=root,
            env={**os.environ, "PYTHONPATH": paths, **changed},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, changed in SETTINGS.items()
    }
    answers = {}
    for name, process in running.items():
        out, err = process.communicate()
        assert process.returncode == 0, f"{name}: {err}"
        answers[name] = json.loads(out)
    return answers


def test_exact_and_optimised_numbers_are_those_of_other_processors(elsewhere: dict[str, dict]) -> None:
    here = json.loads(json.dumps(probe([]), allow_nan=False))
    assert elsewhere["plain instructions"]["capability"] not in ("AVX2", "AVX512"), "the variables had no effect"
    for name, found in elsewhere.items():
        # the gradient where logits are 250 is of order 0.1, of sums of a few hundred terms of order 1
        np.testing.assert_allclose(numbers(found["exact"]), numbers(here["exact"]), atol=1e-10, rtol=1e-10)
        # a search ends with a gradient of 1e-8; the smallest curvature it can stop at is that of a logit at 1e-4
        np.testing.assert_allclose(numbers(found["optimised"]), numbers(here["optimised"]), atol=1e-5, rtol=0.0)
        for claim, (error, bound) in found["claims"].items():
            assert error <= bound, f"{claim} fails with {name}"

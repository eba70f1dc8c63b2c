"""Every test that is marked `gpu`, in a process of its own, and what came of it."""

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

from smlib.files import project_root

MESSAGE = 2_000  # characters that are kept of a failure's trace
SHOWN = 300  # characters of its first line that are printed: a lent machine may be gone before its files are read


class TestsFailedError(RuntimeError):
    """Tests on the device failed; `found` has the counts and the messages."""

    __test__ = False  # no class of tests, whatever its name begins with

    def __init__(self, found: dict[str, Any]) -> None:
        said = "".join(f"\n  {name}: {text.splitlines()[0][:SHOWN]}" for name, text in found["failures"].items())
        failed = f"{len(found['failures'])} of {found['tests']} tests failed:{said}"
        super().__init__(failed if said else f"none of {found['tests']} tests ran: all were skipped")
        self.found = found


def device_tests(dry: bool) -> dict[str, Any]:
    """Runs them; where there is no device they are skipped, which a dry run takes for a result.

    Returns:
        counts `tests`, `passed`, `skipped`, seconds of each test that ran, and `failures` by name.

    Raises:
        FileNotFoundError: no checkout with tests around the library.
        RuntimeError: pytest could not start, with what it said. TestsFailedError: a test failed, or all were skipped
            though there is a device.
    """
    root = project_root(Path(__file__).parent)
    if not (root / "tests" / "test_gpu.py").is_file():
        raise FileNotFoundError(
            f"{root} has no tests/test_gpu.py: run this from a checkout, not from an installed wheel"
        )
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch, "report.xml")
        options = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "-n", "0", f"--junitxml={report}"]
        where = ["tests/test_gpu.py"] if dry else marked(root / "tests")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *where], cwd=root, capture_output=True, text=True, check=False
        )
        if not report.is_file():
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stderr or done.stdout)[-MESSAGE:]}")
        found = read_report(report)
    if found["failures"] or (not dry and found["passed"] == 0):
        raise TestsFailedError(found)
    return found


def marked(tests: Path) -> list[str]:
    """The files that have a test marked `gpu`: collecting all others would cost most of a minute."""
    return [str(path) for path in sorted(tests.rglob("test_*.py")) if "pytest.mark.gpu" in path.read_text()]


def read_report(path: Path) -> dict[str, Any]:
    """The counts in a JUnit file; a failure is its message, then the last `MESSAGE` characters of its trace."""
    failures: dict[str, str] = {}
    seconds: dict[str, float] = {}
    tests = skipped = 0
    for case in ElementTree.parse(path).iter("testcase"):  # written by the process above, and by nobody else
        name = f"{case.get('classname')}::{case.get('name')}"
        tests += 1
        wrong = next((e for e in case if e.tag in ("failure", "error")), None)
        if wrong is not None:
            failures[name] = f"{wrong.get('message')}\n{(wrong.text or '')[-MESSAGE:]}"
        elif any(e.tag == "skipped" for e in case):
            skipped += 1
        else:
            seconds[name] = float(case.get("time") or 0.0)
    return {
        "tests": tests,
        "passed": len(seconds),
        "skipped": skipped,
        "seconds": seconds,
        "failures": failures,
    }

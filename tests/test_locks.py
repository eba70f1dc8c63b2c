"""Files are locked by POSIX's means; a system without them is told so in words."""

import subprocess
import sys

import pytest

from smlib.locks import lock


def test_a_locked_file_is_refused_without_waiting_and_free_when_it_is_closed(tmp_path):
    path = tmp_path / "lock"
    with path.open("w") as first, path.open("r+") as second:
        lock(first.fileno())
        with pytest.raises(BlockingIOError):
            lock(second.fileno(), wait=False)
        first.close()
        lock(second.fileno(), wait=False)


def test_a_system_without_fcntl_is_told_where_smlib_runs(repository):
    program = "import sys; sys.modules['fcntl'] = None; sys.platform = 'win32'; import smlib.locks"
    done = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: smlib runs on Linux and macOS: it locks its files by POSIX's fcntl, which win32 has not. "
        "On Windows, install it inside WSL"
    )

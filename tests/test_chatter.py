"""What dependencies say without need is left out, and nothing else is."""

import logging
import os
import subprocess
import sys

import pytest

import smlib
from smlib import chatter


def test_one_warning_of_bitsandbytes_is_left_out_and_the_others_are_shown(caplog):
    logger = logging.getLogger(chatter.BITSANDBYTES)
    chatter.hush_bitsandbytes()  # as `import smlib` has done: a second call adds no second filter
    assert logger.filters.count(chatter._no_hub_kernel) == 1
    with caplog.at_level(logging.WARNING):
        logger.warning("Failed to load CPU gemm_4bit_forward from kernels-community: %s. Please", "no module")
        logger.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]


def test_lines_of_compiled_code_are_left_out_by_what_they_say(capfd):
    with chatter.without_lines(r"^WARNING clustering \d+ points"):
        os.write(2, b"WARNING clustering 400 points to 20 centroids: please provide at least 780\nanother line\n")
        print("from Python", file=sys.stderr)
    os.write(2, b"WARNING clustering 1 points, outside\n")
    said = capfd.readouterr().err
    assert sorted(said.splitlines()) == ["WARNING clustering 1 points, outside", "another line", "from Python"]


def test_lines_before_an_error_are_shown_and_the_error_passes(capfd):
    def fails():
        os.write(2, b"why\n")
        raise KeyError("x")

    with pytest.raises(KeyError), chatter.without_lines("never said"):
        fails()
    assert capfd.readouterr().err == "why\n"


@pytest.mark.slow
def test_faiss_says_nothing_of_few_points(capfd):
    np = pytest.importorskip("numpy")
    pytest.importorskip("mauve")
    from smlib.evaluation.mauve_score import MauveSettings, mauve

    features = np.random.default_rng(0).normal(size=(40, 8))
    mauve(features, features, MauveSettings(num_buckets=5, seeds=tuple(range(5))))
    assert capfd.readouterr().err == ""


@pytest.mark.slow
def test_saving_and_loading_show_no_bars_and_leave_the_readers_own_on(tmp_path):
    program = (
        "import sys, smlib\n"
        "from smlib.edits.actions import ActionSpace\n"
        "from transformers.utils import logging\n"
        "policy = smlib.tiny_policy(ActionSpace(12, eos=1, bos=0), dim=16, layers=1, heads=2)\n"
        "policy.save('mine')\n"
        "smlib.Policy.load('mine')\n"
        "assert logging.is_progress_bar_enabled()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(smlib.__file__))}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout == ""

"""Environment variables that would change what is computed: without effect, refused, or recorded."""

import importlib.util
import json
import os
import re
import warnings
from pathlib import Path

import numpy as np
import pytest

from smlib.environment import (
    LAUNCHED,
    PASSED,
    PROCESSES,
    RECORDED,
    REFUSED,
    RefusedEnvironmentError,
    check_environment,
    recorded,
    say_unheard,
    without,
)
from smlib.paper.results import run_cached
from smlib.screen import visible
from tests.support.processes_apart import forget_accelerates_state


@pytest.mark.parametrize("name", REFUSED)
def test_a_switch_that_makes_another_run_is_refused_when_it_is_on(name: str) -> None:
    for off in ("", "0", "false", "False", "no"):
        check_environment({name: off})
    with pytest.raises(RefusedEnvironmentError, match=f"{name}=true, by which .*: `unset {name}`"):
        check_environment({name: "true"})


@pytest.mark.parametrize("name", PROCESSES)
def test_one_process_is_fine_and_two_are_not(name: str) -> None:
    check_environment({name: "1"})
    for many in ("2", "many"):
        with pytest.raises(RefusedEnvironmentError, match=f"{name}={many}: start it without"):
            check_environment({name: many})


def test_a_launcher_may_start_several_where_that_is_allowed() -> None:
    found = dict.fromkeys(LAUNCHED, "2")
    check_environment(found, several=True)
    with pytest.raises(RefusedEnvironmentError, match="WORLD_SIZE=2: start it without"):
        check_environment(found)
    del found["MASTER_PORT"]
    with pytest.raises(RefusedEnvironmentError, match="Several processes need RANK, WORLD_SIZE, MASTER_ADDR"):
        check_environment(found, several=True)


def test_no_variable_is_dealt_with_twice() -> None:
    every = [*PASSED, *REFUSED, *PROCESSES, *RECORDED]
    assert len(every) == len(set(every))


BESIDE = {
    r"ACCELERATE_(DEEPSPEED_\w+|CONFIG_DS_FIELDS|GRADIENT_CLIPPING)": "of DeepSpeed, whose switch is refused",
    r"ACCELERATE_SAGEMAKER_\w+|ACCELERATE_IN_TPU_POD": "of a cloud whose switch is refused, or of TPUs",
    r"ACCELERATE_FP8_\w*": "of 8-bit passes, which are asked for by a variable without effect",
    r"ACCELERATE_DYNAMO_": "what the names of others begin with",
    r"ACCELERATE_ALLOW_CP_STANDALONE": "of parallelism, whose switch is refused",
    r"ACCELERATE_(DEBUG_MODE|DEBUG_RDV_FILE|LOG_LEVEL|ENABLE_RICH)": "how a process is watched",
    r"ACCELERATE_CPU_AFFINITY": "on which cores it runs",
    r"ACCELERATE_INIT_INCLUDE_BUFFERS": "where buffers are before a checkpoint is read",
}
"""Variables of accelerate that change no number of a run here, and why."""


def test_every_variable_of_accelerate_is_dealt_with_or_known_to_be_harmless() -> None:
    """So that a new release does not bring one that changes a run without a word."""
    package = Path(importlib.util.find_spec("accelerate").origin).parent  # type: ignore[union-attr, arg-type]
    found = {
        name
        for path in package.rglob("*.py")
        for name in re.findall(r"\bACCELERATE_[A-Z0-9_]+", path.read_text(encoding="utf-8"))
    }
    assert len(found) > 30
    dealt_with = {*PASSED, *REFUSED, *PROCESSES, *RECORDED}
    assert {name for name in found - dealt_with if not any(re.fullmatch(known, name) for known in BESIDE)} == set()


def test_what_is_hidden_comes_back_and_a_launchers_precision_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    seen = []

    def fails() -> None:
        with without(PASSED):
            seen.extend(set(PASSED) & set(os.environ))
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert not seen
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"
    with pytest.warns(UserWarning, match="ACCELERATE_MIXED_PRECISION=bf16 has no effect"):
        say_unheard("no")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        say_unheard("bf16")
        for nothing in ("", "no", "NO"):
            say_unheard("no", {"ACCELERATE_MIXED_PRECISION": nothing})
        say_unheard("no", {})


def test_what_is_recorded_stands_in_a_runs_provenance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in RECORDED:
        monkeypatch.delenv(name, raising=False)

    def origin(name: str) -> dict[str, object]:
        made = run_cached(
            "fig3", name, {}, lambda _: {}, preset="smoke", seeds=[0], version_key="data", results_dir=tmp_path
        )
        assert isinstance(made.provenance, dict)
        return made.provenance

    assert "environment" not in origin("without")
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    assert recorded() == {"MKL_CBWR": "COMPATIBLE"} == origin("with")["environment"]


def test_accelerates_variables_change_no_byte_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixed precision and accumulation steps in the environment changed the loss, and divided gradients by four."""
    from smlib.cli.workbench import TaskDemonstrations, _new, settings_for
    from smlib.training.algorithm_1 import train

    settings = settings_for("sm", steps=4, eta=0.1, alpha=0.1, gamma=0.9, seed=0, questions=40)
    task = settings.load_task()
    data = TaskDemonstrations(task, task.train, settings.noise)

    def history(folder: str) -> list[dict[str, object]]:
        forget_accelerates_state()
        return train(_new(settings, task), data, settings.training, tmp_path / folder).history

    plain = history("plain")
    settings_of_a_launcher = {
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_DYNAMO_BACKEND": "eager",
    }
    assert set(settings_of_a_launcher) <= set(PASSED)
    for name, value in settings_of_a_launcher.items():
        monkeypatch.setenv(name, value)
    again = history("again")
    assert json.dumps(plain) == json.dumps(again)
    assert np.isfinite([row["loss"] for row in plain]).all()


def test_text_of_a_file_is_shown_and_not_obeyed() -> None:
    assert visible("a\x1b[2Jb\x07\u202ec\r\n") == r"a\x1b[2Jb\x07\u202ec\r\n"
    assert visible("two\nlines\tand a tab", newlines=True) == "two\nlines\tand a tab"
    assert visible("χ² ≥ 0 — “so” می‌خواهم 👩‍🔬 <bkspc>") == "χ² ≥ 0 — “so” می‌خواهم 👩‍🔬 <bkspc>"
    assert visible(3.5) == "3.5"

"""Ctrl-C, failures and long runs: what the command line says."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from smlib.cli import app as cli
from smlib.cli import reproduce, stopping
from smlib.cli.bench import _told
from smlib.cli.finetune import run
from smlib.paper.reproduce import Outcome, Task
from smlib.training.trainer import SequenceMatchTrainer
from tests.support.finetuning import prompted
from tests.support.models import saved_model


def test_a_stopped_training_names_the_step_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from smlib.cli import workbench

    def stop(*_: object) -> None:
        raise KeyboardInterrupt("stopped at step 7 of 20; the run in x goes on from step 5, its last checkpoint")

    monkeypatch.setattr(workbench, "fit", stop)
    monkeypatch.setattr(sys, "argv", ["smlib", "train", str(tmp_path / "my run"), "--steps", "20"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 130
    said = capsys.readouterr().err
    assert said.startswith("smlib: stopped at step 7 of 20; ")
    assert said.endswith(f"Go on with: smlib train '{tmp_path / 'my run'}' --steps 20\n")


def test_an_interrupt_while_loading_has_words_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def loads() -> None:
        with stopping.stoppable():
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "argv", ["smlib", "train", "x"])
    with pytest.raises(stopping.Stopped, match=r"^stopped before the first step\. Go on with: smlib train x$"):
        loads()


def test_a_failure_is_explained_on_its_line() -> None:
    task = Task("02_occupancy_matching", ("theory",), None)
    failed = Outcome(task, "failed", 3.0, "In [7] `x[0]`", "ValueError: gradient[13] is nan")
    log = io.StringIO()
    Console(file=log).print(reproduce._why(failed), soft_wrap=True)
    assert log.getvalue() == " at In [7] `x[0]`: ValueError: gradient[13] is nan\n"
    assert reproduce._why(Outcome(task, "done", 3.0)) == ""


def test_a_log_hears_of_long_cells_and_of_the_run_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SMLIB_QUIET", raising=False)
    monkeypatch.setattr(reproduce.Heartbeat, "EVERY", 0.0)
    log = io.StringIO()
    beat = reproduce.Heartbeat(Console(file=log, width=80))
    beat({"04_arithmetic": ""})  # its kernel is starting
    beat.at("04_arithmetic", 6, 32)
    beat({"04_arithmetic": "sm: step 120 of 1500, loss 0.4, 3 minutes left"})
    assert log.getvalue() == ("04_arithmetic: cell 7 of 32, 0 s — sm: step 120 of 1500, loss 0.4, 3 minutes left\n")
    monkeypatch.setattr(reproduce.Heartbeat, "EVERY", 60.0)
    beat({"04_arithmetic": "again"})
    monkeypatch.setenv("SMLIB_QUIET", "1")
    assert not reproduce.Heartbeat(Console(file=log)).shown
    assert log.getvalue().count("\n") == 1


def test_bench_says_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    with _told() as tell:
        tell("sampling (4 of 7)")
    assert capsys.readouterr().err == "measuring sampling (4 of 7)\n"


@pytest.mark.parametrize("kept", [True, False])
def test_ctrl_c_in_finetune_names_the_step_and_the_command(
    kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_model(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in prompted()))
    given = ["--model", str(tmp_path / "base"), "--dataset", str(tmp_path / "rows.jsonl"), "--max_steps", "9"]
    given += [
        "--rollout_tokens",
        "6",
        "--max_length",
        "32",
        "--output_dir",
        str(tmp_path / "run"),
        "--use_cpu",
        "true",
        "--report_to",
        "none",
    ]

    def interrupted(trainer: SequenceMatchTrainer, **_: object) -> None:
        trainer.state.global_step, trainer.state.max_steps = 5, 9
        if kept:
            (tmp_path / "run" / "checkpoint-5").mkdir(parents=True)
            trainer.state.save_to_json(str(tmp_path / "run" / "checkpoint-5" / "trainer_state.json"))
        raise KeyboardInterrupt

    monkeypatch.setattr(SequenceMatchTrainer, "train", interrupted)
    monkeypatch.setattr(sys, "argv", ["smlib", "finetune", *given])
    with pytest.raises(stopping.Stopped) as stopped:
        run(given)
    said = str(stopped.value)
    assert said.startswith("stopped at step 5 of 9")
    assert ("checkpoint-5 is its last checkpoint" in said) == kept
    assert ("--resume_from_checkpoint true" in said) == kept
    assert "smlib finetune --model" in said

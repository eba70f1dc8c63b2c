"""`smlib watch`: what it draws is what training logged, while it grows, torn or whole."""

import json
import math

import pytest
from typer.testing import CliRunner

from smlib.cli import app as cli
from smlib.cli import watch as command
from smlib.files import ResultError
from smlib.training import metrics
from smlib.training.curves import log_of, read_curves, sparkline, summary
from smlib.training.metrics import MetricsLog

runner = CliRunner()


@pytest.fixture
def run(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl", before=0)
    for step in range(1, 21):
        log.norm(0.5 * step)
        if step % 5 == 0:
            log.write(step, {"loss": 1.0 / step, "lr": 0.1})
    log.write(20, {"val_accuracy": 0.75})
    log.flush()
    return tmp_path


def test_curves_are_what_was_logged(run):
    curves = read_curves(run / "metrics.jsonl")
    assert list(curves) == ["loss", "lr", "grad_norm", "val_accuracy"]
    assert curves["loss"] == [(step, 1.0 / step) for step in (5, 10, 15, 20)]
    assert curves["grad_norm"] == [(step, 0.5 * step) for step in range(1, 21)]
    assert summary(curves, 8)[0] == ("loss", "█▃▂▁", "0.05", "0.05", "0.2")


def test_a_sparkline_is_monotone_where_its_values_are_and_marks_what_is_no_number():
    line = sparkline(list(range(100)), 20)
    assert len(line) == 20
    assert list(line) == sorted(line)
    assert sparkline([1.0, math.inf, 2.0], 3)[1] == "×"
    assert sparkline([], 5) == ""
    with pytest.raises(ValueError, match="width=0"):
        sparkline([1.0], 0)


def test_a_pipe_gets_the_curves_once(run):
    shown = runner.invoke(cli.app, ["watch", str(run)], env={"COLUMNS": "100"}, catch_exceptions=False).stdout
    assert "step 20" in shown
    assert "0.05" in next(line for line in shown.splitlines() if line.startswith("loss"))
    assert "val_accuracy" in shown


def test_a_terminal_is_drawn_until_the_run_has_finished(run, monkeypatch):
    looks = []

    def another_look(seconds):
        looks.append(seconds)
        with (run / "metrics.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({"step": 20 + len(looks), "loss": 0.01}) + "\n")
        if len(looks) == 3:
            (run / "policy").mkdir()

    monkeypatch.setattr(command.time, "sleep", another_look)
    done = runner.invoke(
        cli.app,
        ["watch", str(run), "--every", "0.5"],
        env={"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "240"},
        catch_exceptions=False,
    )
    assert looks == [0.5] * 3
    assert "23 steps" in done.stdout


def test_a_run_without_a_log_and_one_that_is_not_there_say_so(tmp_path):
    asked = ["watch", str(tmp_path)]
    assert "nothing is logged yet" in runner.invoke(cli.app, asked, env={"COLUMNS": "300"}).stdout
    (tmp_path / "config.json").write_text("{}")
    assert "holds a model and no log of a run" in str(runner.invoke(cli.app, asked).exception)
    error = runner.invoke(cli.app, ["watch", str(tmp_path / "none")]).exception
    assert isinstance(error, ResultError)
    assert "there is no such run" in str(error)
    error = runner.invoke(cli.app, ["watch", str(tmp_path), "--every", "0"]).exception
    assert "--every 0" in str(error)


def test_the_newest_log_of_several_below_a_folder_is_taken(tmp_path):
    assert log_of(tmp_path) is None
    for name in ("one", "two"):
        log = MetricsLog(tmp_path / name / "metrics.jsonl", before=0)
        log.write(1, {"loss": 1.0})
        log.flush()
    assert log_of(tmp_path) == tmp_path / "two" / "metrics.jsonl"


def test_rows_are_written_while_a_run_trains(tmp_path, monkeypatch):
    clock = iter(range(0, 1000, 4))
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    log = MetricsLog(tmp_path / "metrics.jsonl", before=0)
    log.write(1, {"loss": 1.0})
    assert not log.path.exists()  # four seconds
    log.write(2, {"loss": 0.5})
    assert len(log.path.read_text().splitlines()) == 2  # eight

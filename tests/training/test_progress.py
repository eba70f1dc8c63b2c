"""What a run says of itself while it lasts, and where it stopped."""

import io
import sys
from pathlib import Path

import pytest

from smlib.training import progress
from smlib.training.progress import Progress, duration, telling_where_it_stopped


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is worth a line, and standard error is a log."""
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.delenv("SMLIB_QUIET", raising=False)
    monkeypatch.delenv(progress.PLACE, raising=False)
    monkeypatch.setattr(progress, "show_bar", lambda asked: bool(asked))


def steps(asked: bool | None, folder: Path, begin: int = 0, stop: int = 3, every: int = 2) -> None:
    run = Progress("sm", begin, 4, every, folder, asked)
    for _ in range(begin, stop):
        run.log(1.25)
        run.update()
    if stop < 4:
        raise KeyboardInterrupt
    run.close()


def test_a_log_gets_lines_with_step_loss_and_time_left(
    hurried: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps(None, tmp_path, stop=4)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4
    assert said[0].startswith("sm: step 1 of 4, loss 1.250, ")
    assert said[-1] == "sm: step 4 of 4, loss 1.250, 0 seconds left"


def test_nothing_is_said_where_nobody_asked(
    hurried: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(False, tmp_path, stop=4)
    monkeypatch.setenv("SMLIB_QUIET", "1")
    steps(None, tmp_path, stop=4)
    monkeypatch.delenv("SMLIB_QUIET")
    monkeypatch.setattr(progress, "EVERY", 30.0)
    steps(None, tmp_path, stop=4)  # short runs
    assert capsys.readouterr().err == ""


def test_a_notebook_that_is_executed_leaves_its_line_in_a_file(
    hurried: None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.PLACE, str(tmp_path / "line"))
    steps(None, tmp_path, stop=4)
    assert (tmp_path / "line").read_text().startswith("sm: step 4 of 4")
    monkeypatch.setenv(progress.PLACE, str(tmp_path / "absent" / "line"))
    steps(None, tmp_path, stop=4)  # and a run goes on where that cannot be written
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("begin", "stop", "every", "expected"),
    [
        (0, 3, 2, "stopped at step 3 of 4; the run in FOLDER goes on from step 2, its last checkpoint"),
        (0, 1, 2, "stopped at step 1 of 4; the run in FOLDER goes on from the start, as there is no checkpoint yet"),
        (1, 2, 0, "stopped at step 2 of 4; the run in FOLDER goes on from step 1, its last checkpoint"),
    ],
)
def test_an_interrupt_says_where(tmp_path: Path, begin: int, stop: int, every: int, expected: str) -> None:
    with pytest.raises(KeyboardInterrupt) as error:
        telling_where_it_stopped(steps)(False, tmp_path, begin, stop, every)
    assert str(error.value) == expected.replace("FOLDER", str(tmp_path))


def test_an_interrupt_before_the_first_step_is_passed_on() -> None:
    def loads() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as error:
        telling_where_it_stopped(loads)()
    assert str(error.value) == ""


def test_a_bar_is_shown_where_it_is_asked_for(hurried: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not Progress("sm", 0, 4, 0, tmp_path, True).lines


def test_durations_are_rounded() -> None:
    assert [duration(s) for s in (40, 181, 9000)] == ["40 seconds", "3 minutes", "2.5 hours"]

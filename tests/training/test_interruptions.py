"""What a disk that is full, a torn file and a foreign one do to a run: named in one line, and nothing half written."""

import errno
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from smlib.training.algorithm_1 import train
from smlib.training.checkpoints import CheckpointError
from smlib.training.folder import LOCK, held
from smlib.training.metrics import MetricsError, MetricsLog
from tests.support.copying import Copying, config, policy
from tests.support.processes_apart import free


@pytest.fixture(scope="module")
def half_way(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was ended after its checkpoint."""
    folder = tmp_path_factory.mktemp("half")
    train(policy(), Copying(), config("sm"), folder, progress=False)
    return folder


@pytest.fixture
def copied(half_way: Path, tmp_path: Path) -> Path:
    shutil.copytree(half_way, tmp_path / "run")
    return tmp_path / "run"


def goes_on(folder: Path) -> None:
    train(policy(), Copying(), config("sm"), folder, progress=False)


def test_a_torn_last_line_of_the_log_is_left_out_with_a_warning(copied: Path) -> None:
    log = copied / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole[:-20])
    with pytest.warns(UserWarning, match=r"the last line of .*metrics\.jsonl is torn and is left out"):
        goes_on(copied)
    log.write_text(whole)
    goes_on(copied)


@pytest.mark.parametrize("line", ['{"step": 1', "[]", '{"loss": 1}', '{"step": "one"}', "\ufffd"])
def test_a_damaged_line_of_the_log_is_named(line: str, tmp_path: Path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text('{"step": 1}\n' + line + '\n{"step": 3}\n')
    with pytest.raises(MetricsError, match=r"line 2 of .*metrics\.jsonl is damaged"):
        MetricsLog(log, before=3)
    assert MetricsLog(log, before=0).rows == []  # a run that begins anew does not read it


def test_torchs_advice_to_load_a_pickle_is_not_passed_on(copied: Path) -> None:
    class Foreign:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    target = copied / "checkpoint" / "optimizer.pt"
    torch.save({"optimizer": Foreign()}, target, pickle_module=pickle)
    with pytest.raises(CheckpointError, match="holds something else than tensors and numbers") as said:
        goes_on(copied)
    assert "weights_only" not in str(said.value)
    target.write_bytes(b"torn")
    with pytest.raises(CheckpointError) as said:
        goes_on(copied)
    assert "weights_only" not in str(said.value)


@pytest.mark.parametrize("writes", ["save_file", "torch.save", "np.savez"])
def test_a_checkpoint_that_cannot_be_written_leaves_no_part_of_one(
    writes: str, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"smlib.training.checkpoints.{writes}", refuse)
    shutil.rmtree(copied / "checkpoint")
    with pytest.raises(CheckpointError, match=r"of step 4 cannot be written to .*: No space left on device"):
        train(policy(), Copying(), config("sm"), copied, progress=False)
    assert {path.name for path in copied.iterdir()} <= {"metrics.jsonl", ".lock"}


def test_weights_of_a_checkpoint_are_as_readable_as_the_other_files(half_way: Path) -> None:
    files = [path for path in half_way.rglob("*") if path.is_file()]
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o644"}


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, None])
def test_a_run_lets_its_folder_go_however_it_ends(error: type[BaseException] | None, tmp_path: Path) -> None:
    """Another process may go on with it at once, though this one lasts, as a notebook's kernel does."""
    asked: list[bool] = []

    def evaluate(_: object) -> dict[str, float]:
        asked.append(free(tmp_path / LOCK))
        if error is not None:
            raise error
        return {}

    settings = config("sm", eval_every=2)
    if error is None:
        train(policy(), Copying(), settings, tmp_path, progress=False, evaluate=evaluate)
    else:
        with pytest.raises(error):
            train(policy(), Copying(), settings, tmp_path, progress=False, evaluate=evaluate)
    assert not any(asked)
    assert asked
    assert free(tmp_path / LOCK)
    (tmp_path / "checkpoint").mkdir(exist_ok=True)
    (tmp_path / "checkpoint" / "run.json").write_text("torn")
    with held(tmp_path):
        with pytest.raises(CheckpointError):
            goes_on(tmp_path)
        assert not free(tmp_path / LOCK), "who holds it around a run has it still after that run"

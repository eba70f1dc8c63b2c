"""What a disk that is full, a torn file, another process and a launcher's settings do to a `SequenceMatchTrainer`."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from smlib.cli import finetune
from smlib.files import ResultError
from smlib.training import run_files
from smlib.training.checkpoints import CheckpointError
from smlib.training.folder import FolderInUseError
from smlib.training.run_files import LOCK, newest_checkpoint
from smlib.training.trainer import SequenceMatchTrainer
from tests.support.finetuning import arguments, losses, prompted
from tests.support.models import saved_model
from tests.support.processes_apart import forget_accelerates_state, free


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("model") / "base")


def started(base: Path, folder: Path, **changes: object) -> SequenceMatchTrainer:
    return SequenceMatchTrainer(str(base), arguments(folder, **{"max_steps": 16, **changes}), prompted())


def test_only_one_process_trains_in_a_folder(base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom smlib.training.folder import hold\n"
        f"hold(Path({str(folder)!r}), {LOCK!r})\nprint('held', flush=True)\ntime.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(FolderInUseError, match=f"run is being trained in by another process, number {other.pid}:"):
            started(base, folder).train()
        other.kill()
    broken = started(base, folder)
    broken.policy.w_bkspc.data[:] = torch.nan
    with pytest.raises(FloatingPointError):
        broken.train()
    assert free(folder / LOCK), "an error lets it go"


@pytest.mark.parametrize(
    ("writes", "error"),
    [
        ("smlib.training.run_files.save_file", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        ("smlib.policies.policy.save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
        ("smlib.training.run_files.np.savez", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    ],
)
def test_a_full_disk_leaves_no_part_of_a_checkpoint(
    writes: str, error: Exception, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = started(base, tmp_path / "run")
    module, name = writes.rsplit(".", 1)
    owner = run_files.np if module.endswith(".np") else sys.modules[module]
    writer = getattr(owner, name)

    def full(*given: object, **options: object) -> object:
        if trainer.state.global_step == 16:
            raise error
        return writer(*given, **options)

    monkeypatch.setattr(owner, name, full)
    with pytest.raises(
        CheckpointError, match=r"of step 16 cannot be written to .*-16: .*No space left on device.*go on"
    ):
        trainer.train()
    assert not (tmp_path / "run" / "checkpoint-16").exists()
    assert newest_checkpoint(tmp_path / "run").name == "checkpoint-8"
    monkeypatch.undo()
    resumed = started(base, tmp_path / "run")
    resumed.train(resume_from_checkpoint=True)
    assert len(losses(resumed)) == 16


def test_what_fails_when_a_checkpoint_is_complete_takes_nothing_away(tmp_path: Path) -> None:
    def saves(state: bool) -> None:
        with run_files.whole_checkpoint(tmp_path, 8, True):
            if state:
                (tmp_path / run_files.STATE).write_text("{}")
            raise OSError("the hub does not answer")

    with pytest.raises(OSError, match="the hub does not answer"):
        saves(state=True)
    assert (tmp_path / run_files.STATE).is_file()
    with pytest.raises(CheckpointError, match="of step 8"):  # and an older one of the same step is not the new one
        saves(state=False)
    assert not tmp_path.exists()


class Foreign:
    """What a pickle of somebody else could hold."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


@pytest.fixture(scope="module")
def half_way(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint in the middle of a run."""
    folder = tmp_path_factory.mktemp("half") / "run"
    started(base, folder).train()
    return folder / "checkpoint-8"


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.parametrize("damage", ["foreign", "torn", "cut", "missing"])
def test_torchs_advice_to_load_a_pickle_is_not_passed_on(file: str, damage: str, base: Path, half_way: Path) -> None:
    target = half_way / file
    whole = target.read_bytes()
    try:
        if damage == "foreign":
            torch.save({"state": Foreign()}, target, pickle_module=pickle)
        elif damage == "torn":
            target.write_bytes(b"torn")
        elif damage == "cut":
            target.write_bytes(whole[: len(whole) // 2])
        else:
            target.unlink()
        if damage == "missing" and file == "rng_state.pth":  # all that is random follows from seed and step
            started(base, half_way.parent).train(resume_from_checkpoint=str(half_way))
            return
        wanted = rf"has no {file}: name another" if damage == "missing" else "tensors and numbers: name another"
        with pytest.raises(CheckpointError, match=wanted) as said:
            started(base, half_way.parent).train(resume_from_checkpoint=str(half_way))
        assert "weights_only" not in str(said.value)
        assert said.value.__suppress_context__ or said.value.__context__ is None
    finally:
        target.write_bytes(whole)


def test_every_file_of_a_run_is_as_readable_as_the_others(base: Path, tmp_path: Path) -> None:
    trainer = started(base, tmp_path / "run", max_steps=8)
    trainer.train()
    trainer.save_model()
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".safetensors", ".pt", ".json"}
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o644" for path in files}


def test_a_launchers_precision_changes_no_number_and_is_told_of(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where `accelerate config` was asked for bf16 once: it would stand in no setting of the run."""

    def made(name: str) -> list[float]:
        forget_accelerates_state()
        trainer = started(base, tmp_path / name, max_steps=8, dtype="float32")
        trainer.train()
        assert trainer.accelerator.mixed_precision == "no"
        return losses(trainer)

    plain = made("plain")
    for name, value in {
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
        "ACCELERATE_DYNAMO_BACKEND": "eager",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.warns(UserWarning, match=r"ACCELERATE_MIXED_PRECISION=bf16 has no effect.*--bf16 true"):
        launched = made("launched")
    assert launched == plain
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16", "what is launched from here is told of it still"
    assert arguments(tmp_path / "asked", bf16=True).mixed_precision == "bf16"  # who asks gets it, and no warning


def test_a_run_needs_a_folder_with_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for empty in ("", " "):
        with pytest.raises(ResultError, match="output_dir is an empty name"):
            finetune.run(["--model", "smollm2", "--dataset", "rows.jsonl", "--output_dir", empty])
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_while_the_policy_is_saved_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(finetune, "_train", full)
    with pytest.raises(ResultError, match="No space left on device"):
        finetune.run(["--model", "smollm2", "--dataset", "rows.jsonl"])

"""The identities of all committed runs: each file is the one that the present code asks for, and none is left over.

A changed default, a renamed field or a raised version would let a study train for hours again, or show the old numbers
beside new code.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from smlib.files import config_hash, project_root
from smlib.paper import checksums, results
from smlib.paper.experiments.ablations import confirmation, direct_matching, in_learning, regimes
from smlib.paper.experiments.ablations.study import run as ablation_runs
from smlib.paper.experiments.arithmetic import (
    decoupled,
    decoupled_confirmation,
    deletion_cost,
    divergences,
    grid,
    late_mistakes,
    learning,
    learning_variants,
    rivals_of_deletion,
)
from smlib.paper.experiments.judging.verdicts import Judgement
from smlib.paper.experiments.overhead import method_costs
from smlib.paper.experiments.overhead import tables as overhead
from smlib.paper.experiments.runs.finetuning import FineTuneConfig
from smlib.paper.experiments.tasks import in_learning as tasks_in_learning
from smlib.paper.experiments.tasks import mathematics, translation
from smlib.paper.experiments.text import study as text
from smlib.paper.experiments.theory import chain, masking, occupancies
from smlib.paper.numerics import NUMERICS_VERSION

COMMITTED = project_root() / "results" / "full"
RUNS = sorted(path.relative_to(COMMITTED).as_posix() for path in COMMITTED.glob("*/*.json"))
BASES = [name for name in RUNS if name.startswith("shared/pretrain-")]
"""Runs that are asked for only where the committed weights of a base model are not there."""


@pytest.mark.parametrize("folder", sorted({name.split("/")[0] for name in RUNS}))
def test_a_committed_run_is_named_by_its_record_and_the_present_versions(folder: str) -> None:
    for name in (run for run in RUNS if run.startswith(f"{folder}/")):
        record = json.loads((COMMITTED / name).read_text(encoding="utf-8"))
        present = {key: NUMERICS_VERSION[key] for key in record["numerics"]}
        identity = {key: record[key] for key in ("item", "name", "config", "seeds")} | {"numerics": present}
        assert name == f"{record['item']}/{record['name']}-{config_hash(identity)}.json"
        assert record["preset"] == "full"


def test_every_committed_file_is_what_was_noted() -> None:
    assert checksums.problems(COMMITTED) == []


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed results, somewhere else."""
    folder = tmp_path_factory.mktemp("copied") / "results"
    shutil.copytree(project_root() / "results", folder, ignore=shutil.ignore_patterns("quick", "smoke", "scratch"))
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The files that are asked for, where nothing may be computed."""
    found: set[str] = set()
    read = results.load_run

    def reads(path: Path, expect: object = None) -> results.Run:
        found.add(f"{path.parent.name}/{path.name}")
        return read(path, expect)  # type: ignore[arg-type]

    def computes(path: Path) -> None:
        raise AssertionError(f"{path.stem} would be computed, and is not committed under this name")

    monkeypatch.setattr(results, "load_run", reads)
    monkeypatch.setattr(results, "locked", computes)
    # The base models' weights are committed; building the tasks to see that takes a minute.
    monkeypatch.setattr(FineTuneConfig, "prepare", lambda *_: None)
    monkeypatch.setattr(FineTuneConfig, "task", lambda _: None)
    monkeypatch.setattr(translation, "base", lambda *_, **__: None)
    return found


def in_the_other_regime(item: str, folder: Path) -> object:
    return tasks_in_learning.latest(item, "full", folder)


STUDIES: dict[str, Callable[[Path], object]] = {
    "arithmetic": lambda folder: grid.run("full", folder, 1),
    "divergences in the learning regime": lambda folder: learning_variants.latest("full", folder),
    "ablations in the learning regime": lambda folder: in_learning.latest("full", folder),
    "learning regime": lambda folder: learning.finished("full", folder),
    "decoupled deletion": lambda folder: decoupled.study("full", folder),
    "confirmation of decoupled deletion": lambda folder: decoupled_confirmation.study("full", folder),
    "cost of deletion": lambda folder: deletion_cost.latest("full", folder),
    "rivals of deletion": lambda folder: rivals_of_deletion.latest("full", folder),
    "late mistakes": lambda folder: late_mistakes.latest("full", folder),
    "divergences": lambda folder: divergences.run("full", folder, 1),
    "multiplication": lambda folder: (mathematics.run("tab6", "full", folder, 1), in_the_other_regime("tab6", folder)),
    "prime factors": lambda folder: (mathematics.run("tab7", "full", folder, 1), in_the_other_regime("tab7", folder)),
    "translation": lambda folder: (translation.run("full", folder, 1), in_the_other_regime("tab5", folder)),
    "text": lambda folder: text.run("full", folder, processes=1),
    "theory": lambda folder: occupancies.run("full", str(folder)),
    "chain": lambda folder: chain.run("full", str(folder)),
    "masking": lambda folder: masking.run("full", folder),
    "overhead": lambda folder: overhead.run("full", folder),
    "TRL": lambda folder: overhead.beside_trl("full", folder),
    "processes": lambda folder: overhead.in_processes("full", folder),
    "method costs": lambda folder: method_costs.method_costs("full", folder),
    "ablations": lambda folder: ablation_runs("full", folder, processes=1),
    "regimes": lambda folder: regimes.run("full", folder, 1),
    "direct matching": lambda folder: direct_matching.run("full", folder, 1),
    "confirmation": lambda folder: confirmation.run("full", folder, 1),
}
"""Every experiment, as its notebook calls it, without the statistics where those are apart."""


def test_the_full_presets_ask_for_the_committed_runs_and_for_all_of_them(
    asked: set[str], copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Statistics of what was read, which take minutes; `test_reading.py` runs the notebooks with them.
    nothing = Judgement("", "", ())
    for module, name, instead in (
        (text, "write_table_2", None),
        (text, "write_table_8", None),
        (divergences, "summarise", ({}, [])),
        (divergences, "judge", nothing),
        (divergences, "_write", None),
    ):
        monkeypatch.setattr(module, name, lambda *_, instead=instead, **__: instead)
    before = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    for name, study in STUDIES.items():
        already = len(asked)
        study(copied)
        assert len(asked) > already, f"{name} asked for no run of its own"
    assert asked | set(BASES) == set(RUNS)
    assert asked & set(BASES) == set()
    after = {path: path.read_bytes() for path in copied.rglob("*") if path.is_file()}
    assert {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)} == set()

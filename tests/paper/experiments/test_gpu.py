"""The prepared visit to a GPU, dry: it runs to its end on the CPU, keeps apart what it wrote, and survives failures."""

import json
import shlex
import subprocess
import sys
import tarfile
import time

import pytest

from smlib.files import ResultError
from smlib.paper.experiments.gpu import __main__ as command
from smlib.paper.experiments.gpu import device_tests, parcels, records, regime, tables
from smlib.paper.experiments.gpu.budget import Budget
from smlib.paper.experiments.gpu.side_by_side import side_by_side
from smlib.paper.experiments.report import gpu as beside
from smlib.paper.figures.report import gpu_table


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dry")
    options = ["--dry", "--minutes", "30", "--results-dir", str(folder), "--weights-dir", str(folder / "weights")]
    assert command.main([*options, "--only", "sampler"]) == 0  # in a process of its own, as all of them are on a GPU
    assert set(records.read_all(folder)) == {"sampler"}
    assert command.main([*options, "--here"]) == 0
    return folder, options


def test_a_dry_run_does_every_part(dry):
    found = records.read_all(dry[0])
    assert set(records.PARTS) <= set(found)
    assert {record["status"] for record in found.values()} == {"done"}
    assert all(record["dry"] and record["device"] for record in found.values())
    tests = found["tests"]["result"]
    assert tests["tests"] == tests["skipped"] + tests["passed"] > 10
    for item in ("tab3", "tab4"):
        assert found["tables"]["result"][item]["sm_over_mle_step"]["value"] > 0
    assert found["sampler"]["result"]["tiny"]["sample_tokens_per_s"]["value"] > 0
    runs = [regime.run_name(method, 0) for method in ("mle", "bc", "decoupled", "sm")]
    assert found["regime"]["result"] == {"failed": {}, "finished": runs, "left": [], "side_by_side": 1}
    writer = found["regime-mle-s0"]["result"]
    deleter = found["regime-decoupled-s0"]["result"]
    # Without its deletions the decoupled policy is the writer.
    assert deleter["test"]["no_backspace"]["correct"] == writer["test"]["t1"]["correct"]


def test_what_is_there_is_not_repeated(dry, capsys, monkeypatch):
    monkeypatch.setattr(regime, "compute", lambda *_: pytest.fail("computed again"))
    assert command.main([*dry[1], "--here"]) == 0
    assert capsys.readouterr().out.count("there already") == 3


def test_a_dry_run_is_no_result(dry):
    assert beside.beside(dry[0], "smoke")[0]["gpu"] == "not run"


def test_a_part_that_fails_says_so_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    def broken(dry):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(tables, "tables", broken)
    options = ["--dry", "--here", "--results-dir", str(tmp_path), "--only", "tables", "--only", "sampler"]
    assert command.main(options) == 1
    found = records.read_all(tmp_path)
    assert found["tables"]["error"] == "RuntimeError: CUDA out of memory"
    assert (found["tables"]["status"], found["sampler"]["status"]) == ("failed", "done")
    assert "tables: 0 s, failed, RuntimeError: CUDA out of memory" in capsys.readouterr().out
    row = next(row for row in beside.beside(tmp_path, "smoke") if row["what"].startswith("Table 3"))
    assert row["gpu"] == "failed: RuntimeError: CUDA out of memory"


def test_a_failure_does_not_replace_a_success(tmp_path):
    options = {"dry": True, "seconds": 1.0, "results_dir": tmp_path}
    path = records.write("sampler", {"a": 1}, **options)
    records.write("sampler", {}, error="killed", **options)
    assert json.loads(path.read_text())["result"] == {"a": 1}


def test_a_process_that_is_killed_leaves_a_record(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: subprocess.CompletedProcess(a, -9))
    assert command.main(["--dry", "--only", "tables", "--results-dir", str(tmp_path)]) == 1
    assert records.read_all(tmp_path)["tables"]["error"] == "its process ended with -9"

    def over(*a, **k):
        raise subprocess.TimeoutExpired(a, 1.0)

    monkeypatch.setattr(subprocess, "run", over)
    assert command.main(["--dry", "--only", "sampler", "--results-dir", str(tmp_path)]) == 1
    assert "sampler: failed, the time was over before it ended" in capsys.readouterr().out


def test_runs_that_do_not_fit_are_left_for_later(tmp_path):
    over = Budget(0.01, kept=0.0, began=time.monotonic() - 60.0)
    found = regime.regime(True, over, tmp_path, tmp_path / "weights")
    assert (found["finished"], len(found["left"])) == ([], 4)
    with pytest.raises(ValueError, match="minutes must be positive"):
        Budget(0.0)


def beside_each_other(folder, programs, at_once=2, minutes=5.0, needs=None, lasts=0.0):
    """Programs that leave a file of their name; what was told of each, and what was left."""
    told = {}
    left = side_by_side(
        list(programs),
        at_once,
        needs=(needs or {}).get if needs else lambda name: (),
        command=lambda name: [sys.executable, "-c", programs[name], str(folder / name)],
        lasts=lambda name: lasts,
        succeeded=lambda name: (folder / name).exists(),
        budget=Budget(minutes, kept=0.0),
        ended=lambda name, seconds, why: told.update({name: why}),
    )
    return told, left


LEAVE = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"


def test_side_by_side_what_needs_another_waits_for_it(tmp_path):
    """`joined` looks for the file of `first`, which is written late; what needs a failure is left."""
    late = f"import time; time.sleep(0.4); {LEAVE}"
    joined = f"import pathlib, sys; assert pathlib.Path(sys.argv[1]).with_name('first').exists(); {LEAVE}"
    programs = {"first": late, "joined": joined, "bad": "raise SystemExit(3)", "lost": LEAVE}
    needs = {"first": (), "joined": ("first",), "bad": (), "lost": ("bad",)}
    told, left = beside_each_other(tmp_path, programs, needs=needs)
    assert told == {"first": "", "joined": "", "bad": "its process ended with 3"}
    assert left == ["lost"]
    with pytest.raises(ValueError, match="at least one run at a time, got 0"):
        beside_each_other(tmp_path, programs, at_once=0)


def test_side_by_side_there_are_never_more_than_asked_for(tmp_path):
    """Two that meet succeed together; the third would find the place of one of them."""
    count = (
        "import pathlib, sys, time; here = pathlib.Path(sys.argv[1]); mark = here.with_suffix('.on'); mark.touch(); "
        "time.sleep(0.5); n = len(list(here.parent.glob('*.on'))); mark.unlink(); here.write_text(str(n))"
    )
    beside_each_other(tmp_path, dict.fromkeys("abcd", count))
    assert {(tmp_path / name).read_text() for name in "abcd"} <= {"1", "2"}


def test_side_by_side_the_time_ends_what_runs(tmp_path):
    began = time.monotonic()
    told, left = beside_each_other(tmp_path, dict.fromkeys("abc", "import time; time.sleep(60)"), minutes=0.01)
    assert (told, left) == ({}, ["a", "b", "c"])
    assert time.monotonic() - began < 30
    assert beside_each_other(tmp_path, {"long": LEAVE}, minutes=1.0, lasts=61.0) == ({}, ["long"])


def test_one_run_in_a_process_of_its_own(tmp_path):
    where = ["--results-dir", str(tmp_path), "--weights-dir", str(tmp_path / "weights"), "--dry"]
    assert regime.main(["--method", "mle", "--seed", "0", *where]) == 0
    assert records.read_all(tmp_path)["regime-mle-s0"]["status"] == "done"
    found = regime.regime(True, Budget(0.1, kept=6.0), tmp_path, tmp_path / "weights", at_once=2)
    assert (found["finished"], found["side_by_side"]) == (["regime-mle-s0"], 2)
    assert found["left"] == ["regime-bc-s0", "regime-decoupled-s0", "regime-sm-s0"]


def test_make_gpu_asks_for_what_the_command_takes(repository, tmp_path, monkeypatch):
    asked = ["make", "-n", "--no-print-directory", "gpu", "DRY=1", "MINUTES=3", "AT_ONCE=2", "ONLY=tests tables"]
    shown = subprocess.run(asked, cwd=repository, capture_output=True, text=True, check=True).stdout
    (line,) = [line for line in shown.splitlines() if "smlib.paper.experiments.gpu" in line]
    given = shlex.split(line)[3:]
    begun = []
    monkeypatch.setattr(command, "_in_a_process", lambda part, given, budget: begun.append((part, given)) or True)
    assert command.main([*given, "--results-dir", str(tmp_path)]) == 0
    assert [part for part, _ in begun] == ["tests", "tables"]
    assert {(asked.dry, asked.minutes, asked.at_once) for _, asked in begun} == {(True, 3.0, 2)}


def test_without_a_device_it_names_the_dry_mode(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "_cuda", lambda: False)
    with pytest.raises(SystemExit):
        command.main(["--results-dir", str(tmp_path)])
    assert "no CUDA device. With --dry" in capsys.readouterr().err


def test_the_failures_of_tests_are_kept(tmp_path):
    report = tmp_path / "report.xml"
    report.write_text(
        '<testsuites><testsuite><testcase classname="a" name="good" time="0.5"/><testcase classname="a" name="bad">'
        '<failure message="1 != 2">where</failure></testcase><testcase classname="a" name="none"><skipped/></testcase>'
        "</testsuite></testsuites>"
    )
    found = device_tests.read_report(report)
    assert (found["tests"], found["passed"], found["skipped"]) == (3, 1, 1)
    assert found["failures"] == {"a::bad": "1 != 2\nwhere"}
    assert "1 of 3 tests failed:\n  a::bad: 1 != 2" in str(device_tests.TestsFailedError(found))


def test_the_report_shows_both_sides(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "device_name", lambda: "Some GPU")
    options = {"dry": False, "results_dir": tmp_path, "seconds": 60.0}
    entry = {"value": 1.25}
    table = {"sm_over_mle_step": entry, "sm_over_mle_amortised": entry, "peak_memory_sm_over_mle": entry}
    records.write("tables", {"tab3": table, "tab4": table}, **options)
    for seed, accuracy in enumerate((0.5, 0.6)):
        answers = {"test": {"t1": {"accuracy": accuracy}}}
        records.write(regime.run_name("mle", seed), answers, config={"seed": seed}, **options)
    rows = {row["what"]: row for row in beside.beside(tmp_path, "smoke")}
    assert rows["Table 3: SM / MLE, gradient step"]["gpu"] == "1.25"
    assert rows["accuracy, mle, t1"]["gpu"] == "0.550 (2 seeds)"
    assert rows["accuracy, sm, t1"]["gpu"] == "not run"
    assert {row["device"] for row in rows.values()} == {"Some GPU", "—"}
    shown = gpu_table(list(rows.values()))
    assert list(shown.columns) == ["what", "here", "on a GPU", "device"]


def test_parcels_are_cut_and_joined(tmp_path):
    source = tmp_path / "weights.bin"
    source.write_bytes(bytes(range(256)) * 40)
    (tmp_path / "small.txt").write_text("small")
    cut = parcels.split([source, tmp_path / "small.txt"], tmp_path / "parts", size=3_000)
    assert max(path.stat().st_size for path in cut) <= 3_000
    assert len(cut) == 5
    made = parcels.join(tmp_path / "parts", tmp_path / "out")
    assert [path.name for path in made] == ["weights.bin", "small.txt"]
    assert made[0].read_bytes() == source.read_bytes()
    cut[1].write_bytes(b"x" * 3_000)
    with pytest.raises(ValueError, match=r"weights.bin is not what was cut"):
        parcels.join(tmp_path / "parts", tmp_path / "again")
    cut[1].unlink()
    with pytest.raises(FileNotFoundError, match=r"weights.bin.part001"):
        parcels.join(tmp_path / "parts", tmp_path / "again")
    with pytest.raises(ValueError, match="two files are called"):
        parcels.split([source, source], tmp_path / "twice", size=3_000)


def test_installed_packages_are_packed_without_what_another_device_needs(tmp_path, monkeypatch):
    """An invented package with two libraries and a script, which lies outside of it."""
    where = tmp_path / "environment"
    listed = ["thing/__init__.py", "thing/lib_cuda118.so", "thing/lib_cuda130.so", "thing/lib_cpu.so", "../bin/thing"]
    for name in listed:
        path = where / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    record = where / "thing-1.0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
    (record / "RECORD").write_text("".join(f"{name},,\n" for name in [*listed, "thing-1.0.dist-info/METADATA"]))
    monkeypatch.syspath_prepend(str(where))
    target = tmp_path / "parcels" / "site.tar.xz"
    assert parcels.main(["site", "thing", "--cuda", "130", "--to", str(target)]) == 0
    with tarfile.open(target) as archive:
        packed = {member.name for member in archive}
    assert packed == {
        "thing/__init__.py", "thing/lib_cuda130.so", "thing/lib_cpu.so", "thing-1.0.dist-info/METADATA"
    }  # fmt: skip
    assert "thing/lib_cuda118.so" in parcels.site(["thing"], tmp_path / "all.tar.xz")
    with pytest.raises(ValueError, match="no-such-thing is not installed in this environment"):
        parcels.site(["no-such-thing"], target)


def test_a_torn_record_is_named(tmp_path):
    path = records.path_of("tables", tmp_path)
    path.parent.mkdir()
    path.write_text("{")
    with pytest.raises(ResultError, match="no valid JSON"):
        records.read_all(tmp_path)
    assert records.finished("tables", tmp_path) is None

"""Run cache and ledger: nothing repeated, nothing overwritten, nothing claimed that no file backs."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from smlib.paper import ledger as ledger_module
from smlib.paper import numerics as numerics_module
from smlib.paper import results
from smlib.paper.costs import processor_hours
from smlib.paper.items import ITEMS, PRESETS, VERDICTS
from smlib.paper.ledger import LEDGER_FIELDS
from smlib.paper.results import ResultError, ledger, load_run, run_cached, write_item


def run(folder: Path, **changes: Any) -> results.Run:
    """A small run, with whatever a test wants different."""
    arguments: dict[str, Any] = {
        "item": "fig3",
        "name": "sm",
        "config": {"alpha": 0.1},
        "compute": lambda scratch: {"accuracy": 0.5},
        "preset": "quick",
        "seeds": [0],
        "version_key": "training",
        "results_dir": folder,
    }
    return run_cached(**{**arguments, **changes})


def never(scratch: Path) -> dict[str, object]:
    raise AssertionError("a finished run was repeated")


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path)
    again = run(tmp_path, compute=never)
    assert again == first == {"accuracy": 0.5}
    assert again.path == first.path
    assert again.provenance == first.provenance


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"alpha": 0.2}},
        {"name": "bc"},
        {"seeds": [1]},
        {"item": "tab6"},
        {"version_key": "sampling"},
        {"version_key": ("training", "data")},
        {"preset": "full"},
    ],
)
def test_what_could_change_the_numbers_changes_the_file(tmp_path: Path, change: dict[str, Any]) -> None:
    first = run(tmp_path)
    other = run(tmp_path, compute=lambda scratch: {"accuracy": 0.6}, **change)
    assert other.path != first.path
    assert load_run(first.path) == {"accuracy": 0.5}


def test_a_raised_version_computes_again_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path)
    monkeypatch.setattr(numerics_module, "NUMERICS_VERSION", {**results.NUMERICS_VERSION, "training": 999})
    second = run(tmp_path, compute=lambda scratch: {"accuracy": 0.7})
    assert second == {"accuracy": 0.7}
    assert first.path.exists()
    with pytest.raises(ResultError, match="another config or code version"):
        load_run(first.path)


def test_equal_runs_are_equal_bytes_and_hold_no_times(tmp_path: Path) -> None:
    one, two = run(tmp_path / "a"), run(tmp_path / "b")
    assert one.path.read_bytes() == two.path.read_bytes()
    assert not {"wall_s", "cpu_s", "timestamp"} & set(json.loads(one.path.read_text()))
    timings = [json.loads(line) for line in (tmp_path / "a/quick/timings.jsonl").read_text().splitlines()]
    assert [(line["item"], line["name"]) for line in timings] == [("fig3", "sm")]
    assert {"wall_s", "cpu_s", "peak_rss_mib"} <= set(timings[0])


def test_provenance_says_where_a_number_came_from(tmp_path: Path) -> None:
    origin = run(tmp_path).provenance
    assert isinstance(origin, dict)
    assert set(origin) == {"git_revision", "git_dirty", "versions", "machine", "seeds", "preset"}
    assert {"cpu", "cores", "threads", "platform"} <= set(origin["machine"])
    assert {"python", "torch", "numpy"} <= set(origin["versions"])
    assert origin["seeds"] == [0]
    assert origin["preset"] == "quick"


def test_a_run_names_the_code_that_it_started_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(scratch: Path) -> dict[str, object]:
        later = ("a later commit", False)
        monkeypatch.setattr("smlib.paper.provenance._revision", lambda: later)
        return {"accuracy": 0.5}

    monkeypatch.setattr("smlib.paper.provenance._revision", lambda: ("the first commit", False))
    assert run(tmp_path, compute=compute).provenance["git_revision"] == "the first commit"  # type: ignore[index]


def test_checkpoints_outlive_a_failure_and_go_when_the_result_is_written(tmp_path: Path) -> None:
    def fail(scratch: Path) -> dict[str, object]:
        (scratch / "checkpoint").write_text("step 7")
        raise RuntimeError("killed")

    def resume(scratch: Path) -> dict[str, object]:
        return {"resumed_from": (scratch / "checkpoint").read_text()}

    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, compute=fail)
    assert not list((tmp_path / "quick" / "fig3").glob("*.json"))
    assert run(tmp_path, compute=resume) == {"resumed_from": "step 7"}
    assert not (tmp_path / "quick/fig3/scratch/sm").exists()
    assert not [path for path in (tmp_path / "quick/fig3/scratch").iterdir() if path.is_dir()]


def test_a_killed_run_leaves_no_result_and_is_resumed(tmp_path: Path) -> None:
    program = (
        "import time, sys\n"
        "from smlib.paper.results import run_cached\n"
        "def compute(scratch):\n"
        "    (scratch / 'checkpoint').write_text('step 3')\n"
        "    time.sleep(60)\n"
        f"run_cached('fig3', 'sm', {{'alpha': 0.1}}, compute, preset='quick', seeds=[0], version_key='training',"
        f" results_dir={str(tmp_path)!r})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("quick/fig3/scratch/*/checkpoint")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not list(tmp_path.glob("quick/fig3/*.json"))
    # The lock went with the process, and the checkpoint is still there.
    resumed = run(tmp_path, compute=lambda scratch: {"found": (scratch / "checkpoint").read_text()})
    assert resumed == {"found": "step 3"}


def test_processes_that_want_the_same_run_compute_it_once(tmp_path: Path) -> None:
    program = (
        "import os, time\n"
        "from smlib.paper.results import run_cached\n"
        "def compute(scratch):\n"
        "    time.sleep(0.5)\n"
        "    return {'pid': os.getpid()}\n"
        f"print(run_cached('fig3', 'sm', {{}}, compute, preset='quick', seeds=[0], version_key='training',"
        f" results_dir={str(tmp_path)!r})['pid'])\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {process.communicate(timeout=60)[0] for process in both}
    assert len(answers) == 1


def test_fresh_computes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path)
    assert run(tmp_path, compute=lambda scratch: {"accuracy": 0.9}, fresh=True) == {"accuracy": 0.9}
    monkeypatch.setenv("SMLIB_FRESH_ROUND", "one")  # a later `reproduce --fresh`
    assert run(tmp_path, compute=lambda scratch: {"accuracy": 0.8}) == {"accuracy": 0.8}
    assert run(tmp_path, compute=never) == {"accuracy": 0.8}  # this run belongs to the round
    monkeypatch.setenv("SMLIB_FRESH_ROUND", "two")
    assert run(tmp_path, compute=lambda scratch: {"accuracy": 0.7}) == {"accuracy": 0.7}


def test_fresh_asks_no_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that come from the future, as a machine with a wrong clock writes them, are repeated once like all others;
    so are an unfinished run's checkpoints dropped that are of before the round, and kept that are of it."""
    path = run(tmp_path).path
    scratch = path.parent / "scratch" / path.stem
    (scratch / "before").mkdir(parents=True)
    for future in (path, scratch):
        os.utime(future, (time.time() + 1e8,) * 2)
    seen: list[bool] = []

    def compute(folder: Path) -> dict[str, object]:
        seen.append((folder / "before").exists())
        (folder / "checkpoint").touch()
        if len(seen) == 1:
            raise KeyboardInterrupt
        assert (folder / "checkpoint").exists()
        return {"accuracy": 0.9}

    monkeypatch.setenv("SMLIB_FRESH_ROUND", "one")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, compute=compute)
    os.utime(scratch, (0, 0))  # and from the past
    assert run(tmp_path, compute=compute) == {"accuracy": 0.9}
    assert seen == [False, False]
    os.utime(path, (0, 0))
    assert run(tmp_path, compute=never) == {"accuracy": 0.9}


def test_a_fresh_round_is_kept_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert results.fresh_round("quick", tmp_path) is None
    begun = results.begin_fresh(["04_arithmetic", "06_overhead"], "quick", tmp_path)
    assert begun.path == tmp_path / "quick" / ".fresh-since"
    assert results.fresh_round("quick", tmp_path) == begun
    assert results.fresh_round("full", tmp_path) is None
    assert results.begin_fresh(["06_overhead", "04_arithmetic"], "quick", tmp_path) == begun  # the time is the first's
    assert results.begin_fresh(["06_overhead"], "quick", tmp_path) == begun
    assert begun.options == "--fresh --only fig3,tab1,tab3,tab4"
    with pytest.raises(ResultError, match=r"is not finished: give `--fresh --only fig3,tab1,tab3,tab4` first, or"):
        results.begin_fresh(["06_overhead", "12_report"], "quick", tmp_path)
    with monkeypatch.context() as context:
        context.setenv("SMLIB_FRESH_ROUND", begun.name)
        run(tmp_path)
    assert (tmp_path / "quick" / ".fresh-runs.jsonl").exists()
    begun.end()
    assert not list((tmp_path / "quick").glob(".fresh*"))
    assert results.fresh_round("quick", tmp_path) is None
    everything = results.begin_fresh([item.notebook for item in ITEMS.values()], "quick", tmp_path)
    assert everything.name != begun.name
    assert everything.options == "--fresh"


@pytest.mark.parametrize(
    "text",
    [
        "{torn",
        "{}",
        '{"round": "a", "since": "monday", "notebooks": []}',
        '{"round": "a", "since": NaN, "notebooks": []}',
        '{"round": "a", "since": 1e300, "notebooks": []}',
        '{"since": 1.7e9, "notebooks": []}',  # of an earlier version, which asked for dates
    ],
)
def test_a_damaged_fresh_round_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick" / ".fresh-since").write_text(text)
    with pytest.raises(ResultError, match=r"\.fresh-since"):
        results.fresh_round("quick", tmp_path)


def test_nan_in_a_result_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match=r"fig3/sm\.losses\[1\] is nan"):
        run(tmp_path, compute=lambda scratch: {"losses": [1.0, float("nan")]})
    assert not list((tmp_path / "quick" / "fig3").glob("*.json"))


@pytest.mark.parametrize("damage", ["torn", "foreign config", "other version", "not a run"])
def test_a_file_that_does_not_belong_is_reported_and_kept(tmp_path: Path, damage: str) -> None:
    path = run(tmp_path).path
    record = json.loads(path.read_text())
    if damage == "torn":
        text = path.read_text()[:50]
    elif damage == "foreign config":
        text = json.dumps({**record, "config": {"alpha": 7}})
    elif damage == "other version":
        text = json.dumps({**record, "numerics": {"training": 0}})
    else:
        text = json.dumps({"something": "else"})
    path.write_text(text)
    with pytest.raises(ResultError):
        run(tmp_path, compute=never)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item": "fig9"}, "unknown item 'fig9'; known: fig1, theory"),
        ({"preset": "fast"}, "unknown preset 'fast'; known: smoke, quick, full, paper"),
        ({"version_key": "trainig"}, "unknown version key 'trainig'; known: chain"),
        ({"version_key": ()}, "at least one version key"),
        ({"name": "a/b"}, "cannot name a run"),
    ],
)
def test_unknown_names_list_the_known_ones(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultError, match=message):
        run(tmp_path, compute=never, **change)
    assert not list(tmp_path.iterdir())


def test_the_ledger_of_nothing_lists_every_item_as_not_run(tmp_path: Path) -> None:
    rows = ledger(tmp_path)
    first = ["fig1", "theory", "fig2", "fig3", "tab1", "tab2", "tab8", "tab3", "tab4"]
    ids = [*first, "g1", "tab5", "tab6", "tab7", "ablations", "report"]
    assert [row["id"] for row in rows] == ids == list(ITEMS)
    for row in rows:
        assert tuple(row) == LEDGER_FIELDS
        assert (row["ours"], row["error"], row["n_seeds"], row["preset"], row["provenance"]) == (
            None,
            None,
            0,
            None,
            None,
        )
        assert row["verdict"] == "not run"


def item(folder: Path, **changes: Any) -> Path:
    """A small item, with whatever a test wants different."""
    arguments: dict[str, Any] = {
        "item": "fig3",
        "preset": "quick",
        "ours": 0.5,
        "error": 0.01,
        "n_seeds": 1,
        "verdict": "direction only",
        "results_dir": folder,
    }
    return write_item(**{**arguments, **changes})


def test_the_ledger_prefers_full_to_quick_and_never_counts_smoke(tmp_path: Path) -> None:
    def shown() -> tuple[object, ...]:
        row = next(row for row in ledger(tmp_path) if row["id"] == "fig3")
        return row["preset"], row["ours"], row["verdict"]

    item(tmp_path, preset="smoke", ours=0.1, verdict="reproduced")
    assert shown() == (None, None, "not run")
    item(tmp_path, preset="full", ours=0.3)
    item(tmp_path, preset="quick", ours=0.2)
    assert shown() == ("full", 0.3, "direction only")


def test_an_item_names_its_runs_and_their_seeds(tmp_path: Path) -> None:
    runs = [run(tmp_path, seeds=[seed], config={"seed": seed}) for seed in (2, 0, 1)]
    rows = [{"label": "SM", "paper": 0.9, "ours": 0.5, "error": 0.01}]
    path = item(tmp_path, sources=runs, rows=rows, details={"levels": [0.1, 0.2]})
    written = json.loads(path.read_text())
    assert written["rows"] == rows
    origin = written["provenance"]
    assert origin["seeds"] == [0, 1, 2]
    assert set(origin["sources"]) == {run_.path.relative_to(tmp_path / "quick").as_posix() for run_ in runs}
    assert origin["numerics"] == {"training": 1}
    assert path.read_bytes() == item(tmp_path, sources=runs, rows=rows, details={"levels": [0.1, 0.2]}).read_bytes()


def test_a_value_of_older_code_is_marked_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item(tmp_path, sources=[run(tmp_path)])
    monkeypatch.setattr(ledger_module, "NUMERICS_VERSION", {**results.NUMERICS_VERSION, "training": 2})
    row = next(row for row in ledger(tmp_path) if row["id"] == "fig3")
    assert isinstance(row["provenance"], dict)
    assert row["provenance"]["stale"] == ["training: made with version 1, the code is at 2"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"verdict": "proved"}, "unknown verdict 'proved'; known: reproduced"),
        ({"verdict": "not run"}, "written once it has a value"),
        ({"ours": None}, "written once it has a value"),
        ({"ours": float("nan")}, r"fig3\.ours is nan"),
        ({"item": "fig9"}, "unknown item"),
        ({"preset": "fast"}, "unknown preset"),
        ({"n_seeds": -1}, "counts seeds"),
        ({"rows": [{"label": "SM", "ours": 1}]}, "a row has the fields"),
        ({"sources": ["/elsewhere/run.json"]}, "mixes no presets"),
    ],
)
def test_a_claim_without_ground_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultError, match=message):
        item(tmp_path, **change)
    assert not list(tmp_path.rglob("*.json"))


def test_a_source_of_another_preset_is_refused(tmp_path: Path) -> None:
    smoke = run(tmp_path, preset="smoke")
    with pytest.raises(ResultError, match="mixes no presets"):
        item(tmp_path, sources=[smoke])


@pytest.mark.parametrize("content", ["{", '{"schema": 1, "id": "tab6", "preset": "quick"}'])
def test_a_damaged_item_is_reported_and_kept(tmp_path: Path, content: str) -> None:
    path = item(tmp_path)
    path.write_text(content)
    with pytest.raises(ResultError, match=r"fig3\.json"):
        ledger(tmp_path)
    with pytest.raises(ResultError, match=r"fig3\.json"):
        item(tmp_path)
    assert path.read_text() == content


def test_finish_wants_the_items_of_this_very_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker.json"
    monkeypatch.setenv("SMLIB_FINISH_MARKER", str(marker))
    item(tmp_path)
    monkeypatch.setattr(ledger_module, "_written", {})  # as if last week's process had written it
    with pytest.raises(ResultError, match="did not write item 'fig3'"):
        results.finish(["fig3"], "quick", tmp_path)
    assert not marker.exists()
    item(tmp_path)
    results.finish(["fig3"], "quick", tmp_path)
    assert json.loads(marker.read_text())["items"] == ["fig3"]
    assert "ours 0.5 ± 0.01 | direction only" in capsys.readouterr().out


def test_items_presets_and_verdicts_are_those_of_the_design() -> None:
    assert PRESETS == ("smoke", "quick", "full", "paper")
    assert VERDICTS == ("reproduced", "direction only", "not reproduced", "not run")
    numbers = ITEMS["tab6"].numbers
    assert str(numbers["SM / η = 0.2"]) == "0.56 ± 0.04"
    assert all(ITEMS[name].numbers for name in ("tab1", "tab2", "tab3", "tab4", "tab5", "tab6", "tab7", "tab8"))
    step = ITEMS["tab3"].numbers
    ratio = step["SM / gradient step"].value / step["MLE / gradient step"].value
    assert f"{ratio:.1f}×" in ITEMS["tab3"].paper


def test_committed_results_are_of_the_present_code(repository: Path) -> None:
    """A numerics version raised without running the committed presets again shows up here."""
    for row in ledger(repository / "results"):
        if row["preset"] in ("full", "paper"):
            assert isinstance(row["provenance"], dict)
            assert "stale" not in row["provenance"], f"{row['id']}: {row['provenance']['stale']}"
            for source, checksum in row["provenance"]["sources"].items():
                path = repository / "results" / str(row["preset"]) / source
                assert path.exists(), f"{row['id']} rests on {source}, which is not committed"
                assert hashlib.sha256(path.read_bytes()).hexdigest() == checksum


def test_hours_count_the_last_run_of_every_file_that_is_there(tmp_path):
    folder = tmp_path / "smoke"
    (folder / "fig3").mkdir(parents=True)
    (folder / "fig3" / "mle-s0-abc.json").write_text("{}")
    lines = [
        {"item": "fig3", "name": "mle-s0", "hash": "abc", "cpu_s": 9_000.0},
        {"item": "fig3", "name": "mle-s0", "hash": "abc", "cpu_s": 3_600.0},  # computed again
        {"item": "fig3", "name": "bc-s0", "hash": "abc", "cpu_s": 7_200.0},  # its file is gone
    ]
    (folder / "timings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert processor_hours("smoke", tmp_path) == {"fig3": 1.0}
    assert processor_hours("quick", tmp_path) == {}


def test_a_result_without_its_weights_is_computed_again_and_a_killed_one_resumes(tmp_path):
    weights = tmp_path / "weights"
    calls = []

    def compute(scratch):
        calls.append((scratch / "checkpoint").exists())
        (scratch / "checkpoint").write_text("half way")
        if len(calls) == 1:
            raise KeyboardInterrupt
        weights.write_text("w")
        return {"value": len(calls)}

    def run():
        return run_cached(
            "shared", "base", {}, compute, preset="smoke", seeds=[0], version_key="data", results_dir=tmp_path,
            beside=weights,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        run()
    assert run()["value"] == 2
    assert run()["value"] == 2
    weights.unlink()
    assert run()["value"] == 3
    assert calls == [False, True, False]

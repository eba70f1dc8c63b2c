"""Runs on a Ray cluster are the same files as here; a lost node's run is repeated; what fails is one clear line."""

import dataclasses
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from smlib.cli import reproduce as command
from smlib.files import ResultError
from smlib.paper import elsewhere, results
from smlib.paper.elsewhere import adopt, differing, fingerprint, lay_out, needed, written
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.runs import cluster as running
from smlib.paper.experiments.runs.cluster_progress import Listener
from smlib.paper.experiments.runs.executor import RAY, in_parallel
from smlib.paper.experiments.runs.finetuning import fine_tune
from smlib.training import progress
from tests.support.cluster_runs import keeping, marked_fine_tune, simple, talking

ROOT = Path(__file__).parents[3]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("smoke/fig3/*.json"))}


def patiently(start):
    """What `start` gives: Ray waits 30 s for a node, which a machine that does much else can miss."""
    for _ in range(3):
        try:
            return start()
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            missed = error
    raise missed


@pytest.fixture(scope="module")
def two_nodes():
    """Two nodes of one core each on this machine; `smlib` and `tests` are imported from the checkout."""
    patch = pytest.MonkeyPatch()
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    from ray.cluster_utils import Cluster

    patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("OMP_NUM_THREADS", "1")
    memory = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory}))
    made.second = patiently(lambda: made.add_node(num_cpus=1, object_store_memory=100 * 2**20))
    with running._connected(made.address):  # once, so that the workers, which import torch, serve all tests
        yield made
    ray.shutdown()
    made.shutdown()
    patch.undo()


def calls(names, folder: Path, **more):
    (folder / "marks").mkdir(exist_ok=True, parents=True)
    fixed = {"preset": "smoke", "results_dir": folder, "marks": str(folder / "marks"), **more}
    return [{"name": name, **fixed} for name in names]


def test_what_fails_is_said_and_the_others_are_kept(two_nodes, tmp_path, monkeypatch):
    monkeypatch.setenv(RAY, two_nodes.address)
    with pytest.raises(ValueError, match="this run is bad"):
        in_parallel(simple, calls(["one", "bad", "three"], tmp_path))
    assert sorted(name.split("-")[0] for name in files_of(tmp_path)) == ["one", "three"]
    with pytest.raises(ResultError, match="this run is refused"):
        in_parallel(simple, calls(["refused"], tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(running, "fingerprint", lambda: fingerprint() | {"torch": "1.0"})
        with pytest.raises(
            ResultError, match=r"the worker on .* differs: torch \S+ instead of 1\.0\. Install the same"
        ):
            in_parallel(simple, calls(["four"], tmp_path))
    begun = len(list((tmp_path / "marks").iterdir()))
    first, third = in_parallel(simple, calls(["one", "three"], tmp_path))
    assert (first["value"], third["value"]) == (3, 5)
    assert len(list((tmp_path / "marks").iterdir())) == begun  # both were read
    assert len((tmp_path / "smoke" / "timings.jsonl").read_text().splitlines()) == 2


def test_an_interruption_stops_what_runs_on_the_cluster(two_nodes, tmp_path, monkeypatch):
    import ray

    waited = ray.wait

    def interrupted(references, **options):
        for _ in range(600):
            if list((tmp_path / "marks").iterdir()):
                raise KeyboardInterrupt
            waited(references, timeout=0.1)
        raise AssertionError("the run did not begin")

    monkeypatch.setattr(ray, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.on_cluster(simple, calls(["slow"], tmp_path, seconds=600), two_nodes.address)
    check_ended(tmp_path / "marks")


def check_ended(marks: Path) -> None:
    (mark,) = marks.iterdir()
    worker = int(mark.name.split("-")[1])
    for _ in range(300):
        if not Path(f"/proc/{worker}").exists():
            return
        time.sleep(0.1)
    pytest.fail("the worker goes on")


SENT = """
from pathlib import Path
from smlib.paper.experiments.runs.executor import in_parallel
from tests.paper.experiments.test_cluster import calls, simple

in_parallel(simple, calls(["slow"], Path({folder!r}), seconds=600))
"""


def test_a_kill_of_who_sent_the_runs_stops_them(two_nodes, tmp_path):
    """Which is how Ctrl-C ends the notebooks of `smlib reproduce`."""
    environment = {**os.environ, RAY: two_nodes.address}
    sender = subprocess.Popen([sys.executable, "-c", SENT.format(folder=str(tmp_path))], cwd=ROOT, env=environment)
    try:
        for _ in range(1_200):
            if (tmp_path / "marks").exists() and list((tmp_path / "marks").iterdir()):
                break
            assert sender.poll() is None
            time.sleep(0.1)
    finally:
        sender.kill()
        sender.wait()
    check_ended(tmp_path / "marks")


def test_what_runs_there_say_is_told_here(two_nodes, tmp_path, monkeypatch):
    heard = tmp_path / "heard"
    heard.touch()
    monkeypatch.setenv(RAY, two_nodes.address)
    monkeypatch.setenv(progress.PLACE, str(heard))
    monkeypatch.delenv("SMLIB_QUIET", raising=False)
    in_parallel(talking, [{"name": "one", "preset": "smoke", "results_dir": tmp_path, "heard": str(heard)}])
    assert heard.read_text().endswith(" of 1 runs on the cluster have ended; sm: step 3 of 9")


def test_without_a_file_it_is_told_now_and_then(monkeypatch, capsys):
    monkeypatch.delenv(progress.PLACE, raising=False)
    monkeypatch.delenv("SMLIB_QUIET", raising=False)
    monkeypatch.setattr(Listener, "_ask", lambda self: setattr(self, "line", "sm: step 3 of 9"))
    told = Listener(None, 5)
    told.look(1)
    assert capsys.readouterr().err == ""
    told.told -= progress.EVERY
    told.look(2)
    told.look(2)
    assert capsys.readouterr().err == "2 of 5 runs on the cluster have ended; sm: step 3 of 9\n"
    monkeypatch.setenv("SMLIB_QUIET", "1")
    told.told -= progress.EVERY
    told.look(3)
    assert capsys.readouterr().err == ""


def test_the_loss_of_a_node_leaves_the_same_files(two_nodes, tmp_path, monkeypatch):
    grid = arithmetic.preset("smoke").grid()
    names = [name for name in grid if name.startswith(("mle", "bc", "sm"))][:3]
    training = {n: dataclasses.replace(grid[n].training, checkpoint_every=0) for n in names}
    configs = {n: dataclasses.replace(grid[n], training=training[n]) for n in names}
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        configs[names[0]].prepare("smoke", folder)
    fixed = {"item": "fig3", "preset": "smoke"}
    local = [marked_fine_tune("", config=c, name=n, results_dir=here, **fixed) for n, c in configs.items()]
    marks = tmp_path / "marks"
    marks.mkdir()
    second = two_nodes.second.node_id

    def kill() -> None:
        for _ in range(3_000):
            if list(marks.glob(f"{second}-*")):
                two_nodes.remove_node(two_nodes.second, allow_graceful=False)
                return
            time.sleep(0.1)

    killer = threading.Thread(target=kill)
    killer.start()
    sent = [{"config": c, "name": n, "results_dir": there, "marks": str(marks), **fixed} for n, c in configs.items()]
    monkeypatch.setenv(RAY, two_nodes.address)
    found = in_parallel(marked_fine_tune, sent)
    killer.join()
    lost = {path.name.split("-", 1)[1].rsplit("-", 1)[0] for path in marks.glob(f"{second}-*")}
    assert lost, "no run was on the node that was killed"
    assert len(list(marks.iterdir())) > len(names)  # begun again
    assert found == local
    assert files_of(there) == files_of(here)


def test_a_worker_gets_the_base_model_and_sends_its_run_alone(tmp_path):
    config = arithmetic.preset("smoke").run("bc")
    home, worker = tmp_path / "home", tmp_path / "worker"
    config.prepare("smoke", home)
    given = needed("smoke", home)
    lay_out(given, worker)
    made = fine_tune(config, "one", item="fig3", preset="smoke", results_dir=worker)
    assert sorted(written(worker, given)) == [f"smoke/fig3/{made.path.name}", "smoke/timings.jsonl"]


def test_a_run_that_keeps_files_beside_its_results_is_refused(tmp_path):
    call = {**calls(["one"], tmp_path)[0], "keep": tmp_path / "policies"}
    with pytest.raises(ResultError, match=r"the run one would keep files in keep=.*without --ray"):
        running.on_cluster(keeping, [call], "auto")


@pytest.mark.parametrize("address", ["somewhere", "host:port", ":6379", "host:99999"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(ResultError, match="expected auto, or HOST:PORT"):
        running.check_address(address)


def test_an_address_that_does_not_answer_is_said():
    with socket.socket() as taken:  # bound and not listening: nothing can answer there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(ResultError, match=rf"no Ray cluster answers at 127\.0\.0\.1:{port} .*ray start --head"):
            running.check_address(f"127.0.0.1:{port}")


def test_no_cluster_of_this_machine_is_said_before_a_notebook_begins(monkeypatch):
    ray = pytest.importorskip("ray", reason="the extra `cluster` is not installed")

    def none(*given, **options):
        raise ConnectionError("Could not find any running Ray instance.\nPlease specify the one to connect to.")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", none)
    monkeypatch.delenv(RAY, raising=False)
    said = (
        r"no Ray cluster answers at auto: Could not find any running Ray instance\. Start one with `ray start --head`"
    )
    with pytest.raises(ResultError, match=said):
        command.reproduce(preset="smoke", only=["fig1"], ray="auto")
    assert RAY not in os.environ


@pytest.mark.parametrize("name", ["smlib's sources", "mathematics-dataset", "gensim", "Babel"])
def test_a_worker_with_another_smlib_or_other_data_is_named(name, tmp_path):
    here = fingerprint()
    if name not in here:
        pytest.skip(f"{name} is not installed")
    call = calls(["one"], tmp_path)[0]
    with pytest.raises(ResultError, match=rf"the worker on .* differs: {name} \S+ instead of 0\. Install the same com"):
        running.compute(simple.__module__, "simple", call, {}, here | {name: "0"})
    assert not list((tmp_path / "marks").iterdir())


def test_data_that_a_worker_lacks_are_asked_for_by_its_run_alone():
    here = fingerprint()
    there = {name: value for name, value in here.items() if name not in elsewhere.DATA}
    assert len(there) < len(here)
    assert differing(here, there) == differing(there, here) == ""


def test_files_come_home_and_only_there(tmp_path):
    worker, home = tmp_path / "worker", tmp_path / "home"
    given = needed("smoke", worker)
    with results.reading_only(), pytest.raises(results.NotCachedError, match="nothing is to be computed here"):
        simple(**calls(["one"], worker)[0])
    made = simple(**calls(["one"], worker)[0])
    files = {place: content for place, content in written(worker, given).items() if "marks" not in place}
    assert sorted(Path(place).name for place in files) == [made.path.name, "timings.jsonl"]
    assert [path.read_bytes() for path in adopt(files, home)] == [made.path.read_bytes()]
    assert adopt(files, home) == []  # it is there
    with results.reading_only():
        assert simple(**calls(["one"], home)[0]) == made
    for place in ("../outside.json", "/tmp/outside.json"):
        with pytest.raises(ResultError, match="expected a place inside the folder"):
            adopt({place: b"{}"}, home)


def test_fingerprints_name_what_differs():
    here = fingerprint()
    assert differing(here, fingerprint()) == ""
    assert differing(here, here | {"torch": "1.0"}) == f"torch 1.0 instead of {here['torch']}"

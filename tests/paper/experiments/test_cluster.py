"""Runs on a Ray cluster are the same files as here; a lost node's run is repeated; what fails is one clear line."""

import dataclasses
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from smlib.files import ResultError
from smlib.paper import results
from smlib.paper.elsewhere import adopt, differing, fingerprint, lay_out, needed, written
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.runs import cluster as running
from smlib.paper.experiments.runs.executor import RAY, in_parallel
from smlib.paper.experiments.runs.finetuning import fine_tune
from tests.support.cluster_runs import keeping, marked_fine_tune, simple

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
    (mark,) = (tmp_path / "marks").iterdir()
    worker = int(mark.name.split("-")[1])
    for _ in range(300):
        if not Path(f"/proc/{worker}").exists():
            break
        time.sleep(0.1)
    else:
        pytest.fail("the worker goes on")


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

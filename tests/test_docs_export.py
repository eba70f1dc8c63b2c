"""The pages on export, serving and evaluation: every Python block runs, in order, and every option exists."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smlib import load_shipped
from smlib.cli.app import app
from smlib.edits.actions import final_state
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies.loading import save_policy
from smlib.policies.policy import Policy
from tests.support.append_only_server import Backend, serving
from tests.support.exported import deleting_policy, exported
from tests.support.models import saved_model


def blocks(page: Path, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def run(page: Path, names: dict[str, object]) -> dict[str, object]:
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    return names


def test_the_page_on_export(repository, tmp_path, capsys):
    names = {"base": str(saved_model(tmp_path / "base")), "out": str(tmp_path / "out")}
    run(repository / "docs" / "export.md", names)
    assert names["again"].space.bkspc == names["model"].config.bkspc_token_id == 48
    assert "w1 w2 w3" in capsys.readouterr().out


def greedy_actions(policy: Policy, prompt: list[int]) -> list[int]:
    """What our own sampler writes with the settings of the page on serving."""
    config = SamplingConfig(max_new_tokens=24, greedy=True, exclude_deleted=True)
    (expected,) = sample(policy, [prompt], config, [0]).trajectories
    return expected.realised.tolist()


def test_the_page_on_serving(repository, tmp_path):
    policy, model, _ = exported(tmp_path)
    with serving(Backend(model)) as url:
        names = run(repository / "docs" / "serving.md", {"url": url, "folder": str(tmp_path / "out")})
    assert names["space"] == policy.space
    assert names["served"].trajectory.realised.tolist() == greedy_actions(policy, names["prompt"])


@contextmanager
def small_server(repository: Path, folder: Path) -> Iterator[str]:
    """The address of the server of docs/serving.md, started as the page does it, on a free port."""
    command = [sys.executable, str(repository / "docs" / "examples" / "serve.py"), str(folder), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            found = re.match(r"(http://127.0.0.1:\d+)/ until Ctrl-C", server.stdout.readline())
            yield found[1]
        finally:
            server.terminate()


def asked(url: str, body: bytes | None = None, kind: str = "application/json", **headers: str) -> tuple[int, str]:
    """The status and the text of an answer."""
    request = urllib.request.Request(url, body, {**({"Content-Type": kind} if body else {}), **headers})
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.slow
def test_the_command_of_the_page_on_serving(repository, tmp_path, capsys):
    """With the policy that it names: it exports and serves, its page answers, and the block gives our own text."""
    page = repository / "docs" / "serving.md"
    export, serve = blocks(page, "bash")[0].strip().split(" && ")
    assert (export, serve) == (
        "smlib export sm-arithmetic runs/served", "python docs/examples/serve.py runs/served"
    )  # fmt: skip
    folder = tmp_path / "runs" / "served"
    CliRunner().invoke(app, ["export", "sm-arithmetic", str(folder)], catch_exceptions=False)
    policy, tokenizer = load_shipped("sm-arithmetic")
    with small_server(repository, folder) as url:
        text = re.search(r"takes a prompt, such as `(.*?)`", page.read_text())[1]
        status, answer = asked(f"{url}/?" + urllib.parse.urlencode({"prompt": text, "seed": 0}))
        capsys.readouterr()
        names = {"url": url, "folder": str(folder)}
        exec(compile(blocks(page)[0], "serving.md", "exec"), names)
    assert status == 200
    assert text in answer
    assert names["prompt"] == [tokenizer.bos, *tokenizer.encode(text)]
    actions = greedy_actions(policy, names["prompt"])
    assert names["served"].trajectory.realised.tolist() == actions
    assert capsys.readouterr().out.startswith(tokenizer.decode(final_state(names["served"].trajectory, policy.space)))


def test_the_small_server_of_the_page_on_serving(repository, tmp_path):
    policy, _, _ = exported(tmp_path)
    with small_server(repository, tmp_path / "out") as url:
        check_small_server(repository, policy, url, tmp_path / "out")


def check_small_server(repository: Path, policy: Policy, url: str, folder: Path) -> None:
    # The block of the page runs against it: greedy actions are those of our sampler.
    names = {"url": url, "folder": str(folder)}
    exec(compile(blocks(repository / "docs" / "serving.md")[0], "serving.md", "exec"), names)
    assert names["served"].trajectory.realised.tolist() == greedy_actions(policy, names["prompt"])
    # The page: a form; with a prompt what was written, with deletions struck out, markup shown and not obeyed.
    assert "<form>" in asked(f"{url}/")[1]
    pages = [asked(f"{url}/?" + urllib.parse.urlencode({"prompt": "w1 w2", "seed": seed})) for seed in (0, 0, 1)]
    assert [status for status, _ in pages] == [200] * 3
    assert pages[0] == pages[1] != pages[2]
    assert "<del " in pages[0][1] + pages[2][1]
    status, page = asked(f"{url}/?" + urllib.parse.urlencode({"prompt": "</textarea><script>w1</script>"}))
    assert (status, "<script>" in page, "&lt;/textarea&gt;&lt;script&gt;w1" in page) == (200, False, True)
    # What is refused, and that it goes on answering afterwards.
    api = f"{url}/v1/completions"
    good = {"prompt": [1, 4], "max_tokens": 1, "temperature": 0}
    for changes, said in (
        ({"prompt": "w1"}, "prompt: expected a list of token ids in [0, 48)"),
        ({"prompt": [48]}, "prompt: expected a list of token ids"),
        ({"prompt": [True]}, "prompt: expected a list of token ids"),
        ({"prompt": [4] * 5_000}, "prompt: it has 5000 tokens, and the context"),
        ({"max_tokens": 257}, "max_tokens: expected 1 to 256, got 257"),
        ({"logit_bias": {"4": 3.0}}, "logit_bias: expected token ids with the bias -100"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"temperature": float("nan")}, "temperature"),
    ):
        status, answer = asked(api, json.dumps({**good, **changes}).encode())
        assert status == 400, changes
        assert said in json.loads(answer)["error"]["message"]
    assert asked(api, b"[" * 60_000)[0] == 400
    assert asked(f"{url}/?prompt=w1&seed=x")[0] == 400
    assert asked(api, b"x" * 70_000)[0] == 413
    assert asked(api, json.dumps(good).encode(), kind="text/plain")[0] == 415
    assert asked(f"{url}/nothing")[0] == 404
    assert asked(f"{url}/", Host="elsewhere.example:80")[0] == 403
    assert asked(api, json.dumps(good).encode())[0] == 200


@pytest.mark.slow
def test_the_page_on_the_harness(repository, tmp_path, capsys):
    pytest.importorskip("lm_eval", reason="the extra `lm-eval` is not installed")
    import datasets

    policy, tokenizer = deleting_policy(tmp_path / "base")
    config = SamplingConfig(max_new_tokens=4, greedy=True, exclude_deleted=True)
    (trajectory,) = sample(policy, [[1, *tokenizer.encode("w1 w2")]], config, [0]).trajectories
    truth = tokenizer.decode(final_state(trajectory, policy.space))
    rows = datasets.Dataset.from_dict({"question": ["w1 w2"], "answer": [truth]})
    task = {
        "task": "words",
        "custom_dataset": lambda **kwargs: {"test": rows},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["never"], "do_sample": False, "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    page = repository / "docs" / "evaluation_harness.md"
    save_policy(policy, tokenizer, tmp_path / "mine")
    names = run(page, {"folder": str(tmp_path / "mine"), "tasks": [task]})
    assert names["row"]["value"] == 1.0
    assert "value_per_pass" in capsys.readouterr().out


def test_every_option_of_the_page_exists(repository):
    text = (repository / "docs" / "export.md").read_text(encoding="utf-8")
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}
    told = subprocess.run(
        [sys.executable, "-m", "smlib", "export", "--help"], capture_output=True, text=True, check=True, env=environment
    ).stdout
    wanted = set(re.findall(r"(?<=[ `])--[a-z-]+", text)) - {"--no-check"}
    assert len(wanted) > 6
    for option in wanted | {"--check"}:
        assert option in told, option


def test_what_was_not_run_is_said_so(repository):
    text = (repository / "docs" / "serving.md").read_text(encoding="utf-8")
    for engine in ("vLLM", "SGLang"):
        section = text.split(f"\n## {engine}\n")[1].split("\n## ")[0]
        assert section.strip().startswith("Not run here")


def test_the_small_server_asks_no_hub_for_a_folder_that_is_not_there(tmp_path, repository):
    command = [sys.executable, str(repository / "docs" / "examples" / "serve.py"), str(tmp_path / "nothing")]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert said.returncode == 2
    assert "nothing: write one by smlib export POLICY FOLDER" in said.stderr
    assert "huggingface.co" not in said.stderr

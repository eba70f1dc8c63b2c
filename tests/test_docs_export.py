"""The pages on export, serving and evaluation: every Python block runs, in order, and every option exists."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from smlib.edits.actions import final_state
from smlib.generation.sampling import SamplingConfig, sample
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


def test_the_page_on_serving(repository, tmp_path):
    policy, model, _ = exported(tmp_path)
    with serving(Backend(model)) as url:
        names = run(repository / "docs" / "serving.md", {"url": url, "space": policy.space, "prompt": [1, 4, 5]})
    config = SamplingConfig(max_new_tokens=8, greedy=True, exclude_deleted=True)
    (expected,) = sample(policy, [[1, 4, 5]], config, [0]).trajectories
    assert names["served"].trajectory.realised.tolist() == expected.realised.tolist()


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
    names = run(page, {"policy": policy, "tokenizer": tokenizer, "tasks": [task]})
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

"""`smlib finetune`: options and YAML are one run, alone and under `accelerate launch`; what cannot be is said."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields

import pytest
import yaml
from transformers import TrainingArguments
from typer.testing import CliRunner

from smlib.cli.app import app, main
from smlib.cli.finetune import FinetuneArguments, run
from smlib.files import ResultError
from smlib.policies.loading import load_policy
from smlib.training.trainer_config import SequenceMatchConfig
from tests.support.finetuning import prompted
from tests.support.models import saved_model

SHORT = {
    "max_steps": 8,
    "per_device_train_batch_size": 2,
    "bc_steps": 3,
    "anneal_steps": 2,
    "buffer_size": 4,
    "refill": 2,
    "times_seen": 2.0,
    "rollout_tokens": 6,
    "max_length": 32,
    "logging_steps": 1,
    "save_steps": 4,
    "edits_steps": 4,
    "report_to": "none",
    "use_cpu": True,
    "disable_tqdm": True,
    "local_files_only": True,
}


@pytest.fixture
def case(tmp_path):
    """A model, a data file, and the options of a short run on them."""
    saved_model(tmp_path / "base")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in prompted()))
    return {"model": str(tmp_path / "base"), "dataset": str(tmp_path / "rows.jsonl"), **SHORT}


def options(case, **changes):
    return [word for name, value in {**case, **changes}.items() for word in (f"--{name}", str(value))]


def test_an_unknown_option_names_the_one_that_was_meant(case, tmp_path):
    with pytest.raises(ResultError, match="unknown option --metod: did you mean --method"):
        run([*options(case, output_dir=tmp_path / "a"), "--metod", "sm"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--max_steps", "many"], "--max_steps 'many': expected a whole number"),
        (["--max-steps", "1.5"], "--max_steps '1.5': expected a whole number"),
        (["--alpha", "little"], "--alpha 'little': expected a number"),
        (["--use_peft", "perhaps"], "--use_peft 'perhaps': expected true or false"),
        (["--noise", "white"], "--noise: invalid choice: 'white' (choose from"),
        (["--lr_scheduler_type", "straight"], "--lr_scheduler_type: invalid choice: 'straight' (choose from"),
        (["--seed"], "--seed: expected one argument"),
        (["--lora_", "3"], "unknown option --lora_: did you mean --lora_r?"),
        (["--metod", "sm"], "unknown option --metod: did you mean --method?"),
        (["--colour", "red"], "unknown option --colour: `smlib finetune --help` lists those known"),
    ],
)
def test_a_slip_is_one_line_and_no_usage(given, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["smlib", "finetune", *given])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert line.startswith(f"smlib: {said}")
    assert "smlib finetune --help" in line
    assert "--lora-" not in line  # of two spellings, one


def test_a_bad_value_in_a_file_is_one_line_too(case, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text("max_steps: many\n")
    with pytest.raises(ResultError, match=r"^--max_steps 'many': expected a whole number; see `smlib finet"):
        run(["--config", str(tmp_path / "run.yaml")])
    assert capsys.readouterr() == ("", "")


def history(folder, step=8):
    state = json.loads((folder / f"checkpoint-{step}" / "trainer_state.json").read_text())
    timed = {"actions_per_second", "eval_runtime"}
    return [{k: v for k, v in row.items() if k not in timed} for row in state["log_history"]]


def test_options_and_a_file_are_the_same_run(case, tmp_path, capsys):
    run(options(case, output_dir=tmp_path / "a", method="sm"))
    out = capsys.readouterr().out
    with pytest.raises(ResultError, match="a holds a finished policy: name another folder with --output_dir"):
        run(options(case, output_dir=tmp_path / "a", method="bc"))
    assert f"saved in {tmp_path / 'a'}; try: smlib generate --model" in out
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**case, "method": "bc", "seed": None}))
    run(["--config", str(tmp_path / "run.yaml"), "--method", "sm", "--output_dir", str(tmp_path / "b")])
    assert history(tmp_path / "a") == history(tmp_path / "b")
    assert any("edits" in row for row in history(tmp_path / "a"))
    policy, tokenizer = load_policy(tmp_path / "a")
    assert policy.config.backspace
    assert tokenizer.encode("w3") == [6]


def test_a_file_is_read_as_a_stream(case, tmp_path):
    run(options(case, output_dir=tmp_path / "run", streaming=True))
    assert [row["step"] for row in history(tmp_path / "run") if "loss" in row] == list(range(1, 9))
    assert load_policy(tmp_path / "run")[0].config.backspace


def test_the_run_leaves_what_the_card_of_an_export_says(case, tmp_path, monkeypatch):
    given = options(case, output_dir=tmp_path / "run", method="bc", eval_strategy="steps", eval_steps=8)
    given += ["--eval_dataset", case["dataset"]]
    monkeypatch.setattr(sys, "argv", ["/somewhere/smlib/__main__.py", "finetune", *given])
    run(given)
    monkeypatch.undo()
    CliRunner().invoke(app, ["export", str(tmp_path / "run"), str(tmp_path / "out")], catch_exceptions=False)
    card = (tmp_path / "out" / "README.md").read_text()
    for said in ("Method: bc, 8 steps", "examples, noise level 0.1", "| eval_loss |", "smlib finetune --model base"):
        assert said in card
    assert str(tmp_path) not in card


def test_the_example_runs_and_explains_every_line(case, tmp_path, repository):
    example = repository / "docs" / "examples" / "finetune.yaml"
    stored = yaml.safe_load(example.read_text())
    kept = ("per_device_train_batch_size", "anneal_steps", "buffer_size", "refill", "times_seen")
    small = {k: v for k, v in case.items() if k not in kept}
    run(["--config", str(example), *options(small, output_dir=tmp_path / "run")])
    args = json.loads((tmp_path / "run" / "training_args.json").read_text())
    assert args["gradient_accumulation_steps"] == stored["gradient_accumulation_steps"] == 2
    policy, _ = load_policy(tmp_path / "run")
    assert any("lora_" in name for name, _ in policy.named_parameters())
    assert example.read_text().count("#") > 15


def test_a_run_is_resumed(case, tmp_path):
    run(options(case, output_dir=tmp_path / "run", save_total_limit=5))
    whole = history(tmp_path / "run")
    with pytest.raises(ResultError, match=r"config.steps was 8 and is 12.*A run cannot be made longer"):
        run(options(case, output_dir=tmp_path / "run", max_steps=12, resume_from_checkpoint="true"))
    further = {"model": tmp_path / "run", "max_steps": 2, "bc_steps": 0, "anneal_steps": 0}
    run(options({**case, **further}, output_dir=tmp_path / "longer"))  # what it says to do instead
    assert history(tmp_path / "longer", 2)[0]["beta"] == pytest.approx(0.2)
    for name in ("trainer_state.json", "buffer.npz"):
        (tmp_path / "run" / "checkpoint-8" / name).unlink()
    with pytest.warns(UserWarning, match="checkpoint-8 is incomplete"):
        run(options(case, output_dir=tmp_path / "run", resume_from_checkpoint="true"))
    assert history(tmp_path / "run") == whole


@pytest.mark.slow
def test_accelerate_launch_with_one_process_is_the_same_run(case, tmp_path, repository):
    run(options(case, output_dir=tmp_path / "plain"))
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "-m", "smlib", "finetune"]
    subprocess.run(
        [*launch, *options(case, output_dir=tmp_path / "launched")],
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"},
    )
    assert history(tmp_path / "plain") == history(tmp_path / "launched")
    for name in ("lm/model.safetensors", "policy.safetensors"):
        assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "launched" / name).read_bytes()


def test_help_begins_with_what_is_smlibs_own_and_lists_every_option():
    shown = CliRunner().invoke(app, ["finetune", "--help"])
    assert shown.exit_code == 0
    assert "usage: smlib finetune [--config FILE] --model MODEL --dataset DATASET" in shown.output
    listed = re.findall(r"^  --(\w+)", shown.output, re.MULTILINE)
    kinds = (FinetuneArguments, SequenceMatchConfig)
    every = {f.name for kind in kinds for f in fields(kind) if f.init}
    assert every == {name for name in listed if not name.startswith("no_")}
    inherited = {f.name for f in fields(TrainingArguments)}
    where = [name in inherited for name in listed if not name.startswith("no_")]
    assert where == sorted(where)  # all that is ours, then all that is transformers'
    assert listed[:2] == ["model", "dataset"]
    titles = re.findall(r"^(\w.*):$", shown.output, re.MULTILINE)
    assert titles == [
        "what is trained on what",
        "SequenceMatch",
        "of transformers' TrainingArguments, what most runs set",
        "of transformers' TrainingArguments, the others",
    ]
    assert listed.index("max_steps") < listed.index("adam_epsilon")
    assert "finetune" in CliRunner().invoke(app, ["--help"]).output


def test_left_out_says_what_leaving_an_option_out_does():
    """ "Left out: X" beside a default of Y would be two answers to one question."""
    for kind in (FinetuneArguments, SequenceMatchConfig):
        for one in fields(kind):
            if "left out" in one.metadata.get("help", "").lower():
                assert one.default is None, one.name


def test_the_command_passes_its_options_on_in_their_order(monkeypatch):
    given = []
    monkeypatch.setattr("smlib.cli.finetune.run", lambda arguments: given.extend(arguments))
    options = ["--config", "run.yaml", "--model=x", "--lora_target_modules", "q", "v", "--use_peft", "--seed", "-1"]
    assert CliRunner().invoke(app, ["finetune", *options]).exit_code == 0
    assert given == options


def test_a_word_that_belongs_to_no_option_is_no_option(case, tmp_path):
    with pytest.raises(ResultError, match="'extra' stands after no option that takes it"):
        run([*options(case, output_dir=tmp_path / "run"), "extra"])


def test_a_finished_run_that_is_given_again_is_trained_no_further(case, tmp_path):
    given = options(case, output_dir=tmp_path / "run", method="bc")
    run(given)
    finished = (tmp_path / "run" / "lm" / "model.safetensors").read_bytes()
    (tmp_path / "run" / "policy.safetensors").unlink()  # as where it was killed before the policy was written
    run([*given, "--resume_from_checkpoint", "true"])
    assert not (tmp_path / "run" / "checkpoint-9").exists(), "8 steps were asked for"
    assert (tmp_path / "run" / "lm" / "model.safetensors").read_bytes() == finished
    assert (tmp_path / "run" / "policy.safetensors").is_file()


def test_a_folder_that_cannot_be_is_said_before_a_model_is_loaded(case, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    for name in ("file", "file/run"):
        with pytest.raises(ResultError, match=r"file.* cannot be the folder of a run: .*file is a file; name another"):
            run(options(case, model="nothing", output_dir=tmp_path / name))
    monkeypatch.setattr("os.access", lambda *_: False)  # as of a folder that may be read only, also for root
    with pytest.raises(ResultError, match=r"run cannot be the folder of a run: .* may not be written to"):
        run(options(case, model="nothing", output_dir=tmp_path / "run"))
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "run").exists()


def test_the_line_that_goes_on_can_be_pasted(case, tmp_path, capsys):
    run(options(case, output_dir=tmp_path / "my run", method="mle"))
    assert f"smlib generate --model '{tmp_path / 'my run'}' --prompt" in capsys.readouterr().out


def test_a_hub_that_is_out_of_reach_is_one_line(case, tmp_path, monkeypatch):
    class NoNetworkError(Exception):
        __module__ = "httpx.transports"

    def refuses(trainer):
        raise NoNetworkError("Name or service not known")

    monkeypatch.setattr("transformers.Trainer.init_hf_repo", refuses)
    with pytest.raises(ResultError, match=r"the hub cannot be reached, or refuses: Name.*; nothing was trained\."):
        run(options(case, output_dir=tmp_path / "run", push_to_hub=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppo"}, "unknown method 'ppo'; known: mle"),
        ({"model": "nobody/nothing"}, "no model 'nobody/nothing'"),
        ({"dataset": "nowhere.jsonl"}, "there is no file nowhere.jsonl"),
        ({"modle": "x"}, "modle"),
        ({"streaming": True, "max_steps": -1}, "so an epoch has none either: set max_steps"),
        ({"lora_r": 8}, "--lora_r say what adapters are like, and without .* add --use_peft true"),
        ({"use_peft": True, "lora_target_modules": "q_prj"}, "q_prj.*Its linear layers are called down_proj, .*q_proj"),
        ({"eval_dataset": "held.jsonl"}, "held.jsonl would not be looked at: say when, as by --eval_strategy steps"),
        ({"divergence": "kl"}, "unknown divergence 'kl'; known: forward_kl"),
        (
            {"metric_for_best_model": "bleu"},
            "'bleu' is not measured on held-out data: expected one of eval_loss, eval_l",
        ),
        ({"per_device_eval_batch_size": 0}, "per_device_eval_batch_size must be at least 1, got 0"),
        ({"optim": "galore_adamw", "optim_target_modules": "q_proj"}, "galore_torch"),
        ({"max_step": 9}, "unknown option --max_step: did you mean --max_steps"),
        ({"dataset_split": "validation"}, "--dataset_split validation is for data sets of the hub, and .* is a file"),
        ({"do_predict": True}, "--do_predict does nothing here"),
        ({"max_steps": 0}, "max_steps must be at least 1, or -1 for the passes of num_train_epochs, got 0"),
        ({"fp16": True}, "fp16=True has no effect on a CPU"),
        ({"model": "sm-arithmetic"}, "comes with smlib and no language model.*smlib train --init sm-arithmetic"),
        ({"lora_r": 0}, "r must be at least 1, got 0"),
        ({"max_length": -1}, "max_length must be at least 3, or 0 for the model's context, got -1"),
        ({"backspace_token": "w7"}, "choose another spelling with backspace_token"),
    ],
)
def test_what_cannot_be_is_said(case, tmp_path, changes, message):
    with pytest.raises(ResultError, match=message):
        run(options(case, output_dir=tmp_path / "run", **changes))


def test_files_that_are_none_are_refused(tmp_path):
    with pytest.raises(ResultError, match="there is no model: name one with --model"):
        run([])
    with pytest.raises(ResultError, match=r"nothing.yaml cannot be read"):
        run(["--config", str(tmp_path / "nothing.yaml")])
    (tmp_path / "run.yaml").write_text("method: sm\nmetod: bc\n")
    with pytest.raises(ResultError, match="has unknown options: metod; `smlib finetune --help` lists"):
        run([f"--config={tmp_path / 'run.yaml'}"])
    (tmp_path / "run.yaml").write_text("- method\n")
    with pytest.raises(ResultError, match="holds a list: expected one option a line"):
        run(["--config", str(tmp_path / "run.yaml")])
    (tmp_path / "run.yaml").write_text("method: [")
    with pytest.raises(ResultError, match="is no YAML"):
        run(["--config", str(tmp_path / "run.yaml")])
    with pytest.raises(ResultError, match="--config is followed by no file"):
        run(["--config"])

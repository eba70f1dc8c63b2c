"""`SequenceMatchTrainer` is Algorithm 1: one curve with `train`, whatever the method, and after a kill as well."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from smlib.data.columns import from_columns
from smlib.data.tokenizers import PretrainedTokenizer
from smlib.objectives.methods import METHODS
from smlib.policies.loading import Lora, load_policy
from smlib.training.algorithm_1 import NonFiniteLossError, train
from smlib.training.checkpoints import CheckpointError, trainable
from smlib.training.evaluation import MEASURES
from smlib.training.trainer import SequenceMatchTrainer
from tests.support.finetuning import arguments, explained, logged, losses, prompted
from tests.support.models import saved_model, texts, words_tokenizer


@pytest.fixture
def base(tmp_path):
    return saved_model(tmp_path / "base")


def both(base, folder, rows, lora=None, **changes):
    """The run as the trainer does it, and as `train` does."""
    args = arguments(folder / "trainer", **changes)
    trainer = SequenceMatchTrainer(str(base), args, train_dataset=rows, peft_config=lora)
    trainer.train()
    policy, tokenizer = load_policy(base, lora=lora, dtype=torch.float64, seed=args.seed)
    data = from_columns(rows, tokenizer, max_length=32, clean=not METHODS[args.method].backspace)
    made = train(policy, data, trainer.train_config, folder / "train", progress=False)
    return trainer, made


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_has_the_curve_of_algorithm_1(method, base, tmp_path):
    trainer, made = both(base, tmp_path, prompted(), method=method)
    expected = [row["loss"] for row in made.history]
    assert len(expected) == 20
    assert losses(trainer) == pytest.approx(expected, abs=1e-9)
    assert trainer.policy.config.backspace == METHODS[method].backspace
    ours, theirs = trainable(trainer.policy), trainable(made.policy)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-9)
    parts = {name for row in made.history for name in row} - {"step", "beta", "lr", "loss", "grad_norms"}
    names = logged(trainer)
    assert parts == {n.removeprefix("parts/") for n in names if n.startswith("parts/")}
    assert names <= explained(), "docs/your-own-model.md says what each name of the log is"


@pytest.mark.parametrize(
    "changes",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2},
        {"paired": True, "max_grad_norm": 0.05},
        {"max_grad_norm": 0.0, "method": "bc"},
        {"lora": Lora(2, 4)},
        {"lora": Lora(2, 4, dropout=0.2), "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4},
    ],
    ids=["accumulation", "paired", "no clipping", "lora", "dropout in parts"],
)
def test_accumulation_adapters_and_clipping_too(changes, base, tmp_path):
    trainer, made = both(base, tmp_path, prompted(), **changes)
    assert losses(trainer) == pytest.approx([row["loss"] for row in made.history], abs=1e-9)
    norms = [row["grad_norm"] for row in trainer.state.log_history if "loss" in row]
    assert norms == pytest.approx([n for row in made.history for n in row["grad_norms"]], rel=1e-6)


def test_running_text_too(base, tmp_path):
    rows = [{"text": text} for text in texts()]
    trainer, made = both(base, tmp_path, rows, max_prompt_length=16)
    assert trainer.data.branches
    assert losses(trainer) == pytest.approx([row["loss"] for row in made.history], abs=1e-9)


def test_a_stream_too_and_it_is_resumed(base, tmp_path):
    import datasets

    stream = datasets.Dataset.from_list(prompted()).to_iterable_dataset()
    args = arguments(tmp_path / "run")
    trainer = SequenceMatchTrainer(str(base), args, stream)
    assert trainer.data.in_order
    trainer.train()
    policy, tokenizer = load_policy(base, dtype=torch.float64, seed=args.seed)
    data = from_columns(stream, tokenizer, max_length=32, places=len(trainer.data))
    made = train(policy, data, trainer.train_config, tmp_path / "train", progress=False)
    assert losses(trainer) == pytest.approx([row["loss"] for row in made.history], abs=1e-9)
    resumed = SequenceMatchTrainer(str(base), arguments(tmp_path / "run"), stream)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8"))
    assert losses(resumed) == losses(trainer)


class Killed(TrainerCallback):
    """Ends the process in the middle of step 14, as a machine that goes down does."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 13:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("method", ["sm", "gail"])
def test_a_killed_run_goes_on_to_the_same_bytes(method, base, tmp_path):
    def made(folder, callbacks=None, lora=None):
        args = arguments(folder, method=method, per_device_train_batch_size=2, gradient_accumulation_steps=2)
        adapters = Lora(2, 4, dropout=0.1)
        return SequenceMatchTrainer(str(base), args, prompted(), peft_config=adapters, callbacks=callbacks)

    whole = made(tmp_path / "whole")
    whole.train()
    child = os.fork()
    if child == 0:  # pragma: no cover
        made(tmp_path / "killed", [Killed()]).train()
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    torn = tmp_path / "killed" / "checkpoint-16"  # as if the kill had come while it was written
    torn.mkdir()
    (torn / "trainer_state.json").write_text('{"global_step": 1')
    resumed = made(tmp_path / "killed")
    with pytest.warns(UserWarning, match="checkpoint-16 is incomplete and is passed over"):
        resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)
    for name, value in trainable(whole.policy).items():
        assert torch.equal(value, trainable(resumed.policy)[name]), name
    again = load_policy(tmp_path / "killed" / "checkpoint-16")[
        0
    ]  # written whole this time, and a policy like any other
    assert again.config == resumed.policy.config
    assert not list((tmp_path / "killed").rglob("*.bin"))


def test_a_checkpoint_of_another_run_is_refused_with_what_differs(base, tmp_path):
    SequenceMatchTrainer(str(base), arguments(tmp_path / "run", max_steps=8), prompted()).train()
    other = SequenceMatchTrainer(str(base), arguments(tmp_path / "run", max_steps=8, alpha=0.2), prompted())
    with pytest.raises(CheckpointError, match=r"another run: config.objective.alpha was 0.1 and is 0.2. Resume with"):
        other.train(resume_from_checkpoint=True)
    with pytest.raises(CheckpointError, match="model_and_data was"):
        SequenceMatchTrainer(str(base), arguments(tmp_path / "run", max_steps=8), prompted(11)).train(
            resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-8")
        )
    longer = SequenceMatchTrainer(str(base), arguments(tmp_path / "run", max_steps=16), prompted())
    with pytest.raises(CheckpointError, match=r"config.steps was 8 and is 16.*A run cannot be made longer or shorter"):
        longer.train(resume_from_checkpoint=True)
    empty = SequenceMatchTrainer(str(base), arguments(tmp_path / "empty", max_steps=8), prompted())
    with pytest.raises(ValueError, match="holds no checkpoint"):
        empty.train(resume_from_checkpoint=True)


def test_epochs_count_the_examples(base, tmp_path):
    args = arguments(tmp_path, max_steps=-1, num_train_epochs=3, method="bc", gradient_accumulation_steps=2)
    trainer = SequenceMatchTrainer(str(base), args, prompted(20))
    assert trainer.train_config.steps == 9  # three times 20 examples in batches of 8
    trainer.train()
    assert trainer.state.global_step == 9
    assert trainer.state.epoch == pytest.approx(3.0)


@pytest.mark.parametrize("name", [f"{before}{name}" for name in MEASURES for before in ("", "eval_", "eval_held_")])
def test_less_is_better_of_every_measure(name, tmp_path):
    """transformers would keep the checkpoint with the largest perplexity."""
    assert arguments(tmp_path, metric_for_best_model=name).greater_is_better is False


def test_evaluation_best_checkpoint_and_saved_policy(base, tmp_path):
    args = arguments(
        tmp_path / "run", eval_strategy="steps", eval_steps=8, load_best_model_at_end=True, save_total_limit=2
    )
    trainer = SequenceMatchTrainer(str(base), args, prompted(), eval_dataset=prompted(16)[12:])
    trainer.train()
    found = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert trainer.state.best_metric == pytest.approx(min(found))
    assert logged(trainer) <= explained()
    metrics = trainer.evaluate()
    with pytest.raises(NotImplementedError, match=r"no predictions: .*smlib\.sample\(trainer\.policy"):
        trainer.predict(prompted())
    assert metrics["eval_loss"] == pytest.approx(min(found), rel=1e-12)
    assert metrics["eval_perplexity"] == pytest.approx(np.exp(metrics["eval_loss_clean"]))
    assert 0 < metrics["eval_bkspc_probability"] < 1
    trainer.save_model()
    policy, tokenizer = load_policy(tmp_path / "run")
    assert list((tmp_path / "run").glob("checkpoint-*"))
    assert json.loads((tmp_path / "run" / "training_args.json").read_text())["method"] == "sm"
    for name, value in trainable(trainer.policy).items():
        assert torch.equal(trainable(policy)[name], value.to(trainable(policy)[name].dtype))
    assert tokenizer.vocab_size == 48
    trainer.save_model()  # over itself


def test_several_data_sets_are_evaluated_by_name(base, tmp_path):
    args = arguments(tmp_path / "run", max_steps=8, method="bc", eval_strategy="steps", eval_steps=8)
    held = {"seen": prompted(), "unseen": prompted(16)[12:]}
    trainer = SequenceMatchTrainer(str(base), args, prompted(), eval_dataset=held)
    trainer.train()
    (row,) = (row for row in trainer.state.log_history if "eval_seen_loss" in row)
    again = trainer.evaluate()
    for name, rows in held.items():
        alone = trainer.evaluate(rows)
        assert alone["eval_loss"] == again[f"eval_{name}_loss"]
    assert row["eval_seen_loss"] == pytest.approx(again["eval_seen_loss"], rel=1e-12)
    assert again["eval_seen_loss"] != again["eval_unseen_loss"]


def test_the_model_may_be_a_module_with_adapters_of_peft(base, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    def lm():
        return AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa", dtype=torch.float64)

    wanted = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    torch.manual_seed(3)
    wrapped = get_peft_model(lm(), wanted)
    runs = [
        SequenceMatchTrainer(model, arguments(tmp_path / name, max_steps=8, method="bc"), prompted(), **options)
        for name, model, options in (
            ("name", str(base), {"peft_config": wanted}),
            ("module", lm(), {"peft_config": wanted, "processing_class": words_tokenizer()}),
            ("wrapped", wrapped, {}),
        )
    ]
    for run in runs:
        run.train()
        names = {n for n in trainable(run.policy) if "lora_" in n}
        assert names
        assert all("q_proj" in n or "v_proj" in n for n in names)
        run.save_model()
        loaded = load_policy(run.args.output_dir)[0]
        assert {n for n in trainable(loaded) if "lora_" in n} == names
    assert losses(runs[0]) == losses(runs[1])


FROM_THE_CACHE = """
import json, sys
from pathlib import Path
from smlib import Lora, SequenceMatchConfig, SequenceMatchTrainer, load_policy

args = SequenceMatchConfig(output_dir="run", method="bc", max_steps=2, max_length=32, edits_steps=0, disable_tqdm=True)
rows = json.loads(sys.argv[1])
trainer = SequenceMatchTrainer("someone/tiny", args, rows, peft_config=Lora(2, 4))
trainer.train()
trainer.save_model()
trainer.create_model_card("mine")
assert load_policy("run")[0].lm.smlib_source.name == "someone/tiny"
assert "base_model: someone/tiny" in Path("run/README.md").read_text()
"""


@pytest.mark.slow
def test_the_model_may_be_an_id_of_the_hub_that_is_in_its_cache(repository, tmp_path):
    """As a download leaves it; the hub itself is not asked."""
    cached = tmp_path / "home" / "hub" / "models--someone--tiny"
    saved_model(cached / "snapshots" / "0123")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0123")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", FROM_THE_CACHE, json.dumps(prompted())]
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)


def test_a_loss_that_is_none_stops_the_run_with_its_batch(base, tmp_path):
    trainer = SequenceMatchTrainer(str(base), arguments(tmp_path / "run"), prompted())
    trainer.policy.w_bkspc.data[:] = torch.nan
    with pytest.raises(NonFiniteLossError, match="at step 0"):
        trainer.train()
    assert (tmp_path / "run" / "nonfinite-step-0.json").is_file()


def test_pushing_sends_the_policy_and_its_card(base, tmp_path, monkeypatch):
    sent = []

    class Hub:
        def create_repo(self, repo_id, **options):
            return type("Repo", (), {"repo_id": f"me/{repo_id}"})()

        def upload_folder(self, *, folder_path, **options):
            sent.append(sorted(os.listdir(folder_path)))
            return type("Job", (), {"done": lambda self: True, "result": lambda self: None})()

    monkeypatch.setattr("transformers.trainer.hf_api", Hub)
    args = arguments(tmp_path / "run", max_steps=8, push_to_hub=True, hub_model_id="mine")
    trainer = SequenceMatchTrainer(str(base), args, prompted())
    trainer.train()
    trainer.push_to_hub()
    assert all({"policy.json", "lm", "tokenizer"} <= set(names) for names in sent)
    assert "README.md" in sent[-1]
    card = (tmp_path / "run" / "README.md").read_text()
    assert "trained by SequenceMatch" in card
    assert '"steps": 8' in card
    assert "base_model" not in card  # a folder here is nobody's base


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "ppo"}, "unknown method 'ppo'; known: mle, bc, sm"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor=0.1 has no meaning here: the objectives"),
        ({"auto_find_batch_size": True}, "set per_device_train_batch_size"),
        ({"noise": "white"}, "unknown noise 'white'; known: vocabulary, unigram"),
        ({"dtype": "float8"}, "unknown dtype 'float8'; known: float32"),
        ({"bc_steps": -1}, "bc_steps must not be negative"),
        ({"times_seen": 0.1, "refill": 1}, "generate at least"),
        ({"load_best_model_at_end": True, "save_only_model": True, "eval_strategy": "steps"}, "leave out save_only"),
    ],
)
def test_impossible_arguments_are_refused_before_a_model_is_loaded(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)


def test_bad_models_and_adapters_are_refused(base, tmp_path):
    from peft import IA3Config, LoraConfig

    def start(model=str(base), **options):
        return SequenceMatchTrainer(model, arguments(tmp_path / "run"), prompted(), **options)

    words_tokenizer(eos=None).save_pretrained(base)
    with pytest.raises(ValueError, match=r"has no <eos>: set tokenizer.eos_token"):
        start()
    with pytest.raises(ValueError, match=r"eos_token='<end>' is no token of the model"):
        SequenceMatchTrainer(str(base), arguments(tmp_path / "run", eos_token="<end>"), prompted())
    made = SequenceMatchTrainer(str(base), arguments(tmp_path / "run", eos_token="</s>"), prompted())
    assert (made.tokenizer.eos, made.tokenizer.vocab_size) == (2, 48)
    words_tokenizer().save_pretrained(base)
    with pytest.raises(ValueError, match=r"has a token 'w7' already \(id 10\).*another spelling with backspace_token"):
        SequenceMatchTrainer(str(base), arguments(tmp_path / "run", backspace_token="w7"), prompted())
    with pytest.raises(TypeError, match="peft_config is a IA3Config: expected a LoraConfig"):
        start(peft_config=IA3Config())
    with pytest.raises(ValueError, match="peft_config sets use_dora=True, which has no counterpart"):
        start(peft_config=LoraConfig(use_dora=True))
    with pytest.raises(TypeError, match="the model is a int"):
        start(model=3)
    with pytest.raises(TypeError, match="a Policy comes with its tokeniser"):
        start(model=load_policy(base)[0])
    with pytest.raises(ValueError, match="nothing to train on"):
        SequenceMatchTrainer(str(base), arguments(tmp_path / "run"))
    with pytest.raises(TypeError, match="args is a dict: expected a SequenceMatchConfig"):
        SequenceMatchTrainer(str(base), {}, prompted())
    with pytest.raises(FileNotFoundError, match="no model 'nobody/nothing'"):
        start(model="nobody/nothing")
    policy, tokenizer = load_policy(base, dtype=torch.float64)
    assert isinstance(tokenizer, PretrainedTokenizer)
    assert start(model=policy, processing_class=tokenizer).policy is policy
    assert not (tmp_path / "run" / "policy.json").exists()

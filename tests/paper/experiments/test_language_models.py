"""A pretrained language model in place of the tiny base: its tokeniser, its presets, and a whole run in miniature."""

import dataclasses
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers

from smlib.data import load_task
from smlib.data.encoding import continuation
from smlib.data.tasks import Task
from smlib.data.tokenizers import DIGITS, PretrainedTokenizer, train_bpe
from smlib.paper.experiments.ablations import regimes
from smlib.paper.experiments.ablations import study as ablations
from smlib.paper.experiments.arithmetic import divergences
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.runs import finetuning
from smlib.paper.experiments.runs.answers import answer, wrong_prefixes
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, fine_tune
from smlib.paper.experiments.runs.language_models import LanguageModel
from smlib.paper.experiments.runs.text_models import TextModel
from smlib.paper.experiments.tasks import mathematics, translation
from smlib.paper.items import PRESETS
from smlib.policies.loading import Lora, load_tokenizer

SMALL = {"difficulty": "easy", "n_train": 40, "n_val": 10, "n_test": 30}
BOOKS = [
    {"translation": {"en": f"He had {n} of them.", "fr": f"Il en avait {n}."}} for n in range(400)
]  # as `datasets` has them


def like_llama() -> transformers.PreTrainedTokenizerFast:
    """Spaces as `▁`, one of them before every text, digits apart, and two merges of the space with what follows."""
    letters = sorted({*map(chr, range(33, 127)), "é", "à", "ê", "▁"})
    pieces = ["<unk>", "<s>", "</s>", *letters, "▁-", "▁I"]
    model = models.BPE({p: i for i, p in enumerate(pieces)}, [("▁", "-"), ("▁", "I")], unk_token="<unk>")
    backend = Tokenizer(model)
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def like_gpt() -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE: a word carries its space, digits are apart."""
    task = load_task(**SMALL)
    backend = train_bpe([e.prompt + e.answer for e in task.train], 275).backend
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>")


TOKENIZERS = {"llama": like_llama, "gpt": like_gpt}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_question_and_its_answer_are_the_text_of_the_paper(kind: str) -> None:
    tokenizer = PretrainedTokenizer(TOKENIZERS[kind]())
    task = load_task(**SMALL, tokenizer=tokenizer)
    digits = {tokenizer.encode(f"1{d}")[-1] for d in DIGITS}
    for example in (*task.train, *task.test):
        prompt, given = task.prompt_ids(example), task.answer_ids(example)
        assert tokenizer.decode([*prompt, *given]) == example.prompt + example.answer
        assert tokenizer.decode(given) == example.answer  # no space of its own, which the prompt already has
        assert given[-1] == tokenizer.eos
        expected = digits if example.answer[0] in DIGITS else {tokenizer.encode("1-")[-1]}
        assert int(given[0]) in expected


def test_the_prompt_does_not_betray_the_sign_of_the_answer() -> None:
    task = load_task(**SMALL, tokenizer=PretrainedTokenizer(like_llama()))
    last = {int(task.prompt_ids(e)[-1]) for e in task.train}
    assert {e.answer[0] == "-" for e in task.train} == {True, False}
    assert len(last) == 1


def test_a_text_after_another_has_the_ids_of_the_whole() -> None:
    tokenizer = PretrainedTokenizer(like_llama())
    assert continuation(tokenizer, "so: ", "46") == tokenizer.encode("so: 46")[-2:]
    minus = continuation(tokenizer, "so: ", "-4")  # the whole text has the space and the sign in one token
    assert [tokenizer.token(t) for t in minus] == ["-", "4"]
    assert continuation(tokenizer, "so:", " It") == tokenizer.encode("so: It")[-2:]


def test_translations_begin_with_a_word_and_its_space() -> None:
    task = load_task(
        "opus_books", rows=BOOKS, n_train=20, n_val=5, n_test=5, tokenizer=PretrainedTokenizer(like_llama())
    )
    example = task.train[0]
    assert task.tokenizer.token(int(task.answer_ids(example)[0])).strip() == "I"
    whole = [*task.prompt_ids(example), *task.answer_ids(example)[:-1]]
    assert whole == [task.tokenizer.bos, *task.tokenizer.encode(example.prompt + example.answer)]


def test_wrong_digits_stand_where_the_answer_begins() -> None:
    task = load_task(**SMALL, tokenizer=PretrainedTokenizer(like_llama()))
    for example, prefix in zip(task.test, wrong_prefixes(task, task.test, 2, seed=0), strict=True):
        text = task.tokenizer.decode([*task.prompt_ids(example), *prefix])
        assert text[: len(example.prompt)] == example.prompt
        assert set(text[len(example.prompt) :]) <= set(DIGITS)


def saved(folder: Path) -> Path:
    """A random Llama with a tokeniser like Llama-2's beside it."""
    tokenizer = like_llama()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer) + 5,  # a head of more rows than tokens, as many models have
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def miniature(folder: Path) -> arithmetic.ArithmeticPreset:
    """The paper's preset, one question at a time where it has a thousand."""
    model = TextModel(str(saved(folder)), lora=Lora(4, 4, unembedding=True))
    return dataclasses.replace(
        arithmetic.preset("paper"),
        base=LanguageModel(difficulty="easy", model=model),
        steps=2,
        batch_size=4,
        accumulation=2,
        warmup_steps=1,
        schedule=(0, 1),
        tokens=8,
        n_train=20,
        n_test=6,
        recovery_prompts=4,
        answers_at_a_time=4,
    )


def test_the_papers_arithmetic_in_miniature(tmp_path: Path) -> None:
    chosen = miniature(tmp_path / "model")
    config = chosen.run("sm", "ground_truth", 0.2)
    small = dataclasses.replace(config.training, refill=4, buffer_size=4, checkpoint_every=0, log_every=1)
    config = dataclasses.replace(config, training=small, recovery_depths=(2,), examples=1)
    run = fine_tune(config, "mini", item="fig3", preset="smoke", results_dir=tmp_path)
    assert len(run["test"]["greedy_exclude"]["correct"]) == 6
    assert len(run["recovery"]["2"]["all_removed"]) == 4
    assert np.isfinite(run["history"]["loss"]).all()
    assert run["history"]["mixture"]  # rollouts were sampled and used


def test_a_tokeniser_is_read_without_the_weights(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    tokenizer = load_tokenizer(folder)
    assert tokenizer.vocab_size == len(like_llama()) + 5
    with pytest.raises(FileNotFoundError, match="no model"):
        load_tokenizer(tmp_path / "elsewhere")


def test_a_task_in_other_words_is_refused(tmp_path: Path) -> None:
    base = miniature(tmp_path / "model").base
    with pytest.raises(ValueError, match="the task's tokeniser"):
        base.policy(load_task(**SMALL))


def test_answers_do_not_depend_on_how_many_are_sampled_at_a_time(tmp_path: Path) -> None:
    base = miniature(tmp_path / "model").base
    task: Task = load_task(**SMALL, tokenizer=base.tokenizer())
    policy = base.policy(task).eval()
    whole, parts = (answer(policy, task, task.val, max_new_tokens=6, batch=b) for b in (None, 3))
    assert [t.realised.tolist() for t in whole.trajectories] == [t.realised.tolist() for t in parts.trajectories]
    assert (whole.correct, whole.backspace_rate) == (parts.correct, parts.backspace_rate)


def test_the_paper_preset_is_the_papers() -> None:
    chosen = arithmetic.preset("paper")
    model = chosen.base.model
    assert (model.name, model.four_bit) == ("meta-llama/Llama-2-7b-hf", True)
    assert model.lora == Lora(64, 16, unembedding=True)
    objective = chosen.run("sm", "ground_truth", 0.2).training.objective
    assert (objective.bc_steps, objective.anneal_steps, objective.beta_floor) == (10_000, 2_000, 0.2)
    assert (chosen.batch_size, chosen.warmup_steps, chosen.n_train) == (32, 2_000, 5_000)
    assert mathematics.preset("tab7", "paper").runs.n_train == 50_000
    assert mathematics.preset("tab6", "paper").runs.base.task == "mul"
    assert translation.preset("paper").base.task == "opus_books"
    assert translation.cells("paper")["sm-0.2-s0"].training.row_len is None


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_there_for_every_table(name: str) -> None:
    assert arithmetic.preset(name).grid()
    assert divergences.cells(name)
    assert ablations.cells(name)
    assert regimes.cells(name)
    assert translation.cells(name)
    assert all(mathematics.cells(item, name) for item in mathematics.TASKS)


def test_the_documented_lines_say_what_they_train(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    blocks = (repository / "docs" / "running.md").read_text(encoding="utf-8").split("```python")[1:]
    (code,) = [text for block in blocks if "LanguageModel(task=" in (text := block.split("```")[0])]
    asked = {}

    def recorded(config: FineTuneConfig, name: str, **options: str) -> dict[str, object]:
        asked.update({"config": config, "name": name, **options})
        return {"test": {"t1": {"accuracy": 0.5}}}

    monkeypatch.setattr(finetuning, "fine_tune", recorded)
    exec(compile(code, "running.md", "exec"), {})
    config = asked["config"]
    assert (config.base.task, config.base.model.name, config.training.eta) == ("mul", "my-model", 0.1)
    assert config.training.steps == arithmetic.preset("paper").steps
    assert set(asked) <= set(inspect.signature(fine_tune).parameters)

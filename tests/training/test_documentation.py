"""The documents' code is what a reader would run: the lines of docs/your-own-model.md, on a small model."""

import json
import re

from smlib.cli.finetune import FinetuneArguments
from smlib.data.columns import from_columns
from smlib.data.tokenizers import PretrainedTokenizer
from smlib.edits.actions import final_state
from smlib.training.trainer_config import SequenceMatchConfig
from tests.support.finetuning import CHAT, explained, prompted
from tests.support.models import saved_model, words_tokenizer


def blocks(text, kind):
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def test_the_ten_lines_train_and_generate(repository, tmp_path, monkeypatch, capsys):
    page = (repository / "docs" / "your-own-model.md").read_text()
    train, generate = blocks(page, "python")
    lines = [line for line in train.splitlines() if line.strip()]
    assert len(lines) <= 10
    readme = (repository / "README.md").read_text().split("## Your own model and text")[1]
    assert blocks(readme, "python")[0] == train
    monkeypatch.chdir(tmp_path)
    saved_model(tmp_path / "base")
    (shown,) = re.findall(r"holds one row a line, such as `(.*?)` or", page)
    assert set(json.loads(shown)) == set(prompted()[0])
    (tmp_path / "my.jsonl").write_text("\n".join(json.dumps(row) for row in prompted()))
    small = "max_steps=4, max_length=32, rollout_tokens=6, buffer_size=4, refill=4, bc_steps=1, use_cpu=True, "
    train = train.replace('"smollm2"', '"base"').replace("max_steps=200, ", small)
    scope = {}
    exec(train, scope)
    assert scope["trainer"].state.global_step == 4
    assert list((tmp_path / "runs" / "mine").rglob("events.*"))
    exec(generate.replace("max_new_tokens=32", "max_new_tokens=6"), scope)
    written, policy = scope["written"], scope["policy"]
    stands = scope["tokenizer"].decode(final_state(written, policy.space))
    assert capsys.readouterr().out.splitlines()[-1] == stands
    assert policy.config.backspace
    assert policy.space.bkspc == 48


def test_a_conversation_is_asked_for_as_it_was_learned(repository):
    (line,) = re.findall(r"`(prompt = .*?)`", (repository / "docs" / "your-own-model.md").read_text())
    backend = words_tokenizer()
    backend.chat_template = CHAT
    tokenizer = PretrainedTokenizer(backend, 48)
    asked = [{"role": "user", "content": "w5"}]
    data = from_columns([{"messages": [*asked, {"role": "assistant", "content": "w6"}]}], tokenizer, max_length=32)
    scope = {"tokenizer": tokenizer, "messages": asked}
    exec(line, scope)
    assert scope["prompt"] == data.examples[0].prompt.tolist()


def test_options_and_links_of_the_documents_exist(repository):
    known = {*FinetuneArguments.__dataclass_fields__, *SequenceMatchConfig.__dataclass_fields__, "config"}
    for page in sorted((repository / "docs").glob("*.md")):
        text = page.read_text()
        for block in blocks(text, "bash"):
            for line in block.splitlines():
                if "smlib finetune" in line:
                    used = set(re.findall(r"--(\w+)", line.partition("smlib finetune")[2]))
                    assert used <= known, page
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_name_of_the_log_that_is_explained_is_logged_by_something(repository):
    """The other direction, that all that is logged is explained, is held by the runs of test_trainer.py."""
    source = "".join(
        path.read_text() for part in ("objectives", "training") for path in (repository / "smlib" / part).glob("*.py")
    )
    transformers = {"step", "epoch", "grad_norm", "learning_rate", "train_loss", "train_runtime", "total_flos"}
    transformers |= {"train_samples_per_second", "train_steps_per_second"}
    for name in explained() - transformers:
        family, _, last = name.rpartition("_") if "staleness" in name else ("", "", name)
        written = (family, f"_{last}") if family else (name.removeprefix("parts/").removeprefix("eval_"),)
        assert all(f'"{part}"' in source or f'{part}"' in source for part in written), name
    diverging = (repository / "docs" / "diverging.md").read_text().split("## What is shown")[1].split("## V drifts")[0]
    for cell in re.findall(r"^\| (`.*?) \|", diverging, re.MULTILINE):
        assert set(re.findall(r"`([^`]+)`", cell)) <= explained()

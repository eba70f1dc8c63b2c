"""`smlib export`: a checkpoint and its card, and one line for what cannot be exported."""

import json
from pathlib import Path

import torch
import transformers
from typer.testing import CliRunner

from smlib.cli import app as cli
from smlib.files import ResultError
from smlib.policies import shipped
from smlib.policies.export import action_logits
from smlib.policies.loading import load_policy, save_policy
from tests.cli.test_workbench import small_policy
from tests.support.exported import deleting_policy
from tests.support.models import saved_model, words_tokenizer

runner = CliRunner()
TOKENS = torch.tensor([[1, 5, 9, 13, 7]])


def export(*arguments: object) -> str:
    return runner.invoke(cli.app, ["export", *map(str, arguments)], catch_exceptions=False).stdout


def said(*arguments: object) -> str:
    """What the command says to its user about an input that cannot be used."""
    error = runner.invoke(cli.app, ["export", *map(str, arguments)]).exception
    assert isinstance(error, ResultError), error
    return str(error)


def test_a_saved_policy_and_its_card(tmp_path: Path) -> None:
    policy, tokenizer = deleting_policy(tmp_path / "base")
    save_policy(policy, tokenizer, tmp_path / "mine")
    (tmp_path / "mine" / "card.json").write_text(json.dumps({"method": "dagger", "data": "five texts"}))
    out = tmp_path / "out"
    options = ["--data", "six texts", "--result", "accuracy=0.5", "--result", "verdict=fair", "--licence", "mit"]
    assert "saved in" in export(tmp_path / "mine", out, *options)
    model = transformers.AutoModelForCausalLM.from_pretrained(out)
    torch.testing.assert_close(model(TOKENS).logits[0], action_logits(policy, TOKENS), rtol=0, atol=1e-5)
    card = (out / "README.md").read_text()
    for expected in ("Method: dagger", "Data: six texts", "| accuracy | 0.5 |", "| verdict | fair |", "license: mit"):
        assert expected in card
    assert "Exported by: `smlib export mine out" in card
    assert str(tmp_path) not in card


def test_a_policy_that_ships_by_its_name(tmp_path: Path) -> None:
    out = tmp_path / "out"
    export("sm-arithmetic", out)  # the example of the command's help
    policy, _ = shipped.load("sm-arithmetic")
    model = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    torch.testing.assert_close(model(TOKENS).logits[0], action_logits(policy, TOKENS), rtol=0, atol=1e-5)
    card = (out / "README.md").read_text()
    for expected in ("Method: sm", "python -m smlib.paper.shipping sm-arithmetic", "validation accuracy, t1"):
        assert expected in card


def test_what_smlib_train_left(tmp_path: Path) -> None:
    policy = small_policy(tmp_path / "run")
    export(tmp_path / "run", tmp_path / "out", "--bkspc-token", "<undo>", "--dtype", "bfloat16")
    again, words = load_policy(tmp_path / "out")
    assert again.space == policy.space
    assert words.encode("1 + 2") == load_policy(tmp_path / "out")[1].encode("1 + 2")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "add_or_sub_in_base with deletion" in card
    assert "smlib train run" in card
    assert "Weights are bfloat16" in card


def test_a_model_that_was_never_trained_to_delete_can_be_exported_too(tmp_path: Path) -> None:
    export(saved_model(tmp_path / "base"), tmp_path / "out", "--no-check")
    assert (tmp_path / "out" / "custom_generate" / "generate.py").is_file()


def test_what_cannot_be_exported_is_one_line(tmp_path: Path) -> None:
    policy, tokenizer = deleting_policy(tmp_path / "base")
    save_policy(policy, tokenizer, tmp_path / "mine")
    out = tmp_path / "out"
    assert "--dtype int8 is unknown: expected one of float32" in said(tmp_path / "mine", out, "--dtype", "int8")
    assert "--result 'fine': expected NAME=VALUE" in said(tmp_path / "mine", out, "--result", "fine")
    assert "this policy has none: leave it out" in said(tmp_path / "mine", out, "--keep-adapters")
    assert "no model" in said(tmp_path / "nothing", out)
    (tmp_path / "mine" / "card.json").write_text(json.dumps({"metod": "sm"}))
    assert "has the fields ['metod']: expected some of" in said(tmp_path / "mine", out)
    for wrong in ({"method": 5}, {"limits": "none"}, {"results": [0.5]}):
        (tmp_path / "mine" / "card.json").write_text(json.dumps(wrong))
        assert f"{next(iter(wrong))} is {next(iter(wrong.values()))!r}, expected a text" in said(tmp_path / "mine", out)
    (tmp_path / "mine" / "card.json").unlink()
    assert not out.exists()
    out.mkdir()
    (out / "note.txt").write_text("mine")
    assert "out exists: choose a new folder, or remove it first" in said(tmp_path / "mine", out)
    tokenizer.backend.add_tokens(["<bkspc>"])
    save_policy(policy, tokenizer, tmp_path / "named")
    assert "choose another name" in said(tmp_path / "named", tmp_path / "other")
    words_tokenizer(eos=None).save_pretrained(tmp_path / "base")
    assert "has no <eos>" in said(tmp_path / "base", tmp_path / "other")
    assert not (tmp_path / "other").exists()

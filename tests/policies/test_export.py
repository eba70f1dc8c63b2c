"""Exported policies: equal logits for every kind of head, the same ids, back bit for bit, without smlib, bad input."""

import ast
import json
import re
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers

from smlib.data.tokenizers import PretrainedTokenizer, arithmetic_tokenizer
from smlib.edits.actions import ActionSpace
from smlib.policies import export
from smlib.policies.export import action_logits, export_policy, standalone_source
from smlib.policies.exported_tokenizer import with_bkspc, without_bkspc
from smlib.policies.kv_cache import SlotCache, SlotLayer
from smlib.policies.loading import Lora, load_policy, load_tokenizer, save_policy
from smlib.policies.model_card import Card, render
from smlib.policies.policy import Policy, PolicyConfig, tiny_policy
from smlib.policies.probing import ModelError
from tests.support.exported import deleting_policy, exported, opened
from tests.support.isolated import environment
from tests.support.models import KINDS, SMALL, saved_model, words_tokenizer

TOKENS = torch.tensor([[1, 5, 9, 13, 7, 30, 44]])  # 44 is a row of the head beyond the tokeniser


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(TOKENS).logits[0]


@pytest.mark.parametrize("kind", KINDS)  # tied and untied, with and without a bias
def test_plain_loading_gives_the_action_logits(kind, tmp_path):
    policy, model, tokenizer = exported(tmp_path, kind)
    torch.testing.assert_close(logits(model), action_logits(policy, TOKENS), rtol=0, atol=1e-5)
    assert not model.config.tie_word_embeddings
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight
    assert model.config.vocab_size == len(tokenizer) == 49
    assert model.config.bkspc_token_id == tokenizer.convert_tokens_to_ids("<bkspc>") == 48
    assert type(model).__module__.startswith("transformers.")


def test_the_policy_is_left_as_it_is(tmp_path):
    policy, tokenizer = deleting_policy(tmp_path / "base", "tied")
    before = {name: p.clone() for name, p in policy.state_dict().items()}
    export_policy(policy, tokenizer, tmp_path / "out")
    assert policy.lm.config.tie_word_embeddings
    assert policy.lm.get_output_embeddings().weight is policy.lm.get_input_embeddings().weight
    assert all(torch.equal(p, before[name]) for name, p in policy.state_dict().items())
    assert tokenizer.vocab_size == 48
    assert len(tokenizer.backend) == 43
    assert not hasattr(policy.lm.config, "bkspc_token_id")


@pytest.mark.parametrize("kind", ["llama", "tied", "gpt2", "phi"])
@pytest.mark.parametrize("unembedding", [False, True])
def test_adapters_are_merged_or_kept(kind, unembedding, tmp_path):
    policy, tokenizer = deleting_policy(tmp_path / "base", kind, lora=Lora(2, 4, unembedding=unembedding))
    ours = action_logits(policy, TOKENS)
    merged, _ = opened(export_policy(policy, tokenizer, tmp_path / "merged"))
    torch.testing.assert_close(logits(merged), ours, rtol=0, atol=1e-5)
    kept, _ = opened(export_policy(policy, tokenizer, tmp_path / "kept", merge=False))
    assert (logits(kept) - ours).abs().max() > 0.1
    kept.load_adapter(str(tmp_path / "kept" / "adapter"))
    torch.testing.assert_close(logits(kept), ours, rtol=0, atol=1e-5)
    stored = json.loads((tmp_path / "kept" / "adapter" / "adapter_config.json").read_text())
    assert stored["base_model_name_or_path"] is None  # no path of this machine
    for name in ("merged", "kept"):
        again, _ = load_policy(tmp_path / name)
        torch.testing.assert_close(action_logits(again, TOKENS), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("quantised_head", [False, True])
def test_quantised_weights_are_written_out(quantised_head, tmp_path):
    folder = saved_model(tmp_path / "base")
    if quantised_head:
        lm = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            attn_implementation="sdpa",
            dtype=torch.float32,
            quantization_config=transformers.BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=torch.float32,
                llm_int8_skip_modules=["nothing"],
            ),
        )
        policy = Policy(lm, PolicyConfig(ActionSpace(48, eos=2, bos=1))).eval()
        policy.w_bkspc.data.normal_(std=0.3)
        tokenizer = load_tokenizer(folder)
        assert not policy.lm.lm_head.weight.is_floating_point()
    else:
        policy, tokenizer = deleting_policy(tmp_path / "again", lora=Lora(2, 4), four_bit=True)
    ours = action_logits(policy, TOKENS)
    model, _ = opened(export_policy(policy, tokenizer, tmp_path / "out"))
    assert getattr(model.config, "quantization_config", None) is None
    assert all(p.is_floating_point() for p in model.parameters())
    torch.testing.assert_close(logits(model), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("head", [False, True])
def test_8_bit_weights_are_written_out_up_to_their_rounding(head, tmp_path):
    folder = saved_model(tmp_path / "base")
    lm = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        attn_implementation="sdpa",
        dtype=torch.float32,
        quantization_config=transformers.BitsAndBytesConfig(
            load_in_8bit=True, llm_int8_skip_modules=["nothing"] if head else ["lm_head"]
        ),
    )
    policy = Policy(lm, PolicyConfig(ActionSpace(48, eos=2, bos=1))).eval()
    assert lm.lm_head.weight.is_floating_point() is not head
    model, _ = opened(export_policy(policy, load_tokenizer(folder), tmp_path / "out"))
    written, exact = dict(model.named_parameters()), transformers.AutoModelForCausalLM.from_pretrained(folder)
    rounded = 0
    for name, weight in exact.named_parameters():
        ours = written[name][: len(weight)]
        step = weight.abs().amax(-1, keepdim=True) / 127  # each row has its own, and is cast to 16 bits before
        assert bool(((ours - weight).abs() <= 0.6 * step).all()), name
        rounded += not torch.equal(ours, weight)
    assert rounded == 2 * 7 + head  # the matrices of two layers
    ours = action_logits(policy, TOKENS)
    torch.testing.assert_close(logits(model), ours, rtol=0, atol=0.1 * float(ours.detach().abs().max()))


def test_soft_capped_heads_cap_the_deletion_too(tmp_path):
    """A soft cap is no shift of the logits: the row of <bkspc> has to go through it as the others do."""
    pytest.importorskip("smlib.policies.postprocessing", reason="policies do not know soft caps yet")
    config = transformers.Gemma2Config(
        **{**SMALL, "pad_token_id": 0, "head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": None}
    )
    torch.manual_seed(0)
    lm = transformers.Gemma2ForCausalLM(config)
    for p in lm.parameters():
        if p.ndim >= 2:
            torch.nn.init.normal_(p, std=0.3)
    lm.save_pretrained(tmp_path / "base")
    words_tokenizer().save_pretrained(tmp_path / "base")
    policy, tokenizer = load_policy(tmp_path / "base")
    policy.w_bkspc.data.normal_(std=1.0)
    model, _ = opened(export_policy(policy, tokenizer, tmp_path / "out"))
    ours = action_logits(policy, TOKENS)
    assert 1.0 < ours.abs().max() <= 2.0
    torch.testing.assert_close(logits(model), ours, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtype_can_be_chosen(dtype, tmp_path):
    policy, tokenizer = deleting_policy(tmp_path / "base")
    model, _ = opened(export_policy(policy, tokenizer, tmp_path / "out", dtype=dtype), dtype="auto")
    assert model.dtype == dtype
    torch.testing.assert_close(logits(model).float(), action_logits(policy, TOKENS), rtol=0.05, atol=0.2)


def test_a_policy_comes_back_bit_for_bit(tmp_path):
    for kind in ("tied", "phi"):
        policy, _, _ = exported(tmp_path / kind, kind)
        again, tokenizer = load_policy(tmp_path / kind / "out")
        assert again.space == policy.space == ActionSpace(48, eos=2, bos=1)
        assert torch.equal(action_logits(again.eval(), TOKENS), action_logits(policy, TOKENS))
        assert tokenizer.special_ids == load_tokenizer(tmp_path / kind / "base").special_ids
        assert tokenizer.encode("w1 w2") == [4, 5]
        assert tokenizer.decode([4, 43, 5]) == "w1 w2"
        assert tokenizer.encode("w1 <bkspc>") == load_tokenizer(tmp_path / kind / "base").encode("w1 <bkspc>")
        assert load_tokenizer(tmp_path / kind / "out").vocab_size == 48
        # It can be trained and saved as any other, with adapters too, and exported again.
        tuned, tokenizer = load_policy(tmp_path / kind / "out", lora=Lora(2, 4))
        assert torch.equal(action_logits(tuned.eval(), TOKENS), action_logits(policy, TOKENS))
        save_policy(tuned, tokenizer, tmp_path / kind / "tuned")
        loaded, tokenizer = load_policy(tmp_path / kind / "tuned")
        export_policy(loaded.eval(), tokenizer, tmp_path / kind / "twice")
        torch.testing.assert_close(
            logits(opened(tmp_path / kind / "twice")[0]), action_logits(policy, TOKENS), rtol=0, atol=1e-5
        )


def test_a_bias_of_the_deletion_comes_back_as_the_same_probabilities(tmp_path):
    _, model, tokenizer = exported(tmp_path, "phi")
    model.lm_head.bias.data[48] = 1.5  # whoever trained it further may have moved it
    model.save_pretrained(tmp_path / "tuned")
    tokenizer.save_pretrained(tmp_path / "tuned")
    again, _ = load_policy(tmp_path / "tuned")
    ours, theirs = (x.softmax(-1) for x in (action_logits(again.eval(), TOKENS), logits(model)))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_ids_inside_and_beyond_the_vocabulary_are_filled(tmp_path):
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, "w0": 3, "w1": 4, "w2": 9}  # 5 to 8 are nothing
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    ours = PretrainedTokenizer(words, 14)
    found = with_bkspc(ours, 14)
    found.save_pretrained(tmp_path)
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for tokenizer in (found, loaded):
        assert tokenizer.convert_tokens_to_ids("<bkspc>") == 14
        assert len(tokenizer) == 15
        assert tokenizer("w2 w0 w1").input_ids == [9, 3, 4]
        assert tokenizer.decode([9, 5, 14, 4], skip_special_tokens=True) == "w2 w1"
        assert tokenizer.padding_side == "left"
        assert tokenizer.pad_token == "</s>"
    assert without_bkspc(loaded).get_vocab() == words.get_vocab()
    assert without_bkspc(words) is words


def test_the_tokeniser_of_the_tasks(tmp_path):
    ours = arithmetic_tokenizer()
    space = ActionSpace(ours.vocab_size, eos=ours.eos, bos=ours.bos)
    policy = tiny_policy(space, dim=16, layers=1, heads=2, positions=64).eval()
    model, tokenizer = opened(export_policy(policy, ours, tmp_path / "out"))
    for text in ("In base 2, what is -101 + 11? Solution: ", "é <eos> 7"):
        assert tokenizer(text).input_ids == ours.encode(text)
        assert tokenizer.decode(ours.encode(text)) == text
    tokens = torch.tensor([[1, *ours.encode("Work out 1 + 2.")]])
    torch.testing.assert_close(model(tokens).logits[0], action_logits(policy, tokens), rtol=0, atol=1e-5)
    again, _ = load_policy(tmp_path / "out")
    assert torch.equal(action_logits(again.eval(), tokens), action_logits(policy, tokens))


def test_another_name_where_the_tokeniser_has_one_already(tmp_path):
    policy, tokenizer = deleting_policy(tmp_path / "base")
    tokenizer.backend.add_tokens(["<bkspc>"])
    with pytest.raises(ValueError, match=r"token '<bkspc>' already \(id 43\): choose another name .*--bkspc-token"):
        export_policy(policy, tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    _, words = opened(export_policy(policy, tokenizer, tmp_path / "out", bkspc="<undo>"))
    assert (words.convert_tokens_to_ids("<undo>"), words.convert_tokens_to_ids("<bkspc>")) == (48, 43)
    assert "`<undo>`" in (tmp_path / "out" / "README.md").read_text()
    assert load_policy(tmp_path / "out")[1].encode("w1 <bkspc>") == [4, 43]


def test_a_folder_that_exists_is_not_touched(tmp_path):
    policy, tokenizer = deleting_policy(tmp_path / "base")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out exists: choose a new folder, or remove it first"):
        export_policy(policy, tokenizer, tmp_path / "out")
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["note.txt"]
    (tmp_path / "out" / "note.txt").unlink()
    export_policy(policy, tokenizer, tmp_path / "out")  # an empty one is fine
    with pytest.raises(FileExistsError, match="out exists"):
        export_policy(policy, tokenizer, tmp_path / "out")


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    policy, tokenizer = deleting_policy(tmp_path / "base")

    def killed(*args, **kwargs):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(export, "lock", killed)
    with pytest.raises(RuntimeError, match="disk is full"):
        export_policy(policy, tokenizer, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(export, "action_logits", lambda policy, tokens: torch.zeros(tokens.shape[1], 49))
    with pytest.raises(ModelError, match="after loading, logits are off by"):
        export_policy(policy, tokenizer, tmp_path / "out")
    assert [f.name for f in tmp_path.iterdir()] == ["base"]


def test_what_there_is_nothing_to_export_of(tmp_path):
    policy, tokenizer = deleting_policy(tmp_path / "base")
    with pytest.raises(ValueError, match="merge=False keeps adapters apart, and this policy has none"):
        export_policy(policy, tokenizer, tmp_path / "out", merge=False)
    with pytest.raises(ValueError, match=r"the policy has no <bkspc>.*allow_backspace"):
        export_policy(policy.forbid_backspace(), tokenizer, tmp_path / "out")
    words_tokenizer(eos=None).save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match=r"has no <eos>: set tokenizer.eos_token to an existing token first"):
        load_policy(tmp_path / "base")


def test_a_head_whose_last_row_is_not_the_deletion_is_named(tmp_path):
    exported(tmp_path)
    stored = json.loads((tmp_path / "out" / "config.json").read_text())
    (tmp_path / "out" / "config.json").write_text(json.dumps({**stored, "bkspc_token_id": 40}))
    with pytest.raises(ModelError, match=r"<bkspc> is row 40 and has a head of 49 rows"):
        load_policy(tmp_path / "out")


def test_the_card_says_what_is_known_and_names_what_is_not(tmp_path):
    (tmp_path / "base").mkdir()
    policy, tokenizer = deleting_policy(tmp_path / "base")
    (tmp_path / "base" / "README.md").write_text("---\ntags: [x]\nlicense: mit\n---\n# Base\n")
    card = Card(
        "Adds", "sm, eta 0.1", "5,000 questions", "smlib train runs/a", {"accuracy": 0.75}, limits=("Sums only.",)
    )
    export_policy(policy, tokenizer, tmp_path / "out", card=card)
    text = (tmp_path / "out" / "README.md").read_text()
    for expected in (
        "license: mit", "# Adds", "sm, eta 0.1", "5,000 questions", "`smlib train runs/a`", "| accuracy | 0.75 |",
        "- Sums only.", "Exported by: `not recorded`", "transformers 5.0.0 or newer", "- Base model: base",
    ):  # fmt: skip
        assert expected in text
    assert str(tmp_path) not in text
    assert "base_model:" not in text  # a folder here is no repository of the hub
    locked = (tmp_path / "out" / "requirements.lock.txt").read_text()
    assert f"transformers=={transformers.__version__}" in locked
    assert locked.startswith("# Python 3.")
    export_policy(policy, tokenizer, tmp_path / "bare", card=Card(base="x"), check=False)
    assert "Data: not recorded" in (tmp_path / "bare" / "README.md").read_text()


@pytest.mark.parametrize("writes_it", [True, False])
def test_the_cards_example_begins_as_the_training_did(writes_it):
    options = {"bkspc": "<bkspc>", "bkspc_id": 9, "context": 8, "dtype": "float32", "minimum": "5.0.0", "kept": False}
    text = render(Card(base="org/model"), **options, root=None if writes_it else "<s>", chat=writes_it)
    assert "base_model: org/model" in text
    assert ('tokenizer(["a prompt"]' in text) == writes_it
    assert ('tokenizer(["<s>" + "a prompt"]' in text) == (not writes_it)
    assert ("apply_chat_template" in text) == writes_it


def test_the_beginning_is_said_where_the_tokeniser_does_not_write_it(tmp_path):
    (tmp_path / "base").mkdir()
    policy, tokenizer = deleting_policy(tmp_path / "base")
    export_policy(policy, tokenizer, tmp_path / "out", check=False)
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    shown = re.search(r"tokenizer\(\[(.*?)\],", text)[1]
    assert words(ast.literal_eval(shown.replace(" + ", " "))).input_ids[0] == tokenizer.bos


ALONE = r"""
import importlib.util, re, sys
from pathlib import Path
import transformers
for name in ("smlib", "peft", "accelerate", "datasets", "jaxtyping", "beartype"):
    assert importlib.util.find_spec(name) is None, name + " can be imported"
transformers.utils.logging.disable_progress_bar()
folder = sys.argv[1]
model = transformers.AutoModelForCausalLM.from_pretrained(folder)
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
inputs = tokenizer(["w1 w2 w3", "w5", "w7 w8 w9 w10 w1"], return_tensors="pt", padding=True)
options = dict(max_new_tokens=8, seeds=[1, 2, 3], skip_deleted=False, trust_remote_code=True)
print(model.generate(**inputs, custom_generate=folder, **options).tolist())
trusted = transformers.AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
options.pop("trust_remote_code")
print(trusted.generate(**inputs, **options).tolist())
greedy = dict(max_new_tokens=8, do_sample=False, trust_remote_code=True)
print(model.generate(**inputs, custom_generate=folder, **greedy).tolist())
(card,) = re.findall(r"```python\n(.*?)```", Path(folder, "README.md").read_text(), re.DOTALL)
scope = {"folder": folder}
exec(card, scope)
assert scope["out"].shape[0] == 1
"""


@pytest.mark.slow
def test_a_copied_folder_generates_with_deletion_where_there_is_no_smlib(tmp_path):
    """In an environment of its own, with transformers and torch and what these two require, and nothing else."""
    from smlib.generation.custom_generate import with_deletion

    _, model, tokenizer = exported(tmp_path / "here")
    (tmp_path / "away").mkdir()
    (tmp_path / "here" / "out").rename(tmp_path / "away" / "model")
    python = environment(tmp_path / "away" / "venv", "transformers", "torch")
    done = subprocess.run(
        [str(python), "-I", "-c", ALONE, str(tmp_path / "away" / "model")],
        cwd=tmp_path / "away",
        env={"HF_HOME": str(tmp_path / "away" / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    by_call, by_loading, greedy = (json.loads(line) for line in done.stdout.splitlines()[:3])
    inputs = tokenizer(["w1 w2 w3", "w5", "w7 w8 w9 w10 w1"], return_tensors="pt", padding=True)
    options = {"max_new_tokens": 8, "custom_generate": with_deletion}
    assert by_call == by_loading == model.generate(**inputs, seeds=[1, 2, 3], skip_deleted=False, **options).tolist()
    assert any(48 in row for row in by_call)
    assert greedy == model.generate(**inputs, do_sample=False, **options).tolist()


def test_the_folder_is_code_that_has_to_be_trusted(tmp_path):
    _, model, tokenizer = exported(tmp_path)
    inputs = tokenizer("w5", return_tensors="pt")
    with pytest.raises(ValueError, match="trust_remote_code"):
        model.generate(**inputs, custom_generate=str(tmp_path / "out"), trust_remote_code=False)


def test_the_decoding_loop_stands_alone_and_names_a_transformers_that_is_too_old(monkeypatch):
    source = standalone_source()
    assert "smlib" in source.splitlines()[2]  # who wrote it
    assert "import smlib" not in source
    assert "from smlib" not in source
    compile(source, "generate.py", "exec")
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(__version__="4.57.3"))
    with pytest.raises(
        ImportError, match=r"needs transformers 5\.0\.0 or newer, found 4\.57\.3: pip install --upgrade"
    ):
        exec(source, {"__name__": "generate"})


def test_the_cache_is_whole_under_the_names_of_older_versions_too():
    """Before 5.14 transformers' layers were abstract in `get_max_cache_shape`, and since then in `get_max_length`."""

    class Before(ABC):
        @abstractmethod
        def get_max_cache_shape(self) -> int: ...

    cache = SlotCache(2, 7)
    layer = type("Layer", (SlotLayer, Before), {})(cache.window)
    assert layer.get_max_cache_shape() == layer.get_max_length() == 7


def test_folders_are_paths_or_strings(tmp_path):
    policy, tokenizer = deleting_policy(tmp_path / "base")
    assert export_policy(policy, tokenizer, str(tmp_path / "a" / "b")) == Path(tmp_path / "a" / "b")

"""What is under a policy: all of its weights, the same as then, and adapters on every matrix of it."""

import json
import shutil
import warnings

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from smlib.edits.packing import pack
from smlib.policies.adapters import matrices
from smlib.policies.fingerprints import fingerprint
from smlib.policies.loading import Lora, load_policy, save_policy
from smlib.policies.probing import ModelError, probe_trajectory
from tests.support.families import shake
from tests.support.models import saved_model
from tests.support.tiny_models import tiny


def logits(policy):
    batch = pack([[probe_trajectory(policy.space, list(range(3, 20)))]], policy.space)
    with torch.no_grad():
        return policy.state_logits(batch)


@pytest.fixture
def adapted(tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base"), lora=Lora(2, 4))
    save_policy(shake(policy), tokenizer, tmp_path / "mine")
    return tmp_path / "mine"


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_fingerprint_is_of_the_numbers_and_not_of_their_files(tmp_path):
    folder = saved_model(tmp_path / "one")
    known = fingerprint(str(folder))
    transformers.AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "many", max_shard_size="8KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 1
    assert fingerprint(str(tmp_path / "many")) == known
    change(folder, lambda w: w["model.layers.1.mlp.up_proj.weight"].view(-1)[7].add_(1e-3))
    assert fingerprint(str(folder)) != known
    assert fingerprint(str(tmp_path)) is None


def test_adapters_on_a_replaced_base_are_refused(adapted):
    base = adapted.parent / "base"
    change(base, lambda w: w["model.layers.1.mlp.up_proj.weight"].add_(0.1))
    with pytest.raises(ModelError, match=r"trained over other weights .*sha256:.*source\.json"):
        load_policy(adapted)


def test_a_moved_base_names_the_file_to_edit(adapted):
    base = adapted.parent / "base"
    before = logits(load_policy(adapted)[0])
    shutil.move(base, base.with_name("elsewhere"))
    with pytest.raises(FileNotFoundError, match=r'has been moved, write its place under "name" in .*source\.json'):
        load_policy(adapted)
    source = adapted / "source.json"
    source.write_text(json.dumps(json.loads(source.read_text()) | {"name": str(base.with_name("elsewhere"))}))
    assert torch.equal(logits(load_policy(adapted, dtype=torch.float32)[0]), before)


def test_a_policy_saved_before_there_were_fingerprints_loads_and_says_so(adapted):
    before = logits(load_policy(adapted)[0])
    source = adapted / "source.json"
    stored = json.loads(source.read_text())
    assert stored.pop("weights").startswith("sha256:")
    source.write_text(json.dumps(stored))
    with pytest.warns(UserWarning, match="saved without a fingerprint"):
        policy, tokenizer = load_policy(adapted)
    assert torch.equal(logits(policy), before)
    save_policy(policy, tokenizer, adapted)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_policy(adapted)


def test_checkpoints_with_missing_or_resized_weights_are_refused(tmp_path):
    folder = saved_model(tmp_path / "base")
    name = "model.layers.0.mlp.up_proj.weight"
    whole = load_file(folder / "model.safetensors")
    change(folder, lambda w: w.pop(name))
    with pytest.raises(ModelError, match=rf"does not hold the weights .*1 missing \({name}\)"):
        load_policy(folder)
    save_file({**whole, name: torch.zeros(3, 16)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 resized"):
        load_policy(folder)


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")  # peft's own words
def test_missing_weights_of_a_saved_policy_and_missing_adapters_are_refused(tmp_path, adapted):
    policy, tokenizer = load_policy(tmp_path / "base")
    save_policy(policy, tokenizer, tmp_path / "full")
    change(tmp_path / "full" / "lm", lambda w: w.pop("model.norm.weight"))
    with pytest.raises(ValueError, match=r"1 missing \(model\.norm\.weight\)"):
        load_policy(tmp_path / "full")
    file = adapted / "lm" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(iter(weights)))
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="1 missing, 0 not known"):
        load_policy(adapted)


def test_nan_weights_are_named(tmp_path):
    folder = saved_model(tmp_path)
    change(folder, lambda w: w["model.layers.1.mlp.up_proj.weight"].view(-1)[7].fill_(torch.nan))
    for lora in (None, Lora(2, 4)):
        with pytest.raises(ModelError, match=r"1 of .*layers\.1\.mlp\.up_proj\..*weight are NaN"):
            load_policy(folder, lora=lora)


def test_what_is_loaded_is_in_evaluation_mode(tmp_path):
    folder = saved_model(tmp_path / "base", "gpt2")  # with dropout
    for lora in (None, Lora(2, 4, dropout=0.5)):
        policy, tokenizer = load_policy(folder, lora=lora)
        save_policy(policy, tokenizer, tmp_path / "mine")
        for each in (policy, load_policy(tmp_path / "mine")[0]):
            assert not any(module.training for module in each.modules())
            assert torch.equal(logits(each), logits(each))


def test_a_head_that_is_narrower_than_the_network(tmp_path):
    policy = load_policy(tiny("opt", tmp_path))[0]  # as in OPT-350m
    assert policy.lm.config.hidden_size == 32
    assert policy.w_bkspc.shape == (16,)
    assert policy.offset.inner.in_features == 17


@pytest.mark.parametrize("family", ["deepseek_v3", "qwen2_moe"])
def test_adapters_are_on_dense_shared_and_routed_layers(family, tmp_path):
    folder = tiny(family, tmp_path)
    plain = load_policy(folder)[0].lm
    known = matrices(plain)
    assert known.experts
    policy = load_policy(folder, lora=Lora(2, 4))[0]
    names = {n.split(".lora_A")[0] for n, p in policy.lm.named_parameters() if ".lora_A" in n and p.requires_grad}
    names = {n.removeprefix("base_model.model.").replace(".base_layer", "") for n in names}
    assert set(known.layers) <= names
    assert {n.rpartition(".")[0] for n in known.experts} <= names
    assert any("shared" in n for n in names)
    shake(policy)
    batch = pack([[probe_trajectory(policy.space, list(range(3, 20)))]], policy.space)
    picked, values = policy(batch, 4)
    (picked.sum() + values.sum()).backward()
    still = [n for n, p in policy.named_parameters() if "lora_B" in n and not bool(p.grad.any())]
    assert not still
    with pytest.raises(ModelError, match=r"leave out dropout=0\.1"):
        load_policy(folder, lora=Lora(2, 4, dropout=0.1))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi"])
def test_where_every_matrix_is_a_layer_the_adapters_are_those_of_all_linear(kind, tmp_path):
    """As they were before every matrix was named: runs that were trained then go on."""
    folder = saved_model(tmp_path, kind)
    ours = load_policy(folder, lora=Lora(2, 4), seed=3)[0].lm
    torch.manual_seed(3)
    lm = transformers.AutoModelForCausalLM.from_pretrained(folder)
    config = peft.LoraConfig(
        r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM", fan_in_fan_out=kind == "gpt2"
    )
    theirs = peft.get_peft_model(lm, config).state_dict()
    assert ours.state_dict().keys() == theirs.keys()
    assert all(torch.equal(p, theirs[name]) for name, p in ours.state_dict().items())


def test_experts_that_other_modules_read_are_listed_when_adapters_are_put_on(tmp_path):
    with pytest.warns(UserWarning, match=r"every matrix of this DbrxForCausalLM but 6 of its experts.*experts\.mlp\."):
        policy = load_policy(tiny("dbrx", tmp_path), lora=Lora(2, 4))[0]
    assert not any("experts" in name for name, p in policy.named_parameters() if p.requires_grad)


def test_experts_in_float64(tmp_path):
    folder = tiny("mixtral", tmp_path)
    whole, half = load_policy(folder, dtype=torch.float64)[0], load_policy(folder)[0]
    assert torch.allclose(logits(whole).float(), logits(half), atol=1e-3)
    assert torch.equal(logits(half.double()), logits(whole))


@pytest.mark.parametrize(
    ("family", "message"),
    [("modernbert-decoder", "more than a scale between its network"), ("mamba", "names no context length|mask")],
)
def test_the_reason_is_the_right_one(family, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        load_policy(tiny(family, tmp_path))

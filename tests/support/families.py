"""Tiny random models of the families of causal language models that transformers knows, and whether they are policies.

    python -m tests.support.families docs/models.md          # examine all of them and write the table (minutes)
    python -m tests.support.families docs/models.md gemma2   # the rows of some

A family is accepted if values, gradients, sampled actions and what is saved and loaded are those of one clean forward
pass for each state, by the model's own plain attention, in float64.
"""

import inspect
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from smlib.edits.actions import ActionSpace, Trajectory, replay
from smlib.edits.packing import pack
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies.adapters import matrices
from smlib.policies.loading import Lora, load_policy, save_policy
from smlib.policies.policy import Policy
from smlib.policies.probing import cached_logits
from smlib.policies.window_checks import declared
from tests.support.models import words_tokenizer

SPACE = ActionSpace(48, eos=2, bos=1)
CONTEXT, WINDOW = 64, 5  # windows are shorter than the trajectories here
SMALL: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": CONTEXT, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "d_model": 32, "n_heads": 4,
    "n_layers": 2, "max_seq_len": CONTEXT, "ffn_dim": 48, "num_experts": 4, "num_local_experts": 4,
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "q_lora_rank": 16, "kv_lora_rank": 16,
    "shared_expert_intermediate_size": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_group": 1,
    "topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1, "word_embed_proj_dim": 32,
    "sliding_window": WINDOW, "rotary_dim": 4,
}  # fmt: skip
SLIDING = {"layer_types": ["sliding_attention", "full_attention"]}
HALVES = [1.0] * 4
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": HALVES, "long_factor": [8.0] * 4,
    "original_max_position_embeddings": 32,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.0625},
    "cohere2": {"logit_scale": 0.0625, **SLIDING},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10_000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": 32},
    },
    "deepseek_v2": {"num_key_value_heads": 4},
    "deepseek_v3": {"num_key_value_heads": 4},
    "doge": {"sliding_window": 32},  # attention is not told the window
    "exaone4": SLIDING,
    "gemma2": {**SLIDING, "final_logit_softcapping": 4.0, "attn_logit_softcapping": 5.0, "query_pre_attn_scalar": 8},
    "gemma3_text": {**SLIDING, "query_pre_attn_scalar": 8, "final_logit_softcapping": 4.0},
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "num_kv_shared_layers": 2,
        "vocab_size_per_layer_input": 48, "hidden_size_per_layer_input": 8, "laurel_rank": 4, "intermediate_size": 48,
        "final_logit_softcapping": 4.0, "activation_sparsity_pattern": [0.0] * 4,
    },
    "gemma4_text": {
        **SLIDING, "vocab_size_per_layer_input": 48, "hidden_size_per_layer_input": 8, "final_logit_softcapping": 4.0,
        "global_head_dim": 8,
    },
    "gpt_neo": {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": WINDOW},
    "granite": {"logits_scaling": 4.0, "attention_multiplier": 0.35, "residual_multiplier": 0.5},
    "granitemoe": {"logits_scaling": 4.0, "attention_multiplier": 0.35},
    "granitemoeshared": {"logits_scaling": 4.0, "shared_intermediate_size": 16},
    "hyperclovax": {"logits_scaling": 0.25},
    "llama4_text": {"interleave_moe_layer_step": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 16},
    "mamba2": {"num_heads": 8, "head_dim": 8, "expand": 2, "state_size": 8, "n_groups": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "minicpm3": {"dim_model_base": 8, "num_key_value_heads": 4},
    "modernbert-decoder": {"global_attn_every_n_layers": 2, "local_attention": 2 * WINDOW},
    "nanochat": {"final_logit_softcapping": 4.0},
    "olmo3": SLIDING,
    "opt": {"word_embed_proj_dim": 16},
    "phimoe": {"sliding_window": 32},  # attention is not told the window
    "phi3 (LongRoPE)": {"rope_parameters": LONGROPE, "original_max_position_embeddings": 32},
    "qwen2": {"use_sliding_window": True, **SLIDING},
    "qwen2_moe": {"use_sliding_window": False},
    "qwen3": {"use_sliding_window": True, **SLIDING},
    "smollm3": {**SLIDING, "use_sliding_window": True, "no_rope_layers": [1, 0]},
    "stablelm": {"sliding_window": None},
}  # fmt: skip
NAMES = """
    afmoe apertus arcee bart bert biogpt bitnet bloom codegen cohere cohere2 ctrl cwm dbrx deepseek_v2 deepseek_v3
    diffllama doge dots1 ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon flex_olmo gemma gemma2 gemma3_text
    gemma3n_text gemma4_text glm glm4 glm4_moe gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe
    granitemoeshared helium hunyuan_v1_dense hunyuan_v1_moe hyperclovax jamba jetmoe lfm2 llama llama4_text mamba
    mamba2 minicpm3 minimax_m2 ministral mistral mixtral modernbert-decoder mpt nanochat nemotron olmo olmo2 olmo3
    olmoe openai-gpt opt persimmon phi phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next recurrent_gemma rwkv
    seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma xglm xlnet
"""
FAMILIES = sorted([*NAMES.split(), "phi3 (LongRoPE)"])


@dataclass(frozen=True)
class Row:
    """What the table says of a family."""

    family: str
    accepted: bool
    note: str

    def __str__(self) -> str:
        return f"| {self.family} | {'yes' if self.accepted else 'no'} | {self.note} |".replace("|  |", "| |")


def tiny(family: str, folder: Path) -> Path:
    """A random model of a family and its tokeniser; weights large enough for everything to depend on everything."""
    kind = CONFIG_MAPPING[family.split(" ")[0]]
    known = {
        *inspect.signature(kind.__init__).parameters,
        *getattr(kind, "__dataclass_fields__", {}),
        *kind.attribute_map,
    }
    options = {k: v for k, v in SMALL.items() if k in known} | OWN.get(family, {})
    torch.manual_seed(0)
    lm = transformers.AutoModelForCausalLM.from_config(kind(**options), dtype=torch.float32)
    for name, p in lm.named_parameters():
        if p.ndim >= 2:
            torch.nn.init.normal_(p, std=0.2)
        elif name.endswith("bias"):
            torch.nn.init.normal_(p, std=0.1)
    lm.save_pretrained(folder)
    words_tokenizer().save_pretrained(folder)
    return folder


def trajectory(seed: int = 0, length: int = 14) -> Trajectory:
    """A prompt and actions with deletions, one of them several tokens deep."""
    rng, back = np.random.default_rng(seed), SPACE.bkspc
    t = rng.integers(3, 43, length)
    return Trajectory.make([1, t[0]], [*t[1:7], back, back, back, *t[7:11], back, *t[11:], SPACE.eos], space=SPACE)


def shake(policy: Policy) -> Policy:
    """Off its start: nothing that is trained beside the weights is zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in policy.named_parameters():
            if name.startswith(("w_bkspc", "offset")) or "lora_" in name:
                p += 0.1 * torch.randn(p.shape, generator=generator).to(p)
    return policy


class Clean:
    """The oracle: the model as transformers loads it, plain attention, `<bkspc>` a row of its head, a state a call."""

    def __init__(self, folder: Path, policy: Policy) -> None:
        self.lm: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").double()
        self.lm.eval()
        if getattr(self.lm.config, "_experts_implementation", None):
            self.lm.set_experts_implementation("eager")
        old = self.lm.get_output_embeddings()
        head = nn.Linear(old.in_features, 49, bias=old.bias is not None).double()
        with torch.no_grad():
            head.weight.copy_(torch.cat([old.weight, policy.w_bkspc.double()[None]]))
            if old.bias is not None:
                head.bias.copy_(torch.cat([old.bias, torch.zeros(1).double()]))
        self.head = head
        self.lm.set_output_embeddings(head)
        if self.lm.get_output_embeddings() is not head:
            raise AssertionError("the head of the oracle was not replaced")
        self.lm.config.get_text_config().vocab_size = 49

    def logits(self, state: tuple[int, ...]) -> Tensor:
        """All actions' logits at a state, without offset."""
        found: Tensor = self.lm(torch.tensor([state]), use_cache=False).logits[0, -1]
        return found


def near(what: str, found: Tensor, expected: Tensor, atol: float = 1e-8) -> None:
    """Raises AssertionError if two tensors differ by more than rounding in float64, where parts compute in float32."""
    gap = float((found - expected).detach().abs().max()) if found.numel() else 0.0
    if not gap <= atol * max(1.0, float(expected.detach().abs().max())):
        raise AssertionError(f"{what} off by {gap:.2g}")


def check(folder: Path, policy: Policy, precise: float) -> None:
    """Values, gradients and greedy actions of a float64 policy against the oracle; AssertionError where they differ."""
    oracle = Clean(folder, policy)
    group = [trajectory(0), trajectory(1), trajectory(2, 9)]
    batch = pack([[group[0], group[1]], [group[2]]], SPACE, model=[[False, True], [True]])
    every = policy.state_logits(batch)
    visits = [state for t in group for state in replay(t, SPACE)[:-1]]
    distinct = {state: oracle.logits(state) for state in dict.fromkeys(visits)}
    clean = torch.stack([distinct[state] for state in visits])
    with torch.no_grad():
        offset = torch.zeros(len(every))
        if policy.offset is not None:
            hidden, places = policy.state_hidden(batch)
            offset = policy.offset(hidden, places)[:, 0]
    near("logits", every[batch.visit_state] - offset[batch.visit_state, None], clean, precise)
    for one in group:
        with torch.no_grad():
            states = list(dict.fromkeys(replay(one, SPACE)[:-1]))
            reference = torch.stack([distinct[state] for state in states])[:, :48]
            near("cached logits", cached_logits(policy, one), reference, precise)
    gradients(policy, oracle, batch, clean, precise)
    sampled(policy, oracle)


def gradients(policy: Policy, oracle: Clean, batch: Any, clean: Tensor, precise: float) -> None:
    """Of a weighted sum of picked logits and of V at the visits, in chunks, against autograd through the oracle."""
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, len(batch.label), generator=generator, dtype=torch.float64)
    offset, policy.offset = policy.offset, None
    try:
        picked, values = policy(batch, 4)
        policy.zero_grad()
        (a @ picked + b @ values[batch.visit_state]).backward()
    finally:
        policy.offset = offset
    (a @ clean[torch.arange(len(clean)), batch.label] + b @ clean.logsumexp(-1)).backward()
    ours, theirs = dict(policy.lm.named_parameters()), dict(oracle.lm.named_parameters())
    table, head = policy.lm.get_input_embeddings().weight, policy.lm.get_output_embeddings().weight
    near("the gradient of <bkspc>", policy.w_bkspc.grad, oracle.head.weight.grad[-1], precise)
    rows = oracle.head.weight.grad[:-1]
    if table is head:  # tied: the oracle's head is a copy
        near("the embeddings' gradient", table.grad, rows + oracle.lm.get_input_embeddings().weight.grad, precise)
    else:
        near("the head's gradient", head.grad, rows, precise)
    for name, p in ours.items():
        if p is table or p is head or name not in theirs:
            continue
        expected = theirs[name].grad
        if expected is not None and p.shape == expected.shape:
            near(f"the gradient of {name}", torch.zeros_like(p) if p.grad is None else p.grad, expected, precise)


def sampled(policy: Policy, oracle: Clean) -> None:
    """Greedy actions of several prompts together: each is the oracle's best, whatever stood beside it."""
    prompts = [[1, 9], [1, 11, 4, 30, 6, 8]]
    config = SamplingConfig(max_new_tokens=8, max_actions=12, greedy=True)
    known: dict[tuple[int, ...], Tensor] = {}
    for found in sample(policy, prompts, config, [0, 1]).trajectories:
        for state, label in zip(replay(found, SPACE)[:-1], found.labels.tolist(), strict=True):
            if state not in known:
                with torch.no_grad():
                    known[state] = oracle.logits(state)
            logits = known[state]
            if float(logits.max() - logits[label]) > 1e-6:
                raise AssertionError(f"a greedy action is {float(logits.max() - logits[label]):.2g} below the best")


def without_adapters(policy: Policy) -> list[str]:
    """Kinds of matrices that no adapter is for, heads, embeddings and routers aside."""
    adapted = {n.split(".lora_A")[0] for n, _ in policy.lm.named_parameters() if ".lora_A." in n}
    adapted = {n.removeprefix("base_model.model.").replace(".base_layer", "") for n in adapted}
    plain = policy.lm.get_base_model().__class__(policy.lm.get_base_model().config)
    found = matrices(plain)
    names = [n for n in found.layers if n not in adapted]
    names += [n for n in found.experts if n.rpartition(".")[0] not in adapted]
    return sorted({re.sub(r"\d+", "N", n) for n in [*names, *found.out_of_reach]})


def saved(folder: Path, scratch: Path) -> list[str]:
    """Saves and loads the policy with all weights and with adapters; returns matrices that no adapter is for."""
    batch = pack([[trajectory()]], SPACE)
    left: list[str] = []
    for lora in (None, Lora(2, 4)):
        policy, tokenizer = load_policy(folder, lora=lora)
        if lora is not None:
            left = without_adapters(policy)
        shake(policy)
        where = save_policy(policy, tokenizer, scratch / f"saved-{lora is None}")
        again = load_policy(where)[0]
        if not torch.equal(policy.state_logits(batch), again.state_logits(batch)):
            raise AssertionError("a saved policy has other logits when it is loaded")
        if again.context != policy.context or again.training:
            raise AssertionError("a saved policy is loaded with another context, or in training mode")
    return left


def examine(family: str) -> Row:
    """The row of a family: builds it, loads it, and checks it against the oracle."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = tiny(family, Path(scratch, "base"))
        try:
            policy = load_policy(folder)[0].double()
        except ValueError as error:
            return Row(family, False, reason(str(error), folder))
        check(folder, shake(policy), PRECISION)
        left = saved(folder, Path(scratch))
        return Row(family, True, note(policy, left))


PRECISION = 2e-5  # many models compute norms, routers and rotary angles in float32 whatever their dtype


def note(policy: Policy, left: list[str]) -> str:
    """What is particular about an accepted model."""
    said = []
    behind = policy.behind
    if behind.factor != 1.0:
        said.append("logit scale")
    if behind.cap is not None:
        said.append("soft cap of the logits")
    if declared(policy.lm.config.get_text_config()) and policy.window is None:
        said.append("sliding windows, exact")
    if policy.window is not None:
        said.append("context bounded by its smallest window")
    elif policy.context < CONTEXT:
        said.append("context bounded: longer states change their neighbours (LongRoPE)")
    experts = matrices(policy.lm).experts
    if experts:
        said.append("experts, with adapters")
    if left:
        said.append(f"no adapters for {', '.join(left)}")
    return "; ".join(said)


def reason(text: str, folder: Path) -> str:
    """A refusal as the table shows it, without this machine's paths."""
    text = re.sub(r"\s+", " ", text.replace(f"{folder}", "the model")).replace("|", "/")
    text = re.sub(r"( yet)?\. Please request .*", "", re.sub(r"0x[0-9a-f]+", "", text))
    text = re.sub(r"are off by \S+ \(of \S+\) from", "are not", text)  # by how much depends on the processor
    return text if len(text) <= 240 else f"{text[:240]} …"


HEAD = """# Which models can be policies

`load_policy` takes causal language models of transformers whose attention obeys packed masks and positions, which have
a key/value cache, and whose logits are those of their head, scaled or capped. It looks at what a model does and not at
its name, and refuses the others with the reason. This table shows what becomes of tiny random models of the families
below, with transformers {version}. A family is accepted if the values, gradients and greedy actions of a policy, and a
policy that is saved and loaded with all its weights or with adapters, are those of one clean forward pass for
each state, by the model's own plain attention, in float64 (to {precision:g} of the largest number, since many models
compute norms, routers or angles in float32). A checkpoint of an accepted family is looked at once more when it is
loaded.

- *Logit scales and soft caps* are read from the configuration, and whether they are what happens is measured. The row
  of `<bkspc>` is treated as every other row of the head.
- *Sliding windows* are kept exactly, layer by layer, by the distance of positions. Where that cannot be had the context
  is bounded by the smallest window, and a longer state is an error.
- *A state never depends on its neighbours in the batch*: a model with LongRoPE is accepted up to the context of its
  short factors, and a longer state is an error.
- *Adapters* (`Lora`) are on every linear layer, dense or shared, and on the matrices of experts. Routers stay as they
  are, and so does the head unless `unembedding=True`.

The table is written by `python -m tests.support.families docs/models.md`, and a test holds a part of it at each run,
all of it with `SMLIB_FAMILIES=all`.

| family | accepted | notes, or the reason for the refusal |
| --- | --- | --- |
"""


def document(rows: list[Row]) -> str:
    """The page with these rows, the accepted families first."""
    ordered = sorted(rows, key=lambda row: (not row.accepted, row.family))
    head = HEAD.format(version=transformers.__version__, precision=PRECISION)
    return head + "".join(f"{row}\n" for row in ordered)


def read_rows(page: str) -> list[Row]:
    """The rows of a page."""
    cells = [line.strip("| ").split(" | ", 2) for line in page.splitlines() if line.startswith("| ")][2:]
    return [Row(family.strip(), said == "yes", rest[0].strip() if rest else "") for family, said, *rest in cells]


def main(page: Path, families: list[str]) -> None:
    """Examines the families, all of them if none is named, and writes their rows into the page."""
    rows = {row.family: row for row in read_rows(page.read_text())} if page.is_file() else {}
    for family in families or FAMILIES:
        rows[family] = examine(family)
        print(rows[family], flush=True)
        page.write_text(document([row for name, row in rows.items() if name in FAMILIES]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])

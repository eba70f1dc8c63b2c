"""Tiny random models of the families of causal language models that transformers knows, and whether they are policies.

    python -m tests.support.families docs/models.md          # examine all of them and write the table (minutes)
    python -m tests.support.families docs/models.md gemma2   # the rows of some

A family is accepted if values, gradients, sampled actions and what is saved and loaded are those of one clean forward
pass for each state, by the model's own plain attention, in float64.
"""

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

from smlib.edits.actions import ActionSpace, Trajectory, replay
from smlib.edits.packing import pack
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies.adapters import matrices
from smlib.policies.loading import Lora, load_policy, save_policy
from smlib.policies.policy import Policy
from smlib.policies.probing import cached_logits
from smlib.policies.window_checks import declared
from tests.support.tiny_models import CONTEXT, FAMILIES, tiny

SPACE = ActionSpace(48, eos=2, bos=1)


@dataclass(frozen=True)
class Row:
    """What the table says of a family."""

    family: str
    accepted: bool
    note: str

    def __str__(self) -> str:
        return f"| {self.family} | {'yes' if self.accepted else 'no'} | {self.note} |".replace("|  |", "| |")


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

Can your model be trained here? `load_policy` takes a causal language model of transformers if three things hold: its
attention obeys packed masks and positions, it has a key/value cache, and its logits are those of its head, scaled or
capped. It looks at what a model does and not at its name, and refuses the others with the reason. The table shows what
becomes of tiny random models of each family, with transformers {version}.

A family is accepted if a policy gives what one clean forward pass for each state gives, by the model's own plain
attention: values, gradients and greedy actions, also after the policy was saved and loaded, with all its weights or
with adapters. That is compared in float64, to {precision:g} of the largest number, since many models compute norms,
routers or angles in float32. A checkpoint of an accepted family is looked at once more when it is loaded.

- *Logit scales and soft caps* are read from the configuration, and compared with what the model does. The row of
  `<bkspc>` is treated as every other row of the head.
- *Sliding windows* are kept exactly, layer by layer, by the distance of positions. Where that cannot be had the context
  is bounded by the smallest window, and a longer state is an error.
- *A state never depends on its neighbours in the batch*: a model with LongRoPE is accepted up to the context of its
  short factors, and a longer state is an error.
- *Adapters* (`Lora`) are on every linear layer, dense or shared, and on the matrices of experts. Routers stay as they
  are, and so does the head unless `unembedding=True`.

`python -m tests.support.families docs/models.md` writes the table. A test checks a part of it at each run, and all
of it with `SMLIB_FAMILIES=all`.

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

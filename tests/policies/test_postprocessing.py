"""What a model does behind its head is measured, however small its weights, and has exact gradients in chunks."""

import pytest
import torch
import transformers

from smlib.edits.actions import ActionSpace
from smlib.policies.policy import Policy, PolicyConfig, tiny_policy
from smlib.policies.postprocessing import NONE, Postprocessing, measured
from smlib.policies.unembedding import picked_and_partition
from tests.support.models import SMALL
from tests.support.oracles import SPACE

BEHIND = [
    NONE,
    Postprocessing(4.0, True),
    Postprocessing(0.0625),
    Postprocessing(0.5, cap=3.0),
    Postprocessing(cap=2.0),
]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("chunk", [1, 3, 7])
def test_gradients_in_chunks_are_those_of_autograd(behind, chunk):
    hidden, weight = torch.randn(7, 5, dtype=torch.float64), 3 * torch.randn(11, 5, dtype=torch.float64)
    state, label = torch.tensor([0, 0, 2, 3, 6, 6]), torch.tensor([1, 1, 4, 0, 10, 3])  # a visit twice
    a, b = torch.randn(6, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    found = []
    for ours in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if ours:
            picked, values = picked_and_partition(h, w, state, label, chunk, behind)
        else:
            logits = h @ w.T
            if behind.factor != 1.0:
                logits = logits / behind.factor if behind.divide else logits * behind.factor
            if behind.cap is not None:
                logits = behind.cap * torch.tanh(logits / behind.cap)
            picked, values = logits[state, label], logits.logsumexp(-1)
        (a @ picked + b @ values).backward()
        found.append((picked, values, h.grad, w.grad))
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-12)  # float64


def model(kind: type, dtype: torch.dtype = torch.float32, scale: float = 1.0, **options: object):
    torch.manual_seed(0)
    config = kind(**{**SMALL, **options})
    lm = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").to(dtype).eval()
    for p in lm.parameters():
        p.data *= scale
    return lm


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [1.0, 1e-3])
@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (transformers.LlamaConfig, {}, NONE),
        (transformers.GraniteConfig, {"logits_scaling": 7.0}, Postprocessing(7.0, True)),
        (transformers.CohereConfig, {"logit_scale": 0.0625}, Postprocessing(0.0625)),
        (transformers.NanoChatConfig, {"final_logit_softcapping": 15.0}, Postprocessing(cap=15.0)),
    ],
)
def test_it_is_measured_in_every_dtype_and_however_small_the_weights_are(kind, options, expected, scale, dtype):
    assert measured(model(kind, dtype, scale, **options)) == expected


def test_a_models_own_logits_are_bit_equal():
    for kind, options in ((transformers.GraniteConfig, {"logits_scaling": 7.0}), (transformers.NanoChatConfig, {})):
        lm = model(kind, **options)
        policy = Policy(lm, PolicyConfig(ActionSpace(48, eos=2, bos=1))).eval()
        tokens, mask = torch.tensor([[1, 5, 9, 13]]), torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
        with torch.no_grad():
            ours = policy.logits(policy.hidden(tokens, torch.arange(4)[None], mask)[0], torch.arange(4))
            plain = lm(tokens, position_ids=torch.arange(4)[None], attention_mask=mask, use_cache=False).logits[0]
        assert torch.equal(ours[:, :48], plain)


class Bent(transformers.LlamaForCausalLM):
    """Does to its logits what no configuration names."""

    def forward(self, *given, **options):
        out = super().forward(*given, **options)
        out.logits = out.logits + 1e-3 * out.logits.abs()
        return out


class Normed(transformers.LlamaForCausalLM):
    """Has a layer between its network and its head."""

    def __init__(self, config):
        super().__init__(config)
        self.lm_head.register_forward_pre_hook(lambda module, args: (args[0] + 1e-3,))


@pytest.mark.parametrize(("kind", "message"), [(Bent, "behind the head"), (Normed, "between its network")])
def test_what_is_no_scale_and_no_cap_is_refused(kind, message):
    lm = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=32).lm
    lm = kind(lm.config)
    for p in lm.parameters():
        p.data *= 1e-3  # nothing hides in small weights
    with pytest.raises(ValueError, match=message):
        Policy(lm, PolicyConfig(SPACE))

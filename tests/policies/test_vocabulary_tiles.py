"""Tiles of the vocabulary against the plain head: values, gradients, precision, and what is never allocated."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from smlib.edits.packing import pack
from smlib.files import plain
from smlib.objectives.methods import METHODS, ObjectiveConfig, objective
from smlib.policies.policy import tiny_policy
from smlib.policies.postprocessing import NONE, Postprocessing
from smlib.policies.unembedding import TrainedHead, picked_and_partition
from smlib.policies.vocabulary_tiles import AT_ONCE, TILE, Tiles, chosen_tile, picked_and_partition_by_tiles
from smlib.training.algorithm_1 import train
from smlib.training.checkpoints import trainable
from tests.policies.test_postprocessing import BEHIND
from tests.support.copying import Copying, config
from tests.support.oracles import SPACE
from tests.test_gpu import batch_of

N_TOKENS = 11
STATE, LABEL = torch.tensor([0, 0, 2, 3, 3, 6, 6]), torch.tensor([1, 1, 4, 0, 11, 10, 3])  # a visit twice, `<bkspc>`


def made(behind, bias=False, padding=0, dtype=torch.float64):
    """Hidden vectors of 7 states, a head, the row of `<bkspc>`; logits large enough for a cap to bend."""
    torch.manual_seed(0)
    hidden = torch.randn(7, 5).to(dtype).requires_grad_()
    head = nn.Linear(5, N_TOKENS + padding, bias=bias).to(dtype)
    with torch.no_grad():
        head.weight.copy_(3 * torch.randn_like(head.weight))
    edit = torch.randn(5).to(dtype).requires_grad_()
    return hidden, head, edit


def plainly(hidden, head, edit, label, behind):
    """All logits at once, under autograd."""
    every = nn.functional.linear(hidden, head.weight, head.bias)[:, :N_TOKENS]
    if edit is not None:
        every = torch.cat([every, (hidden @ edit)[:, None]], dim=1)
    every = behind(every)
    return every[STATE, label], every.logsumexp(-1)


def gradients_of(found, leaves):
    torch.manual_seed(1)
    picked, values = found
    (torch.randn_like(picked) @ picked + torch.randn_like(values) @ values).backward()
    return [None if leaf is None or leaf.grad is None else leaf.grad.clone() for leaf in leaves]


@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize(("tile", "chunk"), [(1, None), (4, None), (4, 3), (10, 2), (11, 7), (50, None)])
@pytest.mark.parametrize(
    "options", [{}, {"bias": True}, {"padding": 3}, {"bias": True, "padding": 2, "edit": False}, {"frozen": True}]
)
def test_values_and_gradients_are_the_plain_heads(behind, tile, chunk, options):
    frozen, has_edit = options.get("frozen", False), options.get("edit", True)
    label = LABEL if has_edit else LABEL.clamp(max=N_TOKENS - 1)
    found = []
    for tiled in (True, False):
        hidden, head, edit = made(behind, options.get("bias", False), options.get("padding", 0))
        head.requires_grad_(not frozen)
        edit = edit if has_edit else None
        if tiled:
            out = picked_and_partition_by_tiles(hidden, head, edit, STATE, label, Tiles(N_TOKENS, tile, chunk, behind))
        else:
            out = plainly(hidden, head, edit, label, behind)
        found.append((out, gradients_of(out, [hidden, head.weight, head.bias, edit])))
    (ours, our_slopes), (theirs, their_slopes) = found
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for a, b in zip(our_slopes, their_slopes, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    assert (our_slopes[1] is None) == frozen


def test_they_are_those_of_chunks_of_states():
    hidden, head, edit = made(NONE)
    rows = torch.cat([head.weight, edit[None]])
    chunks = picked_and_partition(hidden, rows, STATE, LABEL, 3)
    tiles = picked_and_partition_by_tiles(hidden, head, edit, STATE, LABEL, Tiles(N_TOKENS, 4))
    for a, b in zip(chunks, tiles, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_logits_far_apart_neither_overflow_nor_vanish():
    """V is added up tile by tile: by exponentials it would be infinite here, and its gradient NaN."""
    hidden = torch.tensor([[1.0], [-1.0]], requires_grad=True)
    head = nn.Linear(1, 4, bias=False)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[-5e4], [3e4], [5e4], [-3e4]]))
    args = (hidden, head, None, torch.tensor([0, 1]), torch.tensor([1, 3]), Tiles(4, 1))
    picked, values = picked_and_partition_by_tiles(*args)
    assert values.tolist() == [5e4, 5e4]
    assert picked.tolist() == [3e4, 3e4]
    values.sum().backward()
    assert hidden.grad.flatten().tolist() == [5e4, -5e4]


def policies(**options):
    """The same policy in float64 with tiles of three actions and without; the offset head says something."""
    for tile in (3, 0):
        policy = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=32, seed=0, dtype=torch.float64, **options)
        if policy.offset is not None:
            torch.manual_seed(0)
            nn.init.normal_(policy.offset.outer.weight)
        policy.vocabulary_tile = tile
        yield policy


@pytest.mark.parametrize("chunk", [None, 4])
# `exact` compares rollouts with references, which these batches have not.
@pytest.mark.parametrize("method", sorted(set(METHODS) - {"exact", "gail", "unlikelihood"}))
def test_every_loss_that_needs_two_numbers_of_a_state_is_the_same_in_tiles(method, chunk):
    goal = ObjectiveConfig(method=method, alpha=0.1, gamma=0.9, bc_steps=0, anneal_steps=0)
    data, rng, backspace = Copying(), np.random.default_rng(0), METHODS[method].backspace
    noisy = [[data.demonstration(i, rng, eta * backspace, 1) for eta in (0.5, 0.9)] for i in (0, 3)]
    batch = pack(noisy, SPACE, model=[[False, backspace]] * 2)
    found = []
    for policy in policies(backspace=backspace):
        loss = objective(policy, batch, goal, 1, chunk).total
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in trainable(policy).items() if p.grad is not None}))
    (ours, our_slopes), (theirs, their_slopes) = found
    assert abs(ours - theirs) < 1e-12
    assert our_slopes.keys() == their_slopes.keys()
    for name, slope in their_slopes.items():
        torch.testing.assert_close(our_slopes[name], slope, rtol=0, atol=1e-10)


def test_adversarial_learning_takes_tiles_too():
    from smlib.objectives.adversarial import Critic

    goal = ObjectiveConfig(method="gail", alpha=0.1, gamma=0.9, bc_steps=0, anneal_steps=0)
    losses = []
    for policy in policies():
        policy.critic = Critic(policy).double()
        losses.append(float(objective(policy, batch_of(), goal, 1, None).total.detach()))
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


class Largest(TorchDispatchMode):
    """Records the number of elements of the largest tensor that any operation returns, backward pass included."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, torch.Tensor):
                self.numel = max(self.numel, one.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cap", [None, 5.0])
def test_no_array_of_states_and_vocabulary_is_ever_made(dtype, cap):
    states, dim, n_tokens, tile = 96, 4, 1_000, 16
    behind = Postprocessing(cap=cap)
    state, label = torch.arange(states), torch.arange(states) * 10
    sizes = {}
    for tiled in (True, False):
        torch.manual_seed(0)
        hidden = torch.randn(states, dim).to(dtype).requires_grad_()
        head = nn.Linear(dim, n_tokens, bias=False).to(dtype)
        edit = torch.randn(dim).to(dtype).requires_grad_()
        kept = []
        with (
            Largest() as largest,
            torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t),
        ):
            if tiled:
                tiles = Tiles(n_tokens, tile, behind=behind)
                picked, values = picked_and_partition_by_tiles(hidden, head, edit, state, label, tiles)
            else:
                rows = torch.cat([head.weight, edit[None]])
                every = behind(hidden @ rows.T)
                picked, values = every[state, label], every.logsumexp(-1)
            (picked.sum() + values.sum()).backward()
        sizes[tiled] = (largest.numel, max(kept))
    assert min(sizes[False]) >= states * n_tokens
    # What is left is as large as the head itself, which exists anyway; the states' logits are a tile wide.
    assert sizes[True] == (n_tokens * dim, n_tokens * dim)
    assert states * tile < n_tokens * dim < states * n_tokens / 10


@pytest.mark.parametrize("autocast", [False, True])
def test_sums_are_float32_under_sixteen_bits(autocast):
    """The logits of 16-bit vectors and rows, exact in float64, against what is computed: within 1e-6, not 1e-2."""
    torch.manual_seed(0)
    hidden = torch.randn(20, 64).bfloat16().requires_grad_()
    head = nn.Linear(64, 300, bias=False).bfloat16()
    edit = torch.randn(64).bfloat16().requires_grad_()
    state, label = torch.arange(20), torch.arange(20) * 15
    exact = hidden.double() @ torch.cat([head.weight, edit[None]]).double().T
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        tiles = Tiles(300, 128)
        picked, values = picked_and_partition_by_tiles(hidden, head, edit, state, label, tiles)
    assert picked.dtype == values.dtype == torch.float32
    torch.testing.assert_close(values.double(), exact.logsumexp(-1), rtol=1e-6, atol=0)
    torch.testing.assert_close(picked.double(), exact[state, label], rtol=0, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        (picked.sum() - values.sum()).backward()
    slope = -exact.softmax(-1)
    slope[state, label] += 1
    of_head = (slope.T @ hidden.double())[:300]
    assert head.weight.grad.dtype == hidden.grad.dtype == torch.bfloat16
    # Rounded once, at the end: 2^-9 of each number.
    torch.testing.assert_close(head.weight.grad.double(), of_head, rtol=2**-8, atol=1e-6)


def test_it_is_off_on_a_cpu_and_refuses_a_head_that_it_cannot_cut():
    head = nn.Linear(8, 32_000, bias=False, device="meta")
    assert chosen_tile(None, head, 10**9, 32_000, None) is None  # whatever the size: no number of a CPU moves
    assert chosen_tile(0, head, 10**9, 32_000, None) is None
    assert chosen_tile(64, head, 1, 32_000, 512) == 64

    class Quantised(nn.Linear):
        pass

    other = Quantised(8, 100, device="meta")
    assert chosen_tile(None, other, 10**9, 100, None) is None
    with pytest.raises(ValueError, match=r"vocabulary_tile=64 .*\(Quantised\).*vocabulary_tile=0 .*chunk"):
        chosen_tile(64, other, 1, 100, None)


@pytest.mark.gpu
def test_a_gpu_tiles_by_itself_from_half_a_gigabyte_of_logits():
    head = nn.Linear(1, 32_000, bias=False, device="cuda")
    assert chosen_tile(None, head, AT_ONCE // 32_000, 32_000, None) is None
    assert chosen_tile(None, head, AT_ONCE // 32_000 + 1, 32_000, None) == TILE
    assert chosen_tile(None, head, 10**9, 32_000, 512) is None  # chunk bounds them already
    assert chosen_tile(None, TrainedHead(head), 10**9, 32_000, None) == TILE


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_tiles_of_a_device_are_the_cpus(device):
    found = []
    for where in ("cpu", device):
        hidden, head, edit = made(Postprocessing(cap=2.0), bias=True, dtype=torch.float32)
        hidden, edit = (x.detach().to(where).requires_grad_() for x in (hidden, edit))
        head = head.to(where)
        tiles = Tiles(N_TOKENS, 4, behind=Postprocessing(cap=2.0))
        out = picked_and_partition_by_tiles(hidden, head, edit, STATE.to(where), LABEL.to(where), tiles)
        (out[0].sum() + out[1].square().sum()).backward()
        found.append([x.detach().cpu() for x in (*out, hidden.grad, head.weight.grad, head.bias.grad, edit.grad)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_half_a_batch_of_labels_may_lie_in_no_state_of_a_chunk():
    """Chunks without a label, and a batch without one."""
    hidden, head, edit = made(NONE)
    none = torch.empty(0, dtype=torch.long)
    picked, values = picked_and_partition_by_tiles(hidden, head, edit, none, none, Tiles(N_TOKENS, 4, 2))
    assert picked.shape == (0,)
    torch.testing.assert_close(values, plainly(hidden, head, edit, LABEL, NONE)[1], rtol=0, atol=1e-12)


def test_a_label_that_is_no_action_is_impossible_as_elsewhere():
    """`<bkspc>` in the data of a policy without it: -inf, which stops a run, and no finite number."""
    one, other = policies(backspace=False)
    for a, b in zip(one(batch_of()), other(batch_of()), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert torch.isinf(one(batch_of())[0]).any()


def test_a_run_in_tiles_is_the_run_without(tmp_path):
    """The option reaches the policy, the losses are equal, and runs that do not ask for it keep their identity."""
    asked = dataclasses.replace(config("sm"), steps=8, vocabulary_tile=3)
    losses = []
    for i, one in enumerate((asked, dataclasses.replace(asked, vocabulary_tile=0))):
        policy = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=32, seed=0, dtype=torch.float64)
        result = train(policy, Copying(), one, tmp_path / str(i), progress=False)
        assert policy.vocabulary_tile == one.vocabulary_tile
        losses.append([row["loss"] for row in result.history])
    assert np.allclose(*losses, rtol=0, atol=1e-10)
    assert not {"vocabulary_tile", "flex_from"} & set(plain(config("sm")))
    with pytest.raises(ValueError, match="vocabulary_tile has no meaning for unlikelihood"):
        dataclasses.replace(config("unlikelihood"), vocabulary_tile=3)

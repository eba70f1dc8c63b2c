"""Block masks from `expiry` against the dense mask, pair by pair and in a whole forward pass; speed waits for a GPU."""

import os
import shutil
import time

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from smlib.edits.actions import Trajectory
from smlib.edits.masking import dense_mask, visibility
from smlib.edits.packing import pack
from smlib.objectives.methods import ObjectiveConfig, objective
from smlib.policies import block_masks
from smlib.policies.attention import BEYOND, attention_in_pieces
from smlib.policies.block_masks import BLOCK, PACKED, block_mask, packed_mask, with_packed
from smlib.policies.policy import Policy, PolicyConfig, tiny_policy
from smlib.training.checkpoints import trainable
from tests.support.models import SMALL
from tests.support.oracles import SPACE, groups

needs_compiler = pytest.mark.skipif(
    not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")),
    reason="needs a C compiler, by which Triton builds FlexAttention's kernel",
)


def windowed(batch, window):
    """The oracle: the dense mask, and of its pairs those that are near."""
    mask = dense_mask(batch.expiry)
    if window is None:
        return mask
    near = batch.positions[:, :, None] - batch.positions[:, None, :] < window
    return mask & near[:, None]


def by_predicate(batch, window):
    rows, length = batch.expiry.shape
    return create_mask(visibility(batch.expiry, batch.positions, window), rows, 1, length, length, device="cpu")


def long_batch(count=40, row_len=600, seed=0, longest=90):
    """Rows of several blocks of 128: trajectories with runs of backspaces, and rollouts from inside of them."""
    rng = np.random.default_rng(seed)

    def acts(n):
        return [*np.where(rng.random(n) < 0.25, SPACE.bkspc, rng.integers(2, SPACE.vocab_size, n)), SPACE.eos]

    made = [
        [Trajectory.make([0], acts(int(rng.integers(20, longest))), space=SPACE) for _ in range(2)]
        for _ in range(count)
    ]
    return pack(made, SPACE, row_len=row_len)


@given(st.lists(groups(), min_size=1, max_size=3), st.integers(1, 60), st.sampled_from([None, 1, 2, 4]))
def test_the_predicate_is_the_dense_mask(batch_groups, row_len, window):
    batch = pack(batch_groups, SPACE, row_len=row_len)
    assert torch.equal(by_predicate(batch, window), windowed(batch, window))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([100, 128, 256, 300, 600]), st.sampled_from([None, 3, 40]))
def test_blocks_cover_every_pair_and_full_ones_hold_nothing_else(seed, row_len, window):
    batch = long_batch(count=12, row_len=row_len, seed=seed)
    length, dense = batch.expiry.shape[1], windowed(batch, window)
    seen, full = (block_masks._spread(b, length) for b in block_masks._blocks(batch.expiry, batch.positions, window))
    assert not (dense & ~seen).any()
    assert not (full & ~dense).any()
    if window is None:  # then no block is kept in vain either
        assert torch.equal(seen, covered(dense))


def covered(dense):
    """Blocks with a visible pair, as the pairs that they hold."""
    rows, _, length, _ = dense.shape
    n = -(-length // BLOCK)
    whole = torch.zeros(rows, 1, n * BLOCK, n * BLOCK, dtype=torch.bool)
    whole[:, :, :length, :length] = dense
    blocks = whole.unflatten(3, (n, BLOCK)).unflatten(2, (n, BLOCK)).any(5).any(3)
    return block_masks._spread(blocks, length)


@pytest.mark.parametrize("row_len", [384, 600])
def test_it_is_torchs_own_block_mask_without_the_pairs(row_len):
    batch = long_batch(row_len=row_len)
    rows, length = batch.expiry.shape
    ours = block_mask(batch.expiry)
    theirs = create_block_mask(visibility(batch.expiry), rows, None, length, length, device="cpu")
    assert ours.shape == theirs.shape == (rows, 1, length, length)
    assert ours.sparsity() == theirs.sparsity() > 0
    for name in ("kv", "full_kv", "q", "full_q"):
        ours_n, theirs_n = (getattr(m, f"{name}_num_blocks") for m in (ours, theirs))
        assert torch.equal(ours_n, theirs_n), name
        for mine, other, n in zip(
            getattr(ours, f"{name}_indices").flatten(0, 2),
            getattr(theirs, f"{name}_indices").flatten(0, 2),
            ours_n.flatten(),
            strict=True,
        ):
            assert torch.equal(mine[:n].sort().values, other[:n].sort().values), name


def test_a_window_needs_positions():
    with pytest.raises(ValueError, match="a window of 3 positions needs the positions"):
        visibility(torch.tensor([[1]]), None, 3)


@pytest.fixture
def uncompiled(monkeypatch):
    """FlexAttention of transformers without the compiler, and nothing checked before."""
    monkeypatch.setattr(block_masks, "CHECKED", set())
    monkeypatch.setattr(
        "transformers.integrations.flex_attention.WrappedFlexAttention", lambda training: lambda: flex_attention
    )


def hiddens(policy, batch):
    """Last hidden vectors under the dense mask and under the block mask."""
    with torch.no_grad():
        by_blocks = policy.hidden(batch.tokens, batch.positions, with_packed(batch.expiry, batch.positions))
        return policy.hidden(batch.tokens, batch.positions, batch.mask()), by_blocks


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("family", ["llama", "windows", "grouped", "gemma-2"])
def test_a_whole_forward_pass_is_that_of_the_dense_mask(family, uncompiled):
    batch = long_batch(count=8, row_len=300)
    if family == "llama":
        policy = tiny_policy(SPACE, dim=32, layers=2, heads=2, positions=256)
    else:
        kind, options = {
            "windows": (transformers.MistralConfig, {"sliding_window": 5}),
            "grouped": (transformers.LlamaConfig, {}),
            "gemma-2": (transformers.Gemma2Config, {"sliding_window": 5, "head_dim": 8}),
        }[family]
        shape = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, **options}
        torch.manual_seed(0)
        lm = transformers.AutoModelForCausalLM.from_config(kind(**shape), attn_implementation=BEYOND)
        policy = Policy(lm, PolicyConfig(SPACE))
    dense, by_blocks = hiddens(policy.eval(), batch)
    assert float((dense - by_blocks).abs().max()) < 2e-5 * float(dense.abs().max())
    assert block_masks.CHECKED
    assert {kind[-2] for kind in block_masks.CHECKED} == {"llama": {None}, "grouped": {None}, "windows": {5}}.get(
        family, {5, None}
    )


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_a_difference_on_first_use_is_an_error(uncompiled, monkeypatch):
    policy, batch = tiny_policy(SPACE, dim=32, layers=1, heads=2, positions=256).eval(), long_batch(4, 300)
    exact = block_masks.flex_attention_forward
    with monkeypatch.context() as wrong:
        wrong.setattr(block_masks, "flex_attention_forward", lambda *a, **k: (exact(*a, **k)[0] * 1.01, None))
        with pytest.raises(RuntimeError, match=r"differs .* by 0\.01 of.* flex_from=0"):
            hiddens(policy, batch)
    with monkeypatch.context() as wrong:

        def broken(*args, **kwargs):
            raise TypeError("no such kernel")

        wrong.setattr(block_masks, "flex_attention_forward", broken)
        with pytest.raises(RuntimeError, match=r"first use on cpu: TypeError: no such kernel.*flex_from=0"):
            hiddens(policy, batch)
    with monkeypatch.context() as wrong:
        wrong.setattr(block_masks, "visibility", lambda expiry, positions, window: visibility(expiry + 1))
        with pytest.raises(RuntimeError, match="predicate differs"):
            hiddens(policy, batch)
    with monkeypatch.context() as wrong:
        found = block_masks._blocks
        wrong.setattr(block_masks, "_blocks", lambda *a: tuple(b & False for b in found(*a)))
        with pytest.raises(RuntimeError, match="leave out visible pairs"):
            hiddens(policy, batch)
    assert not block_masks.CHECKED
    hiddens(policy, batch)
    assert len(block_masks.CHECKED) == 1


def test_a_foreign_block_mask_and_dropout_are_refused():
    q = torch.zeros(1, 2, 4, 8)
    mask = with_packed(torch.tensor([[4, 4, 4, 4]]), torch.arange(4)[None])
    with pytest.raises(ValueError, match=r"drops no attention weights.* is 0\.1.*flex_from=0"):
        attention_in_pieces(torch.nn.Identity(), q, q, q, mask, dropout=0.1)
    delattr(mask, PACKED)
    with pytest.raises(ValueError, match="BlockMask that smlib did not make"):
        attention_in_pieces(torch.nn.Identity(), q, q, q, mask)


def test_a_cpu_has_dense_masks_whatever_is_asked():
    batch = long_batch(2, 200)
    for asked in (None, 0, 1):
        mask = packed_mask(batch.expiry, batch.positions, asked)
        assert torch.equal(mask, batch.mask())


def on_cuda(batch, **options):
    policy = tiny_policy(SPACE, dim=64, layers=2, heads=2, positions=4096, **options).to("cuda")
    return policy, batch.to("cuda")


@pytest.mark.gpu
@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_and_gradients_on_a_gpu_are_those_of_the_dense_mask(dtype):
    torch.backends.cuda.matmul.allow_tf32 = False
    policy, batch = on_cuda(long_batch(count=60, row_len=2_500), dtype=dtype)
    goal = ObjectiveConfig(method="sm", alpha=0.1, gamma=0.9, bc_steps=0, anneal_steps=0)
    found = []
    for flex_from in (1, 0):
        policy.flex_from = flex_from
        loss = objective(policy, batch, goal, 1, None).total
        loss.backward()
        found.append((float(loss), {n: p.grad.float().clone() for n, p in trainable(policy).items()}))
        policy.zero_grad()
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4 if dtype == torch.float32 else 2e-2)
    for name, slope in found[1][1].items():
        if slope.norm() > 1e-3:
            cosine = torch.cosine_similarity(found[0][1][name].flatten(), slope.flatten(), dim=0)
            assert cosine > (0.9999 if dtype == torch.float32 else 0.95), name


@pytest.mark.gpu
def test_a_gpu_takes_over_from_where_it_is_told():
    _, batch = on_cuda(long_batch(count=60, row_len=2_048))
    expiry, positions = batch.expiry, batch.positions
    length = expiry.shape[1]
    assert isinstance(packed_mask(expiry, positions, length + 1), torch.Tensor)
    assert not isinstance(packed_mask(expiry, positions, length), torch.Tensor)
    assert isinstance(packed_mask(expiry, positions, 0), torch.Tensor)
    assert isinstance(packed_mask(expiry, positions, None), torch.Tensor)


@pytest.mark.gpu
@needs_compiler
@pytest.mark.parametrize("slots", [1_024, 4_096])
def test_speed_on_a_gpu(slots, record_property):
    """Seconds of a forward and backward pass under either mask; long rows must not be slower by blocks."""
    policy, batch = on_cuda(long_batch(count=slots // 10, row_len=slots), dtype=torch.bfloat16)
    seconds = {}
    for flex_from in (1, 0):
        policy.flex_from = flex_from
        for _ in range(4):
            torch.cuda.synchronize()
            began = time.perf_counter()
            policy.state_hidden(batch)[0].float().square().mean().backward()
            torch.cuda.synchronize()
            seconds[flex_from] = time.perf_counter() - began
    record_property(f"flex_over_dense_{slots}", seconds[1] / seconds[0])
    print(f"{slots} slots: blocks {seconds[1]:.4f} s, dense {seconds[0]:.4f} s")
    if slots >= 2_048:
        assert seconds[1] < 1.1 * seconds[0]

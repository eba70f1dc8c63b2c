"""Logits of labels and log-partition functions without ever holding states x vocabulary logits.

A loss needs two numbers of a state: the logit of what was done there, and V(s), the logsumexp over all actions. Both
are computed chunk by chunk; the backward pass computes a chunk's logits again and turns them, in place, into their
gradient softmax * dV + (the labels' share). Compared with recomputing under autograd this touches a chunk's memory a
third as often, and memory is what a vocabulary of thousands costs on a CPU.
"""

from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from smlib.policies.postprocessing import NONE, Postprocessing


def picked_and_partition(
    hidden: Float[Tensor, "U d"],
    weight: Float[Tensor, "A d"],
    state: Int[Tensor, " N"],
    label: Int[Tensor, " N"],
    chunk: int,
    behind: Postprocessing = NONE,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " U"]]:
    """`logits[state, label]` and the rows' logsumexp of `logits = behind(hidden @ weight.T)`, in float32 or better.

    Args:
        state: ascending row of each label.
        chunk: rows whose logits exist at a time.
        behind: what the model does to its head's output.
    """
    picked, partition = _Unembedding.apply(hidden, wide(weight), state, label, chunk, behind)
    return picked, partition


class TrainedHead(nn.Linear):
    """A head apart from a model whose other weights are frozen: a copy that is trained, in float32 or better.

    It takes the hidden vectors of a 16-bit model as they come. Its updates, of a ten-thousandth of a weight, would be
    lost in 16 bits.

    Args:
        head: is copied and left alone; embeddings that share its weight keep it.
    """

    def __init__(self, head: nn.Linear) -> None:
        # Without memory, and without a draw from the generator that the adapters' initial weights come from.
        super().__init__(head.in_features, head.out_features, bias=head.bias is not None, device="meta")
        for name, p in head.named_parameters():
            dtype = torch.promote_types(p.dtype, torch.float32)
            setattr(self, name, nn.Parameter(p.detach().to(dtype, copy=True)))

    def forward(self, input: Float[Tensor, "*states d"]) -> Float[Tensor, "*states V"]:
        """Logits in the precision of the weight."""
        return super().forward(input.to(self.weight.dtype))


def is_matrix(head: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether a head does nothing but multiply by its weight (and add its bias): no adapters, no quantised weights."""
    return type(head) in (nn.Linear, TrainedHead)


def token_logits(head: nn.Module, hidden: Float[Tensor, "N d"], vocab_size: int) -> Float[Tensor, "N V"]:
    """What a model's head makes of hidden vectors; one with adapters or quantised weights rounds as it does."""
    if not is_matrix(head):
        return wide(head(hidden)[:, :vocab_size])
    with unrounded(hidden):
        if wide(head.weight) is not head.weight:
            bias = None if head.bias is None else wide(head.bias[:vocab_size])
            return nn.functional.linear(wide(hidden), wide(head.weight[:vocab_size]), bias)
        # Under autocast the hidden vectors of a float32 model have 16 bits.
        return head(hidden.to(head.weight.dtype))[:, :vocab_size]


def wide(x: Tensor) -> Tensor:
    """16-bit numbers as float32, others as they are.

    Rewards are differences of logits and values, of large numbers: a product rounded to 8 bits has lost them.
    """
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def unrounded(like: Tensor) -> torch.autocast:
    """Autocast off, on the device of a tensor: logits and V keep the precision that they are asked for in."""
    return torch.autocast(like.device.type, enabled=False)


def recomputed(
    logits: Callable[[slice], Float[Tensor, "C A"]],
    n: int,
    state: Int[Tensor, " N"],
    label: Int[Tensor, " N"],
    chunk: int,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " U"]]:
    """The same from any function that gives the logits of a slice of the n states, which autograd calls again."""

    def one(part: slice, lo: int, hi: int) -> tuple[Tensor, Tensor]:
        rows = logits(part)
        return rows[state[lo:hi] - part.start, label[lo:hi]], rows.logsumexp(-1)

    found = [
        checkpoint(one, slice(begin, begin + chunk), lo, hi, use_reentrant=False)
        for begin, lo, hi in cut_by_state(state, n, chunk)
    ]
    picked, partition = zip(*found, strict=True)
    return torch.cat(picked), torch.cat(partition)


class _Unembedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, state: Tensor, label: Tensor, chunk: int, behind: Postprocessing
    ) -> tuple[Tensor, Tensor]:
        picked, partition = [], []
        plan = cut_by_state(state, hidden.shape[0], chunk)
        with unrounded(hidden):
            for begin, lo, hi in plan:
                logits = behind(_logits(hidden[begin : begin + chunk], weight))
                picked.append(logits[state[lo:hi] - begin, label[lo:hi]])
                partition.append(logits.logsumexp(-1))
        ctx.plan, ctx.chunk, ctx.behind = plan, chunk, behind
        out = torch.cat(picked), torch.cat(partition)
        ctx.save_for_backward(hidden, weight, state, label, out[1])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        d_picked, d_partition = gradients
        hidden, weight, state, label, partition = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        d_hidden = torch.empty_like(hidden, dtype=weight.dtype) if to_hidden else None
        d_weight = torch.zeros_like(weight) if to_weight else None
        with unrounded(hidden):
            for begin, lo, hi in ctx.plan:
                part = slice(begin, begin + ctx.chunk)
                logits = ctx.behind(_logits(hidden[part], weight))
                slope = logits if ctx.behind.nothing else logits.clone()
                slope.sub_(partition[part, None]).exp_().mul_(d_partition[part, None])
                # Two visits may share a state and a label: their gradients add up.
                slope.index_put_((state[lo:hi] - begin, label[lo:hi]), d_picked[lo:hi], accumulate=True)
                if not ctx.behind.nothing:
                    ctx.behind.slope_(slope, logits)
                if d_hidden is not None:
                    torch.mm(slope, weight, out=d_hidden[part])
                if d_weight is not None:
                    d_weight.addmm_(slope.T, hidden[part].to(weight.dtype))
        return None if d_hidden is None else d_hidden.to(hidden.dtype), d_weight, None, None, None, None


def cut_by_state(state: Int[Tensor, " N"], n: int, chunk: int) -> list[tuple[int, int, int]]:
    """First row of each chunk of n, and the range of labels whose (ascending) states lie in it."""
    begins = range(0, n, chunk)
    cuts = torch.searchsorted(state, torch.tensor([*begins, n], device=state.device)).tolist()
    return list(zip(begins, cuts, cuts[1:], strict=False))


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """Rows of logits in the precision of the weight, which is no less than the hidden vectors'."""
    return hidden.to(weight.dtype) @ weight.T

"""Peak memory of a step, how close its arithmetic comes to bare matrix products, and where its time goes."""

import gc
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from smlib.bench.timing import seconds_of
from smlib.chatter import without_lines

PROFILERS_NOTES = "^USDT:"
"""Lines such as `USDT:... profiler_start`, which the profiler writes from C++ whatever torch's settings are."""


def peak_bytes(work: Callable[[], object]) -> int:
    """Largest growth of what torch has allocated during a call, on the GPU or on the CPU.

    Weights and optimiser state exist before and do not count; activations, gradients, logits and masks do. On a CPU
    torch's profiler counts the allocations, so equal calls have equal peaks. The size of the process would depend on
    what earlier calls left behind.
    """
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    gc.collect()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with without_lines(PROFILERS_NOTES), torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        work()
    changes = sorted(_allocations(profile.profiler.kineto_results.experimental_event_tree()))
    return max(itertools.accumulate((size for _, size in changes), initial=0))


def _allocations(events: Iterable[Any]) -> Iterator[tuple[int, int]]:
    """Nanosecond and bytes of each allocation on the CPU; what is freed is negative."""
    waiting = list(events)
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag == torch._C._profiler._EventType.Allocation and event.typed[1].device.type == "cpu":
            yield event.start_time_ns, event.typed[1].alloc_size


def flops(work: Callable[[], object]) -> int:
    """Floating-point operations of the matrix products and attentions of a call, backward included."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def kernel_shares(work: Callable[[], object]) -> dict[str, float]:
    """Shares of a call's CPU time in matrix products and in attention: rearranging the rest removes none of that."""
    with (
        without_lines(PROFILERS_NOTES),
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile,
    ):
        work()
    own = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    total = sum(own.values())
    products = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm")
    return {
        "linear": sum(own.get(name, 0.0) for name in products) / total,
        "attention": sum(t for name, t in own.items() if "scaled_dot_product" in name) / total,
    }


def matmul_flops_per_second(model: nn.Module, work: Callable[[], object], repeats: int) -> float:
    """Speed of the model's own linear layers alone: the products of one call, forward and both of the backward.

    Every linear layer of `model` that runs during `work` contributes x W, g W^T and x^T g of its real shapes.
    """
    shapes: list[tuple[int, int, int]] = []

    def record(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.Linear)
        shapes.append((inputs[0].numel() // module.in_features, module.in_features, module.out_features))

    hooks = [m.register_forward_pre_hook(record) for m in model.modules() if isinstance(m, nn.Linear)]
    work()
    for hook in hooks:
        hook.remove()
    reference = next(model.parameters())
    operands = {
        shape: [torch.randn(*size, dtype=reference.dtype, device=reference.device) for size in _sizes(*shape)]
        for shape in set(shapes)
    }

    def products() -> None:
        for shape in shapes:
            x, w, g = operands[shape]
            _ = x @ w.T, g @ w, g.T @ x

    seconds = sorted(seconds_of(products) for _ in range(repeats + 1))[repeats // 2]
    return sum(6 * n * d * m for n, d, m in shapes) / seconds


def _sizes(n: int, d: int, m: int) -> tuple[tuple[int, int], ...]:
    return (n, d), (m, d), (n, m)

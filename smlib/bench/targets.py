"""What the figures of `smlib bench` should reach, and the best that they could.

The *bound* of a cost is the ratio of the floating-point operations in the matrix products and attentions of the two
sides, counted while they run (`smlib.bench.resources.flops`). An implementation whose operations all took equally long
would cost just that. What lies above it are smaller pieces of work, which use a processor less well, and everything
that is no product: packing, masks, norms, the choice of actions. Fixed costs that both sides share, such as the
optimiser's, pull a ratio towards 1, so a measured ratio may lie a little below its bound.

Three others have a bound of another kind. Memory: the ratio of the slots, since what a network keeps of each slot is
all that a step could not do without. The sampler: its speed-up if nothing but the network's own passes took time. The
speed of arithmetic: what a plain PyTorch loop reaches with the same network, of which none of the code is ours; that
one can be beaten.
"""

from collections.abc import Mapping
from types import MappingProxyType

TARGETS: Mapping[str, tuple[str, float]] = MappingProxyType(
    {
        "sm_over_mle_step_arithmetic": ("<=", 1.30),
        "sm_over_mle_amortised_arithmetic": ("<=", 1.40),
        "sm_over_mle_step_text1024": ("<=", 1.60),
        "sm_over_mle_amortised_text1024": ("<=", 1.75),
        "mle_step_over_bare_pytorch": ("<=", 1.10),
        "sample_tokens_per_s_over_generate": (">=", 1.7),
        "sample_with_20pct_backspaces_over_none_equal_tokens": ("<=", 0.95),
        "packing_over_algorithm_a": (">=", 70.0),
        "peak_memory_sm_over_mle_text1024": ("<=", 1.6),
        "train_flops_over_matmul_flops": (">=", 0.5),
    }
)
"""The names that `smlib bench --json` always has, and what each should reach. Further entries have no target."""

BOUNDS: Mapping[str, str] = MappingProxyType(
    {
        **{
            f"sm_over_mle_{what}_{shape}": f"flops_sm_over_mle_{what}_{shape}"
            for what in ("step", "amortised")
            for shape in ("arithmetic", "text1024")
        },
        "sample_with_20pct_backspaces_over_none_equal_tokens": "flops_20pct_backspaces_over_none_equal_tokens",
        "sample_tokens_per_s_over_generate": "network_alone_tokens_per_s_over_generate",
        "peak_memory_sm_over_mle_text1024": "slots_sm_over_mle_text1024",
        "train_flops_over_matmul_flops": "bare_pytorch_flops_over_matmul_flops",
    }
)
"""Entry with a target -> entry that is its bound."""


def judged(found: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """The entries with `target`, `reached` and `bound` where there are such; those with a target come first.

    Raises:
        KeyError: an entry with a target is missing.

    >>> judged({name: {"value": 1.0} for name in TARGETS})["packing_over_algorithm_a"]
    {'value': 1.0, 'target': '>= 70', 'reached': False}
    """
    entries = {name: dict(found[name]) for name in [*TARGETS, *(n for n in found if n not in TARGETS)]}
    for name, (sense, goal) in TARGETS.items():
        value = float(str(entries[name]["value"]))
        entries[name]["target"] = f"{sense} {goal:g}"
        entries[name]["reached"] = value <= goal if sense == "<=" else value >= goal
    for name, bound in BOUNDS.items():
        if bound in entries:
            entries[name]["bound"] = entries[bound]["value"]
    return entries

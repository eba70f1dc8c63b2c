"""What the figures of `smlib bench` should reach, and the least that arithmetic allows.

A *floor* is the ratio of the floating-point operations in the matrix products and attentions of the two sides, counted
while they run (`smlib.bench.resources.flops`). An implementation whose operations all took equally long would cost just
that. What lies above it are smaller pieces of work, which use a processor less well, and everything that is no product:
packing, masks, norms, the choice of actions. Fixed costs that both sides share, such as the optimiser's, pull a ratio
towards 1, so a measured ratio may lie a little below its floor.
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

FLOORS: Mapping[str, str] = MappingProxyType(
    {
        **{
            f"sm_over_mle_{what}_{shape}": f"flops_sm_over_mle_{what}_{shape}"
            for what in ("step", "amortised")
            for shape in ("arithmetic", "text1024")
        },
        "sample_with_20pct_backspaces_over_none_equal_tokens": "flops_20pct_backspaces_over_none_equal_tokens",
    }
)
"""Entry with a target -> entry that is its floor."""


def judged(found: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
    """The entries with `target`, `reached` and `floor` where there are such; those with a target come first.

    Raises:
        KeyError: an entry with a target is missing.

    >>> judged({name: {"value": 1.0} for name in TARGETS})["packing_over_algorithm_a"]
    {'value': 1.0, 'target': '>= 70', 'reached': False}
    """
    entries = {name: dict(found[name]) for name in [*TARGETS, *(n for n in found if n not in TARGETS)]}
    for name, (sense, bound) in TARGETS.items():
        value = float(str(entries[name]["value"]))
        entries[name]["target"] = f"{sense} {bound:g}"
        entries[name]["reached"] = value <= bound if sense == "<=" else value >= bound
    for name, floor in FLOORS.items():
        if floor in entries:
            entries[name]["floor"] = entries[floor]["value"]
    return entries

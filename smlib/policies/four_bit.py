"""4-bit weights stay in the layout that has gradients.

On processors with AVX512-BF16, bitsandbytes repacks the 4-bit weights of a layer the first time that it is evaluated
there. A product with repacked weights has no gradients, so the adapters below the layer would learn nothing, and
without a word. The stored bytes are other ones, which makes the same weights another run (`run_identity`). And a layer
whose height is no multiple of 32 cannot be repacked at all. So a policy's layers are never repacked, and those that
already are, because their owner generated with the model before, are put back.
"""

from typing import Any

__all__ = ["with_gradients"]

SWITCH = "support_avx512bf16_for_cpu"
"""The attribute of a bitsandbytes layer that says whether it repacks its weights."""


def with_gradients(lm: Any) -> None:
    """Puts every 4-bit layer of `lm` into the layout that has gradients, and keeps it there. In place; the layers
    compute what they did.

    >>> with_gradients(smlib.tiny_policy(smlib.ActionSpace(vocab_size=10, eos=0), dim=16, layers=1, heads=2).lm)
    """
    for module in lm.modules():
        if not hasattr(module, SWITCH):
            continue
        setattr(module, SWITCH, False)
        state = getattr(module.weight, "quant_state", None)
        if getattr(state, "packing_format_for_cpu", False):
            from bitsandbytes.functional import _convert_weight_packed_for_cpu_inverse

            module.weight.data, module.weight.quant_state = _convert_weight_packed_for_cpu_inverse(
                module.weight.data, state
            )

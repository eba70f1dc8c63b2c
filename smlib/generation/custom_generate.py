"""Generation with deletion for `model.generate(..., custom_generate=with_deletion)`: each row rolls back its own cache.

For a checkpoint whose vocabulary holds `<bkspc>`, as `smlib export` writes it. The export carries this file as
`custom_generate/generate.py`, with the source of the modules of smlib that it needs in place of their imports: the
copy needs torch, numpy and transformers alone.

The last hidden vector of every state on a row's path is kept, so after `<bkspc>` the distribution of the revisited
state is known: forward passes equal insertions. A cache row holds one sequence's state, slot = position. This is the
sampler of `smlib.generation.sampling` behind transformers' interface, and draws the same tokens from the same seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationMixin
from transformers.generation import logits_process as processing
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria
from transformers.utils import ModelOutput

from smlib.generation.rolling_rows import RollingRows

APPEND_ONLY = (processing.PrefixConstrainedLogitsProcessor, processing.UnbatchedClassifierFreeGuidanceLogitsProcessor)


@dataclass
class DeletionOutput(ModelOutput):
    """What `generate` returns with `return_dict_in_generate=True`.

    Attributes:
        sequences: `[rows, length]`, padded on the right: prompt and final state, or with `skip_deleted=False` all
            actions. `<eos>` stands where the model chose it, and not where a limit ended the row.
        actions: the same with all actions, `<bkspc>` among them.
        backspaces: deletions of each row. forward_calls: calls of the model, the prompt's included.
        forward_tokens: generated tokens that the model read, which are the insertions.
    """

    sequences: Any = None
    actions: Any = None
    backspaces: Any = None
    forward_calls: int | None = None
    forward_tokens: int | None = None


@torch.no_grad()
def with_deletion(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: Any = None,
    *,
    seeds: Sequence[int] | None = None,
    exclude_deleted: bool | None = None,
    allow_backspace: bool = True,
    max_actions: int | None = None,
    skip_deleted: bool = True,
    **model_kwargs: Any,
) -> Any:
    """The decoding loop that `generate` calls after its usual preparations.

    Temperature, top-k, top-p, min-p and whatever else processes scores come from `generate`, and so do `do_sample`,
    `max_new_tokens`, `num_return_sequences` and `return_dict_in_generate`. Here `max_new_tokens` is the largest number
    of tokens that stand at a time, `<eos>` not counted: a full row can still delete.

    Args:
        input_ids: `[rows, width]`, padded on the left; the mask says where.
        seeds: one for each row, of a random stream of its own: the same tokens whatever else is in the batch. Without
            them torch's global generator draws.
        exclude_deleted: exclude, at a revisited state, what was deleted there. None: where `do_sample=False`, since a
            greedy policy without memory can insert and delete the same token for ever.
        allow_backspace: False forbids `<bkspc>`.
        max_actions: actions of a row, edits and `<eos>` included; None: `4 * max_new_tokens + 1`.
        skip_deleted: return the final state, so that the decoded text is what stands at the end.

    Raises:
        ValueError: a model without `<bkspc>`, a prompt that holds it, no room in the model's context, beams and
            whatever else cannot take tokens back.
    """
    _refuse_append_only(model, generation_config, logits_processor, model_kwargs)
    rows = RollingRows(model, input_ids, model_kwargs.get("attention_mask"), generation_config)
    rows.processors = list(logits_processor or [])
    rows.criteria = [c for c in stopping_criteria or [] if not isinstance(c, MaxLengthCriteria | EosTokenCriteria)]
    rows.greedy = not generation_config.do_sample
    rows.excluding = rows.greedy if exclude_deleted is None else exclude_deleted
    rows.backspace = allow_backspace
    rows.max_actions = 4 * rows.limit + 1 if max_actions is None else max_actions
    if rows.max_actions < 1:
        raise ValueError(f"max_actions={max_actions}: expected None or >= 1")
    if seeds is not None:
        if len(seeds) != len(input_ids):
            raise ValueError(f"{len(input_ids)} rows but {len(seeds)} seeds: one for each returned sequence")
        streams = [np.random.Generator(np.random.Philox(key=seed)).random(rows.max_actions) for seed in seeds]
        rows.uniforms = np.stack(streams)
    rows.run()
    actions = rows.padded(rows.chosen)
    sequences = rows.padded(rows.standing()) if skip_deleted else actions
    if not generation_config.return_dict_in_generate:
        return sequences
    deletions = torch.tensor([row.count(rows.bkspc) for row in rows.chosen])
    return DeletionOutput(
        sequences=sequences,
        actions=actions,
        backspaces=deletions,
        forward_calls=rows.forward_calls,
        forward_tokens=rows.forward_tokens,
    )


def generate(model: Any, *args: Any, **kwargs: Any) -> Any:
    """`model.generate` with deletion: what transformers finds in the folder `custom_generate` of a checkpoint."""
    if kwargs.get("streamer") is not None:
        raise ValueError("a streamer cannot take back what it has printed: leave streamer out, or generate without it")
    return GenerationMixin.generate(model, *args, custom_generate=with_deletion, **kwargs)


def _refuse_append_only(model: Any, config: Any, processors: Any, model_kwargs: dict[str, Any]) -> None:
    """Raises ValueError for what `generate` offers and deletion cannot have."""
    if (config.num_beams or 1) > 1:
        raise ValueError(f"num_beams={config.num_beams}: beams cannot delete; expected 1")
    cache = model_kwargs.get("past_key_values")
    if cache is not None and cache.get_seq_length() > 0:
        raise ValueError("past_key_values holds tokens already: give the whole prompt as input_ids, without a cache")
    if "inputs_embeds" in model_kwargs:
        raise ValueError("inputs_embeds have no tokens that could be deleted: give input_ids")
    for processor in processors or []:
        if isinstance(processor, APPEND_ONLY):
            raise ValueError(
                f"{type(processor).__name__} follows rows that only grow, and cannot be used with deletion"
            )
    kind = getattr(model.config, "_attn_implementation", None)
    if not (kind == "eager" or str(kind).startswith("sdpa")):
        raise ValueError(f"attn_implementation is {kind!r}, which ignores masks: load the model with 'sdpa'")

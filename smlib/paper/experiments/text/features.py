"""What MAUVE sees of a text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from smlib.evaluation import minilm_features

MINILM = "minilm"


def features(name: str, texts: Sequence[str], *, download: bool = False) -> NDArray[np.float32]:
    """One row a text, finite or an error.

    Args:
        name: `minilm` (sentence embeddings), or a causal language model for `load_policy`, whose last hidden vector of
            the last token is taken: `smollm2`, or `gpt2-large`, MAUVE's default.

    Raises:
        ValueError: an empty text; features that are not finite.
    """
    rows = minilm_features(texts) if name == MINILM else _last_states(name, texts, download)
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if bad.size:
        raise ValueError(f"{name} gave {bad.size} rows of features that are not finite, the first at {bad[0]}")
    return rows


def _last_states(name: str, texts: Sequence[str], download: bool, max_tokens: int = 512) -> NDArray[np.float32]:
    import torch

    from smlib.policies.loading import load_policy

    empty = [i for i, text in enumerate(texts) if not text.strip()]
    if empty:
        raise ValueError(f"{len(empty)} empty texts, the first at {empty[0]}: leave them out, and report how many")
    policy, tokenizer = load_policy(name, offset_head=False, local_files_only=not download)
    policy.eval()
    rows = []
    with torch.inference_mode():
        for text in texts:
            ids = [tokenizer.bos, *tokenizer.encode(text)][:max_tokens]
            n = len(ids)
            mask = torch.ones(1, 1, n, n, dtype=torch.bool).tril()
            rows.append(policy.hidden(torch.tensor([ids]), torch.arange(n)[None], mask)[0, -1].float().numpy())
    return np.stack(rows)

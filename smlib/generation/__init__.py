"""Sampling with `<bkspc>`: rollback in the cache, decoding rules, contrastive search, streaming."""

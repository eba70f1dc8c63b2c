"""A causal language model as a policy over tokens and `<bkspc>`: heads, attention, cache, loading, adapters."""

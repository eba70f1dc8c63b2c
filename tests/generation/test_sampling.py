"""Sampling against a slow oracle, and against a scripted model that shows whether rollback reads the right
slots."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from smlib.edits.actions import ActionSpace, final_state, replay
from smlib.generation.contrastive import ContrastiveConfig, contrastive_search
from smlib.generation.decoding import action_distribution, draw, truncation_law
from smlib.generation.edit_batch import EditBatch
from smlib.generation.sampling import SamplingConfig, sample
from smlib.generation.streaming import stream
from smlib.policies.policy import Policy, PolicyConfig, tiny_policy
from tests.support.oracles_sampling import inverse_cdf, slow_distribution, slow_sample


@dataclass(frozen=True)
class Law:
    tokens: np.ndarray
    probs: np.ndarray


class CausalPolicy(nn.Module):
    """A random Llama in float64 with a `<bkspc>` row, the least that the sampler asks for."""

    device = torch.device("cpu")

    def __init__(self, space, seed=0, backspace_bias=0.0, layers=2):
        super().__init__()
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=space.vocab_size, hidden_size=16, intermediate_size=24, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, initializer_range=0.6,
            attn_implementation="sdpa", bos_token_id=0, eos_token_id=space.eos, pad_token_id=None,
        )  # fmt: skip
        self.space, self.bias = space, backspace_bias
        self.lm = LlamaForCausalLM(config).double()
        self.w_bkspc = nn.Parameter(torch.randn(16, dtype=torch.float64))

    def hidden(self, tokens, positions, mask, cache=None):
        return self.lm.model(
            input_ids=tokens, position_ids=positions, attention_mask=mask, past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state  # fmt: skip

    def logits(self, hidden, positions):
        backspace = hidden @ self.w_bkspc + self.bias
        return torch.cat([self.lm.lm_head(hidden), backspace[:, None]], -1)


class ScriptedPolicy:
    """Logits are a function of the whole state, read back through the cache's visible slots and nothing else.

    Token x at position i contributes x * (V + 1)^i to the hidden value, so the hidden value *is* the state.
    A slot that is stale, missing or visible too early gives another state, for which the script has no
    entry.
    """

    device = torch.device("cpu")

    def __init__(self, space, script):
        self.space, self.script, self.reads = space, script, 0

    def hidden(self, tokens, positions, mask, cache=None):
        self.reads += tokens.numel()
        codes = ((tokens + 1) * (self.space.vocab_size + 1) ** positions).double()
        keys, _ = cache.update(codes[:, None, :, None], codes[:, None, :, None], 0)  # [R, 1, slots, 1]
        return (mask[:, 0].double() @ keys[:, 0]).double()  # [R, S, 1]: the sum over visible slots

    def logits(self, hidden, positions):
        rows = []
        for code in hidden[:, 0].tolist():
            state, code = [], int(code)
            while code:
                code, digit = divmod(code, self.space.vocab_size + 1)
                state.append(digit - 1)
            rows.append(
                torch.full((self.space.n_actions,), -50.0).index_fill(0, torch.tensor(self.script[tuple(state)]), 0)
            )
        return torch.stack(rows)


SPACE = ActionSpace(vocab_size=7, eos=1, bos=0)
LAW = Law(np.array([3, 4, 5]), np.array([0.2, 0.5, 0.3]))
CONFIGS = {
    "temperature 1": SamplingConfig(max_new_tokens=8),
    "filters": SamplingConfig(max_new_tokens=8, temperature=0.7, top_p=0.8, top_k=5, min_p=0.02),
    "greedy": SamplingConfig(max_new_tokens=8, greedy=True),
    "greedy, deleted excluded": SamplingConfig(max_new_tokens=8, greedy=True, exclude_deleted=True),
    "deleted excluded": SamplingConfig(max_new_tokens=8, exclude_deleted=True),
    "no backspace": SamplingConfig(max_new_tokens=8, allow_backspace=False),
    "truncation": SamplingConfig(max_new_tokens=8, allow_backspace=False, truncation_eta=0.3),
    "noise": SamplingConfig(max_new_tokens=8, execution_noise=0.3),
    "bursts": SamplingConfig(max_new_tokens=8, execution_noise=0.2, noise_burst=3, exclude_deleted=True),
    "action limit": SamplingConfig(max_new_tokens=8, max_actions=5),
    "nothing to insert": SamplingConfig(max_new_tokens=0),
}


def same(a, b):
    return (
        np.array_equal(a.prompt, b.prompt)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.realised, b.realised)
    )


@pytest.fixture(scope="module")
def policy():
    return CausalPolicy(SPACE, backspace_bias=0.5)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(3)
    return [np.concatenate([[0], rng.integers(2, 7, size=n)]) for n in (3, 0, 6, 1, 3, 2)]


@pytest.mark.parametrize("name", CONFIGS)
def test_batched_equals_one_by_one_equals_the_oracle(name, policy, prompts):
    config, seeds = CONFIGS[name], list(range(10, 10 + len(prompts)))
    laws = LAW if config.needs_noise_law else None
    together = sample(policy, prompts, config, seeds, noise_laws=laws)
    in_threes = sample(policy, prompts, config, seeds, noise_laws=laws, batch_size=3)
    for i, prompt in enumerate(prompts):
        alone = sample(policy, [prompt], config, [seeds[i]], noise_laws=laws).trajectories[0]
        oracle = slow_sample(policy, prompt, config, seeds[i], LAW)
        assert same(alone, oracle)
        assert same(together.trajectories[i], oracle)
        assert same(in_threes.trajectories[i], oracle)
    stats = together.stats
    assert stats.forward_tokens == stats.insertions
    assert stats.prefill_tokens == sum(len(p) for p in prompts)
    assert stats.actions == sum(len(t) for t in together.trajectories)
    assert stats.actions == stats.insertions + stats.backspaces + len(prompts)


@pytest.mark.parametrize("name", ["temperature 1", "deleted excluded", "bursts", "action limit"])
def test_prefixes_stand_and_can_be_deleted(name, policy, prompts):
    config, seeds = CONFIGS[name], list(range(len(prompts)))
    prefixes = [[2, 3], [], [4] * 8, [6], [], [5]]
    laws = LAW if config.needs_noise_law else None
    result = sample(policy, prompts, config, seeds, noise_laws=laws, prefixes=prefixes, batch_size=4)
    for i, got in enumerate(result.trajectories):
        assert same(got, slow_sample(policy, prompts[i], config, seeds[i], LAW, prefixes[i]))
        assert got.realised[: len(prefixes[i])].tolist() == prefixes[i]
    assert result.stats.forward_tokens == result.stats.insertions
    assert result.stats.actions == sum(map(len, result.trajectories)) - sum(map(len, prefixes))


def lm_of(family, space):
    """A random miniature of a model family, float64."""
    common = {"vocab_size": space.vocab_size, "bos_token_id": 0, "eos_token_id": space.eos, "pad_token_id": None}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.6}
    configs = {
        "llama": lambda: transformers.LlamaConfig(**common, **sizes),
        "qwen2": lambda: transformers.Qwen2Config(**common, **sizes, tie_word_embeddings=True),
        "mistral": lambda: transformers.MistralConfig(**common, **sizes, sliding_window=None),
        "gpt2": lambda: transformers.GPT2Config(**common, n_embd=16, n_layer=2, n_head=4, n_positions=64),
    }
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(configs[family](), attn_implementation="sdpa").double()


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral", "gpt2"])
def test_policies_of_other_families_equal_the_oracle(family, prompts):
    policy = Policy(lm_of(family, SPACE), PolicyConfig(SPACE)).double().eval()
    config = SamplingConfig(max_new_tokens=6)
    got = sample(policy, prompts, config, range(len(prompts))).trajectories
    assert all(same(t, slow_sample(policy, p, config, i)) for i, (t, p) in enumerate(zip(got, prompts, strict=True)))
    policy.forbid_backspace()
    assert all(SPACE.bkspc not in t.labels for t in sample(policy, prompts, config, range(len(prompts))).trajectories)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_more_than_the_models_context_is_refused(family):
    policy = Policy(lm_of(family, SPACE), PolicyConfig(SPACE)).double().eval()  # 64 positions
    prompts = [[0, 2], [0, 2, 3, 4]]
    whole = SamplingConfig(max_new_tokens=60, allow_backspace=False)
    assert len(sample(policy, prompts, whole, [0, 1]).trajectories) == 2
    message = r"4 tokens and max_new_tokens=61 take 65 tokens, and the model's context is 64: lower max_new_tokens"
    with pytest.raises(ValueError, match=message):
        sample(policy, prompts, SamplingConfig(max_new_tokens=61), [0, 1])
    with pytest.raises(ValueError, match=message):
        next(stream(policy, prompts[1], SamplingConfig(max_new_tokens=61), seed=0))
    with pytest.raises(ValueError, match=message):
        contrastive_search(policy, prompts, ContrastiveConfig(max_new_tokens=61))
    assert len(contrastive_search(policy, prompts, ContrastiveConfig(max_new_tokens=60))) == 2


@pytest.mark.parametrize(("prefix", "message"), [([2, 3, 4], "3 tokens, more than max_new_tokens=2"), ([1], "<eos>")])
def test_a_prefix_that_could_not_stand_there_is_refused(policy, prefix, message):
    config = SamplingConfig(max_new_tokens=2)
    with pytest.raises(ValueError, match=message):
        sample(policy, [[0, 2]], config, [0], prefixes=[prefix])
    with pytest.raises(ValueError, match=message):
        next(stream(policy, [0, 2], config, seed=0, prefix=prefix))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    bias=st.floats(-3, 3),
    batch_size=st.integers(1, 5),
    greedy=st.booleans(),
    exclude=st.booleans(),
    noise=st.sampled_from([0.0, 0.4]),
)
def test_any_batch_equals_the_oracle(policy, seed, lengths, bias, batch_size, greedy, exclude, noise):
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, SPACE.vocab_size, size=n) for n in lengths]
    seeds = [int(s) for s in rng.integers(0, 2**62, size=len(prompts))]
    config = SamplingConfig(max_new_tokens=5, greedy=greedy, exclude_deleted=exclude, execution_noise=noise)
    old, policy.bias = policy.bias, bias
    try:
        got = sample(policy, prompts, config, seeds, noise_laws=LAW, batch_size=batch_size).trajectories
        want = [slow_sample(policy, p, config, s, LAW) for p, s in zip(prompts, seeds, strict=True)]
    finally:
        policy.bias = old
    assert all(same(a, b) for a, b in zip(got, want, strict=True))


def test_rollback_reads_the_rolled_back_state():
    space, back, eos = ActionSpace(vocab_size=4, eos=1, bos=0), 4, 1

    # Row 0 deletes three times in a row, then writes other tokens into the dead slots. Equal scores go to
    # the lower id, so [2, back] means: insert 2 at the first visit, delete once 2 has been deleted here.
    script = {
        (0,): [2, 3], (0, 2): [2, back], (0, 2, 2): [3, back], (0, 2, 2, 3): [back],
        (0, 3): [2], (0, 3, 2): [3], (0, 3, 2, 3): [eos],
        (2, 3): [3], (2, 3, 3): [3], (2, 3, 3, 3): [2, 3], (2, 3, 3, 3, 2): [back],
        (2, 3, 3, 3, 3): [eos],
    }  # fmt: skip
    policy = ScriptedPolicy(space, script)
    config = SamplingConfig(max_new_tokens=5, greedy=True, exclude_deleted=True)
    result = sample(policy, [[0], [2, 3]], config, [0, 1])
    assert result.trajectories[0].realised.tolist() == [2, 2, 3, back, back, back, 3, 2, 3, eos]
    assert result.trajectories[1].realised.tolist() == [3, 3, 2, back, 3, eos]
    assert replay(result.trajectories[0], space)[-2] == (0, 3, 2, 3)
    assert policy.reads == 2 * 2 + 6 + 4  # the padded prefill, then one read per insertion and none per backspace


def test_greedy_loops_and_exclusion_ends_it():
    space, back = ActionSpace(vocab_size=4, eos=1, bos=0), 4
    loop = {(0,): [2], (0, 2): [back], (0, 3): [1]}
    config = SamplingConfig(max_new_tokens=4, max_actions=9, greedy=True)
    looping = sample(ScriptedPolicy(space, loop), [[0]], config, [0]).trajectories[0]
    assert looping.labels.tolist() == [2, back] * 4 + [2]
    free = dict(loop) | {(0,): [2, 3]}
    ended = sample(ScriptedPolicy(space, free), [[0]], replace(config, exclude_deleted=True), [0]).trajectories[0]
    assert ended.labels.tolist() == [2, back, 3, 1]


def test_backspace_at_the_root_costs_an_action_and_no_forward_pass():
    space, back = ActionSpace(vocab_size=4, eos=1, bos=0), 4
    config = SamplingConfig(max_new_tokens=4, max_actions=6, greedy=True)
    result = sample(ScriptedPolicy(space, {(0,): [back]}), [[0]], config, [0])
    assert result.trajectories[0].labels.tolist() == [back] * 6
    assert result.trajectories[0].realised.tolist() == [back] * 5 + [1]  # the last action is forced to <eos>
    assert (result.stats.forward_tokens, result.stats.forward_calls, result.stats.forced_eos) == (0, 1, 1)
    excluded = replace(config, exclude_deleted=True)
    result = sample(ScriptedPolicy(space, {(0,): [back, 3], (0, 3): [1]}), [[0]], excluded, [0])
    assert result.trajectories[0].labels.tolist() == [3, 1]
    result = sample(ScriptedPolicy(space, {(0,): [back], (0, 0): [1]}), [[0]], excluded, [0])
    assert result.trajectories[0].labels.tolist() == [back, 0, 1]  # nothing but <bkspc> scores: the lowest id is next


def test_over_long_sequences_keep_the_chosen_label():
    space = ActionSpace(vocab_size=4, eos=1, bos=0)
    script = {(0,): [2], (0, 2): [3], (0, 2, 3): [2]}
    result = sample(ScriptedPolicy(space, script), [[0]], SamplingConfig(max_new_tokens=2, greedy=True), [0])
    trajectory = result.trajectories[0]
    assert trajectory.labels.tolist() == [2, 3, 2]
    assert trajectory.realised.tolist() == [2, 3, 1]
    assert final_state(trajectory, space).tolist() == [2, 3]


def test_execution_noise_changes_what_happens_and_not_what_was_chosen(policy):
    config = SamplingConfig(max_new_tokens=6, execution_noise=1.0)
    result = sample(policy, [[0, 2]] * 20, config, list(range(20)), noise_laws=LAW)
    for t in result.trajectories:
        inserted = (t.realised != SPACE.bkspc) & (t.realised != SPACE.eos)
        assert np.isin(t.realised[inserted], LAW.tokens).all()
        assert np.array_equal(t.labels == SPACE.bkspc, t.realised == SPACE.bkspc) or t.realised[-1] == SPACE.eos
    quiet = sample(policy, [[0, 2]] * 20, replace(config, execution_noise=0.0), list(range(20)))
    zero = [t.labels[0] for t in quiet.trajectories]
    assert zero == [t.labels[0] for t in result.trajectories]  # the first choice does not depend on the noise stream


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "nothing to insert"])
def test_distribution_equals_the_slow_one(name):
    config, generator = CONFIGS[name], torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(50, SPACE.n_actions, generator=generator, dtype=torch.float64)
    law = torch.zeros(50, SPACE.n_actions, dtype=torch.float64)
    law[:, LAW.tokens] = torch.from_numpy(LAW.probs)
    p = action_distribution(logits, config, SPACE, noise=law)
    slow = np.stack([slow_distribution(row, config, SPACE, law=LAW) for row in logits])
    np.testing.assert_allclose(p.numpy(), slow, atol=1e-12)  # a dozen float64 roundings
    uniforms = torch.rand(50, generator=generator, dtype=torch.float64)
    drawn = draw(p, uniforms).tolist()
    assert drawn == [inverse_cdf(q, u) for q, u in zip(p.tolist(), uniforms.tolist(), strict=True)]


def test_a_seed_means_the_same_sample_for_ever():
    """Golden: numpy keeps Philox's stream. Seed 7's uniforms begin .872, .295, .420, .405; with P = (.3, .3, .3, .1) on
    actions 2, 3, <bkspc>, <eos> (in the order of ids: <eos> = 1 first) these are <bkspc>, 2, 3, 3."""
    np.testing.assert_allclose(
        np.random.Generator(np.random.Philox(key=7)).random(4), [0.87207, 0.29537, 0.42010, 0.40539], atol=1e-5
    )

    class Fixed(ScriptedPolicy):
        def logits(self, hidden, positions):
            p = torch.tensor([0.0, 0.1, 0.3, 0.3, 0.3], dtype=torch.float64)
            return p.log().expand(len(hidden), 5)

    space = ActionSpace(vocab_size=4, eos=1, bos=0)
    got = sample(Fixed(space, {}), [[0]], SamplingConfig(max_new_tokens=9, max_actions=5), [7]).trajectories[0]
    assert got.labels[:4].tolist() == [4, 2, 3, 3]


def test_draw_never_returns_an_action_of_probability_zero():
    p = torch.tensor([[0.0, 0.1, 0.0, 0.2, 0.0]], dtype=torch.float64)
    for u in (0.0, 1 / 3 - 1e-16, 0.5, 1 - 2**-53):
        assert draw(p, torch.tensor([u], dtype=torch.float64)).item() in (1, 3)


def test_truncation_is_what_rejection_by_cloned_backspaces_samples():
    """Simulates: draw d ~ p, delete it with probability eta u / (eta u + p), repeat until it stays."""
    p, u, eta = np.array([0.6, 0.3, 0.06, 0.04]), np.array([0.0, 0.1, 0.4, 0.5]), 0.3
    law = truncation_law(torch.tensor(p)[None], torch.tensor(u)[None], eta)[0].numpy()
    rng, n = np.random.default_rng(0), 200_000
    d = rng.choice(4, size=n, p=p)
    kept = d[rng.random(n) >= eta * u[d] / (eta * u[d] + p[d])]
    frequency = np.bincount(kept, minlength=4) / kept.size
    np.testing.assert_allclose(frequency, law, atol=5 * 0.5 / np.sqrt(kept.size))  # five standard errors


def test_training_mode_and_gradients_are_left_as_they_were(policy):
    policy.train()
    policy.lm.lm_head.eval()
    sample(policy, [[0]], SamplingConfig(max_new_tokens=2), [0])
    assert (policy.training, policy.lm.model.training, policy.lm.lm_head.training) == (True, True, False)
    assert torch.is_grad_enabled()


def test_clear_errors(policy):
    config = SamplingConfig(max_new_tokens=2)
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        sample(policy, [[0], []], config, [0, 1])
    with pytest.raises(ValueError, match="token ids in"):
        sample(policy, [[0, 7]], config, [0])
    with pytest.raises(ValueError, match="2 prompts but 1 seeds"):
        sample(policy, [[0], [0]], config, [0])
    with pytest.raises(ValueError, match="noise_laws"):
        sample(policy, [[0]], replace(config, execution_noise=0.1), [0])
    with pytest.raises(ValueError, match="prefix 0 has 3 tokens"):
        sample(policy, [[0]], config, [0], prefixes=[[2, 2, 2]])
    with pytest.raises(ValueError, match="prefix 0 holds <eos>"):
        sample(policy, [[0]], config, [0], prefixes=[[1]])
    with pytest.raises(ValueError, match="temperature=0"):
        replace(config, temperature=0)
    with pytest.raises(ValueError, match="allow_backspace=False"):
        replace(config, truncation_eta=0.1)
    with pytest.raises(ValueError, match="not finite"):
        action_distribution(torch.full((1, SPACE.n_actions), torch.nan), config, SPACE)


class Waits(TorchDispatchMode):
    """Counts what a GPU would be waited for: a number that Python reads, and places that are looked for."""

    NAMES = ("_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select")

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        self.found += [name] * (name in self.NAMES)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name", ["temperature 1", "filters", "greedy, deleted excluded", "truncation", "noise", "no backspace"]
)
def test_a_device_is_waited_for_once_a_round_of_actions(name, policy, prompts, monkeypatch):
    """For the actions, which decide who is read next; all rows together, and nothing else."""
    config, rounds, copies = CONFIGS[name], [], []
    pick, cpu = EditBatch.pick, torch.Tensor.cpu
    monkeypatch.setattr(EditBatch, "pick", lambda *given: rounds.append(1) or pick(*given))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copies.append(1) or cpu(tensor))
    with Waits() as waits:
        sample(policy, prompts, config, range(len(prompts)), noise_laws=LAW if config.needs_noise_law else None)
    assert waits.found == []
    assert len(copies) == len(rounds) > 1


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["temperature 1", "greedy, deleted excluded"])
def test_so_it_is_on_a_gpu(name, prompts, monkeypatch):
    """By CUDA's own count of calls that wait."""
    rounds, pick, config = [], EditBatch.pick, CONFIGS[name]
    policy = tiny_policy(SPACE, dim=16, layers=2, heads=2, positions=128).to("cuda")
    sample(policy, prompts, config, range(len(prompts)))  # what is initialised at the first use
    monkeypatch.setattr(EditBatch, "pick", lambda *given: rounds.append(1) or pick(*given))
    advance, waited = EditBatch.advance, []

    def watched(batch):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                return advance(batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
                waited.extend(str(w.message) for w in said if "synchronizing" in str(w.message))

    monkeypatch.setattr(EditBatch, "advance", watched)
    sample(policy, prompts, config, range(len(prompts)))
    assert 1 < len(waited) <= len(rounds)


@pytest.mark.parametrize("greedy", [True, False])
def test_a_row_that_has_nothing_to_draw_is_an_error(greedy, policy, prompts, monkeypatch):
    logits = CausalPolicy.logits

    def broken(self, hidden, positions):
        made = logits(self, hidden, positions)
        made[-1] = torch.nan
        return made

    monkeypatch.setattr(CausalPolicy, "logits", broken)
    with pytest.raises(ValueError, match="a state has no action to draw: its logits are not finite"):
        sample(policy, prompts, SamplingConfig(max_new_tokens=8, greedy=greedy), range(len(prompts)))

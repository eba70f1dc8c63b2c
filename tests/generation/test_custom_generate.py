"""Generation with deletion behind `model.generate`: the tokens of our own sampler in any batch, and equal in law."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from scipy.stats import chisquare

from smlib.edits.actions import final_state
from smlib.generation.custom_generate import generate, with_deletion
from smlib.generation.sampling import SamplingConfig, sample
from tests.support.exported import exported
from tests.support.oracles_sampling import slow_sample

TEXTS = ["w1 w2 w3", "w5", "w7 w8 w9 w10 w1", "w20 w21"]
N = 8


@pytest.fixture(scope="module")
def thing(tmp_path_factory):
    policy, model, tokenizer = exported(tmp_path_factory.mktemp("export"))
    return policy.double(), model.double(), tokenizer


def prompts_of(inputs) -> list[list[int]]:
    return [row[mask.bool()].tolist() for row, mask in zip(inputs.input_ids, inputs.attention_mask, strict=True)]


def chosen(trajectory) -> list[int]:
    """Realised actions; an `<eos>` that a limit forced is not one of them."""
    realised = trajectory.realised.tolist()
    return realised if trajectory.labels[-1] == realised[-1] else realised[:-1]


def rows(output, width: int, pad: int) -> list[list[int]]:
    """What follows the prompts, padding removed. `<eos>` pads, and is kept once where it was chosen."""
    found = []
    for row in output[:, width:].tolist():
        end = row.index(pad) + 1 if pad in row else len(row)
        found.append(row[:end])
    return found


def without_padding(row: list[int], expected: list[int]) -> list[int]:
    return row[: len(expected)]


SETTINGS = [
    {},
    {"temperature": 0.7},
    {"top_k": 5},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 1.3, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
    {"exclude_deleted": True},
    {"exclude_deleted": True, "top_p": 0.7},
    {"allow_backspace": False},
    {"max_actions": 5},
    {"do_sample": False, "exclude_deleted": False},
    {"do_sample": False, "exclude_deleted": True},
    {"do_sample": False, "allow_backspace": False, "exclude_deleted": False},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_the_tokens_are_those_of_our_sampler(thing, settings):
    policy, model, tokenizer = thing
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    ours = dict(settings)
    config = SamplingConfig(max_new_tokens=N, greedy=not ours.pop("do_sample", True), **ours)
    seeds = [11, 12, 13, 14]
    expected = sample(policy, prompts_of(inputs), config, seeds)
    out = model.generate(
        **inputs,
        max_new_tokens=N,
        custom_generate=with_deletion,
        seeds=seeds,
        return_dict_in_generate=True,
        **{"exclude_deleted": False, **settings},
    )
    width = inputs.input_ids.shape[1]
    deletions = 0
    for i, trajectory in enumerate(expected.trajectories):
        actions = chosen(trajectory)
        assert without_padding(out.actions[i, width:].tolist(), actions) == actions
        assert set(out.actions[i, width + len(actions) :].tolist()) <= {2}
        state = final_state(trajectory, policy.space).tolist()
        assert without_padding(out.sequences[i, width:].tolist(), state) == state
        deletions += actions.count(policy.space.bkspc)
    assert out.backspaces.sum() == deletions
    assert (out.forward_calls, out.forward_tokens) == (expected.stats.forward_calls, expected.stats.forward_tokens)
    if "top_p" not in settings and settings.get("allow_backspace", True) and settings.get("do_sample", True):
        assert deletions > 0  # or nothing was tested


@pytest.mark.parametrize("kind", ["tied", "gpt2", "phi", "qwen2"])
def test_other_families_in_float32_greedy_and_sampled(tmp_path, kind):
    policy, model, _ = exported(tmp_path, kind)
    ids = torch.tensor([[2, 2, 4, 5], [2, 2, 2, 8], [10, 11, 12, 13], [2, 23, 24, 47]])
    mask = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [0, 1, 1, 1]])
    prompts = [row[seen.bool()].tolist() for row, seen in zip(ids, mask, strict=True)]
    for greedy in (True, False):
        config = SamplingConfig(max_new_tokens=N, greedy=greedy, exclude_deleted=greedy)
        expected = sample(policy, prompts, config, range(4)).trajectories
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=N,
            custom_generate=with_deletion,
            do_sample=not greedy,
            seeds=range(4),
            skip_deleted=False,
        )
        for row, trajectory in zip(out[:, 4:].tolist(), expected, strict=True):
            assert without_padding(row, chosen(trajectory)) == chosen(trajectory)


def test_a_row_does_not_depend_on_its_batch_and_returned_sequences_take_their_own_seeds(thing):
    _, model, tokenizer = thing
    options = {"max_new_tokens": N, "custom_generate": with_deletion, "skip_deleted": False}
    alone = tokenizer(["w5"], return_tensors="pt")
    twice = model.generate(**alone, num_return_sequences=3, seeds=[1, 2, 1], **options)
    assert twice[0].tolist() == twice[2].tolist() != twice[1].tolist()
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    together = model.generate(**inputs, seeds=[5, 1, 6, 7], **options)
    width = inputs.input_ids.shape[1]
    shorter = rows(twice[:1], 1, 2)[0]
    assert without_padding(together[1, width:].tolist(), shorter) == shorter
    with pytest.raises(ValueError, match="4 rows but 2 seeds"):
        model.generate(**inputs, seeds=[1, 2], **options)


def test_eager_attention_gives_the_same_tokens(thing, tmp_path):
    _, model, tokenizer = thing
    model.save_pretrained(tmp_path / "double")
    eager = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "double", attn_implementation="eager", dtype=torch.float64
    )
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    options = {"max_new_tokens": N, "custom_generate": with_deletion, "seeds": range(4)}
    assert eager.generate(**inputs, **options).tolist() == model.generate(**inputs, **options).tolist()


def test_processors_of_transformers_see_each_rows_own_state(thing):
    """`min_new_tokens` and a processor of one's own read the state, from which tokens have been deleted."""
    _, model, tokenizer = thing
    seen = []

    class Watch(transformers.LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append(tuple(input_ids[0].tolist()))
            return scores

    inputs = tokenizer(["w1 w2", "w5"], return_tensors="pt", padding=True)
    out = model.generate(
        **inputs,
        max_new_tokens=N,
        custom_generate=with_deletion,
        seeds=[3, 4],
        logits_processor=[Watch()],
        min_new_tokens=4,
        return_dict_in_generate=True,
    )
    width = inputs.input_ids.shape[1]
    expected = set()
    for row in out.actions.tolist():
        state = row[:width]
        for action in row[width:]:
            expected.add(tuple(state))
            if action == 48:
                state = state[:-1] if len(state) > width else state
            elif action == 2:
                break
            else:
                state = [*state, action]
        else:
            expected.add(tuple(state))
    assert set(seen) == {s for s in expected if len(s) <= width + N}
    for row in out.sequences[:, width:].tolist():
        assert 2 not in row[:4]  # <eos> not before four tokens stand


def test_a_criterion_of_ones_own_ends_a_row(thing):
    _, model, tokenizer = thing

    class Third(transformers.StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.tensor([input_ids.shape[1] >= 1 + 3])

    inputs = tokenizer(["w5"], return_tensors="pt")
    for seed in range(5):
        out = model.generate(
            **inputs, max_new_tokens=N, custom_generate=with_deletion, seeds=[seed], stopping_criteria=[Third()]
        )
        assert out.shape[1] <= 1 + 3 + 1


def exact_law(policy, prompt: list[int], limit: int, most: int) -> dict[tuple[int, ...], float]:
    """The distribution of final states, from the policy's own probabilities: a sum over all action strings.

    The state after `t` actions is followed, not the string: at most (tokens^limit) states.
    """
    from tests.support.oracles_sampling import state_logits

    space, law, done = policy.space, {(): 1.0}, Counter()
    cache: dict[tuple[int, ...], np.ndarray] = {}
    for t in range(most):
        after: Counter = Counter()
        for state, mass in law.items():
            if state not in cache:
                with torch.no_grad():
                    logits = state_logits(policy, (*prompt, *state))
                cache[state] = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
            for action, p in enumerate(cache[state]):
                if action == space.eos or t == most - 1 or (len(state) == limit and action != space.bkspc):
                    done[state] += mass * p
                elif action == space.bkspc:
                    after[state[:-1]] += mass * p
                else:
                    after[(*state, action)] += mass * p
        law = after
    return dict(done)


@pytest.mark.slow
def test_without_seeds_the_draws_have_the_law_of_the_policy(thing):
    """Against the exact distribution of final states of at most two tokens; chi-square over cells of mass."""
    policy, model, _ = thing
    prompt, n = [1, 7], 4_000
    law = exact_law(policy, prompt, limit=1, most=4)
    assert sum(law.values()) == pytest.approx(1, abs=1e-12)
    torch.manual_seed(0)
    out = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=1,
        max_actions=4,
        num_return_sequences=n,
        custom_generate=with_deletion,
    )
    counts = Counter(tuple(t for t in row if t != 2) for row in out[:, 2:].tolist())
    common = sorted((s for s in law if law[s] * n >= 10), key=law.get)
    observed = [counts[s] for s in common]
    expected = [law[s] * n for s in common]
    observed.append(n - sum(observed))
    expected.append(n - sum(expected))
    assert len(common) > 10
    assert chisquare(observed, expected).pvalue > 1e-3
    # The test can fail: the law of a policy that never deletes is another one.
    plain = {s: exact_law(policy.forbid_backspace(), prompt, 1, 4).get(s, 0) * n for s in common}
    policy.allow_backspace()
    assert (
        chisquare(observed[:-1], np.array(list(plain.values())) * sum(observed[:-1]) / sum(plain.values())).pvalue
        < 1e-6
    )


def test_the_slow_oracle_agrees(thing):
    policy, model, _ = thing
    config = SamplingConfig(max_new_tokens=N, exclude_deleted=True, top_p=0.9)
    for seed in range(3):
        expected = chosen(slow_sample(policy, [1, 9, 4], config, seed))
        out = model.generate(
            torch.tensor([[1, 9, 4]]),
            max_new_tokens=N,
            top_p=0.9,
            exclude_deleted=True,
            seeds=[seed],
            skip_deleted=False,
            custom_generate=with_deletion,
        )
        assert without_padding(out[0, 3:].tolist(), expected) == expected


def test_the_decoded_text_is_the_final_state(thing):
    policy, model, tokenizer = thing
    inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    options = {"max_new_tokens": N, "custom_generate": with_deletion, "seeds": range(4)}
    ended = sample(policy, prompts_of(inputs), SamplingConfig(max_new_tokens=N), range(4)).trajectories
    texts = tokenizer.batch_decode(model.generate(**inputs, **options), skip_special_tokens=True)
    for text, prompt, trajectory in zip(texts, TEXTS, ended, strict=True):
        kept = [t for t in final_state(trajectory, policy.space).tolist() if 3 <= t < 43]
        assert text.split() == [*prompt.split(), *(f"w{t - 3}" for t in kept)]
    actions = tokenizer.batch_decode(model.generate(**inputs, skip_deleted=False, **options))
    assert any("<bkspc>" in text for text in actions)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2}, "beams cannot delete"),
        ({"max_new_tokens": 100}, r"the model's context is 64: lower max_new_tokens"),
        ({"guidance_scale": 1.5}, "UnbatchedClassifierFreeGuidance"),
        ({"max_actions": 0}, "max_actions=0"),
    ],
)
def test_what_cannot_take_tokens_back_is_refused(thing, options, message):
    _, model, tokenizer = thing
    inputs = tokenizer(["w5"], return_tensors="pt")
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs, **{"max_new_tokens": N, "custom_generate": with_deletion, **options})


def test_prompts_that_cannot_be_read_are_named(thing):
    _, model, tokenizer = thing
    with pytest.raises(ValueError, match=r"a prompt holds <bkspc> \(id 48\)"):
        model.generate(**tokenizer("w1 <bkspc>", return_tensors="pt"), max_new_tokens=N, custom_generate=with_deletion)
    tokenizer.padding_side = "right"
    try:
        inputs = tokenizer(TEXTS, return_tensors="pt", padding=True)
    finally:
        tokenizer.padding_side = "left"
    with pytest.raises(ValueError, match="padded on the left"):
        model.generate(**inputs, max_new_tokens=N, custom_generate=with_deletion)
    with pytest.raises(ValueError, match="a streamer cannot take back"):
        generate(model, torch.tensor([[5]]), streamer=transformers.TextStreamer(tokenizer))


def test_a_model_without_bkspc_and_foreign_attention_are_refused(tmp_path, thing, monkeypatch):
    from tests.support.models import saved_model

    plain = transformers.AutoModelForCausalLM.from_pretrained(saved_model(Path(tmp_path) / "plain"))
    with pytest.raises(ValueError, match=r"no <bkspc> .*smlib export"):
        plain.generate(torch.tensor([[5]]), max_new_tokens=2, custom_generate=with_deletion)
    _, model, _ = thing
    monkeypatch.setattr(model.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match=r"'flash_attention_2', which ignores masks"):
        with_deletion(model, torch.tensor([[5]]), generation_config=_config(model))


def _config(model):
    config = transformers.GenerationConfig(**model.generation_config.to_diff_dict())
    config.max_length = 4
    return config

"""Stop and ask again: an engine that only appends gives the actions of our sampler, over HTTP on loopback."""

from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from smlib.edits.actions import ActionSpace, final_state
from smlib.generation.sampling import SamplingConfig, sample
from smlib.generation.serving import Completions, EngineError, SGLang, complete
from tests.generation.test_custom_generate import exact_law
from tests.support.append_only_server import Backend, serving
from tests.support.exported import exported

PROMPTS = [[1, 4, 5], [1, 8], [1, 10, 11, 12], [1, 30]]
STOPS = (2, 48)
N = 8


@pytest.fixture(scope="module")
def thing(tmp_path_factory):
    policy, model, _ = exported(tmp_path_factory.mktemp("export"))
    return policy.double(), model.double()


def engine(dialect: str, url: str, **options):
    if dialect == "vllm":
        return Completions(f"{url}/v1", "mine", STOPS, timeout=120, **options)
    return SGLang(url, STOPS, timeout=120)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
@pytest.mark.parametrize("leave_out_stop", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"exclude_deleted": True}, {"exclude_deleted": True, "max_actions": 6}, {"allow_backspace": False}],
    ids=str,
)
def test_greedy_actions_are_those_of_our_sampler(thing, dialect, leave_out_stop, settings):
    policy, model = thing
    config = SamplingConfig(max_new_tokens=N, greedy=True, **settings)
    expected = sample(policy, PROMPTS, config, range(4)).trajectories
    backend = Backend(model, leave_out_stop)
    deletions = 0
    with serving(backend) as url:
        for prompt, trajectory in zip(PROMPTS, expected, strict=True):
            before = len(backend.prompts)
            served = complete(engine(dialect, url), prompt, policy.space, config)
            assert served.trajectory.realised.tolist() == trajectory.realised.tolist()
            assert served.trajectory.labels.tolist() == trajectory.labels.tolist()
            sent = backend.prompts[before:]
            assert served.requests == len(sent)
            assert served.resent == sum(map(len, sent[1:]))
            deletions += trajectory.realised.tolist().count(48)
            if not settings.get("exclude_deleted"):
                assert served.requests == 1 + trajectory.realised.tolist()[:-1].count(48)
    if settings.get("allow_backspace", True):
        assert deletions > 0  # or nothing was tested


def test_a_request_repeats_a_prefix_that_the_engine_has_read(thing):
    """What a prefix cache needs: every prompt but the last token of it was part of an earlier prompt and its answer."""
    policy, model = thing
    backend, config = Backend(model), SamplingConfig(max_new_tokens=N, greedy=True, exclude_deleted=True)
    with serving(backend) as url:
        served = complete(engine("vllm", url), PROMPTS[0], policy.space, config)
    read: set[tuple[int, ...]] = {tuple(PROMPTS[0])}
    state = list(PROMPTS[0])
    for action in served.trajectory.realised.tolist():
        state = state[:-1] if action == 48 and len(state) > 3 else [*state, action] if action != 48 else state
        read.add(tuple(state))
    assert {tuple(p) for p in backend.prompts} <= read


@pytest.mark.slow
def test_sampled_trajectories_have_the_law_of_the_policy(thing):
    policy, model = thing
    prompt, n = [1, 7], 600
    law = exact_law(policy, prompt, limit=1, most=4)
    config = SamplingConfig(max_new_tokens=1, max_actions=4)
    counts: Counter = Counter()
    with serving(Backend(model)) as url:
        one = engine("vllm", url, seed=5)
        for _ in range(n):
            counts[tuple(final_state(complete(one, prompt, policy.space, config).trajectory, policy.space))] += 1
    common = [s for s in law if law[s] * n >= 10]
    observed = [*(counts[s] for s in common), n - sum(counts[s] for s in common)]
    expected = np.array([*(law[s] * n for s in common), n - sum(law[s] * n for s in common)])
    assert len(common) > 4
    assert chisquare(observed, expected * sum(observed) / expected.sum()).pvalue > 1e-3


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda a: {"choices": [{**a["choices"][0], "token_ids": None}]}, "return_token_ids needs vLLM"),
        (lambda a: {"error": "no"}, "expected choices with a text"),
        (lambda a: {"choices": [{**a["choices"][0], "token_ids": [48, 5]}]}, "went on after <bkspc>"),
        (lambda a: {"choices": [{**a["choices"][0], "token_ids": [77]}]}, "sent the id 77"),
        (
            lambda a: {"choices": [{"token_ids": [], "finish_reason": "length"}]},
            "no token at all: is its context full",
        ),
    ],
)
def test_answers_that_are_no_actions_are_named(thing, spoil, message):
    policy, model = thing
    with serving(Backend(model, spoil=spoil)) as url, pytest.raises(EngineError, match=message):
        complete(engine("vllm", url), [1, 4], policy.space, SamplingConfig(max_new_tokens=N, greedy=True))


def test_an_engine_that_is_not_there_or_refuses_is_named():
    space, config = ActionSpace(48, eos=2, bos=1), SamplingConfig(max_new_tokens=2, greedy=True)
    with serving(Backend(None)) as url, pytest.raises(EngineError, match=r"refused the request \(404\)"):
        complete(Completions(f"{url}/v2", "mine", STOPS), [1], space, config)
    with pytest.raises(EngineError, match=f"no engine answers at {url}/generate"):
        complete(SGLang(url, STOPS), [1], space, config)
    with pytest.raises(ValueError, match="no part of an engine"):
        complete(SGLang(url, STOPS), [1], space, SamplingConfig(max_new_tokens=2, execution_noise=0.1))
    with pytest.raises(ValueError, match="prompt 0 is empty"):
        complete(SGLang(url, STOPS), [], space, config)

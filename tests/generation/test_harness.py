"""The adapter for lm-evaluation-harness: likelihoods against the slow way, answers, costs, a whole task."""

import sys

import pytest
import torch

pytest.importorskip("lm_eval", reason="the extra `lm-eval` is not installed")

from lm_eval.api.instance import Instance

from smlib.edits.actions import Trajectory, final_state
from smlib.generation.harness import Cost, PolicyLM, efficiency
from smlib.generation.sampling import SamplingConfig, sample
from tests.support.exported import deleting_policy
from tests.support.oracles_sampling import state_logits


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    policy, tokenizer = deleting_policy(tmp_path_factory.mktemp("policy") / "base")
    return policy.double(), tokenizer


def request(kind: str, *args) -> Instance:
    return Instance(request_type=kind, doc={}, arguments=args, idx=0, metadata=("task", 0, 1))


@torch.no_grad()
def slow_loglikelihood(policy, before: list[int], after: list[int]) -> tuple[float, bool]:
    total, greedy = 0.0, True
    for i, token in enumerate(after):
        logits = torch.from_numpy(state_logits(policy, (*before, *after[:i]))[:48])
        logp = logits.log_softmax(-1)
        total, greedy = total + float(logp[token]), greedy and int(logp.argmax()) == token
    return total, greedy


def test_likelihoods_are_those_of_the_tokens_one_by_one(pair):
    policy, tokenizer = pair
    lm = PolicyLM(policy, tokenizer, batch_size=2)
    texts = [("w1 w2", " w3 w4 w5"), ("", "w7"), ("w9 w8 w7 w6", " w1"), ("w20", " w21 w22")]
    found = lm.loglikelihood([request("loglikelihood", *pair) for pair in texts])
    for (context, continuation), (value, greedy) in zip(texts, found, strict=True):
        before = [1, *tokenizer.encode(context)]
        expected = slow_loglikelihood(policy, before, tokenizer.encode(continuation))
        assert value == pytest.approx(expected[0], abs=1e-9)
        assert greedy == expected[1]
    best = policy.logits(
        policy.hidden(torch.tensor([[1]]), torch.tensor([[0]]), torch.ones(1, 1, 1, 1).bool())[0], None
    )
    word = tokenizer.decode([int(best[0, :48].argmax())])
    if word:
        assert lm.loglikelihood([request("loglikelihood", "", word)])[0][1] is True
    assert lm.costs["task"].tokens == 3 + 1 + 1 + 2 + bool(word)
    assert lm.costs["task"].forward_passes == lm.costs["task"].requests


def test_a_text_longer_than_the_context_is_scored_in_windows(pair):
    policy, tokenizer = pair
    text = " ".join(f"w{i % 40}" for i in range(100))
    ids = tokenizer.encode(text)
    (found,) = PolicyLM(policy, tokenizer).loglikelihood_rolling([request("loglikelihood_rolling", text)])
    first = slow_loglikelihood(policy, [1], ids[:63])[0]
    second = slow_loglikelihood(policy, [ids[62]], ids[63:])[0]
    assert found == pytest.approx(first + second, abs=1e-9)


def test_answers_are_final_states_and_deletions_cost_no_pass(pair):
    policy, tokenizer = pair
    lm = PolicyLM(policy, tokenizer, seed=5)
    contexts = ["w1 w2", "w5", "w7 w8 w9"] * 4
    options = {"until": [], "do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
    answers = lm.generate_until([request("generate_until", c, options) for c in contexts])
    prompts = [[1, *tokenizer.encode(c)] for c in contexts]
    drawn = sample(policy, prompts, SamplingConfig(max_new_tokens=8), range(5, 17))
    assert answers == [tokenizer.decode(final_state(t, policy.space)) for t in drawn.trajectories]
    cost = lm.costs["task"]
    assert drawn.stats.backspaces > 0
    assert cost.forward_passes == drawn.stats.insertions + 12
    assert cost.tokens == drawn.stats.actions - drawn.stats.forced_eos
    assert cost.standing == sum(len(final_state(t, policy.space)) for t in drawn.trajectories)


def test_a_stop_string_ends_the_answer_and_its_cost_when_it_first_stands(pair):
    policy, tokenizer = pair
    space, lm = policy.space, PolicyLM(policy, tokenizer)
    b = space.bkspc
    w = lambda i: 3 + i  # noqa: E731
    # w4 is written and deleted, and stops the answer although it would not stand at the end.
    actions = [w(1), w(2), b, w(3), w(4), b, w(5), space.eos]
    trajectory = Trajectory.make([1], actions, space=space)
    assert lm._until(trajectory, []) == ("w1 w3 w5", (1 + 5, 8, 3))
    assert lm._until(trajectory, ["w4", "w5"]) == ("w1 w3 ", (1 + 3, 5, 3))
    assert lm._until(trajectory, ["w9"]) == ("w1 w3 w5", (1 + 5, 8, 3))


def test_settings_of_a_task_are_read_or_refused(pair):
    lm = PolicyLM(*pair, max_new_tokens=9)
    config, stops = lm._settings({"until": "\n"})
    assert (config.greedy, config.exclude_deleted, config.max_new_tokens, stops) == (True, True, 9, ("\n",))
    config, _ = lm._settings({"do_sample": True, "temperature": 0.5, "top_p": 0.9, "max_gen_toks": 3, "until": ["a"]})
    assert (config.greedy, config.temperature, config.top_p, config.max_new_tokens) == (False, 0.5, 0.9, 3)
    with pytest.raises(ValueError, match=r"\['num_beams'\] mean nothing to a policy"):
        lm._settings({"num_beams": 4})
    with pytest.raises(ValueError, match="no chat template"):
        lm.apply_chat_template([{"role": "user", "content": "w1"}])
    with pytest.warns(UserWarning, match="a context of 81 tokens is cut to its last 55"):
        lm._prompt(" ".join(["w1"] * 80), 9)
    with pytest.raises(ValueError, match="lower max_gen_toks"):
        lm._prompt("w1", 64)


def test_accuracy_per_pass_and_per_token():
    results = {"results": {"a": {"alias": "a", "exact_match,none": 0.5, "exact_match_stderr,none": 0.1}}}
    (row,) = efficiency(results, {"a": Cost(requests=4, forward_passes=40, tokens=80, standing=32)})
    assert row["value"] == 0.5
    assert (row["passes"], row["tokens"]) == (10, 20)
    assert (row["value_per_pass"], row["value_per_token"]) == (0.05, 0.025)
    with pytest.raises(KeyError, match="no costs of the task 'a'"):
        efficiency(results, {})


@pytest.mark.slow
def test_a_small_task_from_end_to_end(pair, monkeypatch):
    """A task of three questions, greedy; its accuracy is that of our own answers."""
    import datasets
    import lm_eval

    policy, tokenizer = pair
    questions = ["w1 w2", "w5", "w7 w8 w9"]
    config = SamplingConfig(max_new_tokens=6, greedy=True, exclude_deleted=True)
    drawn = sample(policy, [[1, *tokenizer.encode(q)] for q in questions], config, [0, 0, 0]).trajectories
    truths = [tokenizer.decode(final_state(t, policy.space)) for t in drawn]
    truths[1] = "something else"
    rows = datasets.Dataset.from_dict({"question": questions, "answer": truths})
    task = {
        "task": "words",
        "custom_dataset": lambda **kwargs: {"test": rows},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["never"], "do_sample": False, "max_gen_toks": 6},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    lm = PolicyLM(policy, tokenizer)
    results = lm_eval.simple_evaluate(model=lm, tasks=[task], bootstrap_iters=0, log_samples=False)
    (row,) = efficiency(results, lm.costs)
    assert row["task"] == "words"
    assert row["value"] == pytest.approx(2 / 3)
    assert lm.costs["words"].requests == 3
    assert row["value_per_pass"] == pytest.approx(row["value"] / row["passes"])


def test_without_the_extra_the_command_is_named(monkeypatch):
    for name in [n for n in sys.modules if n == "smlib.generation.harness" or n.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'smlib\[lm-eval\]'"):
        import smlib.generation.harness  # noqa: F401

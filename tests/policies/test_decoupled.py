"""Writing with one network and deleting with another: the writer to the last bit, the deleter's `<bkspc>`, no more."""

import numpy as np
import pytest
import torch

from smlib.edits.actions import ActionSpace
from smlib.generation.decoding import SamplingConfig, action_distribution
from smlib.generation.sampling import sample
from smlib.policies.decoupled import SAVED, DecoupledPolicy, DeletionRule
from smlib.policies.policy import Policy, tiny_policy
from tests.support.oracles_sampling import slow_sample

SPACE = ActionSpace(9, eos=2, bos=1)
PROMPTS = [[1, 3, 4], [1, 5], [1, 6, 7, 8, 3]]


def writer(dtype=torch.float32) -> Policy:
    return sharpened(tiny_policy(SPACE, dim=16, layers=2, heads=2, positions=64, seed=0, dtype=dtype), 6.0)


def deleter(dtype=torch.float32) -> Policy:
    made = sharpened(tiny_policy(SPACE, dim=24, layers=3, heads=3, positions=48, seed=1, dtype=dtype), 6.0)
    with torch.no_grad():
        made.w_bkspc.copy_(4.0 * torch.randn(24, generator=torch.Generator().manual_seed(3)).to(dtype))
    return made


def sharpened(policy: Policy, factor: float) -> Policy:
    """Larger output weights: an untrained policy's distributions are almost uniform."""
    with torch.no_grad():
        policy.lm.get_output_embeddings().weight *= factor
    return policy


def hidden_of(policy, states: torch.Tensor) -> torch.Tensor:
    n, width = states.shape
    mask = torch.ones(width, width, dtype=torch.bool).tril().expand(n, 1, width, width)
    return policy.hidden(states, torch.arange(width).expand(n, width), mask)[:, -1]


STATES = torch.randint(3, 9, (40, 6), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("config", [{}, {"temperature": 0.7}, {"top_p": 0.8}, {"min_p": 0.2}, {"greedy": True}])
def test_without_backspace_it_is_the_writer_to_the_last_bit(config):
    alone, both = writer().forbid_backspace(), DecoupledPolicy(writer(), deleter())
    how = SamplingConfig(max_new_tokens=12, allow_backspace=False, **config)
    with torch.no_grad():
        theirs = action_distribution(alone.logits(hidden_of(alone, STATES), None), how, SPACE)
        ours = action_distribution(both.logits(hidden_of(both, STATES), None), how, SPACE)
    assert torch.equal(ours, theirs)
    seeds = [4, 5, 6]
    written = [sample(policy, PROMPTS, how, seeds).trajectories for policy in (both, alone)]
    assert [t.realised.tolist() for t in written[0]] == [t.realised.tolist() for t in written[1]]


def test_a_deletion_has_the_deleters_probability_and_the_tokens_share_the_rest_as_the_writer_has_it():
    one, other = writer(torch.float64).forbid_backspace(), deleter(torch.float64)
    both = DecoupledPolicy(one, other)
    with torch.no_grad():
        p = both.logits(hidden_of(both, STATES), None).softmax(-1)
        q = other.logits(hidden_of(other, STATES), None).softmax(-1)[:, SPACE.bkspc]
        written = one.logits(hidden_of(one, STATES), None).softmax(-1)
    assert q.min() < 0.05
    assert q.max() > 0.95  # the states are of all kinds
    torch.testing.assert_close(p[:, SPACE.bkspc], q)
    torch.testing.assert_close(p[:, : SPACE.bkspc], (1 - q)[:, None] * written[:, : SPACE.bkspc])


@pytest.mark.parametrize("rule", [DeletionRule(), DeletionRule(strength=0.5), DeletionRule(threshold=0.6)])
@pytest.mark.parametrize("greedy", [False, True])
def test_the_cache_of_two_networks_gives_what_recomputing_every_state_gives(rule, greedy):
    both = DecoupledPolicy(writer(torch.float64), deleter(torch.float64), rule)
    config = SamplingConfig(max_new_tokens=10, greedy=greedy, exclude_deleted=True)
    seeds = list(range(30))
    prompts = [PROMPTS[i % 3] for i in seeds]
    found = sample(both, prompts, config, seeds)
    assert found.stats.backspaces > 5
    assert found.stats.forward_tokens == found.stats.insertions
    for prompt, seed, trajectory in zip(prompts, seeds, found.trajectories, strict=True):
        slow = slow_sample(both, np.array(prompt), config, seed)
        assert trajectory.realised.tolist() == slow.realised.tolist()


def test_strength_multiplies_the_probability_and_stays_below_1():
    odds = torch.logit(torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64))
    torch.testing.assert_close(DeletionRule(2.0).log_odds(odds).sigmoid(), torch.tensor([0.2, 0.8, 1.0]).double())
    assert torch.isfinite(DeletionRule(2.0).log_odds(odds)).all()
    assert torch.equal(DeletionRule().log_odds(odds), odds)
    assert DeletionRule(threshold=0.4).log_odds(odds).sigmoid().round(decimals=6).tolist() == [0.0, 0.0, 1.0]


def test_saved_and_loaded_it_samples_the_same(tmp_path):
    both = DecoupledPolicy(writer(), deleter(), DeletionRule(1.5, 0.3))
    both.save(tmp_path / "both")
    again = DecoupledPolicy.load(tmp_path / "both")
    config = SamplingConfig(max_new_tokens=12)
    ours, theirs = (sample(policy, PROMPTS, config, [1, 2, 3]).trajectories for policy in (both, again))
    assert [t.realised.tolist() for t in ours] == [t.realised.tolist() for t in theirs]
    assert again.rule == both.rule
    assert again.counts() == both.counts()
    (tmp_path / "both" / SAVED).write_text('{"format": "other"}')
    with pytest.raises(ValueError, match="is not of the format"):
        DecoupledPolicy.load(tmp_path / "both")
    with pytest.raises(FileNotFoundError, match="is no decoupled policy"):
        DecoupledPolicy.load(tmp_path)


def test_what_it_costs_and_how_long_a_text_may_be():
    both = DecoupledPolicy(writer(), deleter())
    own = sum(p.numel() for p in writer().parameters())
    assert both.counts() == {"writer": own, "both": own + sum(p.numel() for p in deleter().parameters())}
    assert both.max_positions == 48
    assert both.config.backspace


def test_policies_that_do_not_go_together_are_refused():
    one = writer()
    with pytest.raises(ValueError, match="are one policy"):
        DecoupledPolicy(one, one)
    with pytest.raises(ValueError, match="the deleter never deletes"):
        DecoupledPolicy(one, deleter().forbid_backspace())
    foreign = tiny_policy(ActionSpace(7, eos=2, bos=1), dim=16, layers=1, heads=2, positions=64)
    with pytest.raises(ValueError, match="expected the same"):
        DecoupledPolicy(one, foreign)
    with pytest.raises(ValueError, match="strength must be positive and finite, got 0"):
        DeletionRule(strength=0.0)
    with pytest.raises(ValueError, match="threshold is a probability below 1, or None, got 1"):
        DeletionRule(threshold=1.0)


def test_the_lines_of_the_documentation(repository, tmp_path, monkeypatch, capsys):
    page = (repository / "docs" / "running.md").read_text(encoding="utf-8")
    (block,) = [text.split("```")[0] for text in page.split("```python")[1:] if "DecoupledPolicy(" in text]
    monkeypatch.chdir(tmp_path)
    scope: dict[str, object] = {}
    exec(compile(block, "running.md", "exec"), scope)
    assert "'both': " in capsys.readouterr().out
    again = DecoupledPolicy.load(tmp_path / "runs" / "both")
    config, prompt = scope["config"], scope["prompt"]
    one, other = (sample(p, [prompt], config, [0]).trajectories[0] for p in (scope["both"], again))
    assert one.realised.tolist() == other.realised.tolist()

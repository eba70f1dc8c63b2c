"""Contrastive search against its definition, every candidate recomputed from scratch."""

import copy

import numpy as np
import pytest
import torch

from smlib.edits.actions import ActionSpace
from smlib.generation.contrastive import ContrastiveConfig, contrastive_scores, contrastive_search
from smlib.generation.sampling import SamplingConfig, sample
from smlib.policies.decoupled import DecoupledPolicy
from smlib.policies.deletion_head import DeletionHeadPolicy
from smlib.policies.policy import tiny_policy

SPACE = ActionSpace(vocab_size=9, eos=1, bos=0)


@pytest.fixture(scope="module")
def policy():
    policy = tiny_policy(SPACE, dim=16, layers=2, heads=2, positions=32, seed=4, dtype=torch.float64)
    with torch.no_grad():
        for parameter in policy.lm.parameters():
            if parameter.ndim == 2:
                parameter.mul_(25)  # the library's start is so flat that every candidate looks alike
    return policy


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(2, 9, size=n) for n in (4, 1, 7, 2, 4)]


@torch.no_grad()
def slow_contrastive(policy, prompt, config):
    """Su et al. (2022), eq. 5, word for word."""

    def hidden(tokens):
        n = len(tokens)
        mask = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
        return policy.hidden(torch.tensor([tokens]), torch.arange(n)[None], mask)[0]

    x, new = [int(t) for t in prompt], []
    while True:
        h = hidden(x)
        p = torch.softmax(policy.logits(h[-1:], None)[0, :-1], dim=-1)
        candidates = p.argsort(descending=True)[: config.k].tolist()
        if len(new) == config.max_new_tokens:
            return [*new, candidates[0]]
        scores = []
        for v in candidates:
            h_v = hidden([*x, v])[-1]
            penalty = max(torch.cosine_similarity(h_v, h[j], dim=0) for j in range(len(x)))
            scores.append((1 - config.alpha) * p[v] - config.alpha * penalty)
        best = candidates[int(torch.stack(scores).argmax())]
        new.append(best)
        if best == SPACE.eos:
            return new
        x.append(best)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("k", [1, 4])
def test_equals_the_definition(policy, prompts, alpha, k):
    config = ContrastiveConfig(max_new_tokens=6, k=k, alpha=alpha)
    together = contrastive_search(policy, prompts, config)
    in_twos = contrastive_search(policy, prompts, config, batch_size=2)
    for prompt, one, other in zip(prompts, together, in_twos, strict=True):
        want = slow_contrastive(policy, prompt, config)
        assert one.labels.tolist() == want
        assert other.labels.tolist() == want
        assert one.realised[-1] == SPACE.eos


@pytest.mark.parametrize("kind", ["two networks", "a head of its own"])
def test_what_is_kept_beside_the_cache_goes_along(policy, prompts, kind):
    other = tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=32, seed=5, dtype=torch.float64)
    writer = copy.deepcopy(policy)
    both = DecoupledPolicy(writer, other) if kind == "two networks" else DeletionHeadPolicy.of(writer).double()
    config = ContrastiveConfig(max_new_tokens=6, k=4, alpha=0.6)
    for prompt, found in zip(prompts, contrastive_search(both, prompts, config), strict=True):
        assert found.labels.tolist() == slow_contrastive(both, prompt, config)


def test_the_penalty_matters_and_without_it_search_is_greedy(policy, prompts):
    free = contrastive_search(policy, prompts, ContrastiveConfig(max_new_tokens=6, k=4, alpha=0.0))
    config = SamplingConfig(max_new_tokens=6, greedy=True, allow_backspace=False)
    greedy = sample(policy, prompts, config, range(5)).trajectories
    assert [t.labels.tolist() for t in free] == [t.labels.tolist() for t in greedy]
    strict = contrastive_search(policy, prompts, ContrastiveConfig(max_new_tokens=6, k=4, alpha=0.9))
    assert [t.labels.tolist() for t in free] != [t.labels.tolist() for t in strict]


def test_scores_by_hand():
    """One candidate along the context (cosine 1), one across it (cosine 0); an unseen slot does not count."""
    candidates = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]])
    context = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    visible = torch.tensor([[True, False]])
    scores = contrastive_scores(torch.tensor([[0.7, 0.3]]), candidates, context, visible, 0.5)
    np.testing.assert_allclose(scores, [[0.5 * 0.7 - 0.5, 0.5 * 0.3]], rtol=1e-6)  # float32 inputs


def test_clear_errors(policy):
    with pytest.raises(ValueError, match="alpha=2"):
        ContrastiveConfig(max_new_tokens=1, alpha=2)
    with pytest.raises(ValueError, match="k=10 candidates"):
        contrastive_search(policy, [[0]], ContrastiveConfig(max_new_tokens=1, k=10))

"""What a CUDA device computes against the CPU: losses, gradients, samples, 16 bits, quantised weights, training.

Every test is there twice. On the CPU it compares the CPU with itself, so that it cannot rot; the other one is marked
`gpu` and waits for a device.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from smlib.bench.quantised import quantised_policy
from smlib.edits.packing import pack
from smlib.generation.sampling import SamplingConfig, sample
from smlib.objectives.methods import METHODS, ObjectiveConfig, objective
from smlib.policies.policy import tiny_policy
from smlib.training.algorithm_1 import train
from smlib.training.checkpoints import trainable
from tests.support.copying import Copying, config
from tests.support.oracles import SPACE

PACKED = sorted(set(METHODS) - {"exact", "gail", "soft"})  # whose loss needs the policy and the batch alone


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    if request.param == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = False
    return request.param


def batch_of(space=SPACE):
    """Two questions, each with a demonstration that deletes and a rollout from the same prompt."""
    data, rng = Copying(), np.random.default_rng(0)
    groups = [[data.demonstration(i, rng, 0.5, 1), data.demonstration(i, rng, 0.9, 2)] for i in (0, 3)]
    return pack(groups, space, model=[[False, True]] * 2)


def model(dtype=torch.float32):
    return tiny_policy(SPACE, dim=32, layers=2, heads=2, positions=32, seed=0, dtype=dtype)


def loss_and_gradient(policy, method, chunk=None):
    goal = ObjectiveConfig(method=method, alpha=0.1, gamma=0.9, bc_steps=0, anneal_steps=0)
    loss = objective(policy, batch_of().to(policy.device), goal, 1, chunk)
    loss.total.backward()
    gradient = {n: p.grad.cpu() for n, p in trainable(policy).items() if p.grad is not None}
    policy.zero_grad()
    return float(loss.total.detach()), gradient


@pytest.mark.parametrize("chunk", [None, 2])
@pytest.mark.parametrize("method", PACKED)
def test_packed_losses_and_gradients_are_the_cpus(device, method, chunk):
    here, there = model(), model().to(device)
    expected, found = loss_and_gradient(here, method, chunk), loss_and_gradient(there, method, chunk)
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert torch.allclose(found[1][name], gradient, atol=1e-4, rtol=1e-3), name


def test_in_float64_they_are_equal_to_the_last_digits(device):
    expected = loss_and_gradient(model(torch.float64), "sm")
    found = loss_and_gradient(model(torch.float64).to(device), "sm")
    assert found[0] == pytest.approx(expected[0], rel=1e-6)  # transformers' norms are float32 throughout
    for name, gradient in expected[1].items():
        assert torch.allclose(found[1][name], gradient, atol=1e-6), name


@pytest.mark.parametrize("settings", [{"greedy": True}, {"greedy": True, "exclude_deleted": True}, {}])
def test_samples_are_the_cpus(device, settings):
    here = model(torch.float64)
    there = copy.deepcopy(here).to(device)
    prompts = [np.array([0, 2 + i % 5], np.int32) for i in range(12)]
    how = SamplingConfig(max_new_tokens=8, **settings)
    expected, found = (sample(p, prompts, how, range(12)) for p in (here, there))
    assert [t.realised.tolist() for t in found.trajectories] == [t.realised.tolist() for t in expected.trajectories]
    assert found.stats.forward_tokens == found.stats.insertions


def test_sixteen_bits_come_near(device):
    expected, found = loss_and_gradient(model(), "sm"), loss_and_gradient(model(torch.bfloat16).to(device), "sm")
    assert found[0] == pytest.approx(expected[0], rel=0.05)
    for name, gradient in expected[1].items():
        if gradient.norm() > 1e-3:
            cosine = torch.cosine_similarity(found[1][name].float().flatten(), gradient.flatten(), dim=0)
            assert cosine > 0.95, name


def test_quantised_weights_learn_through_their_adapters(device):
    pytest.importorskip("bitsandbytes")
    sizes = {"dim": 64, "layers": 2, "heads": 2, "mlp": 128}
    policy = quantised_policy(SPACE, sizes=sizes, positions=32, rank=4, device=device, dtype=torch.float32).train()
    frozen = {n: p.detach().clone() for n, p in policy.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.AdamW(trainable(policy).values(), lr=1e-2)
    goal, batch, losses = ObjectiveConfig(method="bc"), batch_of().to(policy.device), []
    for step in range(12):
        loss = objective(policy, batch, goal, step, 2).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.3
    assert all(torch.equal(p, frozen[n]) for n, p in policy.named_parameters() if n in frozen)
    assert any(p.dtype == torch.uint8 for p in frozen.values())


def test_training_ends_where_it_ends_on_the_cpu(device, tmp_path, monkeypatch):
    asked = dataclasses.replace(config("sm"), chunk=4)
    ends = {}
    for where in ("cpu", device):
        with monkeypatch.context() as patched:
            if where == "cpu":
                patched.setenv("ACCELERATE_USE_CPU", "1")
            policy = model(torch.float64).to(where)
            result = train(policy, Copying(), asked, tmp_path / f"{where}-{len(ends)}", progress=False)
            ends[where, len(ends)] = [row["loss"] for row in result.history]
    one, other = ends.values()
    assert np.allclose(one, other, atol=1e-4)

"""The smallest data that every method can learn, a policy for it and a short run."""

import dataclasses

import numpy as np
import torch

from smlib.edits.noise import NoiseLaw, expert_trajectory
from smlib.objectives.methods import ObjectiveConfig
from smlib.policies.policy import tiny_policy
from smlib.training.algorithm_1 import TrainConfig
from tests.support.oracles import SPACE


class Copying:
    """Repeat the prompt's last token twice: five questions."""

    branches = False
    law = NoiseLaw.uniform([2, 3, 4, 5, 6])

    def __len__(self):
        return 5

    def demonstration(self, index, rng, eta, burst):
        return expert_trajectory(
            self.rollout_prompt(index, rng), self.reference(index), self.law, eta, rng, SPACE, burst=burst
        )

    def rollout_prompt(self, index, rng):
        return np.array([0, 2 + index], np.int32)

    def reference(self, index):
        return np.array([2 + index, 2 + index, 1], np.int32)

    def noise_law(self, index):
        return self.law


def config(method="sm", **changes):
    goal = ObjectiveConfig(method=method, alpha=0.1, gamma=0.9, bc_steps=4, anneal_steps=4)
    plain = TrainConfig(
        objective=goal,
        steps=16,
        batch_size=4,
        learning_rate=1e-2,
        warmup_steps=2,
        eta=0.2,
        buffer_size=4,
        refill=2,
        times_seen=2.0,
        rollout_tokens=4,
        log_every=2,
        checkpoint_every=4,
    )
    return dataclasses.replace(plain, **changes)


def policy():
    return tiny_policy(SPACE, dim=16, layers=1, heads=2, positions=32, seed=0)


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.policy.parameters()])

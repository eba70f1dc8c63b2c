"""What shows whether a run is well: V, r, P(<bkspc>), deletions, rollouts, slots saved, edits as text.

`docs/diverging.md` says what each of them does in a healthy run and in the known failures. The names are those under
which trackers show them.
"""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from smlib.edits.actions import ActionSpace, Trajectory
from smlib.edits.packing import PackedBatch
from smlib.generation.edit_batch import evaluating
from smlib.generation.sampling import SamplingConfig, sample
from smlib.generation.streaming import as_text, spans
from smlib.objectives.losses import Loss
from smlib.policies.policy import Policy
from smlib.training.batches import StepBatch
from smlib.training.configuration import TrainConfig
from smlib.training.dataset import Dataset
from smlib.training.engines import staleness
from smlib.training.processes import ALONE, Processes
from smlib.training.sharding import whole


def of_batch(batch: StepBatch, step: int, space: ActionSpace) -> dict[str, float]:
    """What a batch says of itself, without a model.

    `trie/saved`: the share of Algorithm A's slots (one for each prompt token and each action) that the packing does
    without, since a deletion takes none and what is shared is laid out once. `rollouts/length`: tokens written, deleted
    ones included. `bkspc/rate`: deletions among their actions. `buffer/age`: steps since they entered the buffer.
    `rollouts/staleness_mean`, `rollouts/staleness_max`: of rollouts that are sampled beside training, by how many steps
    their weights were older than that.
    """
    trajectories = [t for part in batch.groups for group in part for t in group]
    listed = sum(t.prompt.size + len(t) for t in trajectories)
    laid = sum(round(part.tokens.numel() * (1.0 - part.padding)) for part in batch.packed)
    found = {"trie/saved": 1.0 - laid / listed, "trie/padding": float(np.mean([p.padding for p in batch.packed]))}
    found |= staleness(batch.stale, "rollouts/staleness")
    if batch.sampled:
        rollouts = [e.rollout for e in batch.entries if e.rollout is not None]
        deleted = [int((r.realised == space.bkspc).sum()) for r in rollouts]
        found |= {
            "bkspc/rate": sum(deleted) / sum(len(r) for r in rollouts),
            "rollouts/length": float(np.mean([len(r) - d for r, d in zip(rollouts, deleted, strict=True)])),
            "buffer/age": float(np.mean([step - e.born for e in batch.entries])),
        }
    return found


def actions_of(batch: StepBatch) -> int:
    """Actions that the batch is learned from."""
    return sum(int(part.label.numel()) for part in batch.packed)


def of_policy(policy: Policy, batch: StepBatch, gamma: float) -> dict[str, float]:
    """What the policy says of a batch, by one more forward pass without gradients; means over visits.

    `value/...`: V(s). `reward/...`: r = l(a|s) - gamma V(s'). `bkspc/probability`: P(<bkspc>) at the states of the
    demonstrations; `bkspc/at_mistakes`: where the demonstration deletes.
    """
    values: dict[str, list[torch.Tensor]] = {}
    with evaluating(policy), torch.no_grad():
        for part in batch.packed:
            for name, found in _visits(policy, part, gamma).items():
                values.setdefault(name, []).append(found)
    joined = {name: torch.cat(parts) for name, parts in values.items()}
    return {name: float(found.double().mean()) for name, found in joined.items() if found.numel()}


def _visits(policy: Policy, part: PackedBatch, gamma: float) -> dict[str, torch.Tensor]:
    hidden, positions = policy.state_hidden(part)
    value: list[torch.Tensor] = []
    deleting: list[torch.Tensor] = []
    order = torch.arange(len(hidden), device=hidden.device)
    chosen = torch.zeros(part.label.numel(), dtype=hidden.dtype, device=hidden.device)
    for states in order.split(512):  # the logits of all states at once are the largest thing in a training step
        every = policy.logits(hidden[states], positions[states])
        here = torch.isin(part.visit_state, states)
        chosen[here] = every[part.visit_state[here] - states[0], part.label[here]].to(chosen.dtype)
        value.append(every.logsumexp(-1))
        deleting.append(every[:, -1])
    v, edit = torch.cat(value), torch.cat(deleting)
    probability = (edit - v).exp()[part.visit_state]
    reward = chosen - gamma * v[part.visit_next]
    rollout = part.model[part.trajectory]
    deletes = part.label == policy.space.bkspc
    return {
        "value/data": v[part.visit_state][~rollout],
        "value/rollouts": v[part.visit_state][rollout],
        "reward/data": reward[~rollout],
        "reward/rollouts": reward[rollout],
        "bkspc/probability": probability[~rollout],
        "bkspc/at_mistakes": probability[~rollout & deletes],
    }


def edits(
    policy: Policy,
    data: Dataset,
    decode: Callable[[list[int]], str],
    *,
    prompts: int,
    longest: int,
    seed: int,
    mark: str = "<bkspc>",
) -> str:
    """What the policy writes and deletes after a few prompts of the data, in the form of the paper's Table 8.

    Args:
        prompts: how many of the first examples. longest: tokens at most. seed: of the draws; none is left changed.
        mark: how `<bkspc>` is spelt.
    """
    rng = np.random.default_rng([seed, 8])
    first = range(min(prompts, len(data)))
    roots = [data.rollout_prompt(i, rng) for i in first]
    how = SamplingConfig(max_new_tokens=longest)
    if policy.config.keep_edits:  # every action takes a place of the context, which may end before the usual limit
        room = policy.max_positions - max(map(len, roots), default=0)
        how = replace(how, max_actions=max(1, min(how.action_limit, room)))
    drawn = sample(policy, roots, how, [seed * 1_000 + i for i in first]).trajectories
    return "\n\n".join(spelt(trajectory, policy.space, decode, mark) for trajectory in drawn)


def spelt(trajectory: Trajectory, space: ActionSpace, decode: Callable[[list[int]], str], mark: str) -> str:
    """One trajectory: its prompt, a bar, and every action."""
    shown = spans(trajectory, space)
    return as_text(shown[:1], decode, mark) + " | " + as_text(shown[1:], decode, mark)


class Watch:
    """What a row of the log shows: means since the last row, one look at the policy, and sometimes its edits.

    Args:
        args: `logging_steps`, `edits_steps`, `edits_prompts`, `backspace_token`.
        decode: token ids to text.
        processes: the loss and the actions are those of all of them, the vital signs those of this one's share.
    """

    def __init__(
        self,
        policy: Policy,
        data: Dataset,
        config: TrainConfig,
        args: Any,
        decode: Callable[[list[int]], str],
        processes: Processes = ALONE,
    ) -> None:
        self.processes = processes
        self.policy, self.data, self.config, self.args, self.decode = policy, data, config, args, decode
        self.begin()

    def begin(self) -> None:
        """Forgets what was seen; the clock starts."""
        self.sums: dict[str, float] = {}
        self.steps = self.actions = 0
        self.signs: dict[str, list[float]] = {}
        self.text = ""
        self.since = time.perf_counter()

    def part(self, loss: Loss) -> None:
        """One part of a batch was learned from; the losses of the parts add up."""
        for name, value in {**loss.parts, "loss": loss.total}.items():
            self.sums[name] = self.sums.get(name, 0.0) + value.item()

    def step(self, batch: StepBatch, step: int) -> None:
        """All parts were, and the weights are about to move."""
        self.steps, self.actions = self.steps + 1, self.actions + actions_of(batch)
        seen = of_batch(batch, step, self.policy.space)
        last = step + 1 == self.config.steps
        if self._due(self.args.logging_steps, step) or last:
            with whole(self.policy):
                seen |= of_policy(self.policy, batch, self.config.objective.gamma)
        for name, value in seen.items():
            self.signs.setdefault(name, []).append(value)
        if self.args.edits_prompts and (self._due(self.args.edits_steps, step) or (last and self.args.edits_steps)):
            with whole(self.policy):
                self.text = edits(
                    self.policy,
                    self.data,
                    self.decode,
                    prompts=self.args.edits_prompts,
                    longest=self.config.rollout_tokens,
                    seed=self.config.seed,
                    mark=self.args.backspace_token,
                )

    def _due(self, every: float, step: int) -> bool:
        steps = every if every >= 1 else max(1, math.ceil(every * self.config.steps))
        return every > 0 and (step + 1) % int(steps) == 0

    def row(self, done: int) -> dict[str, Any]:
        """The row of the log after so many steps; parts of the loss by their names, as `train` logs them."""
        steps = max(self.steps, 1)
        sums = self.processes.summed({**self.sums, "actions": float(self.actions)})
        actions = sums.pop("actions")
        found: dict[str, Any] = {
            name if name == "loss" else f"parts/{name}": value / steps for name, value in sums.items()
        }
        for name, values in self.signs.items():
            found[name] = float(np.max(values) if name.endswith("_max") else np.mean(values))
        found["beta"] = self.config.objective.beta(max(done - 1, 0))
        found["actions_per_second"] = actions / max(time.perf_counter() - self.since, 1e-9)
        if self.text:
            found["edits"] = self.text
        self.begin()
        return found

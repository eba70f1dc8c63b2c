"""Figure 2: actions to inputs, positions, masks and labels, computed; and Algorithm A, trie and replay compared."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from smlib.edits.actions import ActionSpace, Trajectory, replay
from smlib.edits.algorithm_a import algorithm_a, algorithm_a_printed
from smlib.edits.masking import dense_mask, trie
from smlib.paper.results import check_preset, read_item, run_cached, write_item
from smlib.policies.policy import tiny_policy

WORDS = ("<begin-sentence>", "<eos>", "Apples", "are", "blue", "green")
SPACE = ActionSpace(len(WORDS), eos=1, bos=0)
BOUND = 1e-5
"""Between logits; transformers' RMSNorm computes in float32. The tests check 1e-9 with an exact norm."""

RULE = (
    "reproduced: the example's inputs and positions are those printed in Figure 2, and the logits of Algorithm A and "
    f"of the trie equal a replay's within {BOUND:g}; not reproduced: otherwise"
)
FIGURE_2 = (2, 3, 4, SPACE.bkspc, 5)
"""Apples are blue <backspace> green."""


@dataclass(frozen=True)
class MaskingPreset:
    """How many random trajectories are compared, and how long they are."""

    trajectories: int
    length: int
    seed: int = 0


PRESETS: Mapping[str, MaskingPreset] = MappingProxyType(
    {
        "smoke": MaskingPreset(20, 12),
        "quick": MaskingPreset(200, 40),
        "full": MaskingPreset(300, 60),
        "paper": MaskingPreset(300, 60),
    }
)


def example() -> Trajectory:
    """The trajectory of Figure 2, ended."""
    return Trajectory.make([0], [*FIGURE_2, SPACE.eos], space=SPACE)


def name(token: int) -> str:
    """A token of the example, printed."""
    return "<backspace>" if token == SPACE.bkspc else WORDS[token]


def random_trajectory(rng: np.random.Generator, length: int, space: ActionSpace = SPACE) -> Trajectory:
    """Insertions, runs of backspaces and backspaces at the root, from a prompt of one to three tokens."""
    prompt = [space.bos or 0, *rng.integers(2, space.vocab_size, rng.integers(0, 3)).tolist()]
    delete = rng.random(length) < rng.uniform(0, 0.6)
    actions = np.where(delete, space.bkspc, rng.integers(2, space.vocab_size, length))
    return Trajectory.make(prompt, [*actions.tolist(), space.eos], space=space)


def layouts(trajectory: Trajectory) -> dict[str, dict[str, Any]]:
    """What the paper's layout and the trie hold for one trajectory: inputs, positions, mask; labels by state."""
    masked, laid = algorithm_a(trajectory, SPACE), trie(trajectory, SPACE)
    seen = dense_mask(torch.from_numpy(laid.expiry)[None])[0, 0].numpy()
    return {
        "Algorithm A": {
            "inputs": [name(t) for t in masked.inputs],
            "positions": masked.positions.tolist(),
            "mask": masked.mask.astype(int).tolist(),
        },
        "trie": {
            "inputs": [name(t) for t in laid.tokens],
            "positions": laid.positions.tolist(),
            "expiry": laid.expiry.tolist(),
            "states": laid.states.tolist(),
            "mask": seen.astype(int).tolist(),
        },
        "replay": {
            "states": [[name(t) for t in s] for s in replay(trajectory, SPACE)],
            "labels": [name(a) for a in trajectory.labels.tolist()],
        },
    }


def compare(chosen: MaskingPreset) -> dict[str, object]:
    """Largest difference of logits between replay, Algorithm A and the trie, and the slots that each needs."""
    rng = np.random.default_rng(chosen.seed)
    policy = tiny_policy(SPACE, dim=16, layers=2, heads=2, positions=chosen.length + 8, dtype=torch.float64)
    worst = {"Algorithm A": 0.0, "trie": 0.0}
    slots = {"Algorithm A": 0, "trie": 0}
    shifted = True
    for _ in range(chosen.trajectories):
        trajectory = random_trajectory(rng, chosen.length)
        root = trajectory.prompt.size
        masked, laid = algorithm_a(trajectory, SPACE), trie(trajectory, SPACE)
        with torch.no_grad():
            reference = torch.stack([_logits_of(policy, s) for s in replay(trajectory, SPACE)])
            a = _logits(policy, masked.inputs, masked.positions, torch.from_numpy(masked.mask))[root - 1 :]
            t = _logits(policy, laid.tokens, laid.positions, dense_mask(torch.from_numpy(laid.expiry)[None])[0, 0])
        worst["Algorithm A"] = max(worst["Algorithm A"], float((a - reference).abs().max()))
        worst["trie"] = max(worst["trie"], float((t[laid.states] - reference).abs().max()))
        slots["Algorithm A"] += masked.inputs.size
        slots["trie"] += laid.tokens.size
        if root == 1:
            printed = algorithm_a_printed([0, *trajectory.realised.tolist()], SPACE.bkspc)
            same = np.array_equal(printed.mask, masked.mask) and np.array_equal(printed.inputs, masked.inputs)
            shifted = shifted and same and bool((printed.positions == masked.positions + 1).all())
    return {"worst": worst, "slots": slots, "printed_is_shifted_by_one": shifted, "layouts": layouts(example())}


def run(preset: str, results_dir: str | Path = "results") -> Mapping[str, Any]:
    """Computes or reads the comparison and writes the ledger's `fig2`."""
    chosen = PRESETS[check_preset(preset)]
    found = run_cached(
        "fig2",
        "layouts",
        asdict(chosen),
        lambda _scratch: compare(chosen),
        preset=preset,
        seeds=[chosen.seed],
        version_key="masking",
        results_dir=results_dir,
    )
    worst = max(found["worst"].values())  # type: ignore[attr-defined]
    shown = found["layouts"]["Algorithm A"]  # type: ignore[index]
    matches = shown["inputs"][:6] == [WORDS[i] for i in (0, 2, 3, 4, 3, 5)] and shown["positions"][:6] == [
        0,
        1,
        2,
        3,
        2,
        3,
    ]
    agree = worst < BOUND
    write_item(
        "fig2",
        preset,
        ours="identical table; logits equal to replay" if matches and agree else "differs",
        error=f"largest logit difference {worst:.0e}",
        n_seeds=0,
        verdict="reproduced" if matches and agree else "not reproduced",
        details={**found, "rule": RULE},
        sources=[found],
        results_dir=results_dir,
    )
    return read_item("fig2", preset, results_dir)


def _logits_of(policy: Any, state: tuple[int, ...]) -> torch.Tensor:
    n = len(state)
    mask = torch.ones(n, n, dtype=torch.bool).tril()
    return _logits(policy, np.array(state), np.arange(n), mask)[-1]


def _logits(policy: Any, tokens: np.ndarray, positions: np.ndarray, mask: torch.Tensor) -> torch.Tensor:
    where = torch.from_numpy(positions)
    hidden = policy.hidden(torch.from_numpy(tokens)[None], where[None], mask[None, None])[0]
    logits: torch.Tensor = policy.logits(hidden, where)
    return logits

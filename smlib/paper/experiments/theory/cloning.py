"""What cloned backspace does to decoding, exactly and by simulation; and App. D.5 counted.

The model under the policy is the data smoothed: with a share lambda of its mass it errs uniformly over the tokens, as a
model of limited capacity does. Cloning demonstrations with noise over few or many tokens turns it into a policy
with `<bkspc>`, whose final strings are compared with plain sampling and with the usual truncations.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from smlib.theory.cloning import cloned_policy, effective, simulate, string_probabilities, survivors, truncate
from smlib.theory.datasets import prefix_mass, random_strings, support
from smlib.theory.editing import LLAMA_2_7B, kind, passes
from smlib.theory.flow import final_strings
from smlib.theory.mdp import EditMDP


@dataclass(frozen=True)
class CloningPreset:
    """Data sets of weighted strings, the model's error share, noise levels, and vocabularies the noise ranges over."""

    tokens: int = 4
    max_len: int = 5
    strings: int = 6
    datasets: int = 10
    smoothing: float = 0.1
    etas: tuple[float, ...] = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)
    vocabularies: tuple[int, ...] = (4, 32_000)
    samples: int = 20_000
    max_edit: int = 3


def _model(mdp: EditMDP, strings: dict[tuple[int, ...], float], smoothing: float) -> np.ndarray:
    mass, joint = prefix_mass(mdp, strings)
    width = mdp.tokens + 1
    uniform = np.full((mdp.n_strings, width), 1.0 / width)
    known = np.divide(joint[:, :width], mass[:, None], out=uniform.copy(), where=mass[:, None] > 0.0)
    return (1.0 - smoothing) * known + smoothing * uniform


def study_cloning(preset: CloningPreset) -> dict[str, object]:
    """P(final string is a data string) for each noise level and vocabulary, first order, exactly and simulated."""
    mdp = EditMDP(preset.tokens, preset.max_len)
    rows = []
    for seed in range(preset.datasets):
        strings = random_strings(mdp, preset.strings, seed, shortest=2, longest=preset.max_len - 1)
        mask, model = support(mdp, strings), _model(mdp, strings, preset.smoothing)

        def stay(conditionals: np.ndarray, mask: np.ndarray = mask) -> float:
            return float(string_probabilities(mdp, conditionals)[mask].sum())

        decoders = {
            "temperature 1": stay(model),
            "greedy": stay(truncate(model, greedy=True)),
            "top-p 0.95": stay(truncate(model, top_p=0.95)),
            "min-p 0.1": stay(truncate(model, min_p=0.1)),
        }
        for vocabulary in preset.vocabularies:
            law = np.full(preset.tokens, 1.0 / vocabulary)  # the other tokens of the vocabulary never occur
            for eta in preset.etas:
                policy = cloned_policy(mdp, model, law, eta)
                exact = final_strings(mdp, torch.from_numpy(policy)).numpy()
                by_survivors = string_probabilities(mdp, survivors(mdp, policy))
                drawn = simulate(mdp, policy, preset.samples, seed)
                rows.append(
                    {
                        "seed": seed,
                        "vocabulary": vocabulary,
                        "eta": eta,
                        "exact": float(exact[mask].sum()),
                        "first_order": stay(_first_order(mdp, model, law, eta)),
                        "simulated": float(drawn[mask].sum()),
                        "survivor_gap": float(abs(exact - by_survivors).max()),
                        "decoders": decoders,
                    }
                )
    curve_p = np.geomspace(1e-4, 1.0, 81)
    curves = {
        str(v): {str(eta): (curve_p**2 / (curve_p + eta / v)).tolist() for eta in preset.etas}
        for v in preset.vocabularies
    }
    return {"rows": rows, "p": curve_p.tolist(), "kept": curves, "example": _example()}


def _first_order(mdp: EditMDP, model: np.ndarray, law: np.ndarray, eta: float) -> np.ndarray:
    """p_eff over tokens and `<eos>`, which no noise inserts and which is kept; at the limit nothing is rejected."""
    wide = np.append(law, 0.0)
    rows = effective(model, wide, eta)
    return np.asarray(rows)


def _example() -> dict[str, object]:
    """One step of a model with 80 % on the right digit and 20 % spread over the nine others, for several etas."""
    p = np.array([0.8, *[0.2 / 9] * 9])
    etas = [0.0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.8]
    right = {str(v): [float(effective(p, np.full(10, 1.0 / v), eta)[0]) for eta in etas] for v in (10, 32_000)}
    return {"p": p.tolist(), "etas": etas, "right": right}


def study_edits(preset: CloningPreset) -> dict[str, object]:
    """All edits between strings of a small vocabulary by kind and passes, and FLOPs of a few on Llama-2-7b."""
    mdp = EditMDP(2, preset.max_edit)
    counts = Counter((kind(a, b), passes(a, b)) for a in mdp.strings for b in mdp.strings)
    context = tuple(range(512))
    edits = {
        "append one": (*context, -1),
        "backspace 1": context[:-1],
        "backspace 16": context[:-16],
        "delete 16, append one": (*context[:-16], -1),
        "change the token 16 back": (*context[:-16], -1, *context[-15:]),
        "change the first token": (-1, *context[1:]),
        "insert before all": (-1, *context),
    }
    one = LLAMA_2_7B.edit_flops(context, edits["append one"])
    rows = [
        {
            "edit": name,
            "kind": kind(context, after),
            "passes": passes(context, after),
            "gflops": LLAMA_2_7B.edit_flops(context, after) / 1e9,
            "relative": LLAMA_2_7B.edit_flops(context, after) / one,
        }
        for name, after in edits.items()
    ]
    table = [{"kind": k, "passes": p, "count": c} for (k, p), c in sorted(counts.items())]
    return {"counts": table, "model": LLAMA_2_7B.name, "context": len(context), "rows": rows}

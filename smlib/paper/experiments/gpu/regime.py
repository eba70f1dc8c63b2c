"""The regime study at 135 million parameters: does deleting pay in a model two hundred times as large?

SmolLM2-135M with adapters learns the 5,000 arithmetic questions of Figure 3 by maximum likelihood, behavioural cloning
and SequenceMatch at digit noise 0.2, and the first two of a seed are joined into a policy that writes with one and
deletes with the other. One file a run: what is finished is not repeated, and a run that would not fit into the minutes
that are left is not begun.
"""

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from smlib.data.tokenizers import TextTokenizer
from smlib.paper.experiments.arithmetic.grid import ArithmeticPreset
from smlib.paper.experiments.gpu import records
from smlib.paper.experiments.gpu.budget import Budget
from smlib.paper.experiments.gpu.side_by_side import side_by_side
from smlib.paper.experiments.gpu.tiny import tiny_model
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, measured, trained
from smlib.paper.experiments.runs.language_models import LanguageModel
from smlib.paper.experiments.runs.text_models import TextModel
from smlib.policies.decoupled import DecoupledPolicy
from smlib.policies.loading import Lora, load_policy, save_policy
from smlib.policies.policy import Policy

MODULE = "smlib.paper.experiments.gpu.regime"
KIND, LEVEL = "ground_truth", 0.2
SEEDS = (0, 1, 2)
DECOUPLED = "decoupled"
DECODINGS = ("t1", "greedy", "greedy_exclude", "no_backspace")
EXPECTED = {"mle": 100.0, "bc": 130.0, "sm": 260.0, DECOUPLED: 45.0}
"""Seconds on an H100 by estimate, until a run of the method has been timed."""

SMOLLM2 = ArithmeticPreset(
    base=LanguageModel(difficulty="easy", model=TextModel("smollm2", lora=Lora(r=16, alpha=32), dtype="bfloat16")),
    levels=(LEVEL,),
    kinds=(KIND,),
    seeds=SEEDS,
    steps=1_200,
    batch_size=64,
    learning_rate=1e-3,
    warmup_steps=60,
    tokens=32,
    row_len=None,
    recovery_prompts=250,
)
"""15 passes over the questions; the rate that is usual for adapters. Chosen without a run: there was no GPU."""

DRY: Mapping[str, Any] = MappingProxyType(
    {"steps": 6, "batch_size": 4, "warmup_steps": 1, "n_train": 60, "n_test": 6, "recovery_prompts": 3, "tokens": 6}
)


def configuration(preset: ArithmeticPreset, method: str, seed: int) -> FineTuneConfig:
    """One run of the study; a method without `<bkspc>` reads the clean answers."""
    training: dict[str, Any] = {"refill": 2 * preset.batch_size, "buffer_size": 8 * preset.batch_size}
    if method == "mle":
        made = preset.run(method, seed=seed, **training)
    else:
        made = preset.run(method, KIND, LEVEL, seed, **training)
    decodings = tuple(d for d in DECODINGS if d in made.decodings)
    return dataclasses.replace(made, decodings=decodings, recovery_depths=(1, 3), examples=0)


def plan(seeds: tuple[int, ...] = SEEDS) -> list[tuple[str, int]]:
    """Method and seed of each run, most telling first: of every seed the decoupled policy as soon as there are two."""
    return [(method, seed) for seed in seeds for method in ("mle", "bc", DECOUPLED, "sm")]


def regime(
    dry: bool,
    budget: Budget,
    results_dir: str | Path,
    weights_dir: str | Path,
    tell: Callable[[str], None] = print,
    at_once: int = 1,
) -> dict[str, Any]:
    """Every run of the plan that is not there yet and fits; each leaves `regime-<method>-s<seed>.json`.

    Args:
        weights_dir: where the policies of finished runs and the checkpoints of others are kept.
        tell: is called with a line a run.
        at_once: runs side by side, in processes of their own where there are several.

    Returns:
        `finished`, `left` and `failed` (name -> message): names of runs; `side_by_side`, how many at a time.
    """
    weights, spent = Path(weights_dir), dict(EXPECTED)
    preset = dry_preset(weights) if dry else SMOLLM2
    runs = {run_name(method, seed): (method, seed) for method, seed in plan(SEEDS[:1] if dry else SEEDS)}
    missing, failed = [n for n, r in runs.items() if not _there(preset, *r, dry, results_dir)], dict[str, str]()

    def ended(name: str, seconds: float, why: str) -> None:
        spent[runs[name][0]] = seconds
        said = records.read_all(results_dir).get(name, {}).get("error") or why if why else ""
        if said:
            failed[name] = said
            records.write(name, {}, seconds=seconds, error=said, **_options(preset, *runs[name], dry, results_dir))
        tell(f"{name}: failed, {said}" if said else f"{name}: {seconds:.0f} s")

    if at_once == 1:
        left = list[str]()
        for name in missing:
            if not budget.allows(spent[runs[name][0]]):
                left.append(name)
                continue
            began = time.monotonic()
            why = one_run(preset, *runs[name], dry, results_dir, weights)
            ended(name, time.monotonic() - began, why)
    else:
        command = [sys.executable, "-m", MODULE, "--results-dir", str(results_dir)]
        command += ["--weights-dir", str(weights), *(["--dry"] if dry else [])]
        left = side_by_side(
            missing,
            at_once,
            needs=lambda name: _parts(*runs[name]),
            command=lambda name: [*command, "--method", runs[name][0], "--seed", str(runs[name][1])],
            lasts=lambda name: spent[runs[name][0]],
            succeeded=lambda name: _there(preset, *runs[name], dry, results_dir),
            budget=budget,
            ended=ended,
        )
    finished = [name for name in runs if name not in left and name not in failed]
    return {"finished": finished, "left": left, "failed": failed, "side_by_side": at_once}


def one_run(preset: ArithmeticPreset, method: str, seed: int, dry: bool, results_dir: str | Path, weights: Path) -> str:
    """Computes a run and writes its file; why it failed, empty where it did not."""
    options, began = _options(preset, method, seed, dry, results_dir), time.monotonic()
    try:
        result = compute(preset, method, seed, weights)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        records.write(run_name(method, seed), {}, seconds=time.monotonic() - began, error=why, **options)
        return why
    records.write(run_name(method, seed), result, seconds=time.monotonic() - began, **options)
    return ""


def _options(preset: ArithmeticPreset, method: str, seed: int, dry: bool, results_dir: str | Path) -> dict[str, Any]:
    return {"dry": dry, "results_dir": results_dir, "config": identity(preset, method, seed, dry)}


def _there(preset: ArithmeticPreset, method: str, seed: int, dry: bool, results_dir: str | Path) -> bool:
    config = identity(preset, method, seed, dry)
    return records.finished(run_name(method, seed), results_dir, config) is not None


def _parts(method: str, seed: int) -> list[str]:
    """The runs whose policies a run joins."""
    return [run_name(part, seed) for part in ("mle", "bc")] if method == DECOUPLED else []


def run_name(method: str, seed: int) -> str:
    """Of a run's file."""
    return f"regime-{method}-s{seed}"


def identity(preset: ArithmeticPreset, method: str, seed: int, dry: bool) -> dict[str, Any]:
    """What makes a run this one: the configurations of the networks behind it. A dry run's model is in a folder of its
    own, which does not count."""
    methods = ("mle", "bc") if method == DECOUPLED else (method,)
    parts = {m: configuration(preset, m, seed) for m in methods}
    if dry:
        parts = {m: dataclasses.replace(c, base=LanguageModel(model=TextModel("dry"))) for m, c in parts.items()}
    return {"method": method, "seed": seed, "parts": parts}


def compute(preset: ArithmeticPreset, method: str, seed: int, weights: Path) -> dict[str, Any]:
    """What one run finds: what the policy answers, and how it was trained."""
    if method == DECOUPLED:
        writer, deleter = (policy_of(preset, part, seed, weights)[0] for part in ("mle", "bc"))
        config = configuration(preset, "bc", seed)
        both = DecoupledPolicy(writer, deleter)
        return {**measured(both, config.task(), config, test=True), "parameters": both.counts()}
    config = configuration(preset, method, seed)
    policy, history = policy_of(preset, method, seed, weights)
    losses = [[row["step"], row["loss"]] for row in history if "loss" in row]
    every = sum(p.numel() for p in policy.parameters())
    of_adapters = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    return {
        **measured(policy, config.task(), config, test=True),
        "losses": losses,
        "parameters": {"all": every, "trained": of_adapters},
    }


def policy_of(preset: ArithmeticPreset, method: str, seed: int, weights: Path) -> tuple[Policy, list[dict[str, Any]]]:
    """The trained policy, from `weights` if an earlier run has left it there; its history, empty then."""
    config = configuration(preset, method, seed)
    assert isinstance(config.base, LanguageModel)
    folder = weights / run_name(method, seed)
    if folder.is_dir():
        policy, _ = load_policy(folder, device=_device())
        return (policy.forbid_backspace() if method == "mle" else policy), []
    tokenizer: TextTokenizer = config.base.tokenizer()
    scratch = weights / "scratch" / run_name(method, seed)
    policy, history = trained(config, config.task(), "paper", "results", scratch, ())
    save_policy(policy, tokenizer, folder)
    return policy, history


def dry_preset(folder: Path) -> ArithmeticPreset:
    """The study in miniature: a model of a few thousand weights with a tokeniser of single characters."""
    tiny = TextModel(str(tiny_model(folder / "tiny-model")), lora=Lora(r=2, alpha=4))
    return dataclasses.replace(SMOLLM2, base=LanguageModel(difficulty="easy", model=tiny), seeds=(0,), **DRY)


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def main(arguments: Sequence[str] | None = None) -> int:
    """One run, for a process of its own; the exit status, 1 where it failed."""
    parser = argparse.ArgumentParser(description="One run of the regime study.")
    parser.add_argument("--method", choices=sorted(EXPECTED), required=True)
    parser.add_argument("--seed", type=int, choices=SEEDS, required=True)
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--weights-dir", type=Path, required=True)
    parser.add_argument("--dry", action="store_true")
    given = parser.parse_args(arguments)
    preset = dry_preset(given.weights_dir) if given.dry else SMOLLM2
    return 1 if one_run(preset, given.method, given.seed, given.dry, given.results_dir, given.weights_dir) else 0


if __name__ == "__main__":
    sys.exit(main())

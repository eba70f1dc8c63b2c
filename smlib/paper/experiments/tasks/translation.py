"""Table 5: English to French, BLEU of MLE, BC and SequenceMatch with random noise (App. G.2).

The pairs are real locale data (`smlib.data.translation`), the split is by content: no number, date or time of a test
sentence occurs in training. opus_books, the paper's corpus, is `load_task("opus_books")` and needs a pretrained model.

There are two regimes, as for arithmetic (`arithmetic.learning`): a base that has read pairs of the task, and one that
has read names in French and English (`smlib.data.translation_names`) and has to learn the task. `python -m
smlib.paper.experiments.tasks.translation` trains the runs of the second.
"""

import argparse
import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save

from smlib.data import translation_names
from smlib.data.demonstrations import TaskDemonstrations
from smlib.data.mathematics import Example
from smlib.data.tasks import Task
from smlib.data.translation import stream
from smlib.edits.actions import Trajectory, final_state
from smlib.evaluation import Estimate, PairedTest, bleu, paired_difference
from smlib.evaluation.bleu_jackknife import bleu_estimate, pseudovalues
from smlib.files import write_atomically
from smlib.objectives.methods import get_method
from smlib.paper.experiments.arithmetic import grid as arithmetic
from smlib.paper.experiments.arithmetic import learning
from smlib.paper.experiments.arithmetic.grid import ArithmeticPreset
from smlib.paper.experiments.judging import scores
from smlib.paper.experiments.judging.method_tables import METHODS, PAIRS, write_table
from smlib.paper.experiments.runs.answers import Answers, answer
from smlib.paper.experiments.runs.executor import in_parallel
from smlib.paper.experiments.runs.finetuning import FineTuneConfig, bits
from smlib.paper.experiments.runs.language_models import LanguageModel
from smlib.paper.experiments.runs.pretraining import (
    BASE,
    Base,
    PretrainConfig,
    checksum,
    of_present_base,
    pretrained,
    weights_file,
)
from smlib.paper.experiments.tasks.mathematics import SEEDS, prefix
from smlib.paper.items import PRESETS as NAMES
from smlib.paper.results import Run, check_preset, run_cached
from smlib.policies.policy import Policy
from smlib.training.algorithm_1 import train

ITEM, KIND = "tab5", "random"  # "we use random noise tokens"
DECODINGS = ("t1", "greedy_exclude")
MAX_TOKENS = 64  # of an answer, as the paper's subset of opus_books
VERSIONS = ("data", "translation", "sampling", "training", "evaluation")
EXAMPLES = 8
PAIRS_OF_BASE = (
    20_000  # after 50,000 the base alone reaches 89 BLEU on the validation pairs, which leaves little to see
)


PAIRS_OF_NAMES = 150_000
"""Pairs of names that a base of the learning regime reads, in one pass."""


def _preset(name: str, regime: str) -> ArithmeticPreset:
    source = arithmetic.preset(name) if regime == "known" else dataclasses.replace(learning.preset(name), eval_every=0)
    if isinstance(source.base, LanguageModel):
        books = dataclasses.replace(source.base, task="opus_books", difficulty="all")
        return dataclasses.replace(source, base=books, levels=(0.02, 0.2), kinds=(KIND,), recovery_prompts=0)
    model = dataclasses.replace(source.base.model, positions=192)
    other = regime == "learning"
    questions = min(source.base.questions, PAIRS_OF_NAMES if other else PAIRS_OF_BASE)
    pairs = dataclasses.replace(
        source.base, task="translation", difficulty="easy", questions=questions, model=model, mixture=None,
        other_kinds=other,
    )  # fmt: skip
    levels = (0.02, 0.2) if name == "full" else (0.2,)
    size, seeds = min(source.n_test, 500), source.seeds[:SEEDS]
    return dataclasses.replace(
        source, base=pairs, levels=levels, kinds=(KIND,), recovery_prompts=0, n_test=size, seeds=seeds
    )


REGIMES: Mapping[str, Mapping[str, ArithmeticPreset]] = MappingProxyType(
    {regime: MappingProxyType({n: _preset(n, regime) for n in arithmetic.PRESETS}) for regime in ("known", "learning")}
)
PRESETS = REGIMES["known"]
RESTS_ON: Mapping[str, str] = MappingProxyType(dict.fromkeys(PRESETS, "known"))
"""Preset -> regime of the table. It changes when the base model and the runs of the other regime are committed."""


def preset(name: str, regime: str = "known") -> ArithmeticPreset:
    """The frozen preset; `paper` is Llama-2-7b on opus_books in either regime. Raises for unknown names."""
    check_preset(name)
    if regime not in REGIMES:
        raise ValueError(f"unknown regime {regime!r}; known: {', '.join(REGIMES)}")
    return REGIMES[regime][name]


def cells(name: str, regime: str = "known") -> dict[str, FineTuneConfig]:
    """Run name -> configuration; seeds outermost. MLE sees no noise, so one run serves both columns."""
    chosen = preset(name, regime)

    def one(method: str, level: float, seed: int) -> FineTuneConfig:
        kind, row_len = "none" if method == "mle" else KIND, 256 if chosen.row_len else None
        config = chosen.run(method, kind, level, seed, rollout_tokens=MAX_TOKENS, row_len=row_len)
        return dataclasses.replace(config, decodings=DECODINGS, max_new_tokens=MAX_TOKENS, examples=EXAMPLES)

    made: dict[str, FineTuneConfig] = {}
    for seed in chosen.seeds:
        made[f"mle-s{seed}"] = one("mle", 0.0, seed)
        for level in chosen.levels:
            for method in ("bc", "sm"):
                made[f"{method}-{level:g}-s{seed}"] = one(method, level, seed)
    return made


def base(config: Base, task: Task, *, preset: str, results_dir: str | Path = "results") -> Policy:
    """The base model of the translations: as `pretrained`, on the endless stream of training pairs."""
    if isinstance(config, LanguageModel):
        return pretrained(config, task, preset=preset, results_dir=results_dir)
    weights = weights_file(config, preset, results_dir)

    def compute(scratch: Path) -> Mapping[str, object]:
        policy = config.model.build(task)
        data = TaskDemonstrations(task, _pairs(config, task))
        history = train(policy, data, config.training(), scratch).history
        rounded = {k: v.to(torch.bfloat16).contiguous() for k, v in policy.lm.state_dict().items()}
        policy.lm.load_state_dict({k: v.float() for k, v in rounded.items()})
        write_atomically(weights, save(rounded))
        given = answer(policy, task, task.val, seed=config.seed, max_new_tokens=MAX_TOKENS)
        texts = [_text(task, t) for t in given.trajectories]
        return {
            "loss": [[row["step"], row["loss"]] for row in history],
            "parameters": sum(p.numel() for p in policy.lm.parameters()),
            "val_bleu": bleu(texts, [e.answer for e in task.val]).value,
        }

    if not weights.exists():
        run_cached(
            "shared", f"pretrain-{config.task}", config, compute, preset=preset, seeds=[config.seed],
            version_key=(*VERSIONS, *(["translation_names"] if config.other_kinds else [])),
            results_dir=results_dir, beside=weights,
        )  # fmt: skip
    return pretrained(config, task, preset=preset, results_dir=results_dir)


def _pairs(config: PretrainConfig, task: Task) -> list[Example]:
    """What a base model reads, without a pair of the task's."""
    if not config.other_kinds:
        return list(itertools.islice(stream("train", config.difficulty, config.seed, task.keys()), config.questions))
    room = config.training().row_len or config.model.positions
    drawn = translation_names.stream(config.seed, task.keys())
    short = (pair for pair in drawn if len(task.prompt_ids(pair)) + len(task.answer_ids(pair)) < room)
    pairs = list(itertools.islice(short, config.questions))
    translation_names.check_apart(pairs, task.keys())
    return pairs


def translate(config: FineTuneConfig, name: str, *, preset: str, results_dir: str | Path = "results") -> Run:
    """One run, computed or read: fine-tuning, then translations of the test sentences under each decoding rule.

    Raises:
        ResultError: what `run_cached` does; a run that was fine-tuned from other weights of the base model.
    """

    def compute(scratch: Path) -> Mapping[str, object]:
        torch.set_num_threads(1)  # sums in a fixed order; processes run side by side
        task = config.task()
        policy = base(config.base, task, preset=preset, results_dir=results_dir)
        seed = config.training.seed
        history = train(policy, TaskDemonstrations(task, task.train, config.noise), config.training, scratch).history
        references = [example.answer for example in task.test]
        test: dict[str, object] = {}
        completions: list[dict[str, object]] = []
        for decoding in config.decodings:
            given = answer(
                policy, task, task.test, decoding=decoding, seed=seed,
                max_new_tokens=config.max_new_tokens, batch=config.answers_at_a_time,
            )  # fmt: skip
            texts = [_text(task, t) for t in given.trajectories]
            score = bleu(texts, references)
            test[decoding] = {
                "texts": texts,
                "bleu": score.value,
                "low": score.low,
                "high": score.high,
                "n_empty": score.n_empty,
                "signature": score.signature,
                "correct": bits(given.correct),
                "backspace_rate": given.backspace_rate,
            }
            if decoding == "t1" and get_method(config.training.objective.method).backspace:
                completions = _edited(task, task.test, given, texts, config.examples)
        return {
            "loss": [[row["step"], round(float(row["loss"]), 6)] for row in history if "loss" in row],
            "references": references,
            "test": test,
            "completions": completions,
            BASE: checksum(config.base, preset, results_dir),
        }

    run = run_cached(ITEM, name, config, compute, preset=preset, results_dir=results_dir, **kept(config))
    return of_present_base(run, config.base, preset, results_dir)


def kept(config: FineTuneConfig) -> dict[str, Any]:
    """What is asked of a run's file beside its configuration: seeds, and the versions that it rests on."""
    return {"seeds": [config.training.seed], "version_key": VERSIONS}


def run(name: str, results_dir: str | Path = "results", processes: int | None = None) -> dict[str, Any]:
    """Trains or reads every run, writes the ledger's line for `tab5`, and returns what its figures and tables show."""
    regime = RESTS_ON[check_preset(name)]
    chosen, configs = preset(name, regime), cells(name, regime)
    first = next(iter(configs.values()))
    if isinstance(first.base, PretrainConfig):
        base(first.base, first.task(), preset=name, results_dir=results_dir)
    calls = [{"config": c, "name": k, "preset": name, "results_dir": results_dir} for k, c in configs.items()]
    runs = dict(zip(configs, in_parallel(translate, calls, processes), strict=True))
    estimates, tests = table(runs, chosen.levels)
    top = max(chosen.levels)
    any_run = next(iter(runs.values()))
    return write_table(
        ITEM,
        name,
        estimates,
        tests,
        n_seeds=len(chosen.seeds),
        sources=list(runs.values()),
        results_dir=results_dir,
        digits=1,
        details={
            "task": first.base.task,
            "n_train": chosen.n_train,
            "n_test": chosen.n_test,
            "signature": any_run["test"]["t1"]["signature"],
            "greedy": [
                {"method": m, "level": v, **scores.estimate_record(e)}
                for (m, v), e in table(runs, chosen.levels, "greedy_exclude")[0].items()
            ],
            "backspace_rate": {
                prefix(m, v): scores.number(scores.backspace_rate(scores.by_prefix(runs, prefix(m, v))))
                for v in chosen.levels
                for m in ("bc", "sm")
            },
            "completions": {m: scores.by_prefix(runs, prefix(m, top))[0]["completions"] for m in ("bc", "sm")},
        },
    )


def table(
    runs: Mapping[str, Any], levels: Sequence[float], decoding: str = "t1"
) -> tuple[dict[tuple[str, float], Estimate], dict[tuple[str, str, float], PairedTest]]:
    """BLEU of every cell, and paired tests between methods on jackknife pseudo-values, sentence by sentence."""

    def texts(method: str, level: float) -> tuple[list[list[str]], list[str]]:
        chosen = scores.by_prefix(runs, prefix(method, level))
        return [r["test"][decoding]["texts"] for r in chosen], chosen[0]["references"]

    estimates: dict[tuple[str, float], Estimate] = {}
    values: dict[tuple[str, float], list[Any]] = {}
    for level in levels:
        for method in METHODS:
            hypotheses, references = texts(method, level)
            estimates[method, level] = bleu_estimate(hypotheses, references)
            values[method, level] = [pseudovalues(h, references) for h in hypotheses]
    tests = {(a, b, v): paired_difference(values[a, v], values[b, v]) for v in levels for a, b in PAIRS}
    return estimates, tests


def _text(task: Task, trajectory: Trajectory) -> str:
    return task.tokenizer.decode(final_state(trajectory, task.space)).strip()


def _edited(
    task: Task, examples: Sequence[Example], given: Answers, texts: Sequence[str], most: int
) -> list[dict[str, object]]:
    """The first translations in which something was deleted, edits visible, in the order of the test sentences."""
    found: list[dict[str, object]] = []
    for example, trajectory, text, right in zip(examples, given.trajectories, texts, given.correct, strict=True):
        actions = trajectory.realised.tolist()
        if task.space.bkspc in actions and len(found) < most:
            found.append(
                {
                    "english": example.meta["english"],
                    "reference": example.answer,
                    "actions": [task.tokenizer.token(int(a)) for a in actions],
                    "final": text,
                    "correct": bool(right),
                }
            )
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m smlib.paper.experiments.tasks.translation`: the runs of the learning regime, one after another."""
    parser = argparse.ArgumentParser(description="Trains the translations of the learning regime, its base first.")
    parser.add_argument("--preset", choices=NAMES, default="full")
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--limit", type=int, help="train or read at most so many runs")
    given = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    wanted = cells(given.preset, "learning")
    first = next(iter(wanted.values()))
    base(first.base, first.task(), preset=given.preset, results_dir=given.results_dir)
    for place, (name, config) in enumerate(list(wanted.items())[: given.limit], start=1):
        run = translate(config, name, preset=given.preset, results_dir=given.results_dir)
        print(f"{place} of {len(wanted)}: {name} -> {run.path}", flush=True)


if __name__ == "__main__":
    main()

"""One run of the text experiment: fine-tune by one method, then everything that is measured on the trained policy.

A run keeps its generations as text, so that features and MAUVE are computed for all methods together afterwards
(`smlib.paper.experiments.text.scores`). Each stage leaves a file in the run's scratch folder; a run that was killed
goes on with the stage, and within training with the checkpoint, that it had reached.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from smlib.data.continuations import Continuations, inner_decoder
from smlib.data.cutting import passages
from smlib.data.text import Corpus, EvaluationSet, evaluation_set, load_corpus
from smlib.data.tokenizers import TextTokenizer
from smlib.files import canonical_json, read_json, write_atomically
from smlib.objectives.methods import get_method
from smlib.paper.experiments.runs.text_models import TextModel, build, tokenizer_of
from smlib.paper.experiments.text.measures import TextEvaluation, corrupted, generate, likelihoods
from smlib.paper.results import Run, run_cached
from smlib.policies.loading import save_policy
from smlib.training.algorithm_1 import TrainConfig, train

VERSIONS = ("data", "training", "sampling", "evaluation")
OF_METHOD: Mapping[str, tuple[str, ...]] = MappingProxyType({"sm": ("branches",), "unlikelihood": ("unlikelihood",)})
"""What else a method's numbers rest on."""


@dataclass(frozen=True)
class TextRun:
    """Identity of a run, together with the code's versions.

    Attributes:
        model: what is fine-tuned. training: how; its seed is the run's.
        corpus, documents: `load_corpus`'s name and, for openwebtext, how many documents.
        context, max_prompt: see `Continuations`.
        passages: at most so many training passages; None for all.
    """

    model: TextModel = field(default_factory=TextModel)
    training: TrainConfig = field(default_factory=TrainConfig)
    evaluation: TextEvaluation = field(default_factory=TextEvaluation)
    corpus: str = "wikipedia"
    documents: int = 20_000
    context: int = 1024
    max_prompt: int = 256
    passages: int | None = None

    def load(self) -> Corpus:
        """The corpus, split by article."""
        return load_corpus(self.corpus, n_documents=self.documents)

    def training_data(self, corpus: Corpus, tokenizer: TextTokenizer) -> Continuations:
        """Passages of the training articles."""
        cut = passages(corpus.train, tokenizer, self.context, rule="ascii", limit=self.passages)
        return Continuations(cut, tokenizer, context=self.context, max_prompt=self.max_prompt, noise="vocabulary")

    def evaluation_data(self, corpus: Corpus, tokenizer: TextTokenizer) -> EvaluationSet:
        """Prompts and human continuations from the test articles; the same for every method and seed.

        The first `prompts` of them are continued, the first `corrupted` are corrupted.
        """
        e = self.evaluation
        cut = passages(corpus.test, tokenizer, e.prompt_len + e.continuation_len, rule="ascii", stride=e.stride)
        return evaluation_set(
            cut,
            tokenizer,
            max(e.prompts, e.corrupted),
            prompt_len=e.prompt_len,
            continuation_len=e.continuation_len,
            seed=0,
        )

    def articles(self, *, preset: str, results_dir: str | Path = "results") -> tuple[str, ...]:
        """The article of each prompt of `evaluation_data`, which takes the corpus and the tokeniser alone."""
        corpus = self.load()
        return self.evaluation_data(
            corpus, tokenizer_of(self.model, corpus, preset=preset, results_dir=results_dir)
        ).titles


def fine_tune_text(
    config: TextRun,
    name: str,
    *,
    preset: str,
    results_dir: str | Path = "results",
    keep: str | Path | None = None,
    threads: int = 1,
) -> Run:
    """The result of one run, computed or read.

    Args:
        keep: a folder for the trained policy, for `smlib generate --model`.
        threads: of this process; runs side by side share the cores.
    """

    def compute(scratch: Path) -> Mapping[str, object]:
        torch.set_num_threads(threads)
        return _compute(config, scratch, preset, results_dir, keep)

    seeds = [config.training.seed]
    keys = (*VERSIONS, *OF_METHOD.get(config.training.objective.method, ()))
    return run_cached(
        "tab2", name, config, compute, preset=preset, seeds=seeds, version_key=keys, results_dir=results_dir
    )


def _compute(
    config: TextRun, scratch: Path, preset: str, results_dir: str | Path, keep: str | Path | None
) -> dict[str, object]:
    corpus = config.load()
    policy, tokenizer = build(config.model, corpus, preset=preset, results_dir=results_dir)
    data = config.training_data(corpus, tokenizer)
    everything = config.evaluation_data(corpus, tokenizer)
    test = everything.first(config.evaluation.prompts)
    history = train(policy, data, config.training, scratch).history
    if keep is not None:
        save_policy(policy, tokenizer, keep)
    method, e = config.training.objective.method, config.evaluation
    stages = Stages(scratch)
    result: dict[str, object] = {
        "history": {
            key: [round(float(row[key]), 6) for row in history if key in row]
            for key in sorted({k for row in history for k in row} - {"grad_norms"})
        },
        "likelihood": stages("likelihood", lambda: likelihoods(policy, test)),
        "n_too_short": test.n_too_short,
        "generations": {},
    }
    decodings = ("sample", "contrastive") if method == "mle" else ("sample",)
    for decoding in decodings:
        draws = 1 if decoding == "contrastive" else e.draws  # contrastive search is deterministic
        result["generations"][decoding] = [  # type: ignore[index]
            _joined(
                [
                    stages(
                        f"{decoding}-{draw}-{begin}",
                        functools.partial(
                            generate,
                            policy,
                            tokenizer,
                            test.prompts[begin : begin + e.batch],
                            e,
                            decoding=decoding,
                            draw=draw,
                            begin=begin,
                        ),
                    )
                    for begin in range(0, e.prompts, e.batch)
                ]
            )
            for draw in range(draws)
        ]
    if method == "mle":
        result["human"] = [inner_decoder(tokenizer)(c.tolist()) for c in test.continuations]
    if get_method(method).backspace and e.corrupted:
        result["corrupted"] = stages("corrupted", lambda: corrupted(policy, tokenizer, data, everything, e))
    return result


class Stages:
    """Calls a function once and keeps what it returned in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / f"stage-{name}.json"
        if not path.exists():
            write_atomically(path, canonical_json(compute(), name))
        return read_json(path)


def _joined(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {key: [value for part in parts for value in part[key]] for key in parts[0]}

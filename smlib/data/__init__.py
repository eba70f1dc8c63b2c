"""Tasks, texts and noise (Sec. 4.2, Sec. 6, App. E and G)."""

from smlib.data.cutting import Article, Coverage, Passage, cover, passages
from smlib.data.mathematics import Example, stream
from smlib.data.tasks import Task, load_task
from smlib.data.text import Corpus, EvaluationSet, evaluation_set, load_corpus, prompt_and_answer
from smlib.data.tokenizers import FixedTokenizer, PretrainedTokenizer, TextTokenizer, train_bpe
from smlib.edits.noise import NoiseLaw, edit_expert_label, edit_expert_labels, expert_trajectory

__all__ = [
    "Article",
    "Corpus",
    "Coverage",
    "EvaluationSet",
    "Example",
    "FixedTokenizer",
    "NoiseLaw",
    "Passage",
    "PretrainedTokenizer",
    "Task",
    "TextTokenizer",
    "cover",
    "edit_expert_label",
    "edit_expert_labels",
    "evaluation_set",
    "expert_trajectory",
    "load_corpus",
    "load_task",
    "passages",
    "prompt_and_answer",
    "stream",
    "train_bpe",
]

"""A pretrained language model in place of the tiny base model: Llama-2-7b in the `paper` preset, or one of your own.

base = LanguageModel(model=TextModel("smollm2", lora=Lora()))
preset = dataclasses.replace(arithmetic.preset("paper"), base=base)
"""

from dataclasses import dataclass

from smlib.data.tasks import Task
from smlib.data.tokenizers import TextTokenizer
from smlib.paper.experiments.runs.text_models import LLAMA_2, TextModel, load
from smlib.policies.loading import load_tokenizer
from smlib.policies.policy import Policy


@dataclass(frozen=True)
class LanguageModel:
    """What is fine-tuned on a question-answer task, in the words of its own tokeniser.

    Attributes:
        task, difficulty: which questions.
        model: which model, with which adapters.
    """

    task: str = "add_or_sub_in_base"
    difficulty: str = "all"
    model: TextModel = LLAMA_2

    def tokenizer(self) -> TextTokenizer:
        """The model's own; raises FileNotFoundError where the model is not to be had."""
        return load_tokenizer(self.model.name, local_files_only=not self.model.download)

    def policy(self, task: Task) -> Policy:
        """The model before fine-tuning; raises ValueError for a task in the words of another tokeniser."""
        policy, _ = load(self.model)
        if policy.space != task.space:
            raise ValueError(f"{self.model.name} has the actions {policy.space}, the task's tokeniser {task.space}")
        return policy

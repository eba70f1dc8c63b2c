"""Rows of every form for the tokeniser of words, and a short run of `SequenceMatchTrainer`."""

import re
from pathlib import Path

import numpy as np

from smlib.objectives.methods import METHODS
from smlib.training.trainer_config import SequenceMatchConfig
from tests.support.models import WORDS

CHAT = (
    "{% for m in messages %}{{ 'w0 ' if m['role'] == 'user' else 'w1 ' }}{{ m['content'] }}"
    "{{ ' </s> ' if m['role'] == 'assistant' else ' ' }}{% endfor %}{{ 'w1 ' if add_generation_prompt else '' }}"
)


def prompted(n=12):
    rng = np.random.default_rng(0)
    return [
        {"prompt": " ".join(rng.choice(WORDS, 3)), "completion": " ".join(rng.choice(WORDS, int(rng.integers(2, 6))))}
        for _ in range(n)
    ]


def arguments(folder, **changes):
    plain = {
        "max_steps": 20,
        "per_device_train_batch_size": 4,
        "learning_rate": 3e-3,
        "bc_steps": 6,
        "anneal_steps": 6,
        "alpha": 0.1,
        "gamma": 0.9,
        "eta": 0.2,
        "buffer_size": 6,
        "refill": 3,
        "times_seen": 4.0,
        "rollout_tokens": 6,
        "max_length": 32,
        "logging_steps": 1,
        "save_steps": 8,
        "edits_steps": 0,
        "chunk": 16,
        "dtype": "float64",
        "seed": 3,
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "local_files_only": True,
    }
    method = METHODS.get(changes.get("method", "sm"))
    if method is not None and not method.noise:
        del plain["eta"]  # which would have no effect, and say so
    if changes.get("method") == "exact":
        plain["group"] = 2
    if changes.get("method") in ("exact", "gail"):
        for name in ("buffer_size", "refill", "times_seen"):
            del plain[name]
    return SequenceMatchConfig(output_dir=str(folder), **{**plain, **changes})


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


def explained():
    """The names of the log that docs/your-own-model.md explains, in tables of a name and a sentence."""
    page = (Path(__file__).parents[2] / "docs" / "your-own-model.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", page.split("## Names in the log")[1], re.MULTILINE)
    assert all(sentence.endswith(".") for _, sentence in rows)
    assert len(rows) == len({name for name, _ in rows})
    return {name for name, _ in rows}


def logged(trainer):
    """The names that a trainer has logged."""
    return {name for row in trainer.state.log_history for name in row}

"""Tasks, texts and noise (Sec. 4.2, Sec. 6, App. E and G)."""

from smlib.data.mathematics import Example, stream
from smlib.data.noise import NoiseLaw, edit_expert_label, edit_expert_labels, expert_trajectory
from smlib.data.tasks import Task, load_task

__all__ = [
    "Example",
    "NoiseLaw",
    "Task",
    "edit_expert_label",
    "edit_expert_labels",
    "expert_trajectory",
    "load_task",
    "stream",
]

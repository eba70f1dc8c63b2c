"""The edits of a row of the log, on the screen of somebody who watches a progress bar.

transformers' bar writes each row as one dictionary and leaves out whatever text is longer than 100 characters, which
the edits of two prompts are. Here they stand above the bar, whole, as they are in trackers.
"""

from typing import Any

from tqdm import tqdm
from transformers import ProgressCallback, TrainerCallback

from smlib.screen import visible

EDITS = "edits"
"""The name of the edits in a row of the log."""


def show_edits(trainer: Any) -> None:
    """Lets a `transformers.Trainer` that draws a bar write the edits too; without a bar its rows have them already."""
    if trainer.args.disable_tqdm:
        return
    plain = next((c for c in trainer.callback_handler.callbacks if type(c) is ProgressCallback), None)
    if plain is None:  # a notebook's bar, whose table shows losses alone
        trainer.add_callback(EditsBesideBar())
    else:
        trainer.pop_callback(plain)
        trainer.add_callback(BarWithEdits())


class EditsBesideBar(TrainerCallback):
    """Writes the edits of a row, and nothing else."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        """Called with each row of the log."""
        if state.is_world_process_zero and logs and logs.get(EDITS):
            tqdm.write(f"edits after step {state.global_step}:\n{visible(logs[EDITS], newlines=True)}\n")


class BarWithEdits(ProgressCallback, EditsBesideBar):
    """transformers' progress bar with the edits above it, after the row that they belong to."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **others: Any) -> None:
        """Called with each row of the log."""
        row = {name: value for name, value in (logs or {}).items() if name != EDITS}
        ProgressCallback.on_log(self, args, state, control, logs=row, **others)
        EditsBesideBar.on_log(self, args, state, control, logs=logs, **others)

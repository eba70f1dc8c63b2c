"""A training run's curves in a notebook: what `smlib watch` draws in a terminal, a panel a curve, as the run goes on.

from smlib.widgets.curves import watch
watch("runs/mine")
"""

import html
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from smlib.training.curves import Curve, curves_of, finished
from smlib.training.metrics import MetricsError
from smlib.widgets.explore import looked_at
from smlib.widgets.pictures import BLUE, ORANGE, image

COLUMNS = 3


def watch(run: str | Path, every: float = 2.0, live: bool | None = None) -> Any:
    """The curves of a run that `smlib train` or `smlib.train` writes, drawn again until it has finished.

    Args:
        run: its folder, or a metrics.jsonl.
        every: seconds between two looks.
        live: whether to make a widget; where `smlib.widgets.explore.looked_at` says so when omitted. Otherwise the
            figure of the curves as they are now.

    Raises:
        ValueError: `every` is not above 0; no such run, one that keeps no log here, a log that is damaged.
    """
    if not (math.isfinite(every) and every > 0):
        raise ValueError(f"every={every:g}: expected seconds above 0")
    place = Path(run)
    curves = curves_of(place)
    if live if live is not None else looked_at():
        return Watched(place, every)
    return draw(curves)


class Watched:
    """The widget: a picture, a line of text and a button that ends it.

    Attributes:
        box: the widget. thread: looks at the run every so many seconds, while it trains; a kernel that is busy with the
            training itself still shows it.
    """

    def __init__(self, run: Path, every: float) -> None:
        import ipywidgets  # not needed where nothing moves

        self._run, self._every = run, every
        self._picture, self._said = ipywidgets.HTML(), ipywidgets.HTML()
        self._stopped = threading.Event()
        button = ipywidgets.Button(description="stop watching")
        button.on_click(lambda _: self.stop())
        self.box = ipywidgets.VBox([self._said, self._picture, button])
        self.thread = threading.Thread(target=self._look, daemon=True, name=f"watch {run}")
        self.refresh()
        self.thread.start()

    def refresh(self) -> None:
        """Draws the curves as they are now. What cannot be read is said, and the last picture stays."""
        done = finished(self._run)  # before the look: what is drawn last holds what was written last
        try:
            curves = curves_of(self._run)
        except (MetricsError, OSError) as error:
            self._said.value = f"<b>{html.escape(str(error))}</b>"
            return
        said = state(curves, done)
        if curves:
            self._picture.value = image(draw(curves), in_words(curves))
        self._said.value = html.escape(f"{self._run}: {said}")
        if done:
            self._stopped.set()

    def stop(self) -> None:
        """No more looks; the curves stay as they are."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._said.value += ", no longer watched"

    def _look(self) -> None:
        while not self._stopped.wait(self._every):
            self.refresh()

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return self.box._repr_mimebundle_(**options)


def state(curves: Mapping[str, Curve], done: bool) -> str:
    """How far a run is.

    >>> state({"loss": [(10, 0.5), (20, 0.25)]}, False), state({}, False)
    ('step 20', 'nothing is logged yet')
    """
    if not curves:
        return "nothing is logged yet"
    step = max(curve[-1][0] for curve in curves.values())
    return f"finished after {step} steps" if done else f"step {step}"


def in_words(curves: Mapping[str, Curve]) -> str:
    """Each curve's first and last value, for who cannot see the picture.

    >>> in_words({"loss": [(10, 0.5), (20, 0.25)]})
    'loss: 0.5 at step 10 to 0.25 at step 20.'
    """
    return " ".join(
        f"{name}: {curve[0][1]:.4g} at step {curve[0][0]} to {curve[-1][1]:.4g} at step {curve[-1][0]}."
        for name, curve in curves.items()
    )


def draw(curves: Mapping[str, Curve]) -> Figure:
    """A panel a curve against the step; a value that is no number is a gap with a cross at the lower edge."""
    lines = max(1, -(-len(curves) // COLUMNS))
    figure = Figure(figsize=(10, 0.4 + 1.9 * lines), dpi=100, layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False).flat
    for (name, curve), axes in zip(curves.items(), panels, strict=False):
        steps, values = [step for step, _ in curve], [value for _, value in curve]
        shown = [value if math.isfinite(value) else math.nan for value in values]
        axes.plot(steps, shown, color=BLUE, marker="" if len(curve) > 60 else ".")
        broken = [step for step, value in curve if not math.isfinite(value)]
        if broken:
            edge = axes.get_xaxis_transform()
            axes.plot(broken, [0.0] * len(broken), "x", color=ORANGE, transform=edge, clip_on=False)
        axes.set_title(f"{name}: {values[-1]:.4g}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step", fontsize=9)
    for axes in panels:  # those that are left
        axes.set_visible(False)
    if not curves:
        figure.text(0.5, 0.5, "nothing is logged yet", ha="center", va="center")
    return figure

"""The look of every figure: colours that survive colour blindness and grey printing, type legible at half size."""

import io
import os
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from smlib.files import ResultError, resolve, write_atomically
from smlib.paper.items import check_preset

PALETTE: Mapping[str, str] = MappingProxyType(
    {
        "black": "#000000",
        "orange": "#E69F00",
        "sky": "#56B4E9",
        "green": "#009E73",
        "yellow": "#F0E442",
        "blue": "#0072B2",
        "vermilion": "#D55E00",
        "purple": "#CC79A7",
        "grey": "#6B6B6B",
        "wine": "#882255",
        "olive": "#6B7A00",
    }
)
"""Okabe and Ito's colours, told apart under every common colour blindness; two of Tol's kind for further methods; and a
grey for what is not the subject, dark enough to be read as text."""


@dataclass(frozen=True)
class MethodStyle:
    """How a method is drawn everywhere: the marker and the dashes say in grey what the colour says."""

    label: str
    color: str
    marker: str
    linestyle: str | tuple[int, tuple[int, ...]]

    def kwargs(self) -> dict[str, Any]:
        """For `Axes.plot` and `Axes.errorbar`."""
        return {"label": self.label, "color": self.color, "marker": self.marker, "linestyle": self.linestyle}


METHODS: Mapping[str, MethodStyle] = MappingProxyType(
    {
        "mle": MethodStyle("MLE", PALETTE["black"], "o", ":"),
        "bc": MethodStyle("BC", PALETTE["orange"], "s", "--"),
        "sm": MethodStyle("SequenceMatch", PALETTE["blue"], "D", "-"),
        "dagger": MethodStyle("DAgger", PALETTE["vermilion"], "^", "-."),
        "iqlearn": MethodStyle("offline IQLearn", PALETTE["green"], "v", (0, (5, 1, 1, 1))),
        "gail": MethodStyle("GAIL", PALETTE["grey"], "p", (0, (3, 1, 1, 1, 1, 1))),
        "unlikelihood": MethodStyle("MLE + unlikelihood", PALETTE["purple"], "P", (0, (3, 1))),
        "contrastive": MethodStyle("MLE + contrastive search", PALETTE["sky"], "X", (0, (1, 1))),
        "direct": MethodStyle("direct matching, χ²-mixture", PALETTE["wine"], "<", (0, (6, 2))),
        "direct-tv": MethodStyle("direct matching, total variation", PALETTE["olive"], ">", (0, (6, 2, 2, 2))),
    }
)

_RC = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 12,
    "axes.prop_cycle": cycler(
        color=[color for name, color in PALETTE.items() if name not in ("yellow", "wine", "olive")]
    ),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "errorbar.capsize": 3,
    "figure.dpi": 100,
    "font.size": 12,
    "grid.alpha": 0.3,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "lines.markersize": 6,
    "savefig.dpi": 200,
    "svg.hashsalt": "smlib",
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
}
"""At 200 dpi and the width below, 11 points are still 5.5 when the figure is shown at half its size."""

# A reader's matplotlibrc (in the home, the working directory or MATPLOTLIBRC) and its `text.usetex` would draw other
# figures than the committed ones, or none. The backend stays as it was chosen.
mpl.rcdefaults()

SAVED = "smlib_saved"
"""The attribute of a figure that has been saved, a `Saved`."""


@dataclass(frozen=True)
class Saved:
    """Under which name, for which preset and where a figure was saved; its bytes, and its words.

    The layout of a figure is moved a little by every drawing, so that another one would be another picture.
    """

    name: str
    preset: str
    figures_dir: str | os.PathLike[str]
    data: bytes
    words: str


WIDTH = 7.0
"""Inches; the text width of a page."""


def method_style(method: str) -> MethodStyle:
    """The style of a method; an unknown one raises `ResultError` with the known ones."""
    if method not in METHODS:
        raise ResultError(f"no style for method {method!r}; known: {', '.join(METHODS)}")
    return METHODS[method]


CONTRAST = 4.5
"""The least contrast of text with a white page, as WCAG 2 asks of it."""


def contrast(color: str) -> float:
    """Contrast of a colour with white, from 1 to 21: (1 + 0.05) / (L + 0.05), L the relative luminance of WCAG 2."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 1.05 / (0.2126 * channels[0] + 0.7152 * channels[1] + 0.0722 * channels[2] + 0.05)


def readable(color: str) -> str:
    """The colour for text: itself, or the lightest darker one of its hue that can be read on a white page."""
    for step in range(100, -1, -1):
        darker = to_hex([step / 100 * channel for channel in to_rgb(color)])
        if contrast(darker) >= CONTRAST:
            return darker
    return "#000000"


def headline(made: Figure, finding: str) -> None:
    """The finding above a figure, broken into lines that fit its width."""
    whole = finding.replace(" = ", "\u00a0=\u00a0").replace(" %", "\u00a0%")  # neither is torn apart
    lines = textwrap.wrap(whole, width=int(9.0 * made.get_figwidth()), break_long_words=False, break_on_hyphens=False)
    made.suptitle("\n".join(lines), fontsize=12, fontweight="bold")


def counted(n: int, what: str) -> str:
    """`1 seed`, `3 seeds`: what a label says of a number of things."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def figure(
    rows: int = 1, columns: int = 1, *, height: float = 4.0, width: float = WIDTH, **subplots: Any
) -> tuple[Figure, Any]:
    """A figure in the common style and its axes, as `matplotlib.pyplot.subplots` returns them; sizes in inches.

    It belongs to no global state: it is shown by ending a cell with it, and is gone when nothing refers to it.
    """
    _display_in_notebooks()
    with mpl.rc_context(_RC):
        made = Figure(figsize=(width, height), layout="constrained")
        axes = made.subplots(rows, columns, **subplots)
    return made, axes


def _display_in_notebooks() -> None:
    """Teach a running IPython to show a `Figure` as it is saved; from pyplot it would learn another way."""
    from smlib.paper.figures import showing

    shell = showing.running_shell()
    if shell is not None:
        showing.teach(shell)


def png(made: Figure) -> bytes:
    """The picture, in a notebook as in the file: ticks and labels are laid out when it is drawn, by the same rules."""
    buffer = io.BytesIO()
    with mpl.rc_context(_RC):
        # Matplotlib would write its own version into the file.
        made.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def figure_path(name: str, preset: str, figures_dir: str | os.PathLike[str] = "figures") -> Path:
    """Where a figure goes: `figures/<name>.png` for the committed `full` preset, `figures/<preset>/` for the others."""
    if not name or not all(c.isalnum() or c in "-_" for c in name):
        raise ResultError(f"{name!r} cannot name a figure: letters, digits, - and _ only")
    folder = resolve(figures_dir)
    return (folder if check_preset(preset) == "full" else folder / preset) / f"{name}.png"


def save(made: Figure, name: str, preset: str, figures_dir: str | os.PathLike[str] = "figures") -> Path:
    """Write a figure as PNG, atomically, and return its path; its words go into a text file beside it.

    Equal figures are equal bytes, and are left alone.
    """
    from smlib.paper.figures import showing, words

    path = figure_path(name, preset, figures_dir)
    said, data = words.in_words(made), png(made)
    for file, content in ((path, data), (showing.alt_path(path), f"{said}\n".encode())):
        if not file.is_file() or file.read_bytes() != content:  # a checkout that cannot be written to can be read
            write_atomically(file, content)
    setattr(made, SAVED, Saved(name, preset, figures_dir, data, said))
    return path

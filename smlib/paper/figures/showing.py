"""How a notebook shows a figure: as the saved file is drawn, in words for those who cannot see it, and marked.

With the presets `smoke` and `quick` the committed figure comes first, since its numbers are the ones that the text is
about; a reader's own run stands below it and says that it is one.
"""

import base64
import html
import struct
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from smlib.paper.figures.style import SAVED, Saved, figure_path, png
from smlib.paper.figures.words import in_words

OWN = {
    "quick": "Your own run, preset quick: small and short, so that its numbers need not be those above or of the text.",
    "smoke": "Your own run, preset smoke: it shows that everything runs, and its numbers mean nothing.",
}
"""What stands below the figure of a preset that is not for reading results from."""


def alt_path(picture: Path) -> Path:
    """The file with a saved figure's words, beside it."""
    return picture.with_suffix(".txt")


def teach(shell: Any) -> None:
    """Lets an IPython shell show a `Figure` so; pyplot's own way, which another import may have set, is replaced."""
    shell.display_formatter.formatters["image/png"].for_type(Figure, _as_png)
    shell.display_formatter.formatters["text/html"].for_type(Figure, _as_html)


def running_shell() -> Any:
    """The IPython that runs this, or None."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def beside(figure: Figure) -> Path | None:
    """The committed picture of the same name, where a figure was saved for a preset that stands behind it."""
    saved: Saved | None = getattr(figure, SAVED, None)
    if saved is None or saved.preset not in OWN:
        return None
    kept = figure_path(saved.name, "full", saved.figures_dir)
    return kept if kept.is_file() else None


def _drawn(figure: Figure) -> tuple[bytes, str]:
    """The picture and its words, as they were saved, if they were."""
    saved: Saved | None = getattr(figure, SAVED, None)
    if saved is not None:
        return saved.data, saved.words
    words = in_words(figure)
    return png(figure), words


def _as_png(figure: Figure) -> tuple[str, dict[str, Any]] | None:
    if beside(figure) is not None:
        return None
    data, words = _drawn(figure)
    return base64.b64encode(data).decode(), {"alt": words, "width": _width(data)}


def _as_html(figure: Figure) -> str | None:
    kept = beside(figure)
    if kept is None:
        return None
    words = alt_path(kept).read_text(encoding="utf-8").strip() if alt_path(kept).is_file() else kept.stem
    first = _img(kept.read_bytes(), words, "The committed result, preset full.")
    return first + _img(*_drawn(figure), OWN[getattr(figure, SAVED).preset])


def _img(data: bytes, words: str, caption: str) -> str:
    coded = base64.b64encode(data).decode()
    alt = html.escape(words, quote=True)
    return (
        f'<figure style="margin:0 0 1em"><img width="{_width(data)}" alt="{alt}" src="data:image/png;base64,{coded}">'
        f"<figcaption><em>{html.escape(caption)}</em></figcaption></figure>"
    )


def _width(data: bytes) -> int:
    """The width at which a picture is shown: half of its own, since it is drawn for print."""
    width: int = struct.unpack(">I", data[16:20])[0]
    return width // 2

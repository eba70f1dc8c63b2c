"""A lecture of fifteen slides from the notebooks' own figures: one page of HTML that needs nothing else.

Arrow keys turn the slides, and printing gives one slide a page. The words of each figure, for those who cannot see it,
are made from its results.
"""

import base64
import html
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smlib.files import ResultError, project_root, resolve
from smlib.paper.figures import committed, figure_path
from smlib.paper.figures.words import in_words

SOURCE = Path(__file__).with_suffix(".toml")

STYLE = """
:root { color-scheme: light; }
body { margin: 0; font: 22px/1.4 system-ui, sans-serif; color: #111; background: #fff; }
section { box-sizing: border-box; width: 100vw; height: 100vh; padding: 2.5rem 4rem 3rem; display: none; }
section.shown { display: flex; flex-direction: column; }
h1 { margin: 0 0 1rem; font-size: 1.7rem; }
.body { flex: 1; display: flex; gap: 2.5rem; align-items: center; min-height: 0; }
.body img { max-width: 58vw; max-height: 72vh; object-fit: contain; }
ul { flex: 1; margin: 0; padding-left: 1.2em; }
li { margin-bottom: 0.9rem; }
footer { position: fixed; bottom: 0.8rem; right: 1.5rem; font-size: 0.7rem; color: #444; }
@media print {
  section { display: flex; flex-direction: column; page-break-after: always; height: 95vh; }
  footer { position: static; }
}
"""

SCRIPT = """
const slides = [...document.querySelectorAll('section')];
let at = Math.min(Math.max(Number(location.hash.slice(1)) - 1 || 0, 0), slides.length - 1);
function show() {
  slides.forEach((slide, i) => slide.classList.toggle('shown', i === at));
  history.replaceState(null, '', '#' + (at + 1));
  slides[at].focus();
}
function turn(by) { at = Math.min(Math.max(at + by, 0), slides.length - 1); show(); }
addEventListener('keydown', (event) => {
  if (['ArrowRight', 'PageDown', ' ', 'Enter'].includes(event.key)) { turn(1); event.preventDefault(); }
  if (['ArrowLeft', 'PageUp', 'Backspace'].includes(event.key)) { turn(-1); event.preventDefault(); }
});
addEventListener('click', (event) => turn(event.clientX < innerWidth / 4 ? -1 : 1));
show();
"""


@dataclass(frozen=True)
class Slide:
    """A title, a committed figure, a few sentences, and the notebook (its number) that explains them."""

    title: str
    figure: str
    notebook: str
    points: tuple[str, ...]


def slides() -> list[Slide]:
    """The slides of `lecture.toml`, in their order."""
    stored = tomllib.loads(SOURCE.read_text(encoding="utf-8"))["slide"]
    return [Slide(entry["title"], entry["figure"], entry["notebook"], tuple(entry["points"])) for entry in stored]


def lecture(shown: Sequence[Slide] | None = None, figures_dir: str | os.PathLike[str] = "figures") -> str:
    """The page.

    Args:
        shown: the slides of `lecture.toml` when omitted.

    Raises:
        ResultError: a figure or a notebook that is not there.
    """
    chosen = slides() if shown is None else shown
    body = "\n".join(_section(slide, i, len(chosen), figures_dir) for i, slide in enumerate(chosen, 1))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>SequenceMatch, in {len(chosen)} slides</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n<script>{SCRIPT}</script>\n</body></html>\n"
    )


def _section(slide: Slide, number: int, of: int, figures_dir: str | os.PathLike[str]) -> str:
    picture = figure_path(slide.figure, "full", resolve(figures_dir))
    if not picture.is_file():
        raise ResultError(f"slide {number} shows {picture}, which is not there")
    notebooks = sorted((project_root() / "notebooks").glob(f"{slide.notebook}_*.ipynb"))
    if not notebooks:
        raise ResultError(f"slide {number} names notebook {slide.notebook}, which is not there")
    data = base64.b64encode(picture.read_bytes()).decode()
    points = "".join(f"<li>{html.escape(point)}</li>" for point in slide.points)
    words = html.escape(_words(slide.figure), quote=True)
    return (
        f'<section tabindex="-1" aria-label="slide {number} of {of}"><h1>{html.escape(slide.title)}</h1>'
        f'<div class="body"><img alt="{words}" src="data:image/png;base64,{data}"><ul>{points}</ul></div>'
        f"<footer>{number} of {of} · notebook {html.escape(notebooks[0].stem)}</footer></section>"
    )


def _words(figure: str) -> str:
    """The figure in words; of one that is drawn by its notebook from formulas, its name."""
    if figure in committed.FIGURES:
        return in_words(committed.redraw(figure, "full"))
    return f"The figure {figure} of notebook {committed.FROM_FORMULAS[figure]}."

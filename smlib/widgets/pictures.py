"""Figures inside widgets: pictures with words for those who cannot see them."""

import base64
import html
import io

from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY, BLACK = "#0072B2", "#D55E00", "#009E73", "#7F7F7F", "#000000"
"""Of Okabe and Ito's colours."""


def image(figure: Figure, alt: str) -> str:
    """An `<img>` that carries the figure; ipywidgets' own `Image` has no alternative text.

    >>> image(Figure(figsize=(1, 1)), 'a "picture"')[:54]
    '<img style="max-width:100%" alt="a &quot;picture&quot;'
    """
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    data = base64.b64encode(drawn.getvalue()).decode()
    return f'<img style="max-width:100%" alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'

"""Result files to figures: one module a paper item, on the shared look of `smlib.paper.figures.style`.

A figure's function takes the dict that its result file holds and returns a matplotlib `Figure`; a notebook shows it and
saves it with `save`. Nothing here imports torch or runs an experiment, so every committed figure can be redrawn from
`results/` alone.
"""

from smlib.paper.figures.style import METHODS, PALETTE, MethodStyle, figure, figure_path, method_style, save

__all__ = ["METHODS", "PALETTE", "MethodStyle", "figure", "figure_path", "method_style", "save"]

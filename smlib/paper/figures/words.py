"""A figure in words, for those who cannot see it: made from what is drawn, and so from its results."""

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

OWN = "smlib_words"
MEANT = "smlib_meant"
"""Attribute of a line whose markers stand elsewhere than their values, as at the edge of a panel: the points meant."""
FEW = 6
"""Up to so many points of a series are all said; of more, the ends and the extremes."""
SERIES = 12
"""So many series of a panel are said; the number of the others is."""
LONGEST = 2_400
"""Characters; longer words are cut at a panel."""


def in_words(figure: Figure) -> str:
    """The titles, the axes and the values of every panel of a figure, one sentence a series.

    A figure that is no plot brings its own words, as the attribute `OWN`.
    """
    own = getattr(figure, OWN, None)
    if own is not None:
        return str(own)
    panels = [axes for axes in figure.axes if axes.get_visible()]
    title: Any = getattr(figure, "_suptitle", None)
    heading = [title.get_text()] if title is not None else []
    colours = _colours(figure)
    told = [" ".join(_panel(axes, colours)) for axes in panels]
    if len(panels) > 1:
        told = [f"Panel {number}: {text}" for number, text in enumerate(told, 1)]
        heading.append(f"{len(panels)} panels")
    text = ". ".join(part.rstrip(".") for part in heading)
    for number, part in enumerate(told):
        if text and len(text) + len(part) > LONGEST:
            return _plain(f"{text} {len(told) - number} more panels.")
        text = f"{text}. {part}" if text and number == 0 else f"{text} {part}".strip()
    return _plain(text)


def _panel(axes: Axes, colours: Mapping[str, str]) -> Iterator[str]:
    title = axes.get_title() or axes.get_title(loc="left")
    if title:
        yield f"{title}."
    x, y = axes.get_xlabel(), axes.get_ylabel()
    if x or y:
        yield f"{y} against {x}." if x and y else f"{x or y}."
    series = list(_series(axes, colours))
    for label, points in series[:SERIES]:
        yield f"{label}: {points}." if label else f"{points}."
    if len(series) > SERIES:
        yield f"{len(series) - SERIES} more series."
    for image in axes.get_images():
        rows, columns = np.shape(np.asarray(image.get_array()))[:2]
        yield f"A grid of {rows} by {columns} cells."
    texts = [text.get_text().strip() for text in axes.texts if text.get_visible()]
    written = [text for text in texts if text]
    if written and not series:
        shown = ", ".join(dict.fromkeys(written[:40]))
        yield f"Written in it: {shown}."


def _series(axes: Axes, colours: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Names of the series and what is drawn of each; pieces of a name, as one error bar a point, are one series."""
    found: dict[str, list[tuple[float, float]]] = {}
    bars: list[tuple[str, str]] = []
    curves: list[tuple[str, str]] = []
    for label, artist, points in _drawn(axes):
        name = label or colours.get(_colour(artist), "")
        if isinstance(artist, BarContainer):
            bars.append((name, _bars(axes, artist)))
        elif name or len(points) == 1 or _names(axes, "y"):
            found.setdefault(name, []).extend(point for point in points if point not in found.get(name, ()))
        elif points and not bars:
            curves.append(("", _points(axes, points)))
    yield from bars
    for name, points in found.items():
        if points:
            yield name, _points(axes, points)
    yield from curves


def _drawn(axes: Axes) -> Iterator[tuple[str, Any, list[tuple[float, float]]]]:
    inside: set[Any] = set()
    for container in axes.containers:
        if isinstance(container, BarContainer):
            yield _label(container), container, []
        elif isinstance(container, ErrorbarContainer):
            line, caps, _ = container.lines
            inside |= {line, *caps}
            if line is not None:
                yield _label(container), line, _finite(line.get_xdata(), line.get_ydata())
    for line in axes.lines:
        # A line from edge to edge marks a place; it is data where it has a name.
        if line not in inside and (_label(line) or line.get_transform() == axes.transData):
            yield _label(line), line, getattr(line, MEANT, None) or _finite(line.get_xdata(), line.get_ydata())
    for cloud in axes.collections:
        offsets = np.asarray(cloud.get_offsets(), dtype=float)
        if cloud.get_offset_transform() == axes.transData and len(offsets):
            yield _label(cloud), cloud, _finite(offsets[:, 0], offsets[:, 1])


def _bars(axes: Axes, bars: BarContainer) -> str:
    lying = bars.orientation == "horizontal"
    said = [
        f"{_category(axes, 'y', p.get_y() + p.get_height() / 2)}: {_number(float(p.get_width()))}"
        if lying
        else f"{_category(axes, 'x', p.get_x() + p.get_width() / 2)}: {_number(float(p.get_height()))}"
        for p in bars.patches
    ]
    return "; ".join(said[: 3 * FEW])


def _points(axes: Axes, points: Sequence[tuple[float, float]]) -> str:
    rows = _names(axes, "y")
    if rows or len(points) <= FEW:
        said = [
            f"{_category(axes, 'y', y)}: {_names(axes, 'x').get(x) or _number(x)}"
            if rows
            else f"{_category(axes, 'x', x)}: {_number(y)}"
            for x, y in points[: 3 * FEW]
        ]
        return "; ".join(said)
    (first, begin), (last, end) = points[0], points[-1]
    ys = [y for _, y in points]
    return (
        f"{len(points)} points from {_number(begin)} at {_number(first)} to {_number(end)} at {_number(last)}, "
        f"between {_number(min(ys))} and {_number(max(ys))}"
    )


def _finite(xs: Any, ys: Any) -> list[tuple[float, float]]:
    x: Any = np.ma.filled(np.ma.asarray(xs, dtype=float), np.nan).ravel()
    y: Any = np.ma.filled(np.ma.asarray(ys, dtype=float), np.nan).ravel()
    return [(float(a), float(b)) for a, b in zip(x, y, strict=True) if np.isfinite(a) and np.isfinite(b)]


def _names(axes: Axes, which: str) -> dict[float, str]:
    """The places of an axis that have names instead of numbers; a panel may share them with its neighbour."""
    sharing = axes.get_shared_y_axes() if which == "y" else axes.get_shared_x_axes()
    for panel in (axes, *sharing.get_siblings(axes)):
        axis = getattr(panel, f"{which}axis")
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
        named = {float(place): " ".join(tick.get_text().split()) for place, tick in ticks}
        if any(words and not _numeric(words) for words in named.values()):
            return {place: words for place, words in named.items() if words}
    return {}


def _category(axes: Axes, which: str, value: float) -> str:
    """What an axis calls a value: its nearest name, or the number. Markers of several methods stand side by side."""
    axis = getattr(axes, f"{which}axis")
    named = _names(axes, which)
    if not named and isinstance(axis.get_major_locator(), FixedLocator):
        ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
        named = {float(place): tick.get_text() or _number(place) for place, tick in ticks}
    places = sorted(named)
    if not places:
        return _number(value)
    nearest = min(places, key=lambda place: abs(place - value))
    room = min((b - a for a, b in pairwise(places)), default=1.0)
    return named[nearest] if abs(nearest - value) < 0.45 * room else _number(value)


def _colours(figure: Figure) -> dict[str, str]:
    """What the legends of a figure call a colour, where each colour has one name."""
    legends = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()) is not None)]
    names: dict[str, set[str]] = {}
    for legend in legends:
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=False):
            names.setdefault(_colour(handle), set()).add(" ".join(text.get_text().split()))
    return {colour: next(iter(called)) for colour, called in names.items() if colour and len(called) == 1}


def _colour(artist: Any) -> str:
    if isinstance(artist, ErrorbarContainer):
        artist = artist.lines[0]
    elif isinstance(artist, BarContainer):
        artist = artist.patches[0] if artist.patches else None
    for read in ("get_color", "get_facecolor"):
        if hasattr(artist, read):
            colour = getattr(artist, read)()
            rows = np.atleast_2d(colour) if not isinstance(colour, str) else [colour]
            return to_hex(rows[0]) if len(rows) and len(rows[0]) else ""
    return ""


def _numeric(words: str) -> bool:
    return re.fullmatch(r"[-−+]?[\d.,\s]*([eE×^{}\-−\d$\\a-z]*)", words) is not None and any(c.isdigit() for c in words)


def _label(artist: Any) -> str:
    label = " ".join(str(artist.get_label() or "").split())
    return "" if label.startswith("_") else label


def _number(value: float) -> str:
    """Three digits, and whole numbers as they are."""
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"


def _plain(text: str) -> str:
    """Without the marks of formulas and line breaks, which a reader of screens would spell out."""
    for mark, words in _FORMULAS:
        text = re.sub(mark, words, text)
    return " ".join(text.split())


_FORMULAS: Sequence[tuple[str, str]] = (
    (r"\$", ""),
    (r"\\(?:mathrm|text|mathbf|mathit|texttt)\{([^}]*)\}", r"\1"),
    (r"\\(alpha|beta|gamma|eta|varepsilon|epsilon|varphi|phi|rho|theta|chi)\b", r"\1"),
    (r"\\[a-zA-Z]+|[{}]", ""),
    (r"\\", ""),
)

"""Contrast of two colours as a browser gives them, as WCAG 2 defines it."""

import re


def contrast(one: str, other: str) -> float:
    """From 1 to 21, of `#rrggbb` or `rgb(r, g, b)`.

    >>> round(contrast("#000000", "rgb(255, 255, 255)"))
    21
    """
    low, high = sorted(map(_luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    if colour.startswith("#"):
        channels = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    else:
        channels = [int(float(number)) for number in re.findall(r"[\d.]+", colour)[:3]]
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

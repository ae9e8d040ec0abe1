"""Colour maps that colour-blind readers can use, and the contrast of a text on them."""

from __future__ import annotations

from collections.abc import Sequence

# ColorBrewer (Brewer 2003): Blues, and PuOr with orange for negative values.
_BLUES = ("#f7fbff", "#c6dbef", "#6baed6", "#2171b5", "#08306b")
_ORANGE_PURPLE = ("#b35806", "#f1a340", "#fee0b6", "#f7f7f7", "#d8daeb", "#998ec3", "#542788")


def sequential(share: float) -> str:
    """Return the colour of a share from 0 (pale) to 1 (dark blue) as `#rrggbb`; shares outside are clipped."""
    return _between(_BLUES, share)


def diverging(share: float) -> str:
    """Return the colour of a share from -1 (orange) over 0 (near white) to 1 (purple) as `#rrggbb`."""
    return _between(_ORANGE_PURPLE, (share + 1) / 2)


def readable_on(background: str) -> str:
    """Return black or white, whichever has the higher contrast on a colour: 4.5 at least on any colour."""
    return max("#000000", "#ffffff", key=lambda text: contrast(text, background))


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours, from 1 to 21 (WCAG 2.2, section 1.4.3)."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb`, from 0 to 1 (WCAG 2.2)."""
    parts = [value / 255 for value in _split(colour)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _between(anchors: Sequence[str], share: float) -> str:
    place = min(max(share, 0.0), 1.0) * (len(anchors) - 1)
    first = min(int(place), len(anchors) - 2)
    pairs = zip(_split(anchors[first]), _split(anchors[first + 1]), strict=True)
    mixed = [round(low + (high - low) * (place - first)) for low, high in pairs]
    return "#" + "".join(f"{value:02x}" for value in mixed)


def _split(colour: str) -> list[int]:
    return [int(colour[start : start + 2], 16) for start in (1, 3, 5)]

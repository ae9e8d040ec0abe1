"""Numbers that a caller chooses, checked."""

from __future__ import annotations

import math
from typing import Any


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return a whole number in a range.

    Raises:
        ValueError: it begins with the name.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name}: must be a whole number, got {value!r}")
    if value < least:
        raise ValueError(f"{name}: must be at least {least}, got {value}")
    if most is not None and value > most:
        raise ValueError(f"{name}: must be at most {most:,}, got {value}")
    return value


def number(name: str, value: Any, *, above: bool = False, most: float = math.inf) -> float:
    """Return a finite number of at least 0, or above 0, and at most `most`.

    Raises:
        ValueError: it begins with the name.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name}: must be a finite number, got {value!r}")
    if value < 0 or (above and value == 0):
        raise ValueError(f"{name}: must be {'above' if above else 'at least'} 0, got {value}")
    if value > most:
        raise ValueError(f"{name}: must be at most {most:,g}, got {value}")
    return float(value)

"""Argument checks shared by the recurrent modules: every message starts with the argument's name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def check_size(name: str, value: Any) -> int:
    """Return `value` if it is a positive int; raise TypeError or ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{name} must be positive, got {value}")
    return value


def check_probability(name: str, value: Any) -> float:
    """Return `value` as float if it lies in [0, 1]; raise ValueError that names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number between 0 and 1, got {value!r}")
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
    return float(value)


def check_flag(name: str, value: Any) -> bool:
    """Return `value` as bool; raise TypeError for anything but True and False (0 and 1 pass, as in torch)."""
    if not isinstance(value, (bool, int)) or value not in (0, 1):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return `value` if it is one of `choices`; raise ValueError that names the argument and lists them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
    return str(value)

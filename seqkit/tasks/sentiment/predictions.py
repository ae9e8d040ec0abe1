"""What the sentiment task says of a text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The classes' probabilities for a text; label and probabilities are None and empty for a blank text."""

    label: str | None
    probabilities: dict[str, float]

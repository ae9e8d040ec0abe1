"""What the records of dev.jsonl have in common, whatever the task; see `Task.dev_outputs`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LONGEST = 20_000  # characters of a text; a longer one would make the file a copy of the data


def spread_rows(rows: NDArray[np.integer[Any]], limit: int) -> NDArray[np.int64]:
    """Return at most `limit` of the rows, in their order, evenly spread from the first to the last."""
    if len(rows) > limit:
        rows = rows[np.linspace(0, len(rows) - 1, limit).astype(np.int64)]
    return rows.astype(np.int64)


def kept_text(text: str) -> str:
    """Return a text as a record keeps it, a very long one cut."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def kept_number(value: float) -> float | None:
    """Return a number as a record keeps it: six digits behind the point, None where it is not finite."""
    return round(value, 6) if math.isfinite(value) else None


def mean_probability(log_probs: Sequence[float]) -> float | None:
    """Return the geometric mean of probabilities, given by their natural logarithms; None of none."""
    return kept_number(math.exp(sum(log_probs) / len(log_probs))) if log_probs else None

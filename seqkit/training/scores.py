"""Metrics, scores that know how many examples they are of, and what a training leaves behind.

A metric is a function of what a task's model made of some data, or a class whose instances are:
`metric(outcome) -> float`. More is better, unless its attribute `higher_is_better` is false.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from seqkit.config import Named, maker
from seqkit.data.skipped import Skipped, counted_line

M = TypeVar("M", bound=Callable[..., Any])


def lower_is_better(metric: M) -> M:
    """Mark a metric of which less is better: a decorator."""
    metric.higher_is_better = False  # type: ignore[attr-defined]
    return metric


@lower_is_better
def loss(outcome: Any) -> float:
    """Return the outcome's `loss`."""
    return outcome.loss  # type: ignore[no-any-return]


@lower_is_better
def perplexity(outcome: Any) -> float:
    """Return the exponential of the loss."""
    return math.exp(min(outcome.loss, 700.0))


def more_is_better(metric: Callable[..., Any]) -> bool:
    """Return whether a higher value of a metric is the better one."""
    return bool(getattr(metric, "higher_is_better", True))


def measured(outcome: Any, metrics: Mapping[str, Callable[..., Any]], chosen: str = "loss") -> dict[str, float]:
    """Return the scores of an outcome, by name.

    Args:
        outcome: what the metrics of the task take.
        metrics: a table.
        chosen: `training.metric`; one of the user's is computed beside the table's.
    """
    scores = {}
    for name in (*metrics, *([chosen] if isinstance(chosen, Named) else [])):
        metric = maker(name, metrics)
        made = metric() if isinstance(getattr(metric, "func", metric), type) else metric
        scores[str(name)] = float(made(outcome))
    return scores


class Scores(dict[str, float]):
    """Named scores, and what they are of. Equal to a dict of the same numbers.

    Args:
        scores: by name.
        examples: how many were scored.
        skipped: lines of their file that could not be read.
        left_out: examples that were read and have no score (blank ones).
    """

    def __init__(self, scores: Mapping[str, float], examples: int, skipped: Skipped, left_out: int = 0) -> None:
        super().__init__(scores)
        self.examples, self.skipped, self.left_out = examples, skipped, left_out

    def counts(self) -> dict[str, int]:
        """Return the numbers of examples, as a report for programs has them beside the scores."""
        return {"examples": self.examples, "left_out": self.left_out, "skipped_lines": self.skipped.lines}

    def note(self) -> str:
        """Return the same for a person."""
        left_out = f"{self.left_out:,} left out" if self.left_out else ""
        return counted_line("", self.examples, "examples", left_out, self.skipped)


def counted(scores: Mapping[str, float]) -> dict[str, float]:
    """Return scores with the numbers of examples, where they are known (a task of yours may return a plain dict)."""
    return {**scores, **(scores.counts() if isinstance(scores, Scores) else {})}


@dataclass(frozen=True)
class Result:
    """What `Trainer.fit` leaves behind.

    Attributes:
        step: whose weights the model now has.
        scores: their dev scores.
        averaged: they are the mean of the best checkpoints.
        stopped: why training ended before its full length; empty where it did not.
    """

    step: int
    scores: dict[str, float]
    averaged: bool
    stopped: str = ""

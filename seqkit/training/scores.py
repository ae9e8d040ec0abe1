"""Scores that know how many examples they are of, and what a training leaves behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from seqkit.data.skipped import Skipped, counted_line


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
        """The numbers of examples, as a report for programs has them beside the scores."""
        return {"examples": self.examples, "left_out": self.left_out, "skipped_lines": self.skipped.lines}

    def note(self) -> str:
        """The same for a person."""
        left_out = f"{self.left_out:,} left out" if self.left_out else ""
        return counted_line("", self.examples, "examples", left_out, self.skipped)


def counted(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores with the numbers of examples, where they are known (a task of yours may return a plain dict)."""
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

"""Scores of a classifier, as scikit-learn has them; what is counted is what occurs, however many classes there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqkit.tasks.lines import most_wrong, table_name
from seqkit.training.scores import loss

_MATRIX = 20  # classes whose confusion matrix fits a terminal
_PAIRS = 20


class Outcome(NamedTuple):
    """What a classifier made of N examples.

    Attributes:
        labels: (N,) int64, the true classes; from `classes` on those that it does not know.
        predicted: (N,) int64, the classes that it takes them for.
        losses: (N,) float64, cross-entropies in nats; the values of unknown classes mean nothing.
        classes: how many it knows.
        names: of all classes, the unknown ones at the end.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    losses: NDArray[np.float64]
    classes: int
    names: Sequence[str] = ()

    @property
    def loss(self) -> float:
        """Mean cross-entropy (nats) of the examples whose class is known."""
        return float(self.losses[self.labels < self.classes].mean())


def accuracy(outcome: Outcome) -> float:
    """Return the share of the examples whose class is predicted."""
    return float((outcome.labels == outcome.predicted).mean())


def macro_f1(outcome: Outcome) -> float:
    """Mean F1 of the classes that occur or are predicted, as in scikit-learn."""
    right, gold, taken = _counts(outcome)
    there = gold + taken > 0
    return float((2 * right[there] / (gold + taken)[there]).mean())


METRICS = {"loss": loss, "accuracy": accuracy, "macro_f1": macro_f1}


def _counts(outcome: Outcome) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, for every class, how often it was found rightly, is there, and was found."""
    labels, found = outcome.labels, outcome.predicted
    size = max(outcome.classes, int(labels.max()) + 1)
    right, gold, taken = (np.bincount(numbers, minlength=size) for numbers in (labels[labels == found], labels, found))
    return right, gold, taken


def classification_report(outcome: Outcome, names: Sequence[str]) -> list[str]:
    """Precision, recall and F1 of every class, and the confusion matrix, as lines of text; of many classes those with
    the most mistakes, and the most frequent ones.

    Args:
        outcome: what to report.
        names: of all classes, the unknown ones at the end.
    """
    names = list(map(table_name, names))
    right, gold, taken = _counts(outcome)
    shown, more = most_wrong((gold + taken - 2 * right).tolist(), "classes")
    known = names[: outcome.classes]
    matrix = len(names) <= _MATRIX
    width = max(len(names[number]) for number in shown)
    width = max(width, len("class"))
    last = f"taken for {', '.join(known)}" if matrix else "texts  found"
    lines = [f"{'class':<{width}}  precision  recall  f1      {last}"]
    for number in shown:
        scores = right[number] / max(taken[number], 1), right[number] / max(gold[number], 1)
        f1 = 2 * right[number] / max(gold[number] + taken[number], 1)
        if matrix:
            row = np.bincount(outcome.predicted[outcome.labels == number], minlength=len(known)).tolist()
            rest = " ".join(map(str, row))
        else:
            rest = f"{gold[number]:<5}  {taken[number]}"
        lines.append(f"{names[number]:<{width}}  {scores[0]:.4f}     {scores[1]:.4f}  {f1:.4f}  {rest}")
    return [*lines, *more, *([] if matrix else _worst_pairs(outcome, names))]


def _worst_pairs(outcome: Outcome, names: Sequence[str]) -> list[str]:
    """Return the most frequent confusions; only confusions that occur take memory."""
    wrong = outcome.labels != outcome.predicted
    pairs, counts = np.unique(np.stack([outcome.labels[wrong], outcome.predicted[wrong]]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_PAIRS]
    lines = [f"{names[a]} taken for {names[b]}: {n}" for (a, b), n in zip(pairs.T[order], counts[order], strict=True)]
    left = len(counts) - len(lines)
    return lines + ([f"... and {left:,} other pairs"] if left else [])

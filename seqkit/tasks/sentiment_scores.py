"""Scores of a classifier, by torchmetrics."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def classification_scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean cross-entropy (nats), accuracy and macro-averaged F1.

    Args:
        logits: (N, C).
        labels: (N,) class numbers.
    """
    from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

    classes = logits.size(1)
    return {
        "loss": float(F.cross_entropy(logits.cpu().double(), labels.cpu())),
        "accuracy": float(multiclass_accuracy(logits, labels, classes, average="micro")),
        "macro_f1": float(multiclass_f1_score(logits, labels, classes, average="macro")),
    }


def classification_report(logits: Tensor, labels: Tensor, names: Sequence[str]) -> list[str]:
    """Precision, recall and F1 of every class, and the confusion matrix, as lines of text."""
    from torchmetrics.functional.classification import (
        multiclass_confusion_matrix,
        multiclass_f1_score,
        multiclass_precision,
        multiclass_recall,
    )

    classes = len(names)
    columns = [
        measure(logits, labels, classes, average="none").tolist()
        for measure in (multiclass_precision, multiclass_recall, multiclass_f1_score)
    ]
    matrix = multiclass_confusion_matrix(logits, labels, classes).tolist()
    width = max(len(name) for name in (*names, "class"))
    lines = [f"{'class':<{width}}  precision  recall  f1      taken for {', '.join(names)}"]
    for name, precision, recall, f1, counts in zip(names, *columns, matrix, strict=True):
        lines.append(f"{name:<{width}}  {precision:.4f}     {recall:.4f}  {f1:.4f}  {' '.join(map(str, counts))}")
    return lines

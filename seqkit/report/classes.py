"""Classifiers: confusions, calibration, and the texts that a model gets wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from seqkit.drawing import Line, count_matrix, example_list, line_chart, paragraph, section, table
from seqkit.report.section import Explainer, Record, by_length, number_of, plain_example, sample_note, share_text
from seqkit.report.stored import StoredRun, texts

_BINS = 10
_MATRIX = 20  # classes of the confusion matrix
_CLASSES = 60  # rows of the table of classes
_PAIRS = 15


@dataclass(frozen=True)
class Bin:
    """The examples whose confidence lies in an interval.

    Attributes:
        low, high: the interval.
        count: how many they are.
        confidence: their mean confidence.
        accuracy: the share of them that is right.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def reliability(confidence: Sequence[float], right: Sequence[bool], bins: int = _BINS) -> tuple[float, list[Bin]]:
    """Return the expected calibration error (Guo et al. 2017, equation 3) and the bins that it is from.

    Args:
        confidence: of each prediction, from 0 to 1.
        right: whether it is right.
        bins: intervals of equal width, each open at its lower end; the first one holds 0.
    """
    shares, good = np.asarray(confidence, float), np.asarray(right, bool)
    numbers = np.clip(np.ceil(shares * bins).astype(int) - 1, 0, bins - 1)
    found, error = [], 0.0
    for number in range(bins):
        inside = numbers == number
        if count := int(inside.sum()):
            mean, rate = float(shares[inside].mean()), float(good[inside].mean())
            found.append(Bin(number / bins, (number + 1) / bins, count, mean, rate))
            error += abs(mean - rate) * count / len(shares)
    return error, found


def class_section(run: StoredRun, size: int, explain: Explainer) -> list[str]:
    """Return the section of a classifier.

    Args:
        run: its records are in dev.jsonl.
        size: how many examples of each kind are shown.
        explain: what each opens into.
    """
    records = run.outputs
    if not texts(records, "gold", "prediction", "text"):
        return []
    parts = [section("What it gets right and wrong"), paragraph(sample_note(run.examples("dev"), len(records)))]
    return [
        *parts,
        *_confusions(records),
        *_calibration(records),
        *_lengths(records),
        *_examples(records, size, explain),
    ]


def _right(record: Record) -> bool:
    return bool(record["gold"] == record["prediction"])


def _confusions(records: Sequence[Record]) -> list[str]:
    gold, taken = Counter(one["gold"] for one in records), Counter(one["prediction"] for one in records)
    good = Counter(one["gold"] for one in records if _right(one))
    names = sorted({*gold, *taken}, key=lambda name: (good[name] * 2 - gold[name] - taken[name], name))
    shown = sorted(names[:_MATRIX])
    pairs = Counter((one["gold"], one["prediction"]) for one in records)
    counts = [[pairs[row, column] for column in shown] for row in shown]
    some = "" if len(shown) == len(names) else f" The {_MATRIX} of {len(names)} classes with the most mistakes."
    caption = (
        "Confusion matrix: a row for each true class, a column for what it is taken for. The darker, the larger the "
        f"share of the row.{some}"
    )
    parts = [count_matrix(shown, shown, counts, caption, across="true class")]
    if len(names) > 2:
        wrong = [(pair, count) for pair, count in pairs.most_common() if pair[0] != pair[1]][:_PAIRS]
        rows = [[one, other, f"{count:,}", share_text(count / gold[one])] for (one, other), count in wrong]
        if rows:
            parts.append(
                table(["true class", "taken for", "texts", "of the class"], rows, "The most frequent confusions.")
            )
    rows = []
    for name in sorted(names[:_CLASSES], key=lambda name: (-gold[name], name)):
        scores = good[name] / max(taken[name], 1), good[name] / max(gold[name], 1)
        f1 = 2 * good[name] / max(gold[name] + taken[name], 1)
        rows.append([name, *(f"{value:.3f}" for value in (*scores, f1)), f"{gold[name]:,}", f"{taken[name]:,}"])
    left = len(names) - len(rows)
    more = f" {left:,} classes with as many mistakes or fewer are left out." if left else ""
    header = ["class", "precision", "recall", "F1", "texts", "found"]
    return [*parts, table(header, rows, f"Precision, recall and F1 of each class, the most frequent first.{more}")]


def _calibration(records: Sequence[Record]) -> list[str]:
    known = [one for one in records if isinstance(one.get("confidence"), (int, float))]
    if not known:
        return []
    error, bins = reliability([one["confidence"] for one in known], [_right(one) for one in known])
    diagonal = Line("as confident as right", [0, 1], [0, 1])
    points = Line("this model", [one.confidence for one in bins], [one.accuracy for one in bins], marked=True)
    caption = (
        f"Reliability: the share of right answers among those of about one confidence. Below the line: too sure. "
        f"Expected calibration error {error:.3f} ({_BINS} bins)."
    )
    rows = [
        [f"{one.low:.1f} to {one.high:.1f}", f"{one.count:,}", f"{one.confidence:.3f}", f"{one.accuracy:.3f}"]
        for one in bins
    ]
    chart = line_chart([diagonal, points], "confidence", "share that is right", caption, y_range=(-0.03, 1.03))
    return [chart, table(["confidence", "texts", "mean confidence", "share right"], rows, "The points of the diagram.")]


def _lengths(records: Sequence[Record]) -> list[str]:
    lengths = [number_of(one, "tokens") for one in records]

    def score(rows: Sequence[int]) -> list[str]:
        return [f"{sum(_right(records[row]) for row in rows) / len(rows):.3f}"]

    rows = by_length(lengths, score)
    return [table(["tokens", "texts", "accuracy"], rows, "Accuracy by the length of the text.")] if any(lengths) else []


def _examples(records: Sequence[Record], size: int, explain: Explainer) -> list[str]:
    worst = sorted((one for one in records if not _right(one)), key=lambda one: number_of(one, "gold_probability"))
    parts = [section("The worst mistakes")]
    explain.share(2)
    shown = [
        plain_example(
            one,
            f"{one['gold']}, taken for {one['prediction']} with probability {number_of(one, 'confidence'):.3f}",
            explain,
        )
        for one in worst[:size]
    ]
    if not shown:
        parts.append(paragraph(f"There are none: all {len(records):,} answers are right."))
    else:
        note = f"The true class gets the lowest probability: the first {len(shown)} of {len(worst):,} mistakes."
        parts += [paragraph(note), example_list(shown)]
    unsure = sorted(records, key=lambda one: (_lead(one), str(one.get("place"))))[:size]
    explain.share(1)
    shown = [plain_example(one, _two_best(one), explain) for one in unsure]
    note = "The two most probable classes are closest to each other."
    return [*parts, section("The least certain answers"), paragraph(note), example_list(shown)]


def _shares(record: Record) -> list[tuple[str, float]]:
    shares = record.get("probabilities")
    known = shares.items() if isinstance(shares, dict) else ()
    return [(str(name), float(value)) for name, value in known if isinstance(value, (int, float))]


def _lead(record: Record) -> float:
    """How much more probable the best class is than the second."""
    shares = [value for _, value in _shares(record)]
    return shares[0] - shares[1] if len(shares) > 1 else number_of(record, "confidence", 1.0)


def _two_best(record: Record) -> str:
    best = ", ".join(f"{name} {value:.3f}" for name, value in _shares(record)[:2])
    return f"{best} ({'right' if _right(record) else 'the text is ' + str(record['gold'])})"

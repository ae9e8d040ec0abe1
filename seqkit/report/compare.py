"""Several runs: what differs between their configurations, and whether their scores differ by more than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from seqkit.drawing import paragraph, section, table
from seqkit.errors import UserError
from seqkit.report.section import Record
from seqkit.report.stored import StoredRun, part, texts
from seqkit.report.translation import scoring
from seqkit.tasks.slots.metrics import spans
from seqkit.tasks.translation.metrics import compare_outputs

_SAMPLES = 1000
_SEED = 1
_LEFT_OUT = ("name", "training.report")  # keys of a configuration that say nothing about what was learned


def mcnemar(first: Sequence[bool], second: Sequence[bool]) -> float:
    """Return the p-value of the exact test of McNemar (1947): do two classifiers have one error rate?

    Args:
        first, second: whether each is right on an example, on the same examples.
    """
    only = sum(one and not other for one, other in zip(first, second, strict=True))
    but = sum(other and not one for one, other in zip(first, second, strict=True))
    total, least = only + but, min(only, but)
    tail = sum(math.comb(total, count) for count in range(least + 1))
    return float(min(1.0, 2 * tail / 2**total))


def bootstrap(
    first: NDArray[np.float64], second: NDArray[np.float64], score: Callable[[NDArray[np.float64]], float]
) -> float:
    """Return the p-value of a paired bootstrap test (Berg-Kirkpatrick et al. 2012): is a difference chance?

    Args:
        first, second: (N, K) counts of each example by two systems.
        score: of the sum (K,) of some examples' counts.
    """
    difference = score(second.sum(0)) - score(first.sum(0))
    if difference == 0:
        return 1.0
    generator, hits = np.random.default_rng(_SEED), 0
    for _ in range(_SAMPLES):
        rows = generator.integers(len(first), size=len(first))
        drawn = score(second[rows].sum(0)) - score(first[rows].sum(0))
        hits += abs(drawn - difference) >= abs(difference)
    return (hits + 1) / (_SAMPLES + 1)


def comparison(runs: Sequence[StoredRun]) -> list[str]:
    """Return the sections that only a page about several runs has."""
    return [*_significance(runs), *_differences(runs)]


def _significance(runs: Sequence[StoredRun]) -> list[str]:
    first, heading = runs[0], section("Is the difference more than chance?")
    rows: list[list[str]] = []
    why, test = "", ""
    for other in runs[1:]:
        pairs = _same_examples(first, other)
        if not pairs:
            why = (
                f"{other.name} has no dev examples in common with {first.name} (`dev.jsonl`), so that no test is made."
            )
            continue
        try:
            test, found = _test(first, pairs)
        except UserError as error:
            why = f"No test is made: {error}".replace("`", "'")
            continue
        rows += [[f"{other.name}, {name}", f"{len(pairs):,}", *values] for name, *values in found]
    parts = [heading] if rows or why else []
    if rows:
        caption = f"Each run against {first.name}. {test}"
        parts.append(table(["run", "examples", first.name, "this run", "p-value"], rows, caption))
    return [*parts, *([paragraph(why)] if why else [])]


def _same_examples(first: StoredRun, other: StoredRun) -> list[tuple[Record, Record]]:
    """Return the records of both runs about the same examples."""
    if first.task != other.task:
        return []
    known = {(one.get("place"), one.get("text")): one for one in other.outputs}
    pairs = [(one, known.get((one.get("place"), one.get("text")))) for one in first.outputs]
    return [(one, two) for one, two in pairs if two is not None and one.get("gold") == two.get("gold")]


def _test(first: StoredRun, pairs: Sequence[tuple[Record, Record]]) -> tuple[str, list[list[str]]]:
    """Return what the test is called, and for each score its name, both values and the p-value."""
    sides = [[pair[0] for pair in pairs], [pair[1] for pair in pairs]]
    resampled = f"Paired bootstrap, {_SAMPLES:,} samples."
    if first.task == "translation":
        return f"Paired bootstrap resampling (Koehn 2004), {_SAMPLES:,} samples.", _bleu(first, sides)
    if all(isinstance(one.get("log_probs"), list) for side in sides for one in side):
        counts = [np.array([[-_total(one), len(str(one.get("text", ""))) + 1] for one in side]) for side in sides]
        p, bits = bootstrap(counts[0], counts[1], _bits), [_bits(count.sum(0)) for count in counts]
        return resampled, [["bits per character", *(f"{value:.4f}" for value in bits), _p_value(p)]]
    if all(isinstance(one.get("gold"), list) for side in sides for one in side):
        counts = [np.array([_span_counts(one) for one in side], float) for side in sides]
        p, f1 = bootstrap(counts[0], counts[1], _f1), [_f1(count.sum(0)) for count in counts]
        return resampled, [["span F1", *(f"{value:.4f}" for value in f1), _p_value(p)]]
    if not texts(sides[0], "gold", "prediction"):
        raise UserError("the records have no answers that can be compared")
    right = [[one.get("gold") == one.get("prediction") for one in side] for side in sides]
    shares = [f"{sum(side) / len(side):.4f}" for side in right]
    return "Exact test of McNemar.", [["accuracy", *shares, _p_value(mcnemar(right[0], right[1]))]]


def _p_value(p: float) -> str:
    return f"{p:.4f}" if p >= 1e-4 else "below 0.0001"


def _total(record: Record) -> float:
    return math.fsum(value for value in record["log_probs"] if isinstance(value, (int, float)))


def _bits(counts: NDArray[np.float64]) -> float:
    return float(counts[0] / math.log(2) / counts[1])


def _span_counts(record: Record) -> tuple[int, int, int]:
    gold, found = set(spans(record["gold"])), set(spans(record["prediction"]))
    return len(gold & found), len(gold), len(found)


def _f1(counts: NDArray[np.float64]) -> float:
    return float(2 * counts[0] / max(counts[1] + counts[2], 1))


def _bleu(run: StoredRun, sides: Sequence[Sequence[Record]]) -> list[list[str]]:
    systems = {str(number): [str(one["prediction"]) for one in side] for number, side in enumerate(sides)}
    references = [str(one["gold"]) for one in sides[0]]
    lowercase, tokenize = scoring(run, references)
    found = compare_outputs(systems, references, lowercase=lowercase, tokenize=tokenize)
    rows, name, values = [], "", list[str]()
    for line in found:  # a line for each score, and below it one for each system
        if not line.startswith(" "):
            name, values = line.split()[0], []
            continue
        values.append(line.split()[1])
        if "p = " in line:
            rows.append([name, *values, line.rpartition("p = ")[2]])
    return rows


def _differences(runs: Sequence[StoredRun]) -> list[str]:
    flat = [_flat(part(run.about, "config")) for run in runs]
    keys = sorted({key for one in flat for key in one})
    rows = []
    for key in keys:
        values = [one.get(key, "–") for one in flat]
        if len(set(values)) > 1 and key not in _LEFT_OUT:
            rows.append([key, *values])
    parts = [section("What differs")]
    if not rows:
        return [*parts, paragraph("The configurations are the same, but for their names.")]
    return [*parts, table(["key", *(run.name for run in runs)], rows, "Keys of the configuration that differ.")]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = f"{value:.12g}" if isinstance(value, float) else str(value)
    return found

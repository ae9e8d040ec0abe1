"""Scores of slots and intents, as conlleval computes them (Tjong Kim Sang & Buchholz 2000)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from seqkit.tasks.lines import most_wrong, table_name
from seqkit.training.scores import loss


class Span(NamedTuple):
    """A slot: its type, its first token and the token behind its last."""

    type: str
    start: int
    end: int


def spans(tags: Sequence[str]) -> list[Span]:
    """Return the slots in a sentence's tags, in order; an I-x that follows neither B-x nor I-x begins one, as in
    conlleval."""
    found: list[Span] = []
    last = "O"
    for place, tag in enumerate(tags):
        if tag != "O":
            if tag.startswith("I-") and last != "O" and last[2:] == tag[2:]:
                found[-1] = found[-1]._replace(end=place + 1)
            else:
                found.append(Span(tag[2:], place, place + 1))
        last = tag
    return found


class SpanCounts:
    """Slots counted by type: how many there are, were found, and were found rightly: with type, start and end."""

    def __init__(self) -> None:
        self.gold: Counter[str] = Counter()
        self.found: Counter[str] = Counter()
        self.right: Counter[str] = Counter()

    def add(self, gold: Sequence[str], found: Sequence[str]) -> None:
        """Count a sentence, by its true tags and those that were found."""
        here, there = set(spans(gold)), set(spans(found))
        self.gold.update(span.type for span in here)
        self.found.update(span.type for span in there)
        self.right.update(span.type for span in here & there)

    def scores(self, type: str | None = None) -> tuple[float, float, float]:
        """Return precision, recall and F1 of a type, or of all slots; 0 where there is nothing to divide by."""
        right, found, gold = (
            count.total() if type is None else count[type] for count in (self.right, self.found, self.gold)
        )
        return right / max(found, 1), right / max(gold, 1), 2 * right / max(found + gold, 1)

    def report(self) -> list[str]:
        """Return a line for each type; of very many types those with the most mistakes."""
        types = sorted({*self.gold, *self.found})
        chosen, more = most_wrong(
            [self.gold[name] + self.found[name] - 2 * self.right[name] for name in types], "types"
        )
        width = max([len("type"), *(len(table_name(types[number])) for number in chosen)])
        lines = [f"{'type':<{width}}  precision  recall  f1      slots  found"]
        for name in [types[number] for number in chosen]:
            scores = "{:.4f}     {:.4f}  {:.4f}".format(*self.scores(name))
            lines.append(f"{table_name(name):<{width}}  {scores}  {self.gold[name]:<5}  {self.found[name]}")
        return [*lines, *more]


@dataclass(frozen=True)
class Outcome:
    """What a tagger made of N sentences.

    Attributes:
        tags, predicted_tags: the names of the tags of each.
        intents, predicted_intents: the name of the intent of each; "" where none is learned.
        loss: as in training: the tags' cross-entropy per token plus the weighted one of the intents per sentence.
    """

    tags: Sequence[Sequence[str]]
    predicted_tags: Sequence[Sequence[str]]
    intents: Sequence[str]
    predicted_intents: Sequence[str]
    loss: float

    @cached_property
    def counts(self) -> SpanCounts:
        """Return its slots, counted by type."""
        counts = SpanCounts()
        for tags, predicted in zip(self.tags, self.predicted_tags, strict=True):
            counts.add(tags, predicted)
        return counts


def span_precision(outcome: Outcome) -> float:
    """Return the share of the predicted slots that are right."""
    return outcome.counts.scores()[0]


def span_recall(outcome: Outcome) -> float:
    """Return the share of the slots that are predicted."""
    return outcome.counts.scores()[1]


def span_f1(outcome: Outcome) -> float:
    """Return the harmonic mean of precision and recall."""
    return outcome.counts.scores()[2]


def sentence_accuracy(outcome: Outcome) -> float:
    """Return the share of the sentences with all tags right, and the intent, where there is one."""
    wanted = zip(outcome.tags, outcome.intents, strict=True)
    return _share(wanted, zip(outcome.predicted_tags, outcome.predicted_intents, strict=True))


def intent_accuracy(outcome: Outcome) -> float:
    """Return the share of the sentences whose intent is predicted."""
    return _share(outcome.intents, outcome.predicted_intents)


def _share(wanted: Iterable[object], predicted: Iterable[object]) -> float:
    right = [one == other for one, other in zip(wanted, predicted, strict=True)]
    return sum(right) / len(right)


METRICS = {
    "loss": loss,
    "span_precision": span_precision,
    "span_recall": span_recall,
    "span_f1": span_f1,
    "sentence_accuracy": sentence_accuracy,
    "intent_accuracy": intent_accuracy,
}

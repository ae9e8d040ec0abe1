"""Slot filling: scores by type, spans that are taken for others, and the worst sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from seqkit.drawing import Example, Piece, example_list, paragraph, section, table
from seqkit.report.section import Explainer, Record, by_length, number_of, sample_note, share_text
from seqkit.report.stored import StoredRun
from seqkit.tasks.slots.metrics import Span, SpanCounts, spans

_TYPES = 60
_PAIRS = 15
NOTHING = "(nothing)"


def slots_section(run: StoredRun, size: int, explain: Explainer) -> list[str]:
    """Return the section of a tagger.

    Args:
        run: its records are in dev.jsonl.
        size: how many sentences are shown.
        explain: what each opens into.
    """
    records = [one for one in run.outputs if _is_whole(one)]
    if not records:
        return []
    counts = SpanCounts()
    for one in records:
        counts.add(one["gold"], one["prediction"])
    parts = [section("What it gets right and wrong"), paragraph(sample_note(run.examples("dev"), len(records)))]
    return [
        *parts,
        *_types(counts),
        *_pairs(records),
        *_intents(records),
        *_lengths(records),
        *_examples(records, size, explain),
    ]


def _is_whole(record: Record) -> bool:
    lists = [record.get(key) for key in ("tokens", "gold", "prediction")]
    same = all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists)
    return same and len({len(one) for one in lists if one is not None}) == 1


def _types(counts: SpanCounts) -> list[str]:
    names = sorted({*counts.gold, *counts.found}, key=lambda name: (-counts.gold[name], name))
    rows = [
        [name, *(f"{value:.3f}" for value in counts.scores(name)), f"{counts.gold[name]:,}", f"{counts.found[name]:,}"]
        for name in names[:_TYPES]
    ]
    if not rows:
        return [paragraph("There are no slots in these sentences, and none was found.")]
    left = len(names) - len(rows)
    more = f" {left:,} rarer types are left out." if left else ""
    header = ["type", "precision", "recall", "F1", "slots", "found"]
    return [table(header, rows, f"Slots by type: right is what has the right type, first and last token.{more}")]


def confusions(gold: Sequence[str], found: Sequence[str]) -> list[tuple[str, str]]:
    """Return the mistakes in a sentence: the type of each true span that was missed with the type of the found one that
    overlaps it most, and each span that was found where there is none.

    Args:
        gold, found: tags.
    """
    true, taken = spans(gold), spans(found)
    missed, extra = [one for one in true if one not in taken], [one for one in taken if one not in true]
    pairs, used = [], set[Span]()
    for one in missed:
        near = max(extra, key=lambda other: _overlap(one, other), default=None)
        if near is None or not _overlap(one, near):
            pairs.append((one.type, NOTHING))
            continue
        used.add(near)
        pairs.append((one.type, near.type if near.type != one.type else f"{near.type}, other tokens"))
    return pairs + [(NOTHING, one.type) for one in extra if one not in used]


def _overlap(one: Span, other: Span) -> int:
    return max(0, min(one.end, other.end) - max(one.start, other.start))


def _pairs(records: Sequence[Record]) -> list[str]:
    counts = Counter(pair for one in records for pair in confusions(one["gold"], one["prediction"]))
    rows = [[one, other, f"{count:,}"] for (one, other), count in counts.most_common(_PAIRS)]
    return [table(["true slot", "taken for", "times"], rows, "The most frequent confusions of slots.")] if rows else []


def _intents(records: Sequence[Record]) -> list[str]:
    known = [one for one in records if "intent" in one and "gold_intent" in one]
    wrong = Counter(
        (str(one["gold_intent"]), str(one["intent"])) for one in known if one["intent"] != one["gold_intent"]
    )
    if not known:
        return []
    right = 1 - wrong.total() / len(known)
    rows = [[one, other, f"{count:,}"] for (one, other), count in wrong.most_common(_PAIRS)]
    note = paragraph(f"The intent is right in {share_text(right)} of the sentences.")
    return [note, *([table(["true intent", "taken for", "times"], rows, "Confusions of intents.")] if rows else [])]


def _lengths(records: Sequence[Record]) -> list[str]:
    def score(rows: Sequence[int]) -> list[str]:
        counts = SpanCounts()
        for row in rows:
            counts.add(records[row]["gold"], records[row]["prediction"])
        exact = sum(records[row]["gold"] == records[row]["prediction"] for row in rows) / len(rows)
        return [f"{counts.scores()[2]:.3f}", f"{exact:.3f}"]

    rows = by_length([len(one["tokens"]) for one in records], score)
    header = ["tokens", "sentences", "span F1", "all tags right"]
    return [table(header, rows, "Scores by the length of the sentence.")]


def _examples(records: Sequence[Record], size: int, explain: Explainer) -> list[str]:
    wrong = [one for one in records if _mistakes(one)]
    worst = sorted(wrong, key=lambda one: (-_mistakes(one), -number_of(one, "confidence")))[:size]
    parts = [section("The worst sentences")]
    explain.share(2)
    if worst:
        note = (
            f"The sentences with the most wrong slots: {len(worst)} of {len(wrong):,} with a mistake. Slots that the "
            "other tagging lacks have a thick frame."
        )
        parts += [paragraph(note), example_list([_example(one, explain) for one in worst])]
    else:
        parts.append(paragraph(f"There are none: all {len(records):,} sentences are right."))
    known = [one for one in records if isinstance(one.get("confidence"), (int, float))]
    unsure = sorted(known, key=lambda one: (number_of(one, "confidence"), str(one.get("place"))))[:size]
    explain.share(1)
    if unsure:
        note = "The tagging as a whole has the lowest probability."
        items = [_example(one, explain, f"confidence {number_of(one, 'confidence'):.3f}") for one in unsure]
        parts += [section("The least certain sentences"), paragraph(note), example_list(items)]
    return parts


def _example(record: Record, explain: Explainer, about: str = "") -> Example:
    """Return a sentence with both taggings; only one where they are the same."""
    tokens, gold, found = record["tokens"], record["gold"], record["prediction"]
    lines = [("true", tagged(tokens, gold, found, "missed")), ("found", tagged(tokens, found, gold))]
    if gold == found:
        lines = [("true and found", tagged(tokens, gold, found))]
    count, titles = _wrong_slots(record), [about] if about else []
    if count:
        titles.append(f"{count} slot{'' if count == 1 else 's'} wrong or missed")
    if record.get("intent") != record.get("gold_intent"):
        titles.append(f"intent {record.get('gold_intent')}, taken for {record.get('intent')}")
    return Example("; ".join(titles), str(record.get("place", "")), lines, explain(str(record.get("text", ""))))


def _wrong_slots(record: Record) -> int:
    return len(confusions(record["gold"], record["prediction"]))


def _mistakes(record: Record) -> int:
    intent = record.get("intent") != record.get("gold_intent")
    return _wrong_slots(record) + intent


def tagged(tokens: Sequence[str], tags: Sequence[str], other: Sequence[str], mark: str = "wrong") -> list[Piece]:
    """Return a sentence with its slots; those that another tagging of it lacks are marked, and called `mark`."""
    there, shown, place = set(spans(other)), list[Piece](), 0
    for span in spans(tags):
        shown += [Piece(token) for token in tokens[place : span.start]]
        shown.append(Piece(" ".join(tokens[span.start : span.end]), span not in there, span.type, mark=mark))
        place = span.end
    return [*shown, *(Piece(token) for token in tokens[place:])]

"""Bottleneck: a decoder that gets the sentence as one vector, and one that looks at the words by attention."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from seqkit.drawing import Line
from seqkit.errors import Option, UserError
from seqkit.files import to_json, write_text
from seqkit.lessons.base import Block, Chart, Heading, Table, Text
from seqkit.lessons.trained import opened, trained, training
from seqkit.tasks.translation.metrics import CorpusScores

WORDS = {
    "dog": "Hund", "house": "Haus", "tree": "Baum", "car": "Auto", "book": "Buch", "bread": "Brot", "water": "Wasser",
    "child": "Kind", "street": "Straße", "window": "Fenster", "garden": "Garten", "ship": "Schiff", "cheese": "Käse",
    "spoon": "Löffel", "clock": "Uhr", "letter": "Brief", "mountain": "Berg", "river": "Fluss", "bird": "Vogel",
    "chair": "Stuhl", "night": "Nacht", "key": "Schlüssel", "hat": "Hut", "bridge": "Brücke",
}  # fmt: skip
SHORTEST, LONGEST = 4, 16
DECODERS: dict[str, dict[str, Any]] = {
    "fixed vector": {"attention": "none", "feed_context": True},
    "attention": {"attention": "general"},
}


class Length(NamedTuple):
    """How a model does on the sentences of some lengths.

    Attributes:
        low, high: tokens of the source, both included.
        sentences: how many there are.
        score: BLEU, or without sacreBLEU the percentage of sentences that are exactly the reference.
    """

    low: int
    high: int
    sentences: int
    score: float


def write_pairs(to: Path, count: int, seed: int) -> None:
    """Write pairs of lists of words: English, and German word for word."""
    generator = random.Random(seed)
    lines = []
    for _ in range(count):
        words = generator.choices(list(WORDS), k=generator.randint(SHORTEST, LONGEST))
        lines.append(to_json({"source": " ".join(words), "target": " ".join(WORDS[word] for word in words)}))
    write_text(to, "".join(line.strip() + "\n" for line in lines))


def configuration(folder: Path, decoder: Mapping[str, Any], *, epochs: int = 6) -> dict[str, Any]:
    """Return the configuration of a model on the pairs in a folder."""
    size = 64
    return {
        "task": "translation",
        "data": {part: {"path": str(folder / f"{part}.jsonl")} for part in ("train", "dev", "test")},
        "text": {"split": "spaces"},
        "model": {
            "source": {"size": 32},
            "target": {"size": 32},
            "encoder": {"cell": "lstm", "hidden_size": size, "bidirectional": True},
            "decoder": {"cell": "lstm", "hidden_size": size, **decoder},
        },
        "training": training(epochs, 6e-3, metric="loss", dev_limit=0, samples=0),
    }


def metric(translator: Any, references: Sequence[str]) -> tuple[str, Callable[[list[str], list[str]], float]]:
    """Return the name of the score and a function of outputs and references: BLEU where sacreBLEU is installed."""
    if find_spec("sacrebleu") is None:
        return "exact match (%)", lambda outputs, wanted: 100 * sum(map(str.__eq__, outputs, wanted)) / len(wanted)
    corpus = CorpusScores(lowercase=translator.lowercase, tokenize=translator.tokenize(references))
    return "BLEU", lambda outputs, wanted: corpus(outputs, wanted)["bleu"]


@torch.no_grad()
def by_length(translator: Any, groups: int = 6) -> tuple[str, list[Length]]:
    """Translate a run's test data (or else dev), and score groups of sentences of about the same length.

    Args:
        translator: the run.
        groups: how many, with about as many sentences each.

    Returns:
        the name of the score, and the groups, the shortest first.
    """
    pairs = translator.open(*translator.where())
    references, lengths = pairs.texts("target"), [int(length) for length in pairs.source_lengths]
    outputs = translator.outputs(pairs, translator.translator)
    name, score = metric(translator, references)
    ordered, found, low = sorted(lengths), [], min(lengths)
    for group in range(1, groups + 1):
        high = ordered[max(len(ordered) * group // groups - 1, 0)]
        rows = [row for row, length in enumerate(lengths) if low <= length <= high]
        if rows:
            value = score([outputs[row] for row in rows], [references[row] for row in rows])
            found.append(Length(low, high, len(rows), value))
            low = high + 1
    return name, found


def blocks(runs: Sequence[Path] = (), *, trust: bool = False) -> list[Block]:
    """Compute the lesson, with models that it trains or with runs that have the same test data."""
    if runs:
        translators = opened(runs, "translation", trust)
        first = next(iter(translators.values())).where()
        for run, translator in zip(runs, translators.values(), strict=True):
            if translator.where() != first:
                raise UserError(Option("run", str(run)), f": is tested on other data than {runs[0]}")
        return _lesson({name: by_length(one) for name, one in translators.items()}, [])
    return _lesson(measure(), _own_models())


def measure(pairs: int = 8000, tested: int = 600, epochs: int = 6) -> dict[str, tuple[str, list[Length]]]:
    """Train both models on pairs made for this lesson, and return the scores of each by length."""
    with TemporaryDirectory(prefix="seqkit-lesson-") as name:
        folder = Path(name)
        for seed, (part, count) in enumerate({"train": pairs, "dev": 100, "test": tested}.items(), 1):
            write_pairs(folder / f"{part}.jsonl", count, seed)
        wanted = {name: configuration(folder, decoder, epochs=epochs) for name, decoder in DECODERS.items()}
        with trained(wanted) as translators:
            return {name: by_length(translator) for name, translator in translators.items()}


def _own_models() -> list[Block]:
    shown = ", ".join(f"{english} {german}" for english, german in list(WORDS.items())[:3])
    return [
        Text(
            f"The language of this lesson is the simplest there is: lists of {SHORTEST} to {LONGEST} words, translated "
            f"word for word ({shown}, and {len(WORDS) - 3} more). Nothing has to be learned but the words and their "
            "order, so that what goes wrong is a matter of memory. Two models were trained just now on 8,000 pairs; "
            "their encoders are the same, LSTMs that read both ways."
        )
    ]


def _lesson(measured: Mapping[str, tuple[str, list[Length]]], own: list[Block]) -> list[Block]:
    score, groups = next(iter(measured.values()))
    scores = zip(*([f"{group.score:.1f}" for group in found] for _, found in measured.values()), strict=True)
    rows = [
        (f"{group.low} to {group.high}" if group.low < group.high else str(group.low), str(group.sentences), *values)
        for group, values in zip(groups, scores, strict=True)
    ]
    lines = [
        Line(name, [(one.low + one.high) / 2 for one in found], [one.score for one in found])
        for name, (_, found) in measured.items()
    ]
    return [
        Text(
            "An encoder-decoder reads a sentence with one recurrent network and writes its translation with another. "
            "In its first form, all that the decoder gets is one vector, the encoder's last state: a sentence of 30 "
            "words has to pass through the same vector as one of 3. With attention the decoder looks back at every "
            "word of the source, at each step at those that it needs."
        ),
        *own,
        Heading(f"{score} by length"),
        Chart(
            lines,
            "words of the source",
            score,
            f"{score} of sentences of about the same length; 100 is the reference itself.",
            y_range=(0, 105),
        ),
        Table(("words", "sentences", *measured), rows, f"{score} on test sentences by the length of the source."),
        *_conclusion(measured),
    ]


def _conclusion(measured: Mapping[str, tuple[str, list[Length]]]) -> list[Block]:
    falls = [
        f"{name}: from {found[0].score:.1f} to {found[-1].score:.1f}" for name, (_, found) in measured.items() if found
    ]
    return [
        Heading("What to remember"),
        Text(
            f"From the shortest sentences to the longest ones: {'; '.join(falls)}. A vector of a fixed size can only "
            "hold so many words. Attention takes the sentence out of the vector: the state then only has to know where "
            "to look. See `model.decoder.attention` in a configuration."
        ),
    ]

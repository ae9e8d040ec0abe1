"""Translation: scores with their signatures, and outputs beside the references."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np

from seqkit.drawing import Example, Piece, example_list, paragraph, section, table
from seqkit.errors import UserError, require
from seqkit.report.section import Explainer, Record, by_length, number_of, sample_note, shown_text
from seqkit.report.stored import StoredRun, part, texts
from seqkit.tasks.translation.bleu_tokenizer import settled
from seqkit.tasks.translation.metrics import CorpusScores

# Scripts that put no spaces between words: characters are compared instead.
_NO_SPACES = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff]")


def translation_section(run: StoredRun, size: int, explain: Explainer) -> list[str]:
    """Return the section of a translation run.

    Args:
        run: its records are in dev.jsonl.
        size: how many sentences of each kind are shown.
        explain: what each opens into.

    Raises:
        UserError: sacreBLEU is not installed.
    """
    records = run.outputs
    if not texts(records, "text", "gold", "prediction"):
        return []
    outputs, references = [one["prediction"] for one in records], [one["gold"] for one in records]
    lowercase, tokenize = scoring(run, references)
    corpus = CorpusScores(lowercase=lowercase, tokenize=tokenize)
    _, lines = corpus.report(outputs, references)
    beam = run.training.get("dev_beam_size", 1)
    how = f"decoded with beam {beam}" if beam != 1 else "decoded greedily"
    note = f"{sample_note(run.examples('dev'), len(records))} They were {how} (`training.dev_beam_size`)."
    parts = [section("Translations"), paragraph(note), *(paragraph(f"`{line}`") for line in lines)]
    scores = _sentence_scores(outputs, references, lowercase)
    parts += [*_lengths(records, corpus, scores), *_copies(records)]
    return [*parts, *_examples(records, scores, size, explain)]


def scoring(run: StoredRun, references: Sequence[str]) -> tuple[bool, str]:
    """Return whether a run's scores compare without case, and the tokenizer of its BLEU, as the task itself scores."""
    config = part(run.about, "config")
    chosen = part(config, "scoring")
    lowercase = chosen.get("lowercase")
    if lowercase is None:
        lowercase = part(part(config, "text"), "target").get("lowercase")
    return bool(lowercase), settled(str(chosen.get("tokenize") or "13a"), references)[0]


def _sentence_scores(outputs: Sequence[str], references: Sequence[str], lowercase: bool) -> list[float]:
    """Return the chrF of each sentence; unlike BLEU it says something about a single one."""
    metric: Any = require("sacrebleu.metrics", "translation").CHRF(lowercase=lowercase)
    return [
        float(metric.sentence_score(output, [reference]).score)
        for output, reference in zip(outputs, references, strict=True)
    ]


def _lengths(records: Sequence[Record], corpus: CorpusScores, scores: Sequence[float]) -> list[str]:
    def score(rows: Sequence[int]) -> list[str]:
        outputs, references = ([str(records[row][key]) for row in rows] for key in ("prediction", "gold"))
        bleu, chrf = corpus.bleu(outputs, references), sum(scores[row] for row in rows) / len(rows)
        ratio = sum(map(len, outputs)) / max(sum(map(len, references)), 1)
        return [f"{bleu:.1f}", f"{chrf:.1f}", f"{ratio:.2f}"]

    rows = by_length([number_of(one, "tokens") for one in records], score)
    header = ["tokens of the source", "sentences", "BLEU", "mean chrF", "length ratio"]
    caption = (
        "Scores by the length of the source. Mean chrF: of the sentences' own scores. Length ratio: characters of the "
        "outputs to those of the references."
    )
    return [table(header, rows, caption)]


def _copies(records: Sequence[Record]) -> list[str]:
    exact = sum(one["prediction"] == one["gold"] for one in records)
    blank = sum(not one["prediction"].strip() for one in records)
    same = sum(one["prediction"] == one["text"] for one in records)
    text = f"{exact:,} of {len(records):,} outputs equal their reference"
    text += f", {blank:,} are empty" if blank else ""
    text += f", {same:,} repeat the source" if same else ""
    return [paragraph(f"{text}.")]


def _examples(records: Sequence[Record], scores: Sequence[float], size: int, explain: Explainer) -> list[str]:
    order = np.argsort(scores, kind="stable").tolist()
    middle = max((len(order) - size) // 2, 0)
    kinds = {
        "The worst translations": order[:size],
        "Typical translations": order[middle : middle + size],
        "The best translations": order[::-1][:size],
    }
    parts: list[str] = []
    seen: set[int] = set()
    for number, (heading, rows) in enumerate(kinds.items()):
        explain.share(len(kinds) - number)
        shown = [row for row in rows if row not in seen]
        seen.update(shown)
        if shown:
            items = [_example(records[row], scores[row], explain) for row in shown]
            note = "By chrF. Words that differ from the other line are marked."
            parts += [section(heading), paragraph(note), example_list(items)]
    return parts


def _example(record: Record, score: float, explain: Explainer) -> Example:
    reference, output = marked(shown_text(record["gold"]), shown_text(record["prediction"]))
    lines = [
        ("source", [Piece(shown_text(record["text"]))]),
        ("reference", reference),
        ("output", output or [Piece("(empty)")]),
    ]
    sure = f", mean probability of a token {number_of(record, 'confidence'):.2f}" if record.get("confidence") else ""
    return Example(f"chrF {score:.1f}{sure}", str(record.get("place", "")), lines, explain(record["text"]))


def marked(one: str, other: str) -> tuple[list[Piece], list[Piece]]:
    """Return two texts in which the words are marked that the other one lacks, by the longest common parts (difflib);
    characters where the script has no spaces."""
    whole = _NO_SPACES.search(one + other) is not None
    parts = [re.findall(r"." if whole else r"\S+", text, re.S) for text in (one, other)]
    sides: tuple[list[Piece], list[Piece]] = ([], [])
    joint = "" if whole else " "
    for kind, a, b, c, d in SequenceMatcher(a=parts[0], b=parts[1], autojunk=False).get_opcodes():
        for side, words in zip(sides, (parts[0][a:b], parts[1][c:d]), strict=True):
            if words:
                side.append(Piece(joint.join(words), kind != "equal", joined=whole))
    return sides


def search_section(task: Any, records: Sequence[Record], size: int = 5) -> list[str]:
    """Return what the beam and the length penalty do to some sentences: the model decodes them in several ways.

    Args:
        task: the run's model.
        records: of the sentences.
        size: how many of them.
    """
    chosen = sorted(records, key=lambda one: number_of(one, "confidence"))[:size]
    ways: dict[str, dict[str, Any]] = {
        "greedy": {"beam_size": 1},
        "beam 5": {"beam_size": 5},
        "beam 5, length_penalty 1": {"beam_size": 5, "length_penalty": 1.0},
    }
    sources, found = [str(one["text"]) for one in chosen], {}
    try:
        for name, options in ways.items():
            task.adjust(**options)
            found[name] = [one.text for one in task.predict(sources)]
    except UserError as error:
        return [section("What the search does"), paragraph(f"Left out: {error}".replace("`", "'"))]
    rows = [[name, f"{sum(map(len, outputs)) / max(len(outputs), 1):.1f}"] for name, outputs in found.items()]
    items = []
    for number, one in enumerate(chosen):
        lines = [("source", [Piece(shown_text(one["text"]))]), ("reference", [Piece(shown_text(one["gold"]))])]
        lines += [
            (name, marked(shown_text(one["gold"]), shown_text(outputs[number]))[1]) for name, outputs in found.items()
        ]
        items.append(Example("", str(one.get("place", "")), lines))
    note = "The least certain sentences, decoded in three ways; words that the reference lacks are marked."
    lengths = table(["search", "mean characters"], rows, "Length of these outputs.")
    return [section("What the search does"), paragraph(note), lengths, example_list(items)]

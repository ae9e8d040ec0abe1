"""Language models: what they find surprising, and what they write."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from seqkit.drawing import Example, Line, Piece, example_list, line_chart, paragraph, section, table
from seqkit.report.section import Explainer, Record, number_of, sample_note, share_text
from seqkit.report.stored import StoredRun

_BANDS = (0, 1, 10, 100, 1_000, 10_000, 100_000)
_PLACES = 40  # of a line, by which perplexity is drawn
_LONGEST = 120  # tokens of a passage
_MOST = 12.0  # bits of the darkest colour


def language_model_section(run: StoredRun, size: int, explain: Explainer) -> list[str]:
    """Return the section of a language model.

    Args:
        run: its records are in dev.jsonl.
        size: how many passages are shown.
        explain: what each opens into.
    """
    records = [one for one in run.outputs if _is_whole(one)]
    if not records:
        return []
    note = f"{sample_note(run.examples('dev'), len(records))} Each line is read alone, after a line end."
    parts = [section("What it expects"), paragraph(note.replace("examples", "lines"))]
    return [*parts, *_bands(records), *_places(records), *_surprising(records, size, explain)]


def _is_whole(record: Record) -> bool:
    tokens, log_probs = record.get("tokens"), record.get("log_probs")
    whole = isinstance(tokens, list) and isinstance(log_probs, list) and len(log_probs) == len(tokens) + 1
    return whole and all(isinstance(value, (int, float)) for value in log_probs or ())


def perplexity(log_probs: Sequence[float]) -> float:
    """Return the perplexity of tokens by the natural logarithms of their probabilities."""
    return math.exp(min(-math.fsum(log_probs) / len(log_probs), 700.0))


def _bands(records: Sequence[Record]) -> list[str]:
    bands: list[list[float]] = [[] for _ in _BANDS]
    for one in records:
        counts = one.get("counts")
        if not isinstance(counts, list) or len(counts) != len(one["log_probs"]):
            return []
        for count, value in zip(counts, one["log_probs"], strict=True):
            bands[max(place for place, low in enumerate(_BANDS) if count >= low)].append(value)
    total = sum(map(len, bands))
    rows = []
    for number, values in enumerate(bands):
        if values:
            high = _BANDS[number + 1] - 1 if number + 1 < len(_BANDS) else None
            low = _BANDS[number]
            span = "never" if high == 0 else f"{low:,} to {high:,}" if high else f"{low:,} or more"
            bits = -math.fsum(values) / len(values) / math.log(2)
            rows.append(
                [span, f"{len(values):,}", share_text(len(values) / total), f"{perplexity(values):,.1f}", f"{bits:.2f}"]
            )
    caption = "Perplexity by how often a token stands in the training data; line ends are tokens."
    return [table(["times in training", "tokens", "of all", "perplexity", "bits a token"], rows, caption)]


def _places(records: Sequence[Record]) -> list[str]:
    places = [[one["log_probs"][place] for one in records if place < len(one["log_probs"])] for place in range(_PLACES)]
    kept = [(place + 1, perplexity(values)) for place, values in enumerate(places) if len(values) >= 5]
    if len(kept) < 2:
        return []
    line = Line("perplexity", [place for place, _ in kept], [value for _, value in kept])
    caption = f"Perplexity by the place in the line, over the lines that are so long; the first {len(kept)} tokens."
    return [line_chart([line], "token of the line", "perplexity", caption, log=True)]


def surprisal_pieces(tokens: Sequence[str], log_probs: Sequence[float]) -> list[Piece]:
    """Return tokens coloured by how surprising each is, from pale (0 bits) to dark (12 bits and more)."""
    shown = []
    for token, value in zip(tokens, log_probs, strict=True):
        bits = -value / math.log(2)
        word = token.removeprefix("▁").removeprefix("￭")
        shown.append(Piece(word or "␣", shade=min(bits / _MOST, 1.0), hover=f"{bits:.1f} bits"))
    return shown


def _surprising(records: Sequence[Record], size: int, explain: Explainer) -> list[str]:
    long_enough = [one for one in records if len(one["log_probs"]) > 3] or list(records)
    worst = sorted(long_enough, key=lambda one: number_of(one, "confidence"))[:size]
    items = []
    for one in worst:
        tokens, log_probs = one["tokens"][:_LONGEST], one["log_probs"]
        pieces = surprisal_pieces(
            [*tokens, "⏎"] if len(tokens) < _LONGEST else tokens, log_probs[: len(tokens) + (len(tokens) < _LONGEST)]
        )
        title = f"perplexity {perplexity(log_probs):,.1f}"
        items.append(Example(title, str(one.get("place", "")), [("", pieces)], explain(str(one.get("text", "")))))
    note = f"The darker a token, the more surprising: from 0 bits to {_MOST:.0f} and more. ⏎ is the end of the line."
    return [section("The most surprising passages"), paragraph(note), example_list(items)]


def sample_section(task: Any, size: int = 8) -> list[str]:
    """Return lines that the model writes by itself.

    Args:
        task: the run's model.
        size: how many.
    """
    items = []
    for temperature in (0.7, 1.0):
        task.adjust(sample=True, temperature=temperature, max_length=60)
        lines = task.predict([""] * (size // 2))
        shown = [("", [Piece(one.text or "(an empty line)")]) for one in lines]
        items.append(Example(f"temperature {temperature}", "", shown))
    task.adjust()
    note = "Lines that the model writes from nothing, drawn at random with the run's seed."
    return [section("Samples"), paragraph(note), example_list(items)]

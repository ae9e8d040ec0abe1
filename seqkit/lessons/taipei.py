"""Taipei: the same word is a destination or an origin, and only what stands around it tells which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from seqkit.data.builtin import rows
from seqkit.errors import Option, UserError
from seqkit.lessons.base import Block, Heading, HeatMap, Table, Text
from seqkit.lessons.trained import opened, trained, training
from seqkit.tasks.slots.metrics import SpanCounts

CITY = "Taipei"
SENTENCES = (
    "I want to arrive at Taipei .",
    "I want to leave Taipei .",
    "Taipei is the city I want to reach .",
    "Taipei is the city I want to leave .",
)
ENCODERS: dict[str, tuple[dict[str, Any], float]] = {
    "feed-forward": ({"window": 1, "hidden_size": 64}, 5e-3),
    "RNN": ({"cell": "rnn", "hidden_size": 64, "init": "orthogonal"}, 2e-3),
    "LSTM": ({"cell": "lstm", "hidden_size": 64}, 5e-3),
    "two-way LSTM": ({"cell": "lstm", "hidden_size": 64, "bidirectional": True}, 5e-3),
}
"""The taggers: the encoder of each, and its learning rate."""
SLOTS = ("origin", "destination", "depart_date", "arrive_date", "airline")
SHORT = {"destination": "to", "origin": "from"}
ALL = "all slots"
TESTED = 500


def configuration(encoder: Mapping[str, Any], rate: float, *, sentences: int = 6000, epochs: int = 8) -> dict[str, Any]:
    """Return the configuration of a tagger."""
    return {
        "task": "slots",
        "data": {
            "train": {"path": "builtin:travel", "limit": sentences},
            "dev": {"path": "builtin:travel", "limit": 200},
            "batch_size": 32,
        },
        "model": {"embedding": {"size": 32}, "encoder": dict(encoder), "output": "softmax", "dropout": 0.1},
        "training": training(epochs, rate),
    }


def scores(tagger: Any, examples: int = TESTED) -> dict[str, float]:
    """Return the F1 of all slots and of each kind of slot, on test sentences that no tagger has seen."""
    counts = SpanCounts()
    gold = list(islice(rows("travel", "test"), examples))
    for row, found in zip(gold, tagger.predict([" ".join(row["tokens"]) for row in gold]), strict=True):
        counts.add(row["tags"], found.tags)
    return {ALL: counts.scores()[2], **{name: counts.scores(name)[2] for name in SLOTS}}


def answers(tagger: Any, sentences: Sequence[str] = SENTENCES) -> list[str]:
    """Return what a tagger takes the city for in each sentence: `to`, `from`, another slot, or nothing."""
    found = tagger.predict(list(sentences))
    return [
        next((SHORT.get(slot.type, slot.type) for slot in one.slots if slot.text == CITY), "nothing") for one in found
    ]


def blocks(runs: Sequence[Path] = (), *, trust: bool = False) -> list[Block]:
    """Compute the lesson, with taggers that it trains or with runs on `builtin:travel`."""
    if runs:
        taggers = opened(runs, "slots", trust)
        for run, tagger in zip(runs, taggers.values(), strict=True):
            if not {"B-origin", "B-destination"} <= set(tagger.tags):
                raise UserError(
                    Option("run", str(run)), ": does not know the slots origin and destination; expected a run that was"
                    " trained on builtin:travel",
                )  # fmt: skip
        return _lesson(taggers, trained_here=False)
    with trained({name: configuration(*how) for name, how in ENCODERS.items()}) as taggers:
        return _lesson(taggers, trained_here=True)


def _lesson(taggers: Mapping[str, Any], *, trained_here: bool) -> list[Block]:
    measured = {name: scores(tagger) for name, tagger in taggers.items()}
    told = {name: answers(tagger) for name, tagger in taggers.items()}
    sentence_rows = list(zip(SENTENCES, *told.values(), strict=True))
    return [
        *_introduction(trained_here),
        Heading("The sentences side by side"),
        Table(
            ("sentence", *told),
            sentence_rows,
            f"What each tagger takes {CITY} for: a destination (to) or an origin (from).",
        ),
        *(_what_they_show() if trained_here else []),
        Heading("All sentences"),
        HeatMap(
            list(next(iter(measured.values()))),
            {name: list(one.values()) for name, one in measured.items()},
            f"F1 (0 pale, 1 dark: perfect) by kind of slot, on {TESTED} test sentences, in which cities stand with "
            "words that training never showed them with.",
            shares=True,
            across="slot",
        ),
        Heading("What to remember"),
        Text(
            "A word's meaning depends on its neighbours, near and far. A network without memory cannot know them. A "
            "recurrent network knows what came before, and one that reads both ways knows what comes after, too. Next: "
            "`seqkit lessons variants`."
        ),
    ]


def _introduction(trained_here: bool) -> Iterable[Block]:
    yield Text(
        f'In "arrive at {CITY}" the city is a destination, in "leave {CITY}" it is an origin. A tagger gives each word '
        "of a request its slot. The requests are those of `builtin:travel`, where cities and dates are the same in "
        "both roles: only the words around them tell."
    )
    if trained_here:
        yield Text(
            "Four taggers were trained just now on 6,000 requests. They have the same embedding and the same output "
            "layer, and differ in between: a feed-forward layer that sees one word at a time, a recurrent network, an "
            "LSTM, and an LSTM that reads the sentence in both directions."
        )


def _what_they_show() -> list[Block]:
    return [
        Text(
            "The feed-forward tagger gives both sentences of every pair the same answer: it sees the same word. The "
            "networks that read from left to right remember the verb, if it came before the city. Where the city comes "
            "first, the verb is still unread, and they can only guess. The LSTM that also reads from right to left has "
            "seen it."
        )
    ]
